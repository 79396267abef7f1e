"""Vector quantisation: each vector becomes the nearest of M codes, and gradients pass it by."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vi._check import refusal


class Quantised(NamedTuple):
    """Vectors replaced by codes, and how far those are.

    Attributes:
        value: The codes, ``[*shape, D]``, with the derivative of what they stand for.
        indices: Their places in the codebook, ``[*shape]``.
        codebook_loss: The squared distance as a loss of the codes alone, ``[*shape]``.
        commitment_loss: The same number as a loss of the vectors alone, ``[*shape]``.
    """

    value: Float[Array, "*shape D"]
    indices: Int[Array, "*shape"]
    codebook_loss: Float[Array, "*shape"]
    commitment_loss: Float[Array, "*shape"]


def straight_through(
    hard: Float[Array, "*shape"], soft: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    r"""``hard`` exactly, with the derivative of ``soft``.

    .. math:: y = \mathrm{hard}, \qquad dy := d\,\mathrm{soft}.

    For a step that has no useful derivative of its own, a rounding for instance, and is close to
    one that does. The gradient is biased wherever what follows is not linear. Where ``soft`` is not
    finite the value is NaN.

    Args:
        hard: The value; no derivative flows to it.
        soft: What takes the derivative, of the same shape.

    Returns:
        ``hard``, ``[*shape]``, in the type that both promote to.

    Raises:
        ValueError: Different shapes, or arrays that are not floating.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> def rounded(x):
        ...     return vi.networks.straight_through(jnp.round(x), 3 * x)
        >>> rounded(1.7), jax.grad(rounded)(1.7)
        (Array(2., dtype=float32, weak_type=True), Array(3., dtype=float32, weak_type=True))

    References:
        Bengio, Leonard and Courville (2013), section 4.
    """
    hard, soft = jnp.asarray(hard), jnp.asarray(soft)
    for name, value in (("hard", hard), ("soft", soft)):
        _require_floating("straight_through", name, value)
    if hard.shape != soft.shape:
        got = f"{list(hard.shape)} against {list(soft.shape)}"
        remedy = "jnp.broadcast_to either, if meant"
        raise refusal("straight_through", "hard", "have the shape of soft", got, remedy)
    return jax.lax.stop_gradient(hard) + (soft - jax.lax.stop_gradient(soft))


def nearest_code(
    vectors: Float[Array, "*shape D"], codes: Float[Array, "M D"]
) -> Int[Array, "*shape"]:
    r"""The place of the code nearest to each vector, the first of equals.

    .. math:: i = \arg\min_m \|v - e_m\|^2

    By one product of all vectors with all codes, both measured from the codes' median: far from the
    origin the squares would otherwise lose the digits that tell codes apart. What is left is known
    to rounding of the squared distance from that median: in float32, codes a thousandth as far from
    each other as from the median are hardly told apart. A code that is not finite is the nearest of
    all, so that it is seen.

    Args:
        vectors: ``[*shape, D]``.
        codes: The codebook, ``[M, D]``.

    Returns:
        Integers in 0 .. M - 1, ``[*shape]``; no derivative flows to them.

    Raises:
        ValueError: Sizes D that differ, no codes, or arrays that are not floating.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> codes = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> vi.networks.nearest_code(jnp.array([[0.9, 0.6], [0.1, 0.2], [2.0, 9.0]]), codes)
        Array([1, 0, 1], dtype=int32)
    """
    vectors, codes = require_vectors("nearest_code", vectors, codes)
    finite = jnp.isfinite(codes).all(-1)
    centre = jnp.nanmedian(jnp.where(finite[:, None], codes, jnp.nan), axis=0)
    codes, vectors = codes - centre, vectors - centre
    products = jnp.matmul(vectors, codes.T, precision=jax.lax.Precision.HIGHEST)
    farther = jnp.where(finite, (codes**2).sum(-1) / 2 - products, jnp.nan)
    return jnp.argmin(farther, axis=-1)


def vector_quantise(vectors: Float[Array, "*shape D"], codes: Float[Array, "M D"]) -> Quantised:
    r"""Replace each vector by its nearest code; the straight-through derivative is the identity.

    .. math:: y = e_i, \quad i = \arg\min_m \|v - e_m\|^2, \qquad dy := dv, \qquad
              \|\bar v - e_i\|^2, \quad \|v - \bar e_i\|^2

    are the value and the two losses, where a bar stops the derivative. What is decoded from the
    value moves the vectors and never the codes: those learn from the codebook loss, or from running
    means (``update_codebook``), and the vectors are held near the codes by the commitment loss.
    Both losses are squared distances, summed over D and not in nats: their weights beside a
    log-likelihood are a choice.

    Args:
        vectors: What to quantise, ``[*shape, D]``.
        codes: The codebook, ``[M, D]``.

    Returns:
        The ``Quantised``; losses in at least float32.

    Raises:
        ValueError: Sizes D that differ, no codes, or arrays that are not floating.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> codes = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> made = vi.networks.vector_quantise(jnp.array([[1.0, 0.5]]), codes)
        >>> made.value, made.indices, made.commitment_loss
        (Array([[1., 1.]], dtype=float32), Array([1], dtype=int32), Array([0.25], dtype=float32))

    References:
        Van den Oord, Vinyals and Kavukcuoglu (2017), equations 1 to 3.
    """
    indices = nearest_code(vectors, codes)
    vectors, codes = jnp.asarray(vectors), jnp.asarray(codes)
    picked = codes[indices]
    value = straight_through(picked.astype(jnp.result_type(vectors, codes)), vectors)
    held = jax.lax.stop_gradient
    return Quantised(
        value=value,
        indices=indices,
        codebook_loss=_squared_distance(held(vectors), picked),
        commitment_loss=_squared_distance(vectors, held(picked)),
    )


def require_vectors(where: str, vectors, codes) -> tuple[Array, Array]:
    """Refuse vectors and codes that do not go together; return them in at least float32."""
    wide = []
    for name, value in (("codes", codes), ("vectors", vectors)):
        _require_floating(where, name, value)
        wide.append(jnp.asarray(value, jnp.promote_types(jnp.result_type(value), jnp.float32)))
    codes, vectors = wide
    if codes.ndim != 2 or codes.size == 0:
        remedy = "the codebook is one row per code"
        raise refusal(where, "codes", "be [M, D]", f"shape {list(codes.shape)}", remedy)
    if vectors.ndim == 0 or vectors.shape[-1] != codes.shape[1]:
        got = f"shape {list(vectors.shape)}"
        remedy = "vectors and codes have the same size"
        raise refusal(where, "vectors", f"have a last axis of {codes.shape[1]}", got, remedy)
    return vectors, codes


def require_indices(where: str, indices) -> Array:
    """Refuse what is not integers."""
    if not jnp.issubdtype(jnp.result_type(indices), jnp.integer):
        got, remedy = f"dtype {jnp.result_type(indices)}", "codes are counted from 0"
        raise refusal(where, "indices", "be integers", got, remedy)
    return jnp.asarray(indices)


def within(indices: Array, num_codes: int) -> Array:
    """Indices for a scatter that drops what is outside; -1 would be the last code."""
    return jnp.where((indices >= 0) & (indices < num_codes), indices, num_codes)


def _require_floating(where: str, name: str, value) -> None:
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        got = f"dtype {jnp.result_type(value)}"
        raise refusal(where, name, "be floating", got, "convert it, to float32 for instance")


def _squared_distance(x: Array, y: Array) -> Array:
    wide = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    return ((x.astype(wide) - y.astype(wide)) ** 2).sum(-1)
