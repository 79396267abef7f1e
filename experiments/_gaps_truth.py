"""log p(x) of a trained decoder by annealing, and how far that may be off where it can be known."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import vi
from experiments._flow_vae import FlowVAE
from experiments._vae import log_joint
from vi.diagnostics import sigmoidal_temperatures

PILOT_TEMPERATURES = 100


class Annealing(NamedTuple):
    """How the chains of each image go from the prior to the posterior."""

    num_chains: int
    num_temperatures: int
    leapfrog_steps: int


class Decoder(FlowVAE):
    """The generative half of a model: the same programs serve those of every posterior."""

    def __init__(self, model: FlowVAE):
        self.decoder, self.latent = model.decoder, model.latent


def annealed(
    key: Array, model: Decoder, x: Float[Array, "B pixels"], how: Annealing
) -> dict[str, Array]:
    """A lower bound on log p(x) in expectation, ``ais``, and the ``acceptance``, each ``[B]``."""
    pilot_key, run_key = jax.random.split(key)
    got = _forward(run_key, model, x, _tuned(pilot_key, model, x, how=how), how=how)
    return {"ais": vi.bounds.iwae(got.log_weights), "acceptance": got.acceptance}


def bidirectional(key: Array, model: Decoder, num_images: int, how: Annealing) -> dict[str, Array]:
    """``lower`` and ``upper`` bounds on log p(x) of images that the model made itself.

    The z that an image was made from is a draw of its posterior: all chains back begin there.
    """
    make_key, pilot_key, lower_key, upper_key = jax.random.split(key, 4)
    z, x = _made(make_key, model, num_images=num_images)
    step_sizes = _tuned(pilot_key, model, x, how=how)
    lower = _forward(lower_key, model, x, step_sizes, how=how)
    upper = _back(upper_key, model, z, x, step_sizes, how=how)
    return {
        "lower": vi.bounds.iwae(lower.log_weights),
        "upper": -vi.bounds.iwae(-upper.log_weights),
    }


@functools.partial(jax.jit, static_argnames="num_images")
def _made(key, model: Any, *, num_images):
    z_key, x_key = jax.random.split(key)
    z = model.prior().sample(z_key, (num_images,))
    return z, model.observation(z).sample(x_key).astype(z.dtype)


@functools.partial(jax.jit, static_argnames="how")
def _tuned(key, model: Any, x, *, how):
    prior, log_p = model.prior().expand((len(x),)), log_joint(model, x)
    return vi.diagnostics.tuned_step_sizes(
        key,
        prior,
        log_p,
        how.num_chains,
        temperatures=sigmoidal_temperatures(min(PILOT_TEMPERATURES, how.num_temperatures)),
        num_steps=how.leapfrog_steps,
    )


@functools.partial(jax.jit, static_argnames="how")
def _forward(key, model: Any, x, step_sizes, *, how):
    prior, log_p = model.prior().expand((len(x),)), log_joint(model, x)
    path = _path(step_sizes, how)
    return vi.diagnostics.annealed_importance_sampling(key, prior, log_p, how.num_chains, **path)


@functools.partial(jax.jit, static_argnames="how")
def _back(key, model: Any, z, x, step_sizes, *, how):
    prior, log_p = model.prior().expand((len(x),)), log_joint(model, x)
    draws = jnp.broadcast_to(z, (how.num_chains, *z.shape))
    path = _path(step_sizes, how)
    return vi.diagnostics.reverse_annealed_importance_sampling(key, draws, prior, log_p, **path)


def _path(step_sizes, how) -> dict[str, Any]:
    return {
        "temperatures": sigmoidal_temperatures(how.num_temperatures),
        "transition": vi.diagnostics.hamiltonian(step_sizes, num_steps=how.leapfrog_steps),
    }
