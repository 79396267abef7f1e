"""Sums over weights that have a value wherever weights vanish, and keep their digits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def softmax(log_v: Float[Array, "K *batch"]) -> Float[Array, "K *batch"]:
    """``v_k / sum_j v_j`` over axis 0; all zero where the largest is infinite in either sense.

    So it is where every weight is zero, and where a weight of zero has a negative power. A NaN
    stays one.
    """
    top = log_v.max(0, keepdims=True)
    usable = ~jnp.isinf(top)
    weight = jax.nn.softmax(jnp.where(usable, log_v, 0.0), axis=0)
    return jnp.where(usable, weight, 0.0)


def without_zeros(log_w: Float[Array, "K *batch"]) -> tuple[Array, Array]:
    """``(is_zero, log_w)``, the second with 0 in the place of ``-inf``: no product gives NaN."""
    is_zero = log_w == -jnp.inf
    return is_zero, jnp.where(is_zero, 0.0, log_w)


def top_of(log_w: Float[Array, "K *batch"]) -> Float[Array, "1 *batch"]:
    """The largest log-weight, 0 where it is infinite: subtract it, and no derivative flows."""
    top = jax.lax.stop_gradient(log_w.max(0, keepdims=True))
    return jnp.where(jnp.isinf(top), 0.0, top)


def log_mean_exp(log_v: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
    """``log mean exp`` over axis 0, to relative precision even where all of ``log_v`` is small.

    A plain log-sum-exp less ``log K`` loses such digits, and a power of the weights near 0 divides
    by that power.
    """
    top = top_of(log_v)
    below = log_v - top
    mean, mean_less_one = jnp.exp(below).mean(0), jnp.expm1(below).mean(0)
    near_one = mean_less_one > -0.5
    small = jnp.log1p(jnp.where(near_one, mean_less_one, 0.0))
    return top[0] + jnp.where(near_one, small, jnp.log(jnp.where(near_one, 1.0, mean)))
