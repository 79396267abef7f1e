"""Binary data."""

from jaxtyping import Array, Float

import vi._bernoulli
from vi.likelihoods._event import Observation, observation
from vi.likelihoods._parameters import in_float


def bernoulli(logits: Float[Array, "*batch_and_event"], *, event_ndims: int = 1) -> Observation:
    r"""Independent binary observations, given as logits.

    .. math:: \log p(x | l) = \sum_i x_i l_i - \mathrm{softplus}(l_i)

    Normalised, and finite for any finite logit. It is "binary cross-entropy, summed"; on grey
    values it is not a likelihood: binarise them first, or use ``continuous_bernoulli``.

    Args:
        logits: ``[*batch, *event]``; a decoder's outputs are ``[K, *batch, *event]``.
        event_ndims: How many last axes are one datum (1 for flattened images, 2 for height x
            width).

    Returns:
        A NumPyro distribution; ``log_prob(x)`` is ``[*batch]``, in nats.

    Raises:
        ValueError: ``event_ndims`` is not between 1 and the number of axes.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> vi.likelihoods.bernoulli(jnp.zeros((5, 3, 64))).log_prob(jnp.ones((3, 64))).shape
        (5, 3)
    """
    return observation("bernoulli", Bernoulli(in_float(logits)), event_ndims)


class Bernoulli(vi._bernoulli.Bernoulli):
    """Bits; made by ``bernoulli``."""

    data_rule = "be 0 or 1"
    data_remedy = "binarise grey values, or use vi.likelihoods.continuous_bernoulli"
