"""How much of a codebook is in use."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vi._check import refusal, require_count
from vi.networks._codebook import require_indices, within


class CodeUse(NamedTuple):
    """How evenly codes are used.

    Attributes:
        frequencies: The share of each code, ``[M]``; they sum to 1.
        share_used: The share of the M codes that occur at all.
        perplexity: The exponential of the frequencies' entropy, from 1 (one code) to M (all
            alike).
    """

    frequencies: Float[Array, " M"]
    share_used: Float[Array, ""]
    perplexity: Float[Array, ""]


def code_use(indices: Int[Array, "*shape"], num_codes: int) -> CodeUse:
    r"""Which codes occur and how evenly, over all axes of ``indices``: an epoch's, say.

    .. math:: f_m = \frac{1}{n} \sum_j 1[i_j = m], \qquad
              \mathrm{perplexity} = \exp\left(-\sum_m f_m \log f_m\right)

    Args:
        indices: Integers in 0 .. M - 1, at least one; others are left out.
        num_codes: M.

    Returns:
        The ``CodeUse``.

    Raises:
        ValueError: Indices that are no integers, or none, or fewer than one code.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> use = vi.networks.code_use(jnp.array([[0, 1], [0, 1]]), 4)
        >>> print(use.share_used.round(2), use.perplexity.round(2))
        0.5 2.0
    """
    num_codes = require_count("code_use", "num_codes", num_codes)
    indices = require_indices("code_use", indices)
    if indices.size == 0:
        raise refusal("code_use", "indices", "hold at least one", "none", "pass an epoch's")
    counts = (
        jnp.zeros(num_codes, int).at[within(indices.reshape(-1), num_codes)].add(1, mode="drop")
    )
    frequencies = counts / counts.sum()
    entropy = jax.scipy.special.entr(frequencies).sum()
    return CodeUse(frequencies, (counts > 0).mean(), jnp.exp(entropy))
