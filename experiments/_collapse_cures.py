"""Ways to train a variational autoencoder, from plain ascent on the ELBO to known cures."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import vi
from experiments._collapse_vae import CollapseVAE, kl_by_dimension
from experiments._data import binarise

Weight = Callable[[Array], Any]


def make_loss(weight: Weight, min_nats: float = 0.0) -> Callable[..., Any]:
    """Minus the ELBO of fresh bits, the rate weighted by the step and floored in each dimension.

    The floor is under the minibatch's mean, as in Kingma et al. (2016). ``rate`` is reported as it
    is, without either.
    """

    def loss(model: CollapseVAE, extra: None, key: Array, grey: Array, step: Array):
        bits_key, draws_key = jax.random.split(key)
        x = binarise(bits_key, grey)
        q: Any = model.posterior(x)
        log_likelihood = model.observation(q.rsample(draws_key)).log_prob(x).mean()
        kl = kl_by_dimension(model, x).mean(0)
        floored = vi.bounds.free_bits(kl, min_nats)
        bound = vi.bounds.beta_elbo(log_likelihood[None], floored.sum(), weight(step))
        return -bound, (extra, {"rate": kl.sum()})

    return loss


def lagging(step: vi.training.Step, num_inner: int, num_steps: int) -> vi.training.Step:
    """Take ``num_inner`` steps of the encoder alone before each step, for the first ``num_steps``.

    The encoder, which lags behind the posterior of a decoder that moves, catches up with it (after
    He et al. 2019, whose inner loop stops by the ELBO, whose outer loop stops by the mutual
    information, and whose outer steps move the decoder alone; here they move both).
    Inner steps see the same images with fresh bits and noise, and leave counts where they are, so
    that rates and schedules go by the outer step.
    """

    def encoder_step(state, key, batch):
        moved, _ = step(state, key, batch)

        def pick(path, new, old):
            return new if "encoder" in jax.tree_util.keystr(path) else old

        return jax.tree_util.tree_map_with_path(pick, moved, state)

    def lagged(state, key, batch):
        inner_key, outer_key = jax.random.split(key)
        count = jnp.where(state.step < num_steps, num_inner, 0)

        def inner(i, state):
            return encoder_step(state, jax.random.fold_in(inner_key, i), batch)

        return step(jax.lax.fori_loop(0, count, inner, state), outer_key, batch)

    return lagged


def methods(
    optimizer: optax.GradientTransformation,
    *,
    annealed_steps: int,
    num_cycles: int,
    min_nats: float,
    num_inner: int,
    lagging_steps: int,
) -> dict[str, vi.training.Step]:
    """A step by the name of the method."""

    def step(weight, min_nats=0.0):
        return vi.training.stateful_gradient_step(make_loss(weight, min_nats), optimizer)

    plain = step(lambda t: 1.0)
    return {
        "plain": plain,
        "linear": step(vi.training.linear_annealing(annealed_steps)),
        "cyclical": step(vi.training.cyclical_annealing(annealed_steps, num_cycles)),
        "free bits": step(lambda t: 1.0, min_nats),
        "lagging": lagging(plain, num_inner, lagging_steps),
        "factorised": plain,
    }
