"""Self-normalised weights: a softmax that has a value wherever weights vanish."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def softmax(log_v: Float[Array, "K *batch"]) -> Float[Array, "K *batch"]:
    """``v_k / sum_j v_j`` over axis 0; all zero where the largest is infinite in either sense.

    So it is where every weight is zero, and where one that is not a number's share is infinite; a
    NaN stays one.
    """
    top = log_v.max(0, keepdims=True)
    usable = ~jnp.isinf(top)
    weight = jax.nn.softmax(jnp.where(usable, log_v, 0.0), axis=0)
    return jnp.where(usable, weight, 0.0)


def without_zeros(log_w: Float[Array, "K *batch"]) -> tuple[Array, Array]:
    """``(is_zero, log_w)``, the second with 0 in the place of ``-inf``: no product gives NaN."""
    is_zero = log_w == -jnp.inf
    return is_zero, jnp.where(is_zero, 0.0, log_w)
