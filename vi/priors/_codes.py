"""The uniform prior over the entries of a codebook."""

import jax.numpy as jnp
import numpyro.distributions as dist

from vi._check import require_count
from vi.priors._event import Event, require_event_shape


def uniform_codes(num_codes: int, *, event_shape: tuple[int, ...]) -> dist.Distribution:
    r"""Independent codes, each entry of the codebook as likely as any other.

    .. math:: \log p(c) = - n \log M

    for n codes among M: with a q that picks one entry the KL is the constant n log M, which is why
    training a vector-quantised autoencoder leaves it out, and counting its bits must not.

    Args:
        num_codes: M.
        event_shape: That of one datum's codes, for instance ``(7, 7)``.

    Returns:
        A NumPyro distribution over integers, with that event shape.

    Raises:
        ValueError: Fewer than one code, or an event shape that is no tuple of sizes; on scoring,
            codes of another shape.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> prior = vi.priors.uniform_codes(512, event_shape=(7, 7))
        >>> bits = -prior.log_prob(jnp.zeros((7, 7), int)) / jnp.log(2)
        >>> print(f"{bits:.0f}")  # 49 times 9
        441

    References:
        Van den Oord, Vinyals and Kavukcuoglu (2017), section 3.1.
    """
    require_count("uniform_codes", "num_codes", num_codes)
    require_event_shape("uniform_codes", event_shape)
    probs = jnp.full((*event_shape, num_codes), 1 / num_codes)
    return Event("uniform_codes", dist.CategoricalProbs(probs), len(event_shape))
