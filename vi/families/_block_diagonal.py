"""The Gaussian whose dimensions are correlated within blocks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi._check import refusal
from vi.families._gaussian_checks import require_axis, require_positive_diagonal


def block_diagonal(
    loc: Float[Array, "*batch D"], scale_trils: Sequence[Float[Array, "*batch d d"]]
) -> "BlockDiagonal":
    r"""A Gaussian with one full covariance per block of neighbouring dimensions.

    .. math:: q(z) = \prod_i N(z_i; \mu_i, L_i L_i^T), \qquad \sum_i d_i = D.

    Draws and densities cost :math:`\sum_i d_i^2`; a draw is scored from its own noise
    (``rsample_and_log_prob``), with no triangular system.

    Args:
        loc: Means ``[*batch, D]``; the last axis is the event, its dimensions in the blocks' order.
        scale_trils: Factors ``[*batch, d_i, d_i]``, lower triangular with positive diagonals; what
            stands above a diagonal is not read.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and event shape ``[D]``.

    Raises:
        ValueError: No event axis, sizes that do not sum to D, a factor of another batch or not
            square, or a known one with an entry at or below 0 on its diagonal.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> trils = jnp.eye(2), 0.5 * jnp.eye(1)
        >>> q = vi.families.block_diagonal(jnp.zeros(3), trils)
        >>> print(q.sample(jax.random.key(0), (5,)).shape, q.variance)
        (5, 3) [1.   1.   0.25]
    """
    where = "block_diagonal"
    require_axis(where, loc)
    *batch, size = jnp.shape(loc)
    shapes = [jnp.shape(tril) for tril in scale_trils]
    for i, shape in enumerate(shapes):
        if len(shape) < 2 or shape[:-2] != tuple(batch) or shape[-1] != shape[-2]:
            rule, got = f"be [{', '.join([*map(str, batch), 'd', 'd'])}]", f"shape {list(shape)}"
            remedy = "give every block the batch of loc"
            raise refusal(where, f"scale_trils[{i}]", rule, got, remedy)
        require_positive_diagonal(where, f"scale_trils[{i}]", scale_trils[i])
    if sum(shape[-1] for shape in shapes) != size:
        got = f"{[shape[-1] for shape in shapes]} for D = {size}"
        remedy = "give one factor per block, in the order of loc"
        raise refusal(where, "scale_trils", "have sizes that sum to D", got, remedy)
    return BlockDiagonal(loc, tuple(jnp.tril(tril) for tril in scale_trils))


class BlockDiagonal(dist.Distribution):
    """A Gaussian ``[*batch, D]`` in independent blocks; made by ``block_diagonal``."""

    arg_constraints = {"loc": constraints.real_vector, "scale_trils": constraints.dependent}  # noqa: RUF012
    support: Any = constraints.real_vector
    reparametrized_params = ["loc", "scale_trils"]  # noqa: RUF012

    def __init__(self, loc, scale_trils, *, validate_args: bool | None = None):
        self.loc, self.scale_trils = loc, scale_trils
        super().__init__(jnp.shape(loc)[:-1], jnp.shape(loc)[-1:], validate_args=validate_args)

    def sample(self, key: Any, sample_shape=()):
        """Draw ``[*sample_shape, *batch, D]``, with derivatives."""
        return self.rsample_and_log_prob(key, sample_shape)[0]

    def rsample_and_log_prob(self, key: Any, sample_shape=()):
        """Draw, and the log-density of the draws in nats from their noise."""
        noise = jax.random.normal(key, self.shape(sample_shape), jnp.result_type(self.loc))
        blocks = [
            jnp.einsum("...ij,...j->...i", tril, part)
            for tril, part in zip(self.scale_trils, self._split(noise), strict=True)
        ]
        return self.loc + jnp.concatenate(blocks, axis=-1), self._score(noise)

    @validate_sample
    def log_prob(self, value):
        """The log-density in nats."""
        blocks = [
            _solve(tril, part)
            for tril, part in zip(self.scale_trils, self._split(value - self.loc), strict=True)
        ]
        return self._score(jnp.concatenate(blocks, axis=-1))

    @property
    def mean(self):
        """``loc``."""
        return self.loc

    @property
    def variance(self):
        """The variance of each dimension, ``[*batch, D]``."""
        return jnp.concatenate([(tril**2).sum(-1) for tril in self.scale_trils], axis=-1)

    def entropy(self):
        """In nats, ``[*batch]``."""
        return 0.5 * self.event_shape[0] * (1 + jnp.log(2 * jnp.pi)) + self._log_det()

    def _split(self, value):
        ends, end = [], 0
        for tril in self.scale_trils[:-1]:
            ends.append(end := end + tril.shape[-1])
        return jnp.split(value, ends, axis=-1)

    def _log_det(self):
        diagonals = [jnp.diagonal(tril, axis1=-2, axis2=-1) for tril in self.scale_trils]
        return jnp.log(jnp.concatenate(diagonals, axis=-1)).sum(-1)

    def _score(self, noise):
        normaliser = 0.5 * self.event_shape[0] * jnp.log(2 * jnp.pi) + self._log_det()
        return -0.5 * (noise**2).sum(-1) - normaliser


def _solve(tril, value):
    """``tril^{-1} value``, one factor for all that leads the batch."""
    lead = value.shape[: value.ndim - tril.ndim + 1]
    columns = jnp.moveaxis(value.reshape(-1, *tril.shape[:-1]), 0, -1)
    solved = solve_triangular(tril, columns, lower=True)
    return jnp.moveaxis(solved, -1, 0).reshape(*lead, *tril.shape[:-1])
