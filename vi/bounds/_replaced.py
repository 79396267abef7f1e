"""A bound with one of its samples replaced, or left out, for each of them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import at_least_float32, refusal
from vi.bounds._declare import declaration, promised
from vi.bounds._others import sum_of_others
from vi.bounds._self_normalised import top_of
from vi.types import Bound

_BLOCK = 32


def replaced(
    bound: Bound, log_w: Float[Array, "K *batch"], new: Float[Array, "K *batch"]
) -> Float[Array, "K *batch"]:
    """Entry k is the bound with ``new[k]`` in the place of ``log_w[k]`` and the others as they are.

    The declared ``replaced`` where the bound has one, in O(K); otherwise ``generic_replaced``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> print(vi.bounds.replaced(vi.bounds.elbo, jnp.array([3.0, 6.0]), jnp.array([4.0, 0.0])))
        [5.  1.5]
    """
    log_w, new = at_least_float32("replaced", log_w), at_least_float32("replaced", new, "new")
    if new.shape != log_w.shape:
        got = f"{list(new.shape)} against {list(log_w.shape)}"
        raise refusal("replaced", "new", "have the shape of log_w", got, "give one for each weight")
    dtype = jnp.promote_types(log_w.dtype, new.dtype)
    log_w, new = log_w.astype(dtype), new.astype(dtype)
    declared = declaration(bound).replaced
    return generic_replaced(bound, log_w, new) if declared is None else declared(log_w, new)


def generic_replaced(
    bound: Bound, log_w: Float[Array, "K *batch"], new: Float[Array, "K *batch"]
) -> Float[Array, "K *batch"]:
    """``replaced`` of any bound: K of its values in O(K^2), blocks of them at a time."""
    samples = jnp.arange(log_w.shape[0])

    def of(k):
        return bound(log_w.at[k].set(new[k]))

    return jax.lax.map(of, samples, batch_size=min(_BLOCK, log_w.shape[0]))


def leave_one_out(bound: Bound, log_w: Float[Array, "K *batch"]) -> Float[Array, "K *batch"]:
    r"""Entry k is what the others say of the bound: no function of draw k, so a baseline for it.

    .. math:: F\Bigl(\dots, \log w_{k-1}, \frac{1}{K - 1} \sum_{j \ne k} \log w_j,
              \log w_{k+1}, \dots\Bigr)

    The mean is that of the finite others; where there is none, ``-inf`` stands for it.

    Args:
        bound: Any bound.
        log_w: Log-weights ``[K, *batch]``, K at least 2.

    Returns:
        ``[K, *batch]`` in nats.

    Raises:
        ValueError: K is 1: there are no others.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> print(vi.bounds.leave_one_out(vi.bounds.elbo, jnp.array([1.0, 2.0, 6.0])))
        [4.  3.5 1.5]

    References:
        Mnih and Rezende (2016), the geometric mean of the other weights.
    """
    log_w = at_least_float32("leave_one_out", log_w)
    if log_w.shape[0] < 2:
        remedy = "draw 2 or more, or use vi.gradients.score with a baseline of another kind"
        raise refusal("leave_one_out", "log_w", "have at least 2 samples", "K = 1", remedy)
    is_finite = jnp.isfinite(log_w)
    count = sum_of_others(is_finite.astype(log_w.dtype))
    total = sum_of_others(jnp.where(is_finite, log_w, 0.0))
    mean = jnp.where(count == 0, -jnp.inf, total / jnp.maximum(count, 1))
    return replaced(bound, log_w, mean)


def learning_signal(bound: Bound, log_w: Float[Array, "K *batch"]) -> Float[Array, "K *batch"]:
    """``F - F_{-k}``, what draw k adds to the bound: VIMCO's signal for its score.

    The second term is ``leave_one_out``. Where a bound declares that it moves with a shift of the
    weights, or does not, both are taken of weights less their largest: that keeps the digits which
    a difference of large numbers would lose. Where a weight of zero makes one of them infinite, the
    signal is 0.

    Args:
        bound: Any bound.
        log_w: Log-weights ``[K, *batch]``, K at least 2.

    Returns:
        ``[K, *batch]`` in nats.

    Raises:
        ValueError: K is 1.

    References:
        Mnih and Rezende (2016).
    """
    log_w = at_least_float32("learning_signal", log_w)
    below = log_w - (top_of(log_w) if promised(bound).shift != "none" else 0.0)
    value, without = bound(below), leave_one_out(bound, below)
    return jnp.where(jnp.isinf(value) | jnp.isinf(without), 0.0, value - without)
