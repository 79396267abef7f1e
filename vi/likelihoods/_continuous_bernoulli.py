"""Grey values between 0 and 1."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vi.likelihoods._event import Observation, observation
from vi.likelihoods._parameters import in_float

_NEAR_ZERO = 0.25  # where the series has all digits of float64, and the closed form loses them


def continuous_bernoulli(
    logits: Float[Array, "*batch_and_event"], *, event_ndims: int = 1
) -> Observation:
    r"""Independent grey values in [0, 1], given as logits: "BCE on grey values", normalised.

    .. math:: \log p(x | l) = \sum_i x_i l_i - \log \frac{e^{l_i} - 1}{l_i}
              = \sum_i x_i \log \lambda_i + (1 - x_i) \log(1 - \lambda_i) + \log C(\lambda_i)

    with :math:`\lambda` the sigmoid of l, which is not the mean; ``mean`` is. A density: positive
    log-likelihoods are no error. Finite, with its gradient, at a logit of 0 and at 1e4.

    Args:
        logits: ``[*batch, *event]``.
        event_ndims: How many last axes are one datum.

    Returns:
        A NumPyro distribution over [0, 1]; ``log_prob(x)`` is ``[*batch]``, in nats.

    Raises:
        ValueError: A wrong ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> print(vi.likelihoods.continuous_bernoulli(jnp.zeros(64)).log_prob(jnp.full(64, 0.5)))
        0.0

    References:
        Loaiza-Ganem and Cunningham (2019), eq. 5 and 8.
    """
    base = ContinuousBernoulli(in_float(logits))
    return observation("continuous_bernoulli", base, event_ndims)


class ContinuousBernoulli(dist.Distribution):
    """Grey values, each an exponential cut to [0, 1]; made by ``continuous_bernoulli``.

    Everything is written in ``d``, the distance from the end that the logit favours, whose density
    is proportional to ``exp(-|l| d)``: no digits cancel at large logits.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support: Any = constraints.unit_interval
    data_rule = "lie in [0, 1]"
    data_remedy = "scale the data, or use a likelihood of real numbers (normal, student_t)"

    def __init__(self, logits, *, validate_args=None):
        self.logits = logits
        super().__init__(batch_shape=jnp.shape(logits), validate_args=validate_args)

    @validate_sample
    def log_prob(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """``x l - log((e^l - 1) / l)`` per entry, in nats."""
        slope, is_up = self._slope()
        value = jnp.asarray(value, slope.dtype)
        return -slope * jnp.where(is_up, 1 - value, value) - _log_volume(slope)

    def sample(self, key: Any, sample_shape=()):
        """Draw by the inverse distribution function, ``[*sample_shape, *batch]``."""
        slope, is_up = self._slope()
        u = jax.random.uniform(key, self.shape(sample_shape), slope.dtype)
        safe = jnp.where(slope > 1e-30, slope, 1.0)
        distance = jnp.where(slope > 1e-30, -jnp.log1p(u * jnp.expm1(-safe)) / safe, u)
        return jnp.where(is_up, 1 - distance, distance).clip(0, 1)

    @property
    def mean(self):
        """``1 / (1 - e^-l) - 1 / l``: 1/2 at a logit of 0."""
        slope, is_up = self._slope()
        distance = -jax.jvp(_log_volume, (slope,), (jnp.ones_like(slope),))[1]
        return jnp.where(is_up, 1 - distance, distance)

    def _slope(self):
        """``|l|``, with the derivative of its right side at 0, and on which side that is."""
        logits = jnp.asarray(self.logits)
        is_up = logits >= 0
        return jnp.where(is_up, logits, -logits), is_up


def _log_volume(slope):
    """``log((1 - e^-a) / a)``, the log of the integral of ``e^(-a d)`` over [0, 1]."""
    is_near = slope < _NEAR_ZERO
    near = jnp.where(is_near, slope, 0.0)
    square = near**2
    even = square * (1 / 24 - square * (1 / 2880 - square * (1 / 181440 - square / 9676800)))
    far = jnp.where(is_near, 1.0, slope)
    return jnp.where(is_near, even - near / 2, jnp.log(-jnp.expm1(-far)) - jnp.log(far))
