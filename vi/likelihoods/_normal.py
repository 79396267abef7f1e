"""Real-valued data."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._check import refusal
from vi.likelihoods._event import Observation, observation


def normal(
    loc: Float[Array, "*batch_and_event"],
    *,
    scale: float | Float[Array, "*event_or_more"],
    event_ndims: int = 1,
) -> Observation:
    r"""Independent real observations around ``loc`` with an explicit standard deviation.

    .. math:: \log p(x) = \sum_i -\frac{(x_i - \mu_i)^2}{2 \sigma_i^2} - \log \sigma_i
              - \tfrac12 \log 2\pi

    The sum of squared errors is this with variance 1/2, up to a constant: ``scale=0.5**0.5``.

    Args:
        loc: Means ``[*batch, *event]``.
        scale: Standard deviation: a scalar, or an array with the trailing axes of ``loc`` (per
            dimension, per datum, ...); positive, in the units of the data.
        event_ndims: How many last axes are one datum.

    Returns:
        A NumPyro distribution; ``log_prob(x)`` is ``[*batch]``, in nats.

    Raises:
        ValueError: A scale whose axes are not the trailing axes of ``loc``, or a wrong
            ``event_ndims``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> vi.likelihoods.normal(jnp.zeros((3, 64)), scale=0.5**0.5).log_prob(jnp.ones(64)).shape
        (3,)
    """
    shape, full = jnp.shape(scale), jnp.shape(loc)
    if len(shape) > len(full) or shape != full[len(full) - len(shape) :]:
        got = f"{list(shape)} against {list(full)}"
        remedy = "give it one entry per trailing axis of loc, or a scalar"
        raise refusal("likelihoods.normal", "scale", "fit the trailing axes of loc", got, remedy)
    return observation("likelihoods.normal", dist.Normal(loc, scale), event_ndims)
