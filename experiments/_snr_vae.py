"""A small autoencoder at two points of its training, for the gradient meter."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx

import vi
from experiments._data import Images, binarise
from experiments._evaluate import stream
from experiments._run import Run
from experiments._vae import Architecture, build_vae, log_joint, posterior

BATCH = 100
INIT, BITS = range(0x736E72, 0x736E74)  # "snr": streams of each seed's key


def states(
    run: Run, images: Images, architecture: Architecture, num_steps: int
) -> dict[str, vi.training.State]:
    """The states of all seeds before and, if there are steps, after training with the ELBO."""
    optimizer = optax.adam(1e-3)

    def init(key):
        return vi.training.init(build_vae(architecture, images, nnx.Rngs(key)), optimizer)

    def loss(model, key, grey):
        bits_key, draws_key = jax.random.split(key)
        x = binarise(bits_key, grey)
        elbo = vi.gradients.reparam(vi.bounds.elbo)
        return -elbo(draws_key, posterior(model, x), log_joint(model, x), 1).mean()

    initial = jax.jit(jax.vmap(init))(stream(run.key, INIT))
    if not num_steps:
        return {"initial": initial}
    step = vi.training.gradient_step(loss, optimizer)
    fit = run.fit("elbo", step, initial, images.train, num_steps=num_steps, batch_size=BATCH)
    return {"initial": initial, "trained": fit.state}


def minibatch(run: Run, images: Images) -> jax.Array:
    """The first training images as bits, the same for every seed."""
    return binarise(stream(run.key, BITS)[0], images.train[:BATCH])


def make_loss(
    objective: vi.gradients.Objective, num_samples: int, state: vi.training.State, x: jax.Array
) -> Callable[[Any, jax.Array], jax.Array]:
    """Minus the mean bound of the minibatch, of ``state.params`` as they come."""

    def loss(params, key):
        model = nnx.merge(state.graphdef, params, state.variables, copy=True)
        return -objective(key, posterior(model, x), log_joint(model, x), num_samples).mean()

    return loss
