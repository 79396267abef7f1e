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
    """Of the gradients seen: how many, their mean, and summed squared deviations from it.

    A gradient is a vector here, its leaves one after the other, so that compiled programs are
    small.
    """

    count: Float[Array, ""]
    mean: Float[Array, "P"]
    squares: Float[Array, "P"]


class Sums(NamedTuple):
    """Sums over the entries of a block, first of all replicates, then without each group in turn.

    Each is ``[..., 1 + GROUPS]``: of squared means, of variances, of ``|mean| / sd``.
    """

    squared_mean: np.ndarray
    variance: np.ndarray
    entry_snr: np.ndarray


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
    squares = jnp.where(valid[:, None], jnp.square(deviation - mean), 0).sum(0)
    return Moments(count, gradients[0] + mean, squares)


def _merge(one: Moments, other: Moments) -> Moments:
    count = one.count + other.count
    share, delta = other.count / count, other.mean - one.mean
    return Moments(
        count,
        one.mean + delta * share,
        one.squares + other.squares + jnp.square(delta) * (one.count * share),
    )


def merged(
    counts: np.ndarray, means: Sequence[np.ndarray], squares: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, Sums]:
    """Mean and variance of a leaf over all groups, and its ``Sums``; in float64.

    Args:
        counts: ``[GROUPS]``, replicates in each.
        means: ``[GROUPS, P]``.
        squares: ``[GROUPS, P]``, sums of squared deviations from the group's mean.

    Returns:
        The mean ``[P]``, the unbiased variance ``[P]``, and ``Sums`` of ``[1 + GROUPS]``.
    """
    # Deviations from the first group's mean: their squares lose nothing where sd << mean.
    origin = np.asarray(means[0], np.float64)
    first = [n * (np.asarray(m, np.float64) - origin) for n, m in zip(counts, means, strict=True)]
    second = [
        np.asarray(s, np.float64) + f**2 / n for n, f, s in zip(counts, first, squares, strict=True)
    ]
    all_first, all_second = sum(first), sum(second)

    def without(group):
        n, one, two = counts.sum(), all_first, all_second
        if group is not None:
            n, one, two = n - counts[group], one - first[group], two - second[group]
        return origin + one / n, np.maximum(two - one**2 / n, 0.0) / (n - 1)

    mean, variance = without(None)
    held = [(mean, variance), *map(without, range(len(counts)))]
    return mean, variance, Sums(*np.array([_sums(*pair) for pair in held]).T)


def _sums(mean: np.ndarray, variance: np.ndarray) -> tuple[float, float, float]:
    with np.errstate(divide="ignore"):
        ratio = np.abs(mean) / np.sqrt(np.where(mean == 0, 1.0, variance))
    return np.square(mean).sum(), variance.sum(), ratio.sum()


def jackknife(values: np.ndarray) -> np.ndarray:
    """The standard error of ``values[..., 0]``; the others are those without each group."""
    without = values[..., 1:]
    with np.errstate(invalid="ignore"):  # the spread of infinities is NaN
        spread = without - without.mean(-1, keepdims=True)
        return np.sqrt((GROUPS - 1) / GROUPS * np.square(spread).sum(-1))
