"""The maximum mean discrepancy of two sets of draws, and kernels for it."""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import at_least_float32, refusal
from vi.bounds._arguments import is_traced, require_scalar

Kernel: TypeAlias = Callable[[Array, Array], Array]
"""``k(x, y)``: the last axis is the event, the others broadcast; sums of kernels are lambdas."""


def gaussian_kernel(scale: float | Float[Array, ""]) -> Kernel:
    r"""The Gaussian kernel, :math:`k(x, y) = \exp(-\|x - y\|^2 / 2 s^2)`.

    Args:
        scale: s, in the units of x, positive; it may be traced.

    Returns:
        ``k(x [..., D], y [..., D]) -> [...]``.

    Raises:
        ValueError: A scale that is not one positive number.

    References:
        Gretton, Borgwardt, Rasch, Schoelkopf and Smola (2012).
    """
    scale = _positive("gaussian_kernel", scale)
    return lambda x, y: jnp.exp(-_squared_distance(x, y, scale) / 2)


def inverse_multiquadratic_kernel(scale: float | Float[Array, ""]) -> Kernel:
    r"""The inverse multiquadratic kernel, :math:`k(x, y) = C / (C + \|x - y\|^2)`, :math:`C = s^2`.

    Its tails are heavier than the Gaussian's: a code far from all draws of the prior still feels a
    pull. For D-dimensional draws of a standard normal prior the reference takes C = 2 D, the mean
    squared distance of two of them.

    Args:
        scale: s, in the units of x, positive; it may be traced.

    Returns:
        ``k(x [..., D], y [..., D]) -> [...]``.

    Raises:
        ValueError: A scale that is not one positive number.

    References:
        Tolstikhin, Bousquet, Gelly and Schoelkopf (2018), section 4.
    """
    scale = _positive("inverse_multiquadratic_kernel", scale)
    return lambda x, y: 1 / (1 + _squared_distance(x, y, scale))


def squared_mmd_unbiased(
    x: Float[Array, "N D"], y: Float[Array, "M D"], kernel: Kernel
) -> Float[Array, ""]:
    r"""The squared maximum mean discrepancy of two sets of draws, without bias.

    .. math:: \frac{1}{N (N - 1)} \sum_{i \ne j} k(x_i, x_j)
              + \frac{1}{M (M - 1)} \sum_{i \ne j} k(y_i, y_j)
              - \frac{2}{N M} \sum_{i, j} k(x_i, y_j).

    A U-statistic: 0 on average where both are draws of one distribution, and below 0 more often
    than above. Its derivative needs that of the kernel at x = y: a distance, say, has none there.
    The InfoVAE's and the Wasserstein autoencoder's penalty, with one draw of q(z | x_n) for each of
    N data and M draws of the prior. O((N + M)^2) in time and memory.

    Args:
        x: Draws ``[N, D]``, at least 2.
        y: Draws ``[M, D]``, at least 2.
        kernel: ``k(x, y)``, positive definite: ``gaussian_kernel``, or one of yours.

    Returns:
        A scalar, in units of the kernel.

    Raises:
        ValueError: Draws that are not floating ``[N, D]`` of one D with N of at least 2, or a
            kernel whose value is not ``[N, M]``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[1.0], [1.0]])
        >>> vi.bounds.squared_mmd_unbiased(x, y, lambda x, y: (x * y).sum(-1))  # means agree
        Array(-1., dtype=float32)

    References:
        Gretton, Borgwardt, Rasch, Schoelkopf and Smola (2012), eq. 3.
    """

    def mean_of_others(gram):
        size = gram.shape[0]
        return jnp.where(jnp.eye(size, dtype=bool), 0, gram).sum() / (size * (size - 1))

    xx, yy, xy = _grams("squared_mmd_unbiased", x, y, kernel, 2)
    return mean_of_others(xx) + mean_of_others(yy) - 2 * xy.mean()


def squared_mmd_biased(
    x: Float[Array, "N D"], y: Float[Array, "M D"], kernel: Kernel
) -> Float[Array, ""]:
    r"""The squared maximum mean discrepancy of the two empirical distributions, at least 0.

    .. math:: \frac{1}{N^2} \sum_{i, j} k(x_i, x_j) + \frac{1}{M^2} \sum_{i, j} k(y_i, y_j)
              - \frac{2}{N M} \sum_{i, j} k(x_i, y_j).

    A V-statistic: of two sets of draws of one distribution its mean is
    ``(1 / N + 1 / M) (E k(x, x) - E k(x, x'))``, not 0. To 0 below rounding.

    Args:
        x: Draws ``[N, D]``.
        y: Draws ``[M, D]``.
        kernel: ``k(x, y)``, positive definite: ``gaussian_kernel``, or one of yours.

    Returns:
        A scalar, in units of the kernel.

    Raises:
        ValueError: Draws that are not floating ``[N, D]`` of one D, or a kernel whose value is not
            ``[N, M]``.

    References:
        Gretton, Borgwardt, Rasch, Schoelkopf and Smola (2012), eq. 5.
    """
    xx, yy, xy = _grams("squared_mmd_biased", x, y, kernel, 1)
    return xx.mean() + yy.mean() - 2 * xy.mean()


def _grams(where: str, x, y, kernel: Kernel, least: int):
    x, y = at_least_float32(where, x, "x"), at_least_float32(where, y, "y")
    for name, draws in (("x", x), ("y", y)):
        if draws.ndim != 2 or draws.shape[0] < least:
            rule, got = f"be [N, D] with N >= {least}", f"shape {list(draws.shape)}"
            raise refusal(where, name, rule, got, "stack draws on axis 0; jax.vmap over batches")
    if x.shape[1] != y.shape[1]:
        rule, got = f"have the {x.shape[1]} dimensions of x", f"shape {list(y.shape)}"
        raise refusal(where, "y", rule, got, "compare draws of one space")

    def gram(a, b):
        values = kernel(a[:, None], b[None])
        if jnp.shape(values) != (len(a), len(b)):
            rule, remedy = "sum over the last axis alone", "return [N, M] for [N, 1, D], [1, M, D]"
            raise refusal(where, "kernel", rule, f"shape {list(jnp.shape(values))}", remedy)
        return values

    return gram(x, x), gram(y, y), gram(x, y)


def _squared_distance(x, y, scale):
    return jnp.square((x - y) / scale).sum(-1)


def _positive(where: str, scale):
    scale = require_scalar(where, "scale", scale, "make a kernel for each, and add them up")
    if not is_traced(scale) and scale <= 0:
        raise refusal(where, "scale", "be positive", scale, "learn its logarithm, then jnp.exp")
    return scale
