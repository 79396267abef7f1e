"""Covariance functions of time: ``kernel(s, t)``, elementwise over arrays that broadcast."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import refusal
from vi._known import require_positive

Kernel = Callable[[Array, Array], Array]
Positive = float | Float[Array, ""]


def squared_exponential(length_scale: Positive, *, variance: Positive = 1.0) -> Kernel:
    r"""Very smooth paths, :math:`v \exp(-r^2 / 2 \ell^2)` with r = |s - t|.

    Args:
        length_scale: :math:`\ell`, in the units of time, positive.
        variance: v, the variance of the process, positive.

    Raises:
        ValueError: A length scale or variance that is not one number, or known to be at or below 0.

    References:
        Rasmussen and Williams (2006), equation 4.9.
    """
    shape = _scaled("squared_exponential", length_scale, variance)
    return shape(lambda r: jnp.exp(-0.5 * r**2))


def matern12(length_scale: Positive, *, variance: Positive = 1.0) -> Kernel:
    r"""The Ornstein-Uhlenbeck process, :math:`v \exp(-r / \ell)`: rough, and Markov.

    Args:
        length_scale: :math:`\ell`, in the units of time, positive.
        variance: v, positive.

    Raises:
        ValueError: A length scale or variance that is not one number, or known to be at or below 0.

    References:
        Rasmussen and Williams (2006), equation 4.18.
    """
    return _scaled("matern12", length_scale, variance)(lambda r: jnp.exp(-r))


def matern32(length_scale: Positive, *, variance: Positive = 1.0) -> Kernel:
    r"""Paths with one derivative, :math:`v (1 + a) e^{-a}` with :math:`a = \sqrt 3 r / \ell`.

    Args:
        length_scale: :math:`\ell`, in the units of time, positive.
        variance: v, positive.

    Raises:
        ValueError: A length scale or variance that is not one number, or known to be at or below 0.

    References:
        Rasmussen and Williams (2006), equation 4.17.
    """

    def shape(r):
        a = 3**0.5 * r
        return (1 + a) * jnp.exp(-a)

    return _scaled("matern32", length_scale, variance)(shape)


def matern52(length_scale: Positive, *, variance: Positive = 1.0) -> Kernel:
    r"""Paths with two derivatives, :math:`v (1 + a + a^2 / 3) e^{-a}`, :math:`a = \sqrt 5 r/\ell`.

    Args:
        length_scale: :math:`\ell`, in the units of time, positive.
        variance: v, positive.

    Raises:
        ValueError: A length scale or variance that is not one number, or known to be at or below 0.

    References:
        Rasmussen and Williams (2006), equation 4.17.
    """

    def shape(r):
        a = 5**0.5 * r
        return (1 + a + a**2 / 3) * jnp.exp(-a)

    return _scaled("matern52", length_scale, variance)(shape)


def cauchy(length_scale: Positive, *, variance: Positive = 1.0) -> Kernel:
    r"""Correlations over many scales of time, :math:`v / (1 + r^2 / \ell^2)`.

    Args:
        length_scale: :math:`\ell`, in the units of time, positive.
        variance: v, positive.

    Raises:
        ValueError: A length scale or variance that is not one number, or known to be at or below 0.

    References:
        Fortuin, Baranchuk, Raetsch and Mandt (2020), section 3; the rational quadratic with
        exponent 1 of Rasmussen and Williams (2006), equation 4.19, at a length scale of
        :math:`\ell / \sqrt 2`.
    """
    return _scaled("cauchy", length_scale, variance)(lambda r: 1 / (1 + r**2))


def periodic(period: Positive, length_scale: Positive, *, variance: Positive = 1.0) -> Kernel:
    r"""Paths that repeat, :math:`v \exp(-2 \sin^2(\pi r / p) / \ell^2)`.

    Args:
        period: p, in the units of time, positive.
        length_scale: :math:`\ell`, of the sine, without a unit, positive.
        variance: v, positive.

    Raises:
        ValueError: An argument that is not one number, or known to be at or below 0.

    References:
        Rasmussen and Williams (2006), equation 4.31.
    """
    _require_one("periodic", "period", period, "give the time after which paths repeat")
    _scaled("periodic", length_scale, variance)

    def kernel(s, t):
        sine = jnp.sin(jnp.pi * (s - t) / period) / length_scale
        return variance * jnp.exp(-2 * sine**2)

    return kernel


def _scaled(where: str, length_scale, variance) -> Callable[[Callable[[Array], Array]], Kernel]:
    remedy = "learn its logarithm, and pass it through jnp.exp"
    _require_one(where, "length_scale", length_scale, remedy)
    _require_one(where, "variance", variance, remedy)

    def of(shape):
        return lambda s, t: variance * shape(jnp.abs(s - t) / length_scale)

    return of


def _require_one(where: str, name: str, value, remedy: str) -> None:
    if jnp.ndim(value) != 0:
        got = f"shape {list(jnp.shape(value))}"
        raise refusal(where, name, "be one number", got, "make one kernel for each, or jax.vmap")
    require_positive(where, name, value, remedy)
