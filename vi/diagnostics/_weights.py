"""Sums of importance weights, held so that no magnitude overflows and any two can be merged."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import at_least_float32


class WeightSums(NamedTuple):
    """Sums over the samples seen, each ``[*batch]``, in units of the largest weight.

    ``total`` is the sum of ``w / exp(log_max)``, ``squares`` that of its square; both are 0 where
    every weight is.
    """

    log_max: Float[Array, "*batch"]
    total: Float[Array, "*batch"]
    squares: Float[Array, "*batch"]


def sum_weights(log_w: Float[Array, "K *batch"]) -> WeightSums:
    """The sums over axis 0."""
    log_max = log_w.max(0)
    weight = jnp.exp(log_w - _finite(log_max)[None])
    return WeightSums(log_max, weight.sum(0), jnp.square(weight).sum(0))


def merge(one: WeightSums, other: WeightSums) -> WeightSums:
    """The sums over both sets of samples."""
    log_max = jnp.maximum(one.log_max, other.log_max)
    scale_one = jnp.exp(one.log_max - _finite(log_max))
    scale_other = jnp.exp(other.log_max - _finite(log_max))
    return WeightSums(
        log_max,
        one.total * scale_one + other.total * scale_other,
        one.squares * scale_one**2 + other.squares * scale_other**2,
    )


def sample_size(sums: WeightSums) -> Float[Array, "*batch"]:
    """Kish's effective sample size of the sums; 0 where every weight is 0."""
    empty = sums.squares == 0
    return jnp.where(empty, 0.0, sums.total**2 / jnp.where(empty, 1.0, sums.squares))


def effective_sample_size(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
    r"""How many equally weighted samples these weighted ones are worth.

    .. math:: \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}
              = \frac{K}{1 + \widehat{\mathrm{cv}}^2(w)}.

    From 1, one weight carries everything, to K, all are equal. It sees only the regions that q
    visits: a large value does not prove that q covers the posterior.

    Args:
        log_w: Log-weights ``[K, *batch]``, normalised or not, of any magnitude.

    Returns:
        ``[*batch]``, a number of samples; 0 where every weight is zero (all ``-inf``).

    Raises:
        ValueError: ``log_w`` is not floating, or has no samples.

    Examples:
        >>> import jax.numpy as jnp
        >>> effective_sample_size(jnp.array([0.0, 0.0, 0.0, -jnp.inf]))
        Array(3., dtype=float32)

    References:
        Kish (1965); Kong, Liu and Wong (1994), section 4.1, where it is K / (1 + cv^2).
    """
    return sample_size(sum_weights(at_least_float32("effective_sample_size", log_w)))


def _finite(log_max):
    return jnp.where(log_max == -jnp.inf, 0.0, log_max)
