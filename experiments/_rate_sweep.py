"""A beta-VAE for every beta at once: one program, the same start, images, bits and noise."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

import vi
from experiments._data import binarise
from experiments._vae import OneLayer

Loss = Callable[[Any, Array, Array, Any], Array]
"""``(model, beta, key, batch) -> []``, the loss of one model."""
Weights = Callable[[Any], Array]
"""``step -> [betas]``."""


def parting(betas: Sequence[float], num_steps: int) -> Weights:
    """The weights by step, ``[betas]``: all at the least beta, then apart, then at their own.

    For 0.3 of the steps the models are one and the same; for as long each weight rises along a
    geometric line. So neighbours end in one basin, where from scratch each may find another and
    their frontier be rough; and to give up nats of rate is quick, to gain them slow.
    """
    own = jnp.asarray(betas, jnp.float32)
    least = own.min()

    def weights(step: Any) -> Array:
        share = jnp.clip((step / num_steps - 0.3) / 0.3, 0.0, 1.0)
        return least * (own / least) ** share

    return weights


def of_all(loss: Loss, weights: Weights) -> Callable[..., Any]:
    """The sum of the losses of models stacked over betas, on one batch and one key.

    No parameter is in two of its terms, so that an optimiser that treats each number for itself, as
    Adam does, takes the steps of as many separate runs.
    """

    def total(models, extra, key, batch, step):
        every = jax.vmap(loss, in_axes=(0, 0, None, None))(models, weights(step), key, batch)
        return every.sum(), (extra, {})

    return total


def stacked(model: Any, betas: Sequence[float]) -> Any:
    """The same model for every beta: leaves ``[betas, ...]``."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(betas), *leaf.shape)), model)


def at_beta(state: vi.training.State, place: int) -> vi.training.State:
    """The state of one beta, still stacked over seeds."""
    part = lambda tree: jax.tree.map(lambda leaf: leaf[:, place], tree)  # noqa: E731
    params, variables = part(state.params), part(state.variables)
    return dataclasses.replace(state, params=params, variables=variables, opt_state=None)


def loss(model: OneLayer, beta: Array, key: Array, grey: Array) -> Array:
    """Minus the beta-ELBO of fresh bits: the KL in closed form, one draw for the distortion."""
    bits_key, draws_key = jax.random.split(key)
    x = binarise(bits_key, grey)
    q: Any = model.posterior(x)
    p: Any = model.observation(q.rsample(draws_key, (1,)))
    kl = dist.kl_divergence(q, model.prior())
    return -vi.bounds.beta_elbo(p.log_prob(x), kl, beta).mean()


def terms(
    key: Array, model: OneLayer, grey: Float[Array, "N pixels"], num_draws: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Rate and distortion of all ``grey`` images: the two terms of ``loss``, nats per image.

    Means over ``num_draws`` sets of bits, a draw of z each; one key, one set of bits and noise for
    every model.
    """

    def once(i):
        bits_key, draws_key = jax.random.split(jax.random.fold_in(key, i))
        x = binarise(bits_key, grey)
        q: Any = model.posterior(x)
        p: Any = model.observation(q.sample(draws_key))
        return dist.kl_divergence(q, model.prior()).mean(), -p.log_prob(x).mean()

    rates, distortions = jax.lax.map(once, jnp.arange(num_draws))
    return rates.mean(), distortions.mean()
