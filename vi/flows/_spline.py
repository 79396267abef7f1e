"""The monotone rational-quadratic spline."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from vi._check import refusal, require_count
from vi.flows._transformers import Transformer, require_positive


def spline(
    *,
    num_bins: int = 8,
    bound: float = 5.0,
    min_width: float = 1e-2,
    min_height: float = 1e-2,
    min_derivative: float = 1e-2,
) -> Transformer:
    r"""A monotone rational-quadratic spline on [-bound, bound], the identity outside.

    In a bin of width w, height h and slope s = h / w, with derivatives d and d' at its ends and
    :math:`\xi` in [0, 1] the place in it,

    .. math:: y = y_k + h \frac{s \xi^2 + d \xi (1 - \xi)}{s + (d + d' - 2 s) \xi (1 - \xi)}.

    Its inverse is the root of a quadratic. Value, inverse and first derivative are continuous, and
    nothing is a NaN anywhere, gradients included. Where draws leave the interval, a
    ``composed(spline(), affine())`` gives them a scale.

    Args:
        num_bins: Bins, at least 2; there are ``3 num_bins - 1`` parameters.
        bound: Where the tails begin; positive.
        min_width: Least width of a bin, as a fraction of the interval; below 1 / num_bins.
        min_height: Least height of a bin, likewise.
        min_derivative: Least derivative at a knot; below 1.

    Returns:
        A transformer.

    Raises:
        ValueError: Fewer than two bins, or a number out of its range.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> spline = vi.flows.spline(num_bins=4)
        >>> y, log_slope = spline.forward(jnp.array([1.25, 9.0]), jnp.ones((2, 11)))
        >>> print(y.round(2), log_slope.round(2))
        [1.25 9.  ] [-0.31  0.  ]

    References:
        Durkan, Bekasov, Murray and Papamakarios (2019), equations 4 to 8; Gregory and Delbourgo
        (1982).
    """
    num_bins = require_count("spline", "num_bins", num_bins, least=2)
    bound = require_positive("spline", "bound", bound)
    for name, value, most in (
        ("min_width", min_width, 1 / num_bins),
        ("min_height", min_height, 1 / num_bins),
        ("min_derivative", min_derivative, 1.0),
    ):
        if require_positive("spline", name, value) >= most:
            remedy = "leave the bins some freedom"
            raise refusal("spline", name, f"be below {most:.4g}", value, remedy)
    return Spline(num_bins, bound, min_width, min_height, min_derivative)


@dataclasses.dataclass(frozen=True)
class Spline:
    """A rational-quadratic spline; made by ``spline``."""

    num_bins: int
    bound: float
    min_width: float
    min_height: float
    min_derivative: float

    @property
    def num_params(self) -> int:
        """Widths, heights, and derivatives at the inner knots."""
        return 3 * self.num_bins - 1

    def forward(self, x, params):
        """The image, and the log of the derivative."""
        inside = abs(x) < self.bound
        x_in = jnp.where(inside, x, 0.0)
        x0, y0, w, h, d0, d1 = self._bin(params, x_in, 0)
        s = h / w
        xi = (x_in - x0) / w
        mixed = xi * (1 - xi)
        denominator = s + (d0 + d1 - 2 * s) * mixed
        y = y0 + h * (s * xi**2 + d0 * mixed) / denominator
        return jnp.where(inside, y, x), jnp.where(inside, _log_slope(s, d0, d1, xi), 0.0)

    def inverse(self, y, params):
        """The point whose image is ``y``, and the log of the inverse's derivative."""
        inside = abs(y) < self.bound
        y_in = jnp.where(inside, y, 0.0)
        x0, y0, w, h, d0, d1 = self._bin(params, y_in, 1)
        s = h / w
        up = (y_in - y0) / h
        bend = d0 + d1 - 2 * s
        a = (s - d0) + up * bend
        b = d0 - up * bend
        c = -s * up
        discriminant = jnp.maximum(b**2 - 4 * a * c, 0.0)
        root = jnp.sqrt(jnp.where(discriminant > 0, discriminant, 1.0))
        xi = -2 * c / (b + jnp.where(discriminant > 0, root, 0.0))
        x = x0 + w * xi
        return jnp.where(inside, x, y), jnp.where(inside, -_log_slope(s, d0, d1, xi), 0.0)

    def _bin(self, params, value, axis):
        """The corner, the size and the derivatives of the bin that ``value`` falls in.

        The bin is picked by products with its indicator: gathers would be transposed to scatters.
        """
        n = self.num_bins
        w, x = self._knots(params[..., :n], self.min_width)
        h, y = self._knots(params[..., n : 2 * n], self.min_height)
        free = 1 - self.min_derivative
        shift = math.log(math.expm1(free))  # softplus of it is what the least leaves of 1
        d = self.min_derivative + jax.nn.softplus(params[..., 2 * n :] + shift)
        one = jnp.ones_like(d[..., :1])
        left, right = jnp.concatenate([one, d], -1), jnp.concatenate([d, one], -1)
        above = value[..., None] >= (x, y)[axis]
        above = above.at[..., 0].set(True)
        last = jnp.concatenate([~above[..., 1:], jnp.ones_like(above[..., :1])], -1)
        here = (above & last).astype(w.dtype)
        return [(here * each).sum(-1) for each in (x, y, w, h, left, right)]

    def _knots(self, params, least):
        """The sizes of the bins, and where each begins."""
        share = least + (1 - least * self.num_bins) * jax.nn.softmax(params, axis=-1)
        size = 2 * self.bound * share
        ends = jnp.cumsum(size[..., :-1], axis=-1)
        start = jnp.concatenate([jnp.zeros_like(size[..., :1]), ends], -1) - self.bound
        return size, start


def _log_slope(s, d0, d1, xi):
    mixed = xi * (1 - xi)
    numerator = d1 * xi**2 + 2 * s * mixed + d0 * (1 - xi) ** 2
    return 2 * jnp.log(s) + jnp.log(numerator) - 2 * jnp.log(s + (d0 + d1 - 2 * s) * mixed)
