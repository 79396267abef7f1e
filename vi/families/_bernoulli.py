"""Bits."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._bernoulli import Bernoulli
from vi._check import refusal


def bernoulli(logits: Float[Array, "*batch D"]) -> dist.Distribution:
    r"""D independent bits, :math:`\prod_d \sigma(\ell_d)^{z_d} (1 - \sigma(\ell_d))^{1 - z_d}`.

    It samples and scores, and has no path: ``score`` and ``vimco`` take it, ``mixed`` as a member
    of a chain. Prefer it to NumPyro's own as a q: at a logit of 0, where a network that starts at
    zero is, the score of that one is 0.

    Args:
        logits: Log-odds ``[*batch, D]``; the last axis is the event.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and event shape ``[D]``; draws are
        integers, 0 or 1.

    Raises:
        ValueError: No event axis.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> q = vi.families.bernoulli(jnp.zeros((3, 2)))
        >>> q.sample(jax.random.key(0), (5,)).shape, q.batch_shape, q.event_shape
        ((5, 3, 2), (3,), (2,))
        >>> print(jax.grad(lambda l: vi.families.bernoulli(l).log_prob(jnp.ones(1)))(jnp.zeros(1)))
        [0.5]
    """
    if jnp.ndim(logits) == 0:
        remedy = "give the bits an axis: logits[None]"
        raise refusal("bernoulli", "logits", "have a last axis of D bits", "a scalar", remedy)
    return Bernoulli(logits).to_event(1)
