"""Densities on the plane, and two on more dimensions, whose normalising constants are known.

Each ``log_density`` is up to a constant: ``log_evidence`` is the log of what it integrates to, so
that minus the ELBO of a q plus ``log_evidence`` is KL(q || p).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BEND, BANANA_SCALES = 0.5, (1.5, 0.5)
RADIUS, RING_WIDTH = 2.5, 0.4
MOON_RADIUS, MOON_WIDTH, MOON_AT, MOON_SCALE = 2.0, 0.4, 2.0, 0.6
SPACING = 2.5  # in standard deviations, which are 1
FUNNEL_SCALE = 3.0
DEGREES = 3.0  # of freedom
SPIRAL_RADIUS, SPIRAL_WIDTH, WINDING, CONTRAST = 3.0, 0.9, 1.0, 3.0
RHO = 0.9


class Density(NamedTuple):
    """An unnormalised density on ``R^size``, and how far to look at it."""

    size: int
    log_density: Callable[[Float[Array, "*shape D"]], Float[Array, "*shape"]]
    log_evidence: float
    half_width: float  # of the square in which it is drawn


def _banana(z):
    across, along = BANANA_SCALES
    bent = z[..., 1] - BEND * (z[..., 0] ** 2 - across**2)
    return -0.5 * ((z[..., 0] / across) ** 2 + (bent / along) ** 2)


def _ring(z):
    return -0.5 * ((_radius(z) - RADIUS) / RING_WIDTH) ** 2


def _two_moons(z):
    ring = -0.5 * ((_radius(z) - MOON_RADIUS) / MOON_WIDTH) ** 2
    right, left = (-0.5 * ((z[..., 0] + side) / MOON_SCALE) ** 2 for side in (-MOON_AT, MOON_AT))
    return ring + jnp.logaddexp(right, left)


def _grid(z):
    means = SPACING * jnp.arange(-1, 2, dtype=z.dtype)
    each = jax.nn.logsumexp(-0.5 * (z[..., None] - means) ** 2, axis=-1)
    return each.sum(-1)


def _funnel(z):
    log_scale = z[..., :1] / 2
    below = -0.5 * (z[..., 1:] * jnp.exp(-log_scale)) ** 2 - log_scale
    return -0.5 * (z[..., 0] / FUNNEL_SCALE) ** 2 + below.sum(-1)


def _student(z):
    return -0.5 * (DEGREES + 1) * jnp.log1p(z**2 / DEGREES).sum(-1)


def _spiral(z):
    angle = jnp.arctan2(z[..., 1], z[..., 0])
    radius = _radius(z)
    arm = CONTRAST * jnp.cos(angle - WINDING * radius)
    return arm - 0.5 * ((radius - SPIRAL_RADIUS) / SPIRAL_WIDTH) ** 2


def _correlated(z):
    x, y = z[..., 0], z[..., 1]
    return -0.5 * (x**2 - 2 * RHO * x * y + y**2) / (1 - RHO**2)


def _radius(z):
    """Its derivative at the origin is taken as 0."""
    square = (z**2).sum(-1)
    away = square > 0
    return jnp.where(away, jnp.sqrt(jnp.where(away, square, 1.0)), 0.0)


def _log_shell(centre: float, width: float) -> float:
    """Log of the integral over r > 0 of r exp(-((r - centre) / width)^2 / 2)."""
    at_zero = width**2 * math.exp(-0.5 * (centre / width) ** 2)
    inside = 0.5 * (1 + math.erf(centre / (width * math.sqrt(2))))
    return math.log(at_zero + centre * width * math.sqrt(2 * math.pi) * inside)


def _log_bessel(x: float) -> float:
    """Log I_0(x)."""
    terms = (2 * k * math.log(x / 2) - 2 * math.lgamma(k + 1) for k in range(60))
    return math.log(sum(map(math.exp, terms)))


_LOG_TWO_PI = math.log(2 * math.pi)
_LOG_BETA = 0.5 * math.log(DEGREES * math.pi) + math.lgamma(DEGREES / 2)
PLANE = {
    "banana": Density(2, _banana, _LOG_TWO_PI + math.log(math.prod(BANANA_SCALES)), 5.0),
    "ring": Density(2, _ring, _LOG_TWO_PI + _log_shell(RADIUS, RING_WIDTH), 4.5),
    "two moons": Density(2, _two_moons, 1.8775016261097, 4.0),  # by the trapezoid rule
    "grid of nine": Density(2, _grid, _LOG_TWO_PI + math.log(9), 6.0),
    "funnel": Density(2, _funnel, _LOG_TWO_PI + math.log(FUNNEL_SCALE), 9.0),
    "Student product": Density(2, _student, 2 * (_LOG_BETA - math.lgamma((DEGREES + 1) / 2)), 6.0),
    "spiral": Density(
        2,
        _spiral,
        _LOG_TWO_PI + _log_bessel(CONTRAST) + _log_shell(SPIRAL_RADIUS, SPIRAL_WIDTH),
        6.5,
    ),
    "correlated": Density(2, _correlated, _LOG_TWO_PI + 0.5 * math.log(1 - RHO**2), 4.0),
}

LATENT_RANK = 5
_INDEX = np.arange(50)
_FACTOR = np.stack([np.sin((j + 1) * (_INDEX + 1) / 8) for j in range(LATENT_RANK)], axis=1)
PRECISION = np.linalg.inv(_FACTOR @ _FACTOR.T + np.diag(0.5 + _INDEX / 50))


def _gaussian(z):
    return -0.5 * ((z @ jnp.asarray(PRECISION, z.dtype)) * z).sum(-1)


_GAUSSIAN_50 = 25 * _LOG_TWO_PI - 0.5 * float(np.linalg.slogdet(PRECISION)[1])
DENSITIES = PLANE | {
    "funnel-10": Density(10, _funnel, 5 * _LOG_TWO_PI + math.log(FUNNEL_SCALE), 9.0),
    "Gaussian-50": Density(50, _gaussian, _GAUSSIAN_50, 9.0),
}
