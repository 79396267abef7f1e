"""Real-valued data."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._known import require_positive
from vi.likelihoods._event import Observation, observation
from vi.likelihoods._parameters import LEARN_IT, beside, in_float, require_trailing


def normal(
    loc: Float[Array, "*batch_and_event"],
    *,
    scale: float | Float[Array, "*event_or_more"],
    event_ndims: int = 1,
) -> Observation:
    r"""Independent real observations around ``loc`` with an explicit standard deviation.

    .. math:: \log p(x) = \sum_i -\frac{(x_i - \mu_i)^2}{2 \sigma_i^2} - \log \sigma_i
              - \tfrac12 \log 2\pi

    The sum of squared errors is this with variance 1/2, up to a constant: ``scale=0.5**0.5``. A
    learned scale is kept in an interval by ``clamped_scale``; the best shared one is
    ``optimal_scale``.

    Args:
        loc: Means ``[*batch, *event]``.
        scale: Standard deviation: a scalar, or an array with the trailing axes of ``loc`` (per
            dimension, per datum, ...); positive, in the units of the data.
        event_ndims: How many last axes are one datum.

    Returns:
        A NumPyro distribution; ``log_prob(x)`` is ``[*batch]``, in nats.

    Raises:
        ValueError: A scale whose axes are not the trailing axes of ``loc`` or which is known not to
            be positive, or a wrong ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> vi.likelihoods.normal(jnp.zeros((3, 64)), scale=0.5**0.5).log_prob(jnp.ones(64)).shape
        (3,)
    """
    where = "likelihoods.normal"
    require_trailing(where, "scale", scale, "loc", jnp.shape(loc))
    require_positive(where, "scale", scale, LEARN_IT)
    loc = in_float(loc)
    return observation(where, dist.Normal(loc, beside(loc, scale)), event_ndims)
