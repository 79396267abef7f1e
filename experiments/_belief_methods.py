"""The ways to train a sigmoid belief network, each a ``Step`` on the same form of state.

The models of a state are ``{"belief": network, "baseline": C}`` and its ``extra`` is NVIL's
``SignalMoments``, whether a method uses them or not: all begin with the same weights.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import vi
from experiments._belief import log_joint, relaxed_bits
from experiments._data import binarise
from experiments._wake_sleep import wake_sleep_step
from vi.bounds import iwae

Models = Mapping[str, Any]


class Training(NamedTuple):
    """What the methods share."""

    optimizer: optax.GradientTransformation
    num_samples: int
    temperature: optax.Schedule  # of the relaxed one, by step
    betas: tuple[float, ...]  # of the TVO


def held_bound(
    objective: vi.gradients.Objective, num_samples: int, models: Models, key: Any, x: jax.Array
) -> jax.Array:
    """The bound of each image, with an estimator that holds the draws."""
    network = models["belief"]
    return objective(key, network.posterior(x), log_joint(network, x), num_samples)


def relaxed_bound(
    temperature: Any, num_samples: int, models: Models, key: Any, x: jax.Array
) -> jax.Array:
    """The importance-weighted bound of the relaxed model under the relaxed q."""
    network, variable = models["belief"], relaxed_bits(temperature)
    objective = vi.gradients.reparam(iwae)
    joint = log_joint(network, x, variable)
    return objective(key, network.posterior(x, variable), joint, num_samples)


def nvil_bound(
    moments: vi.gradients.SignalMoments, num_samples: int, models: Models, key: Any, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The bound of each image, and what the moments and the baseline leave of it.

    The baseline's parameters have a gradient in the second alone, the network's in the first.
    """
    prediction = models["baseline"](x)
    baseline = vi.gradients.nvil(moments, prediction)
    objective = vi.gradients.score(iwae, baseline=baseline)
    value = held_bound(objective, num_samples, models, key, x)
    return value, jax.lax.stop_gradient(value) - moments.mean - prediction


def nvil_loss(
    num_samples: int, models: Models, moments: Any, key: Any, grey: Any, step: Any
) -> tuple[jax.Array, Any]:
    """Minus the bound, and the baseline's squared error beside it."""
    del step
    bits_key, draws_key = jax.random.split(key)
    x = binarise(bits_key, grey)
    value, residual = nvil_bound(moments, num_samples, models, draws_key, x)
    moments = moments.updated(residual + moments.mean)
    loss = -value.mean() + jnp.square(residual).mean()
    return loss, (moments, {"bound": value.mean()})


def _held(objective_of: Callable[[Training], vi.gradients.Objective]) -> Callable[[Training], Any]:
    def make(training: Training) -> vi.training.Step:
        objective = objective_of(training)

        def loss(models, key, grey):
            bits_key, draws_key = jax.random.split(key)
            x = binarise(bits_key, grey)
            value = held_bound(objective, training.num_samples, models, draws_key, x).mean()
            return -value, {"bound": value}

        return vi.training.gradient_step(loss, training.optimizer)

    return make


def _nvil(training: Training) -> vi.training.Step:
    def loss(models, moments, key, grey, step):
        return nvil_loss(training.num_samples, models, moments, key, grey, step)

    return vi.training.stateful_gradient_step(loss, training.optimizer)


def _relaxed(training: Training) -> vi.training.Step:
    def loss(models, moments, key, grey, step):
        bits_key, draws_key = jax.random.split(key)
        x, temperature = binarise(bits_key, grey), training.temperature(step)
        value = relaxed_bound(temperature, training.num_samples, models, draws_key, x).mean()
        return -value, (moments, {"bound": value, "temperature": temperature})

    return vi.training.stateful_gradient_step(loss, training.optimizer)


def _wake_sleep(training: Training) -> vi.training.Step:
    return wake_sleep_step(training.optimizer, training.num_samples)


STEPS: dict[str, Callable[[Training], vi.training.Step]] = {
    "score": _held(lambda _: vi.gradients.score(iwae)),
    "nvil": _nvil,
    "vimco": _held(lambda _: vi.gradients.vimco(iwae)),
    "wake_sleep": _wake_sleep,
    "relaxed": _relaxed,
    "tvo": _held(lambda training: vi.gradients.vimco(vi.bounds.tvo_lower(training.betas))),
}
"""By the name of its method, what makes the step."""
