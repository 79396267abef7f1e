"""Sets of points in the unit cube: uniform one by one, spread evenly together."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi._check import refusal
from vi.types import Key

PointSet: TypeAlias = Callable[[Key, int, range, tuple[int, ...]], Array]
"""``(key, num_points, dims, lead) -> [*lead, num_points, len(dims)]``, uniform on the open cube.

``dims`` says which dimensions of the set, so that several latents can share one; every entry of
``lead`` is randomised anew.
"""

_MOST_DIMENSIONS = 21201  # those with direction numbers, Joe and Kuo (2008)


def antithetic_points(
    key: Key, num_points: int, dims: range, lead: tuple[int, ...]
) -> Float[Array, "*lead N D"]:
    """Points ``2 i`` and ``2 i + 1`` mirror each other, ``u' = 1 - u``; an odd last one is alone.

    Args:
        key: A typed PRNG key; consumed.
        num_points: N.
        dims: D dimensions.
        lead: The shape of the independent repetitions.

    Returns:
        ``[*lead, N, D]`` in (0, 1); the mirror is exact in floating point.
    """
    u = _uniform(_random_digits(key, (*lead, -(-num_points // 2), 1, len(dims))))
    pairs = jnp.concatenate([u, 1 - u], axis=-2)
    return pairs.reshape(*lead, -1, len(dims))[..., :num_points, :]


def latin_hypercube(
    key: Key, num_points: int, dims: range, lead: tuple[int, ...]
) -> Float[Array, "*lead N D"]:
    r"""Each dimension has one point in each of N strata, :math:`u_{id} = (\pi_d(i) + v_{id}) / N`.

    Args:
        key: A typed PRNG key; consumed.
        num_points: N.
        dims: D dimensions, with independent permutations.
        lead: The shape of the independent repetitions.

    Returns:
        ``[*lead, N, D]`` in (0, 1).

    References:
        McKay, Beckman and Conover (1979).
    """
    order_key, key = jax.random.split(key)
    shape = (*lead, num_points, len(dims))
    strata = jnp.broadcast_to(jnp.arange(num_points)[:, None], shape)
    strata = jax.random.permutation(order_key, strata, axis=-2, independent=True)
    u = (strata + _uniform(_random_digits(key, shape))) / num_points
    least = 2.0 ** -(_num_digits() + 1)
    return jnp.clip(u, least, 1 - least)  # the last stratum may round to 1


def scrambled_sobol(
    key: Key, num_points: int, dims: range, lead: tuple[int, ...]
) -> Float[Array, "*lead N D"]:
    r"""Sobol's net under a random linear scramble and a random digital shift.

    .. math:: x'_d = L_d x_d \oplus e_d

    in binary digits: :math:`L_d` is lower triangular with a unit diagonal and random bits below it,
    :math:`e_d` is random. The scramble keeps the net: of the first :math:`2^m` points exactly one
    lies in each interval of length :math:`2^{-m}` of each dimension.

    Args:
        key: A typed PRNG key; consumed.
        num_points: N; a power of two gives a whole net.
        dims: The dimensions of the net.
        lead: The shape of the independent repetitions.

    Returns:
        ``[*lead, N, D]`` in (0, 1).

    Raises:
        ValueError: More dimensions than there are direction numbers for.

    References:
        Sobol (1967); Matousek (1998), for the scramble; Joe and Kuo (2008), for the directions.
    """
    if dims.stop > _MOST_DIMENSIONS:
        rule, remedy = f"have at most {_MOST_DIMENSIONS} dimensions", "use stratified"
        raise refusal("quasi", "q", rule, dims.stop, remedy)
    net, levels = _sobol(num_points, dims)
    random = _random_digits(key, (levels + 1, *lead, 1, len(dims)))
    points = jnp.broadcast_to(random[0], (*lead, num_points, len(dims)))
    for level in range(levels):
        lead_digit = 1 << (_num_digits() - 1 - level)
        column = random[level + 1] & (lead_digit - 1) | lead_digit
        digit = (net >> (levels - 1 - level) & 1).astype(random.dtype)
        points ^= digit * column
    return _uniform(points)


@functools.lru_cache
def _sobol(num_points: int, dims: range) -> tuple[np.ndarray, int]:
    """The net as integers of m binary digits, ``[N, D]``, and m: N points have no more."""
    from scipy.stats import qmc  # half a second, which only this set of points should cost

    levels = (num_points - 1).bit_length()
    points = qmc.Sobol(dims.stop, scramble=False).random_base2(levels)
    return (points[:num_points, dims.start :] * 2**levels).astype(np.uint32), levels


def _num_digits() -> int:
    """Two fewer than the significand's, so that ``u``, ``1 - u`` and ``(1 + u) / 2`` are exact."""
    return jnp.finfo(jnp.result_type(float)).nmant - 1


def _random_digits(key, shape):
    """Random integers of ``_num_digits()`` bits."""
    size = jnp.finfo(jnp.result_type(float)).bits
    return jax.random.bits(key, shape, f"uint{size}") >> (size - _num_digits())


def _uniform(digits):
    """The middle of each cell of the grid: inside (0, 1), and symmetric about 1/2."""
    return (digits.astype(jnp.result_type(float)) + 0.5) * 2.0 ** -_num_digits()
