"""First derivative and second diagonal of a bound in its log-weights."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import refusal
from vi.bounds._declare import declaration
from vi.types import Bound

_BLOCK = 32


def first_derivative(bound: Bound, log_w: Float[Array, "K *batch"]) -> Float[Array, "K *batch"]:
    """``F_k``, the derivative of the bound in each log-weight.

    The declared derivative where the bound has one, otherwise automatic differentiation. A weight
    of ``-inf`` is a sample of weight zero: its entry is 0, but for an additive bound, whose entries
    are all the same constant: nothing then has to wait for the weights.
    """
    declared = declaration(bound).derivatives
    first = _gradient(bound, log_w) if declared is None else declared(log_w)[0]
    return _at_each_weight(bound, log_w, first)


def derivatives(
    bound: Bound, log_w: Float[Array, "K *batch"]
) -> tuple[Float[Array, "K *batch"], Float[Array, "K *batch"]]:
    """``(F_k, F_kk)``: first derivative and diagonal of the second, each ``[K, *batch]``.

    Declared ones cost O(K); otherwise ``generic_derivatives`` costs O(K^2), fine to a few hundred
    samples. A weight of ``-inf`` is a sample of weight zero: its entries are 0.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> first, second = vi.bounds.derivatives(vi.bounds.iwae, jnp.zeros(4))
        >>> first[0], second[0]
        (Array(0.25, dtype=float32), Array(0.1875, dtype=float32))
    """
    declared = declaration(bound).derivatives
    first, second = generic_derivatives(bound, log_w) if declared is None else declared(log_w)
    return _at_each_weight(bound, log_w, first), _at_each_weight(bound, log_w, second)


def generic_derivatives(
    bound: Bound, log_w: Float[Array, "K *batch"]
) -> tuple[Float[Array, "K *batch"], Float[Array, "K *batch"]]:
    """``(F_k, F_kk)`` of any bound by automatic differentiation, whatever it declares.

    One Jacobian-vector product per sample, blocks of them at a time.
    """
    first, tangent_of_first = jax.linearize(lambda w: _gradient(bound, w), log_w)

    def second(k):
        return tangent_of_first(jnp.zeros_like(log_w).at[k].set(1.0))[k]

    samples = jnp.arange(log_w.shape[0])
    return first, jax.lax.map(second, samples, batch_size=min(_BLOCK, log_w.shape[0]))


def _gradient(bound: Bound, log_w):
    return jax.grad(lambda w: bound(w).sum())(log_w)


def _at_each_weight(bound, log_w, coefficient):
    if jnp.shape(coefficient) != log_w.shape:
        got = f"{list(jnp.shape(coefficient))} against {list(log_w.shape)}"
        remedy = "give the declared derivatives one entry per weight"
        raise refusal("derivatives", "each of them", "have the shape of log_w", got, remedy)
    if declaration(bound).additive:
        return coefficient
    return jnp.where(log_w == -jnp.inf, 0.0, coefficient)
