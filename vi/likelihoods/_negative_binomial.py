"""Counts whose variance is larger than their mean."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi._known import require_positive
from vi.likelihoods._counts import log_negative_binomial
from vi.likelihoods._event import Observation, observation
from vi.likelihoods._parameters import LEARN_IT, in_float, require_trailing


def negative_binomial(
    log_mean: Float[Array, "*batch_and_event"],
    *,
    concentration: float | Float[Array, "*event_or_more"],
    event_ndims: int = 1,
) -> Observation:
    r"""Independent overdispersed counts, given as log-means: a Poisson of a gamma rate.

    .. math:: p(x) = \prod_i \frac{\Gamma(x_i + r_i)}{\Gamma(r_i) \, x_i!}
              \Bigl(\frac{r_i}{r_i + \mu_i}\Bigr)^{r_i}
              \Bigl(\frac{\mu_i}{r_i + \mu_i}\Bigr)^{x_i}

    The variance is :math:`\mu + \mu^2 / r`; a large concentration r is a Poisson. The logits of the
    other convention are ``log_mean - jnp.log(concentration)``.

    Args:
        log_mean: ``[*batch, *event]``.
        concentration: r, the inverse dispersion: a scalar, or an array with the trailing axes of
            ``log_mean`` (one per gene); positive.
        event_ndims: How many last axes are one datum.

    Returns:
        A NumPyro distribution; ``log_prob(x)`` is ``[*batch]``, in nats.

    Raises:
        ValueError: A concentration that does not fit or is known not to be positive, or a wrong
            ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> likelihood = vi.likelihoods.negative_binomial(jnp.zeros(1), concentration=1.0)
        >>> print(jnp.exp(likelihood.log_prob(jnp.array([2]))).round(3))
        0.125
    """
    where = "negative_binomial"
    require_trailing(where, "concentration", concentration, "log_mean", jnp.shape(log_mean))
    require_positive(where, "concentration", concentration, LEARN_IT)
    base = NegativeBinomial(in_float(log_mean), concentration)
    return observation(where, base, event_ndims)


class NegativeBinomial(dist.Distribution):
    """Counts ``[*batch]``; made by ``negative_binomial``.

    NumPyro 0.22 adds log-gammas, which in float32 are a million each at a concentration of a
    million.
    """

    arg_constraints = {  # noqa: RUF012
        "log_mean": constraints.real,
        "concentration": constraints.positive,
    }
    support: Any = constraints.nonnegative_integer
    data_rule = "be whole numbers of at least 0"
    data_remedy = "pass counts as they were counted, neither scaled nor logged"

    def __init__(self, log_mean, concentration, *, validate_args=None):
        self.log_mean, self.concentration = log_mean, concentration
        super().__init__(batch_shape=jnp.shape(log_mean), validate_args=validate_args)

    @validate_sample
    def log_prob(self, value) -> Float[Array, "*shape"]:
        """Per count, in nats."""
        log_mean, r = self._parameters()
        return log_negative_binomial(jnp.asarray(value, log_mean.dtype), log_mean, r)

    def sample(self, key: Any, sample_shape=()):
        """Draw counts, ``[*sample_shape, *batch]``."""
        of_rate, of_count = jax.random.split(key)
        log_mean, r = self._parameters()
        shape = self.shape(sample_shape)
        gamma = jax.random.gamma(of_rate, jnp.broadcast_to(r, shape), dtype=log_mean.dtype)
        return jax.random.poisson(of_count, gamma * jnp.exp(log_mean - jnp.log(r)))

    @property
    def mean(self):
        """The exponential of ``log_mean``."""
        return jnp.exp(self.log_mean)

    @property
    def variance(self):
        """``mean + mean^2 / concentration``."""
        return self.mean + self.mean**2 / self._parameters()[1]

    def _parameters(self):
        log_mean = jnp.asarray(self.log_mean)
        return log_mean, jnp.asarray(self.concentration, log_mean.dtype)
