"""Reweighted wake-sleep: a training step of one's own.

No one loss has these updates for its gradient, so ``vi.training.gradient_step`` will not do. A step
is any pure ``(state, key, batch) -> (state, metrics)``: take the gradients you want of
``state.params``, hand them to the optimiser, and return the state with its count one higher.
``vi.training.run`` and ``fit`` compile, batch over seeds, checkpoint and resume it as any other.

Three gradients (Bornschein and Bengio, 2015), of theta for the model and phi for q, with importance
weights of K draws from q:

* wake, theta: up ``sum_k w_k d log p(x, z_k)``, that of the importance-weighted bound;
* wake, phi: up ``sum_k w_k d log q(z_k | x)``, towards the posterior at a datum;
* sleep, phi: up ``d log q(z | x)`` at a dream ``(z, x) ~ p``, towards the posterior on average.

``wake(iwae)`` has the first two: of theta it is ``fixed(iwae)``. None passes through a draw, and
none needs a baseline.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import vi
from experiments._belief import SigmoidBelief, log_joint
from experiments._data import binarise


class Phases(NamedTuple):
    """The gradients of the three updates, each to go down, and the bound."""

    theta: Any
    wake_phi: Any
    sleep_phi: Any
    bound: jax.Array


def phases(
    make: Callable[[Any], SigmoidBelief],
    params: Any,
    keys: Any,
    x: jax.Array,
    num_samples: int,
) -> Phases:
    """All three, at parameters of which ``make`` makes the network; as many dreams as data.

    ``keys``: two, that of the draws awake and that of the dreams.
    """
    draws_key, dream_key = keys

    def wake(params):
        network = make(params)
        objective = vi.gradients.wake(vi.bounds.iwae)
        q = network.posterior(x)
        return -objective(draws_key, q, log_joint(network, x), num_samples).mean()

    def sleep(params):
        network = make(params)
        z, dreamt = dream(dream_key, network, len(x))
        return -network.posterior(dreamt).log_prob(z).mean()

    loss, awake = jax.value_and_grad(wake)(params)
    asleep = jax.grad(sleep)(params)
    return Phases(awake["generative"], awake["recognition"], asleep["recognition"], -loss)


def dream(key: jax.Array, network: SigmoidBelief, num_dreams: int) -> tuple[Any, jax.Array]:
    """Latents and the pixels that they make, both drawn from the model; constants."""
    z_key, x_key = jax.random.split(key)
    z = network.prior().sample(z_key, (num_dreams,))
    x = network.observation(z).sample(x_key)
    return z, jnp.asarray(x, float)


def wake_sleep_step(optimizer: optax.GradientTransformation, num_samples: int) -> vi.training.Step:
    """A step on grey images; phi takes the mean of its wake and its sleep update.

    The state's params are those of ``{"belief": network, ...}``; what else is there stays.
    """

    def step(state, key, grey):
        bits_key, draws_key, dream_key = jax.random.split(key, 3)
        x = binarise(bits_key, grey)

        def make(params):
            whole = {**state.params, "belief": params}
            return nnx.merge(state.graphdef, whole, state.variables, copy=True)["belief"]

        found = phases(make, state.params["belief"], (draws_key, dream_key), x, num_samples)
        recognition = jax.tree.map(lambda a, b: (a + b) / 2, found.wake_phi, found.sleep_phi)
        belief = {"generative": found.theta, "recognition": recognition}
        gradient = {**optax.tree.zeros_like(state.params), "belief": belief}
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        moved = replace(
            state,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            step=state.step + 1,
        )
        return moved, {"loss": -found.bound, "bound": found.bound}

    return step
