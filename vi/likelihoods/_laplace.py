"""Real-valued data with absolute errors."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._known import require_positive
from vi.likelihoods._event import Observation, observation
from vi.likelihoods._parameters import LEARN_IT, beside, in_float, require_trailing


def laplace(
    loc: Float[Array, "*batch_and_event"],
    *,
    scale: float | Float[Array, "*event_or_more"],
    event_ndims: int = 1,
) -> Observation:
    r"""Independent real observations with two-sided exponential errors: the "L1 loss".

    .. math:: \log p(x) = \sum_i -\frac{|x_i - \mu_i|}{b_i} - \log 2 b_i

    The summed absolute error is this with ``scale=1``, up to a constant. The standard deviation is
    :math:`\sqrt 2 b`.

    Args:
        loc: Medians ``[*batch, *event]``.
        scale: Mean absolute deviation b: a scalar, or an array with the trailing axes of ``loc``;
            positive, in the units of the data.
        event_ndims: How many last axes are one datum.

    Returns:
        A NumPyro distribution; ``log_prob(x)`` is ``[*batch]``, in nats.

    Raises:
        ValueError: A scale whose axes are not the trailing axes of ``loc`` or which is known not to
            be positive, or a wrong ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> print(vi.likelihoods.laplace(jnp.zeros(3), scale=0.5).log_prob(jnp.ones(3)))
        -6.0
    """
    require_trailing("laplace", "scale", scale, "loc", jnp.shape(loc))
    require_positive("laplace", "scale", scale, LEARN_IT)
    loc = in_float(loc)
    return observation("laplace", dist.Laplace(loc, beside(loc, scale)), event_ndims)
