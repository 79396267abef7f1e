"""Scales of a normal: learned inside of an interval, and the best one there is."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import refusal
from vi._known import require_positive
from vi.likelihoods._parameters import LEARN_IT, in_float, require_interval, require_trailing


def clamped_scale(
    raw: Float[Array, "*shape"], *, low: float, high: float
) -> Float[Array, "*shape"]:
    r"""A learned scale that stays in an interval, and can always leave its ends.

    .. math:: \sigma(r) = \mathrm{low}^{1 - u} \, \mathrm{high}^u,
              \qquad u = \tfrac12 + \tfrac1\pi \arctan r

    Smooth, and the geometric mean of the ends at r = 0. Its derivative falls as one over r squared
    and not exponentially as a sigmoid's does: 3e-9 of log(high / low) at r = 1e4, and zero only
    where the square of r leaves the range of numbers (r = 1e19 in float32). Without a lower end a
    decoder that fits one datum exactly has an infinite likelihood.

    Args:
        raw: Any real numbers: a parameter, or a network's output.
        low: The lower end, positive, in the units of the data.
        high: The upper end.

    Returns:
        The shape of ``raw``, between ``low`` and ``high``.

    Raises:
        ValueError: The ends are not ``0 < low < high``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> print(vi.likelihoods.clamped_scale(jnp.zeros(2), low=0.01, high=1.0).round(3))
        [0.1 0.1]
    """
    require_interval("clamped_scale", low, high)
    require_positive("clamped_scale", "low", low, LEARN_IT)
    share = 0.5 + jnp.arctan(in_float(raw)) / jnp.pi
    return jnp.exp(math.log(low) + math.log(high / low) * share)


def optimal_scale(
    x: Float[Array, "*batch_and_event"],
    loc: Float[Array, "*samples_batch_and_event"],
    *,
    axes: tuple[int, ...],
) -> Float[Array, "*kept"]:
    r"""The standard deviation that makes the data at hand most probable, for ``normal``.

    .. math:: \sigma^{*2} = \frac{1}{n} \sum (x - \mu)^2,

    the mean over ``axes``; the likelihood of those entries is then
    :math:`-\tfrac n2 \log(2 \pi e \, \sigma^{*2})`, so that the mean squared error enters through
    its logarithm and no beta is left to tune.

    It carries its derivative. In the sum of the log-likelihoods over the same entries that
    derivative adds nothing, since at the best scale theirs is zero (the envelope theorem): stopped
    or not, the gradient is that of a normal of this scale, held. Another function of the
    log-likelihoods (``iwae``) does feel it.

    A scale of each datum's own, found from that datum, is no likelihood: the best normal for a
    single x is different for each x, and those densities do not integrate to 1. Hence the axes are
    the leading ones, through the first axis of the data; over a minibatch it is the same thing in
    the small, an estimate of the scale. Evaluate test data under a scale from training data.

    Args:
        x: Data ``[N, ...]``, with the trailing axes of ``loc``.
        loc: Means, ``[N, ...]`` or ``[K, N, ...]``.
        axes: What one scale is shared over: the first axes of ``loc``, ``(0, 1, ...)``, as far as
            that of the data at least; all of them for one number.

    Returns:
        The remaining axes of ``loc``, which ``normal`` takes; in the units of the data. Zero for a
        perfect fit, which ``normal`` refuses.

    Raises:
        ValueError: Data that do not fit ``loc``, or other axes.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> x, loc = jnp.array([[1.0, 3.0], [-1.0, -3.0]]), jnp.zeros((2, 2))
        >>> print(vi.likelihoods.optimal_scale(x, loc, axes=(0,)))
        [1. 3.]

    References:
        Rybkin, Daniilidis and Levine (2021), eq. 5.
    """
    require_trailing("optimal_scale", "x", x, "loc", jnp.shape(loc))
    first = jnp.ndim(loc) - jnp.ndim(x) + 1
    axes = tuple(axes)
    if jnp.ndim(x) == 0 or len(axes) < first or axes != tuple(range(len(axes))):
        rule = f"be the leading axes of loc, {tuple(range(first))} or more"
        remedy = "a scale of each datum's own is no likelihood: share it over the data"
        raise refusal("optimal_scale", "axes", rule, axes, remedy)
    return jnp.sqrt(((in_float(x) - in_float(loc)) ** 2).mean(axes))
