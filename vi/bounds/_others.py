"""Sums over all samples but one, for each of them, without a difference of large numbers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def sum_of_others(values: Float[Array, "K *batch"]) -> Float[Array, "K *batch"]:
    """Entry k is the sum over all but entry k: what is before it and what is after it."""
    before, after = _around(values, jax.lax.cumsum, 0.0)
    return before + after


def log_sum_exp_of_others(log_v: Float[Array, "K *batch"]) -> Float[Array, "K *batch"]:
    """Entry k is the log of the sum of ``exp(log_v)`` over all but entry k.

    A difference of sums would lose every digit where one entry is much larger than the others.
    """
    return jnp.logaddexp(*_around(log_v, jax.lax.cumlogsumexp, -jnp.inf))


def _around(values, cumulative, nothing):
    nothing = jnp.full_like(values[:1], nothing)
    before = jnp.concatenate([nothing, cumulative(values[:-1], axis=0)])
    after = jnp.concatenate([cumulative(values[1:], axis=0, reverse=True), nothing])
    return before, after
