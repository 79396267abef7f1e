"""The masses of counts, with all their digits at large counts.

Written as logarithms of gamma functions they are small differences of large numbers: a Poisson mass
at a count of 1,000 in float32 has lost three digits. Loader's form has no such difference: it is
the deviance from the mean, and what Stirling's formula leaves.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float

_LARGE = 8  # from where the series have all digits of float64
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_LOG_FACTORIALS = [math.lgamma(k + 1) for k in range(8)]
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


@jax.custom_jvp
def log_poisson(
    count: Float[Array, "*shape"], log_rate: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    r"""``k log(rate) - rate - log k!``, in nats.

    Args:
        count: Whole numbers, of the dtype of ``log_rate``.
        log_rate: The logarithm of the mean.

    References:
        Loader (2000), "Fast and accurate computation of binomial probabilities", eq. 4 and 5.
    """
    rate = jnp.exp(log_rate)
    few = jnp.asarray(_LOG_FACTORIALS, count.dtype)[count.clip(0, _LARGE - 1).astype(int)]
    direct = jnp.where(count > 0, count * log_rate, 0.0) - rate - few
    large = jnp.maximum(count, _LARGE)
    off = deviance(large, rate, large - rate, jnp.log(large) - log_rate)
    rest = stirling_rest(large) + _HALF_LOG_TAU + 0.5 * jnp.log(large)
    return jnp.where(count < _LARGE, direct, -off - rest)


@log_poisson.defjvp
def _log_poisson_jvp(primals, tangents):
    count, log_rate = primals
    huge = jnp.finfo(log_rate.dtype).max  # 0 times it is 0: what is not asked for stays out
    in_count = (jnp.maximum(log_rate, -huge) - digamma(count + 1)) * tangents[0]
    slope = count - jnp.minimum(jnp.exp(log_rate), huge)
    return log_poisson(count, log_rate), in_count + slope * tangents[1]


@jax.custom_jvp
def log_negative_binomial(
    count: Float[Array, "*shape"],
    log_mean: Float[Array, "*shape"],
    concentration: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    r"""``log Gamma(k + r) / (Gamma(r) k!) + r log p + k log(1 - p)``, ``p = r / (r + mean)``.

    Args:
        count: Whole numbers, of the dtype of ``log_mean``.
        log_mean: The logarithm of the mean; beyond 60 in magnitude the tails, straight lines, are
            continued.
        concentration: r, positive.

    References:
        Loader (2000), section 4.
    """
    inside = log_mean.clip(-60.0, 60.0)
    mean, r = jnp.exp(inside), concentration
    none = -r * jnp.log1p(mean / r)
    k = jnp.where(count > 0, count, 1.0)
    total, apart = r + k, r * ((k - mean) / (r + mean))
    log_ratio = jnp.log(r + mean) - jnp.log(total)
    of_r = deviance(r, total * (r / (r + mean)), -apart, log_ratio)
    of_k = deviance(k, total * (mean / (r + mean)), apart, jnp.log(k) - inside + log_ratio)
    rest = stirling_rest(total) - stirling_rest(r) - stirling_rest(k)
    some = rest - of_r - of_k - 0.5 * (jnp.log1p(k / r) + jnp.log(k)) - _HALF_LOG_TAU
    beyond = log_mean - inside
    return jnp.where(count > 0, some, none) + jnp.where(beyond > 0, -r, count) * beyond


@log_negative_binomial.defjvp
def _log_negative_binomial_jvp(primals, tangents):
    """In ``log_mean`` it is ``r (k - mean) / (r + mean)``; through two deviances digits cancel."""
    count, log_mean, r = primals
    value, others = jax.jvp(
        lambda k, r: log_negative_binomial.fun(k, log_mean, r), (count, r), tangents[::2]
    )
    mean = jnp.exp(log_mean.clip(-60.0, 60.0))
    return value, others + r * ((count - mean) / (r + mean)) * tangents[1]


def deviance(x, mean, difference, log_ratio):
    """``x log(x / mean) + mean - x``, at least 0, given ``x - mean`` and ``log(x / mean)``."""
    v = difference / (x + mean)
    is_near = jnp.abs(v) < 0.1
    v = jnp.where(is_near, v, 0.0)
    square, series = v**2, 0.0
    for odd in range(17, 1, -2):
        series = square * (1 / odd + series)
    near = jnp.where(is_near, difference, 0.0) * v + 2 * x * v * series
    return jnp.where(is_near, near, x * log_ratio - difference)


def stirling_rest(x):
    """``log Gamma(x + 1)`` less Stirling's ``(x + 1/2) log x - x + log(2 pi) / 2``; x positive."""
    is_large = x >= _LARGE
    inverse = 1 / jnp.where(is_large, x, float(_LARGE))
    series = 0.0
    for coefficient in reversed(_STIRLING):
        series = coefficient + inverse**2 * series
    small = jnp.where(is_large, 1.0, x)
    exact = gammaln(small + 1) - (small + 0.5) * jnp.log(small) + small - _HALF_LOG_TAU
    return jnp.where(is_large, inverse * series, exact)
