"""Bits per dimension."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import require_count
from vi._known import require_positive
from vi.likelihoods._parameters import LEARN_IT, in_float


def bits_per_dimension(
    log_prob: Float[Array, "*shape"], num_dimensions: int, *, bin_width: float = 1.0
) -> Float[Array, "*shape"]:
    r"""What a coder would spend on each dimension of a datum.

    .. math:: \frac{-\log p(x) / D - \log \Delta}{\log 2}

    The probability of a level is its density times the width :math:`\Delta` of its bin, *in the
    units in which the density was scored*. A likelihood of levels (``discretised_logistic``,
    ``categorical``) is a probability already: leave ``bin_width`` at 1. So is a density of bytes
    with uniform noise, 0 to 256, whose bins are 1 wide. A density of such data divided by 256 needs
    ``bin_width=1 / 256``, which adds 8 bits; on [-1, 1] with 256 levels it is ``2 / 255``. Of
    continuous data no bits per dimension can be reported.

    Args:
        log_prob: Log-likelihoods, or a bound on log p(x), in nats.
        num_dimensions: D, the entries of one datum, all channels counted.
        bin_width: The width of a level in the units of the scored data.

    Returns:
        The shape of ``log_prob``, in bits. An upper bound where ``log_prob`` is a lower one.

    Raises:
        ValueError: A count below 1, or a width that is not positive.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> uniform = jnp.zeros(())                              # a density on [0, 1]^64
        >>> print(vi.likelihoods.bits_per_dimension(uniform, 64, bin_width=1 / 256))
        8.0

    References:
        Theis, van den Oord and Bethge (2016), section 3.1.
    """
    require_count("bits_per_dimension", "num_dimensions", num_dimensions)
    require_positive("bits_per_dimension", "bin_width", bin_width, LEARN_IT)
    return (-in_float(log_prob) / num_dimensions - jnp.log(bin_width)) / math.log(2)
