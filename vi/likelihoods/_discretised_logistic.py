"""Pixels of a few levels, as a logistic that was rounded."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi._check import require_count
from vi._known import require_positive
from vi.likelihoods._event import Observation, observation
from vi.likelihoods._levels import Levels, log_logistic_mass
from vi.likelihoods._parameters import (
    LEARN_IT,
    beside,
    in_float,
    require_interval,
    require_trailing,
)


def discretised_logistic(
    loc: Float[Array, "*batch_and_event"],
    *,
    scale: float | Float[Array, "*event_or_more"],
    low: float,
    high: float,
    num_levels: int,
    event_ndims: int = 1,
) -> Observation:
    r"""Independent levels, each a logistic variable rounded to the nearest of them.

    .. math:: P(x = k) = \sigma\Bigl(\frac{e_{k+1} - \mu}{s}\Bigr)
              - \sigma\Bigl(\frac{e_k - \mu}{s}\Bigr), \qquad
              e_k = \mathrm{low} + (k - \tfrac12) \frac{\mathrm{high} - \mathrm{low}}{M - 1}

    but for the first edge, which is minus infinity, and the last, infinity: the two end levels hold
    the tails, so that the M probabilities sum to 1. Data are *level numbers* 0 .. M - 1, a pixel's
    byte; ``loc`` and ``scale`` are in the units of ``[low, high]``, where level k stands at
    ``low + k (high - low) / (M - 1)``, so that a decoder may speak of [-1, 1]. A probability:
    ``bits_per_dimension`` needs no correction.

    Args:
        loc: ``[*batch, *event]``, not confined to the interval.
        scale: A scalar, or an array with the trailing axes of ``loc``; positive. The standard
            deviation is 1.81 times it.
        low: Where level 0 stands, a known number.
        high: Where level M - 1 stands.
        num_levels: M, at least 2; 256 for bytes.
        event_ndims: How many last axes are one datum.

    Returns:
        A NumPyro distribution over level numbers; ``log_prob(x)`` is ``[*batch]``, in nats.
        ``mean`` is the mean level.

    Raises:
        ValueError: A scale that does not fit or is known not to be positive, ``low >= high``, fewer
            than two levels, or a wrong ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> likelihood = vi.likelihoods.discretised_logistic(
        ...     jnp.zeros((4, 1)), scale=0.3, low=-1.0, high=1.0, num_levels=4)
        >>> [f"{p:.3f}" for p in jnp.exp(likelihood.log_prob(jnp.arange(4)[:, None]))]
        ['0.098', '0.402', '0.402', '0.098']

    References:
        Kingma et al. (2016), section 5.1.
    """
    where = "discretised_logistic"
    require_grid(where, low, high, num_levels)
    require_trailing(where, "scale", scale, "loc", jnp.shape(loc))
    require_positive(where, "scale", scale, LEARN_IT)
    loc = in_float(loc)
    base = DiscretisedLogistic(loc, beside(loc, scale), low, high, num_levels)
    return observation(where, base, event_ndims)


def require_grid(where: str, low: float, high: float, num_levels: int) -> None:
    """Refuse levels that are not at least two in an interval."""
    require_interval(where, low, high)
    require_count(where, "num_levels", num_levels, least=2)


class DiscretisedLogistic(Levels):
    """Levels ``[*batch]``; made by ``discretised_logistic``."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    pytree_aux_fields = ("low", "high", "num_levels")

    def __init__(self, loc, scale, low, high, num_levels, *, validate_args=None):
        self.loc, self.scale = loc, scale
        self.low, self.high, self.num_levels = float(low), float(high), int(num_levels)
        super().__init__(batch_shape=jnp.shape(loc), validate_args=validate_args)

    @property
    def step(self) -> float:
        """From one level to the next, in the units of ``loc``."""
        return (self.high - self.low) / (self.num_levels - 1)

    @validate_sample
    def log_prob(self, value) -> Float[Array, "*shape"]:
        """The log-probability of each level, in nats."""
        level, last = jnp.asarray(value).astype(int), self.num_levels - 1
        below, above = self._from_edge(level - 1), self._from_edge(level)
        width = self.step / jnp.asarray(self.scale)
        first_or_last = {"is_first": level <= 0, "is_last": level >= last}
        return log_logistic_mass(above, below, width, **first_or_last)

    def _from_edge(self, index):
        """``(edge - loc) / scale`` of the edge above level ``index``, to the last digit.

        An edge is held as the sum of two floats: at a small scale what rounding takes from it
        would be many scales.
        """
        loc = jnp.asarray(self.loc)
        edges = self.low + self.step * (np.arange(self.num_levels - 1) + 0.5)
        rounded = edges.astype(loc.dtype)
        rest = (edges - rounded).astype(loc.dtype)
        index = index.clip(0, self.num_levels - 2)
        from_loc = (jnp.asarray(rounded)[index] - loc) + jnp.asarray(rest)[index]
        return from_loc / jnp.asarray(self.scale)

    def sample(self, key: Any, sample_shape=()):
        """Draw level numbers, ``[*sample_shape, *batch]``."""
        loc = jnp.asarray(self.loc)
        z = loc + self.scale * jax.random.logistic(key, self.shape(sample_shape), loc.dtype)
        return jnp.round((z - self.low) / self.step).clip(0, self.num_levels - 1).astype(int)

    @property
    def mean(self):
        """The mean level, the sum over the edges of the probability to lie above."""

        def add(total, index):
            return total + jax.nn.sigmoid(-self._from_edge(index)), None

        zero = jnp.zeros(self.batch_shape, jnp.asarray(self.loc).dtype)
        return jax.lax.scan(add, zero, jnp.arange(self.num_levels - 1))[0]
