"""Finite scalar quantisation: a codebook that is a grid, with nothing to learn."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vi._check import refusal, require_count
from vi.networks._codebook import require_indices, require_vectors, straight_through

_MOST = 2**31 - 1


class FiniteScalar(NamedTuple):
    """Vectors rounded to a grid.

    Attributes:
        value: The points of the grid, ``[*shape, D]``, with the derivative of what was rounded.
        indices: Which points, ``[*shape]``.
    """

    value: Float[Array, "*shape D"]
    indices: Int[Array, "*shape"]


def finite_scalar_quantise(
    vectors: Float[Array, "*shape D"], levels: Sequence[int]
) -> FiniteScalar:
    r"""Round each number of a vector to one of few levels, evenly spaced over [-1, 1].

    .. math:: k_d = \mathrm{round}\left((L_d - 1) \frac{1 + \tanh v_d}{2}\right), \qquad
              y_d = \frac{2 k_d}{L_d - 1} - 1, \qquad dy_d := d \tanh v_d.

    The codebook is the grid of all :math:`\prod_d L_d` points: none can die, and there is neither a
    codebook loss nor a commitment. An even number of levels is symmetric too, without a level at 0;
    the paper shifts those by half a level. Halfway between two levels the upper one is taken. Where
    a number is NaN so is the value, and the index means nothing.

    Args:
        vectors: ``[*shape, D]``.
        levels: :math:`L_d`, D of them, at least 2 each.

    Returns:
        The ``FiniteScalar``; ``finite_scalar_codes`` gives the points of indices.

    Raises:
        ValueError: Other than one level per number, a level below 2, more than 2**31 - 1 points,
            or an array that is not floating.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> made = vi.networks.finite_scalar_quantise(jnp.array([[0.1, -3.0], [9.0, 0.6]]), (3, 2))
        >>> made.value.tolist(), made.indices.tolist()
        ([[0.0, -1.0], [1.0, 1.0]], [1, 5])

    References:
        Mentzer, Minnen, Agustsson and Tschannen (2024), section 3.
    """
    where = "finite_scalar_quantise"
    levels = _require_levels(where, levels)
    wide, _ = require_vectors(where, vectors, np.zeros((1, len(levels)), np.float32))
    bounded = jnp.tanh(wide)
    places = jnp.floor((np.array(levels) - 1) * (1 + bounded) / 2 + 0.5).astype(int)
    value = straight_through(_points(places, levels).astype(wide.dtype), bounded)
    indices = (places * _strides(levels)).sum(-1)
    return FiniteScalar(value.astype(jnp.result_type(vectors)), indices)


def finite_scalar_codes(
    indices: Int[Array, "*shape"], levels: Sequence[int]
) -> Float[Array, "*shape D"]:
    r"""The points of a grid by their indices: the digits of a mixed radix, the first fastest.

    .. math:: i = k_1 + L_1 (k_2 + L_2 (k_3 + \cdots)), \qquad y_d = \frac{2 k_d}{L_d - 1} - 1

    Args:
        indices: Integers in 0 .. M - 1, with :math:`M = \prod_d L_d`.
        levels: :math:`L_d`, as ``finite_scalar_quantise`` had them.

    Returns:
        Points in [-1, 1], ``[*shape, D]``: those that ``finite_scalar_quantise`` gave.

    Raises:
        ValueError: Indices that are no integers, a level below 2, or more than 2**31 - 1 points.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> vi.networks.finite_scalar_codes(jnp.arange(6), (3, 2))[:, 0].tolist()
        [-1.0, 0.0, 1.0, -1.0, 0.0, 1.0]
    """
    levels = _require_levels("finite_scalar_codes", levels)
    indices = require_indices("finite_scalar_codes", indices)
    return _points(indices[..., None] // _strides(levels) % np.array(levels), levels)


def _points(places: Array, levels: tuple[int, ...]) -> Array:
    return 2 * places / (np.array(levels) - 1) - 1


def _strides(levels: tuple[int, ...]) -> np.ndarray:
    return np.cumprod([1, *levels[:-1]])


def _require_levels(where: str, levels) -> tuple[int, ...]:
    if not isinstance(levels, Sequence) or not levels:
        remedy = "pass one per number of a code, for instance (8, 5, 5)"
        raise refusal(where, "levels", "be a sequence of counts", repr(levels), remedy)
    levels = tuple(require_count(where, "levels", level, least=2) for level in levels)
    if (size := math.prod(levels)) > _MOST:
        remedy = "have fewer or smaller levels: an index is an int32"
        raise refusal(where, "levels", f"make at most {_MOST} points", size, remedy)
    return levels
