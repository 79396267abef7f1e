"""Means and variances of gradients over replicates, in memory that does not grow with them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from vi.types import Key

GROUPS = 20
"""Groups of replicates; leaving out one at a time gives the standard errors (to about 16 %)."""


class Moments(NamedTuple):
    """Of the gradients seen: how many, their mean, and the norm of the deviations from it.

    A gradient is a vector here, its leaves one after the other, so that compiled programs are
    small. The norm, entry by entry, is the root of the summed squares: no square is held, so that
    gradients of 1e-24 or 1e20 neither vanish nor overflow in float32.
    """

    count: Float[Array, ""]
    mean: Float[Array, "P"]
    norm: Float[Array, "P"]


class Sums(NamedTuple):
    """Sums over the entries of a block, first of all replicates, then without each group in turn.

    Each is ``[..., 1 + GROUPS]``: of squared means, of variances, of ``|mean| / sd`` over the
    entries that vary, and of how many these are.
    """

    squared_mean: np.ndarray
    variance: np.ndarray
    entry_snr: np.ndarray
    varying: np.ndarray


def group_moments(
    loss: Callable[[Any, Key], Array], params: PyTree[Array], batch_size: int
) -> Callable[[Key, int, int], Moments]:
    """A compiled ``(key, first, count) -> Moments`` of replicates ``first, first + 1, ...``.

    Replicate i is the gradient with ``fold_in(key, i)``, whatever the estimator and the batch.
    """
    leaves = jax.tree.leaves(params)
    dtype = jnp.promote_types(jnp.result_type(*leaves), jnp.float32)
    size = sum(leaf.size for leaf in leaves)

    @jax.jit
    def moments(params, key, first, count):
        def gradient(index):
            tree = jax.grad(loss)(params, jax.random.fold_in(key, index))
            return jnp.concatenate([leaf.ravel().astype(dtype) for leaf in jax.tree.leaves(tree)])

        def add(i, moments):
            offset = i * batch_size + jnp.arange(batch_size)
            gradients = jax.vmap(gradient)(first + offset)
            return _merge(moments, _of_batch(gradients, offset < count))

        nothing = Moments(*(jnp.zeros(shape, dtype) for shape in ((), size, size)))
        return jax.lax.fori_loop(0, -(-count // batch_size), add, nothing)

    return lambda key, first, count: moments(params, key, first, count)


def _of_batch(gradients: Float[Array, "S P"], valid: Array) -> Moments:
    """Moments of the valid ones, by deviations from the first: exact where sd << mean."""
    count = valid.sum().astype(gradients.dtype)
    deviation = jnp.where(valid[:, None], gradients - gradients[0], 0)
    mean = deviation.sum(0) / count
    away = jnp.where(valid[:, None], deviation - mean, 0)
    largest = jnp.abs(away).max(0)
    scaled = away / jnp.where(largest == 0, 1, largest)
    return Moments(count, gradients[0] + mean, largest * jnp.sqrt(jnp.square(scaled).sum(0)))


def _merge(one: Moments, other: Moments) -> Moments:
    count = one.count + other.count
    share, delta = other.count / count, other.mean - one.mean
    between = delta * jnp.sqrt(one.count * share)
    norm = jnp.hypot(jnp.hypot(one.norm, other.norm), between)
    return Moments(count, one.mean + delta * share, norm)


def merged(
    counts: np.ndarray, means: Sequence[np.ndarray], norms: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, Sums]:
    """Mean and variance of a leaf over all groups, and its ``Sums``; in float64.

    One group at a time is in float64, and of the tables without a group only the sums are kept.

    Args:
        counts: ``[GROUPS]``, replicates in each.
        means: ``[GROUPS, P]``.
        norms: ``[GROUPS, P]``, norms of the deviations from the group's mean.

    Returns:
        The mean ``[P]``, the unbiased variance ``[P]``, and ``Sums`` of ``[1 + GROUPS]``.
    """
    # Deviations from the first group's mean: their squares lose nothing where sd << mean.
    origin = np.asarray(means[0], np.float64)

    def of_group(group):
        one = counts[group] * (means[group] - origin)
        return one, np.square(norms[group], dtype=np.float64) + one**2 / counts[group]

    all_first, all_second = np.zeros_like(origin), np.zeros_like(origin)
    for group in range(len(counts)):
        one, two = of_group(group)
        all_first += one
        all_second += two

    def moments(n, one, two):
        return origin + one / n, np.maximum(two - one**2 / n, 0.0) / (n - 1)

    def without(group):
        one, two = of_group(group)
        return moments(counts.sum() - counts[group], all_first - one, all_second - two)

    mean, variance = moments(counts.sum(), all_first, all_second)
    held = [_sums(mean, variance), *(_sums(*without(group)) for group in range(len(counts)))]
    return mean, variance, Sums(*np.array(held).T)


def _sums(mean: np.ndarray, variance: np.ndarray) -> tuple[float, float, float, int]:
    varies = variance > 0
    ratio = np.abs(mean[varies]) / np.sqrt(variance[varies])
    return np.square(mean).sum(), variance.sum(), ratio.sum(), varies.sum()


def jackknife(values: np.ndarray) -> np.ndarray:
    """The standard error of ``values[..., 0]``; the others are those without each group."""
    without = values[..., 1:]
    with np.errstate(invalid="ignore"):  # the spread of infinities is NaN
        spread = without - without.mean(-1, keepdims=True)
        return np.sqrt((GROUPS - 1) / GROUPS * np.square(spread).sum(-1))
