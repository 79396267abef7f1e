"""Real-valued data with outliers."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import betaln
from jaxtyping import Array, Float
from numpyro.distributions.util import validate_sample

from vi._known import require_positive
from vi.likelihoods._event import Observation, observation
from vi.likelihoods._parameters import LEARN_IT, beside, in_float, require_trailing


def student_t(
    loc: Float[Array, "*batch_and_event"],
    *,
    df: float | Float[Array, "*event_or_more"],
    scale: float | Float[Array, "*event_or_more"],
    event_ndims: int = 1,
) -> Observation:
    r"""Independent real observations with heavy tails: outliers cost a logarithm, not a square.

    .. math:: \log p(x) = \sum_i -\tfrac{\nu_i + 1}{2} \log\Bigl(1 + \frac{(x_i - \mu_i)^2}
              {\nu_i \sigma_i^2}\Bigr) - \log \sigma_i - \tfrac12 \log \nu_i
              - \log B(\tfrac{\nu_i}{2}, \tfrac12)

    ``scale`` is not the standard deviation, which is :math:`\sigma \sqrt{\nu / (\nu - 2)}` and
    infinite for two degrees of freedom and fewer. Exact in float32 for ``df`` up to 1e6, a normal.

    Args:
        loc: Centres ``[*batch, *event]``.
        df: Degrees of freedom; a scalar, or an array with the trailing axes of ``loc``; positive.
        scale: Likewise; in the units of the data.
        event_ndims: How many last axes are one datum.

    Returns:
        A NumPyro distribution; ``log_prob(x)`` is ``[*batch]``, in nats.

    Raises:
        ValueError: A parameter whose axes are not the trailing axes of ``loc`` or which is known
            not to be positive, or a wrong ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> cauchy = vi.likelihoods.student_t(jnp.zeros(1), df=1, scale=1.0)
        >>> print(f"{jnp.exp(-cauchy.log_prob(jnp.zeros(1))):.4f}")
        3.1416
    """
    for name, value in (("df", df), ("scale", scale)):
        require_trailing("student_t", name, value, "loc", jnp.shape(loc))
        require_positive("student_t", name, value, LEARN_IT)
    loc = in_float(loc)
    base = StudentT(beside(loc, df), loc, beside(loc, scale))
    return observation("student_t", base, event_ndims)


class StudentT(dist.StudentT):
    """NumPyro's, with a normalising constant that keeps its digits at many degrees of freedom.

    NumPyro 0.22 takes the difference of two log-gammas, which in float32 are a million each at a
    million degrees of freedom. Its scale of the chi-square has axes of size 1, which ``jax.vmap``
    over the distribution refuses.
    """

    def __init__(self, df, loc, scale, *, validate_args=None):
        super().__init__(df, loc, scale, validate_args=validate_args)
        half = 0.5 * jnp.broadcast_to(df, self.batch_shape)
        self._chi2 = dist.Gamma(half, jnp.full_like(half, 0.5))

    @validate_sample
    def log_prob(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Per entry, in nats."""
        scale, df = jnp.asarray(self.scale), jnp.asarray(self.df)
        y = (value - jnp.asarray(self.loc)) / scale
        log_volume = jnp.log(scale) + 0.5 * jnp.log(df) + betaln(0.5 * df, 0.5)
        return -0.5 * (df + 1) * jnp.log1p((y / jnp.sqrt(df)) ** 2) - log_volume
