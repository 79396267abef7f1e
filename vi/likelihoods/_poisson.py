"""Counts whose variance is their mean."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi.likelihoods._counts import log_poisson
from vi.likelihoods._event import Observation, observation
from vi.likelihoods._parameters import in_float


def poisson(log_rate: Float[Array, "*batch_and_event"], *, event_ndims: int = 1) -> Observation:
    r"""Independent counts, given as log-rates.

    .. math:: \log p(x) = \sum_i x_i \log \lambda_i - \lambda_i - \log x_i!

    The "Poisson loss" without :math:`\log x!` is this up to a constant, and cannot be compared with
    another likelihood. All digits of float32 at counts of any size. An exposure (the length of a
    document, the depth of a cell) is added to the log-rate as its logarithm.

    Args:
        log_rate: ``[*batch, *event]``; above 88 in float32 the rate, and so the log-likelihood,
            leaves the range of numbers: minus infinity, with a slope that stays finite.
        event_ndims: How many last axes are one datum.

    Returns:
        A NumPyro distribution; ``log_prob(x)`` is ``[*batch]``, in nats.

    Raises:
        ValueError: A wrong ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> print(vi.likelihoods.poisson(jnp.zeros(2)).log_prob(jnp.array([0, 1])))
        -2.0
    """
    return observation("poisson", Poisson(in_float(log_rate)), event_ndims)


class Poisson(dist.Distribution):
    """Counts ``[*batch]``; made by ``poisson``.

    NumPyro 0.22 takes the rate, whose logarithm at ``exp(-1e4)`` is minus infinity, and loses three
    digits of float32 at a count of 1,000.
    """

    arg_constraints = {"log_rate": constraints.real}  # noqa: RUF012
    support: Any = constraints.nonnegative_integer
    data_rule = "be whole numbers of at least 0"
    data_remedy = "pass counts as they were counted, neither scaled nor logged"

    def __init__(self, log_rate, *, validate_args=None):
        self.log_rate = log_rate
        super().__init__(batch_shape=jnp.shape(log_rate), validate_args=validate_args)

    @validate_sample
    def log_prob(self, value) -> Float[Array, "*shape"]:
        """Per count, in nats."""
        log_rate = jnp.asarray(self.log_rate)
        return log_poisson(jnp.asarray(value, log_rate.dtype), log_rate)

    def sample(self, key: Any, sample_shape=()):
        """Draw counts, ``[*sample_shape, *batch]``."""
        return jax.random.poisson(key, self.mean, self.shape(sample_shape))

    @property
    def mean(self):
        """The rate."""
        return jnp.exp(self.log_rate)

    @property
    def variance(self):
        """The rate."""
        return self.mean
