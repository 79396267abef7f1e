"""The jackknife: a bound with its bias in 1 / K taken away."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi._check import at_least_float32, name_of, refusal, require_bound, require_count
from vi.bounds._arguments import factory, named, require_samples
from vi.bounds._declare import declare, promised
from vi.bounds._derivatives import derivatives as derivatives_of
from vi.bounds._self_normalised import top_of
from vi.types import Bound

_BLOCK = 64


@factory("jackknife(vi.bounds.iwae)")
def jackknife(bound: Bound, order: int = 1) -> Bound:
    r"""A bound extrapolated in 1 / K: its bias falls from O(1 / K) to O(K^-(order + 1)).

    .. math:: \sum_{j=0}^{m} c_j \, \overline{F}_{K-j}, \qquad
              c_j = (-1)^j \frac{(K - j)^m}{(m - j)! \, j!},

    where the j-th mean is that of F over all subsets of K - j samples; for m = 1 it is
    :math:`K F - (K - 1) \overline{F}_{K-1}`. Of ``iwae`` it is JVI. It has no direction: the bias
    that is left may have either sign, and its variance is larger. As K grows it has the limit of
    ``bound``. Every subset is visited: O(K^(m + 1)) in time, of the bound's own cost O(K).

    The coefficients grow as K^m, and what rounding they multiply: use float64 from order 3 on.
    Where the bound of some subset is infinite (with ``iwae``: all but m weights are zero), so is
    the value, with that sign.

    Args:
        bound: Any bound that does not depend on the order of its samples.
        order: m, at least 1.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats, for K from m + the bound's least on.

    Raises:
        ValueError: An order below 1, a bound that has groups or an order of its samples.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> log_w = jnp.log(jnp.array([1.0, 2.0, 3.0]))
        >>> print(f"{vi.bounds.iwae(log_w):.4f} {vi.bounds.jackknife(vi.bounds.iwae)(log_w):.4f}")
        0.6931 0.7362

    References:
        Nowozin (2018); Sharot (1976) for the coefficients.
    """
    require_bound("jackknife", bound)
    inner = promised(bound)
    order = require_count("jackknife", "order", order)
    if inner.num_groups != 1:
        got, remedy = name_of(bound), "jackknife first: grouped(jackknife(bound), num_groups)"
        raise refusal("jackknife", "bound", "not depend on the samples' order", got, remedy)
    least = inner.min_samples + order

    def over_subsets(log_w, per_subset):
        """Each c_j, with the mean of ``per_subset(left_out)`` over the subsets of its size."""
        K = log_w.shape[0]
        return [
            (coefficient, _mean_over_subsets(K, num_left_out, per_subset))
            for num_left_out, coefficient in enumerate(_coefficients(K, order))
        ]

    def derivatives(log_w):
        log_w = require_samples("jackknife", at_least_float32("jackknife", log_w), least)

        def in_place(left_out):
            """The derivatives of a subset where its samples are, and 0 where one is missing."""
            parts = derivatives_of(bound, _without(log_w, left_out))
            samples = jnp.arange(log_w.shape[0])
            where = samples - sum((samples > index) * 1 for index in left_out)
            missing = sum((samples == index) * 1 for index in left_out) > 0
            missing = jnp.reshape(missing, (-1, *[1] * (log_w.ndim - 1)))
            return tuple(jnp.where(missing, 0.0, part[where]) for part in parts)

        terms = over_subsets(log_w, in_place)
        first = sum(c * part for c, (part, _) in terms)
        return first, sum(c * part for c, (_, part) in terms)

    @named("jackknife", bound, *(() if order == 1 else (order,)))
    @declare(
        direction="divergence" if inner.direction == "divergence" else "none",
        sense=inner.sense,
        smooth=inner.smooth,
        min_samples=least,
        shift=inner.shift,
        derivatives=derivatives,
    )
    def corrected(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        log_w = require_samples("jackknife", at_least_float32("jackknife", log_w), least)
        # The coefficients grow with K: what shifts log_w is taken out before they multiply it.
        top = top_of(log_w) * (inner.shift != "none")
        below = log_w - top
        terms = over_subsets(log_w, lambda left_out: bound(_without(below, left_out)))
        is_finite = jnp.stack([jnp.isfinite(mean) for _, mean in terms]).all(0)
        value = sum(c * jnp.where(is_finite, mean, 0.0) for c, mean in terms)
        value = value + (top[0] if inner.shift == "equivariant" else 0.0)
        return jnp.where(is_finite, value, sum(mean for _, mean in terms))

    return corrected


def _coefficients(K: int, order: int) -> list[float]:
    return [
        (-1) ** j * (K - j) ** order / (math.factorial(order - j) * math.factorial(j))
        for j in range(order + 1)
    ]


def _without(log_w, left_out):
    """The samples but those of the rising indices ``left_out``."""
    kept = jnp.arange(log_w.shape[0] - len(left_out))
    for index in left_out:
        kept = kept + (kept >= index)
    return log_w[kept]


def _mean_over_subsets(K: int, num_left_out: int, per_subset):
    """The mean of ``per_subset(left_out)`` over all sets of so many indices, a block at a time."""
    if num_left_out == 0:
        return per_subset([])
    left_out = np.array(list(itertools.combinations(range(K), num_left_out)))
    num_subsets, block = len(left_out), min(_BLOCK, len(left_out))

    def total(left_out):
        values = jax.vmap(lambda indices: per_subset(list(indices)))(left_out)
        return jax.tree.map(lambda value: value.sum(0), values)

    rest = num_subsets % block
    first = total(jnp.asarray(left_out[:rest])) if rest else None
    blocks = jnp.asarray(left_out[rest:]).reshape(-1, block, num_left_out)
    if first is None:
        first, blocks = total(blocks[0]), blocks[1:]
    sums, _ = jax.lax.scan(
        lambda sums, block: (jax.tree.map(jnp.add, sums, total(block)), None), first, blocks
    )
    return jax.tree.map(lambda value: value / num_subsets, sums)
