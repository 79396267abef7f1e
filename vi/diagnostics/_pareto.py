"""Pareto-smoothed importance sampling: how heavy the tail of the weights is, and a lighter one.

A tail of log-weights may span hundreds of nats, more than float32 holds as numbers: the fit works
on logarithms throughout.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi._check import at_least_float32, refusal

_LEAST_TAIL = 5
_LARGE = 40.0  # above it e^s - 1 is e^s to the last bit


class ParetoSmoothed(NamedTuple):
    """Smoothed log-weights and the shape of their tail.

    Attributes:
        log_weights: ``[K, *batch]``, on the scale of the log-weights given; not normalised.
        pareto_k: ``[*batch]``, the shape ``k-hat`` of the tail; see ``pareto_k``.
    """

    log_weights: Float[Array, "K *batch"]
    pareto_k: Float[Array, "*batch"]


def pareto_k(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
    r"""The shape k of a generalised Pareto distribution fitted to the largest weights.

    .. math:: \Pr(w > u + y \mid w > u) \approx (1 + k y / \sigma)^{-1/k}, \qquad
              M = \lceil \min(K / 5, 3 \sqrt{K}) \rceil \text{ weights above } u.

    Moments of the weight of order below ``1 / k`` exist. Below 0 the weights are bounded; below 0.5
    their variance is finite; from 0.7 on, no feasible K makes averages over these weights reliable.
    For K below 2,200 the paper asks for less than ``1 - 1 / log10(K)``. A weakly informative prior
    draws k towards 0.5 with the weight of 10 draws beside the M. Like every such number it sees
    only the regions that q visits. M is rounded up, as in the paper; ArviZ 0.8 rounds it down: at
    K = 1000 its k differs by some 0.02, where weights tie or k is above 1 by more.

    ``-inf``: the M largest weights are equal up to rounding, ``sqrt(eps)`` nats and the last bits
    of ``log_w``. So they are where q is the posterior, and where the weights are bounded and K is
    so large that the whole tail is at the bound, as of a q = N(0, 1.5^2) for N(0, 1) at K = 1e5 in
    float32. ``inf``: no more than M weights are above zero, too
    few to tell. A NaN among the weights gives NaN. Derivatives are not meaningful.

    Args:
        log_w: Log-weights ``[K, *batch]`` of independent draws, normalised or not, of any
            magnitude; K of at least 21, so that the tail has 5.

    Returns:
        ``[*batch]``, a pure number.

    Raises:
        ValueError: ``log_w`` is not floating, or K is below 21.

    Examples:
        Two-dimensional normals, the posterior N(0, I), q half its variance: k is 1/2 exactly.

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> posterior, q = [dist.Normal(jnp.zeros(2), s).to_event(1) for s in (1.0, 0.5**0.5)]
        >>> z = q.sample(jax.random.key(0), (100_000,))
        >>> print(jax.jit(pareto_k)(posterior.log_prob(z) - q.log_prob(z)).round(1))
        0.5

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024); Zhang and Stephens (2009), for the fit.
    """
    return _fit("pareto_k", log_w)[1]


def pareto_smoothed(log_w: Float[Array, "K *batch"]) -> ParetoSmoothed:
    r"""Replace the largest weights by the quantiles of the Pareto distribution fitted to them.

    .. math:: w_{(K - M + m)} \leftarrow \min \big\{ u + \tfrac{\sigma}{k}
              \big[ (1 - \tfrac{m - 1/2}{M})^{-k} - 1 \big],\ \max_k w_k \big\},
              \qquad m = 1, \dots, M.

    Less noisy sums of weights, for a small bias. The scale is kept, so a bound applies to the
    result: ``vi.bounds.iwae(pareto_smoothed(log_w).log_weights)``. No weight exceeds the largest
    one given, the order is kept, and all but the M largest are as they were; so are all of them
    where ``pareto_k`` is infinite of either sign.

    Args:
        log_w: Log-weights ``[K, *batch]`` of independent draws; K of at least 21.

    Returns:
        ``ParetoSmoothed(log_weights [K, *batch], pareto_k [*batch])``.

    Raises:
        ValueError: ``log_w`` is not floating, or K is below 21.

    Examples:
        >>> import jax, vi
        >>> log_w = 3.0 * jax.random.normal(jax.random.key(0), (1000,))
        >>> smoothed = jax.jit(pareto_smoothed)(log_w)
        >>> print(smoothed.pareto_k > 0.7, smoothed.log_weights.max() <= log_w.max())
        True True

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024); Zhang and Stephens (2009), for the fit.
    """
    return ParetoSmoothed(*_fit("pareto_smoothed", log_w))


def _fit(where, log_w):
    """Smoothed log-weights ``[K, *batch]`` and k-hat ``[*batch]``."""
    log_w = at_least_float32(where, log_w)
    length = _tail_length(len(log_w))
    if length < _LEAST_TAIL:
        remedy = "draw more: a tail of 5 is the least that can be fitted"
        raise refusal(where, "log_w", "have at least 21 samples", len(log_w), remedy)

    order = jnp.argsort(log_w, axis=0)[-length - 1 :]
    top = jnp.take_along_axis(log_w, order, axis=0)
    log_max, cutoff, tail = top[-1], top[0], top[1:]

    eps = jnp.finfo(log_w.dtype).eps
    too_few = cutoff == -jnp.inf
    rounding = jnp.sqrt(eps) + 8 * eps * jnp.abs(log_max)
    flat = ~too_few & (log_max - cutoff < rounding)
    unfit = too_few | flat
    # Any tail that can be fitted stands in where this one cannot, so that no NaN arises.
    example = jnp.arange(1.0, length + 1, dtype=log_w.dtype).reshape(-1, *[1] * cutoff.ndim)
    log_ratio = jnp.where(unfit[None], example / length, tail - jnp.where(unfit, 0.0, cutoff)[None])

    k, log_smoothed = _smooth(log_ratio)
    smoothed = jnp.minimum(cutoff[None] + log_smoothed, log_max[None])
    smoothed = jnp.where(unfit[None], tail, smoothed)
    k = jnp.where(too_few, jnp.inf, jnp.where(flat, -jnp.inf, k))
    return jnp.put_along_axis(log_w, order[1:], smoothed, axis=0, inplace=False), k


def _tail_length(num_samples: int) -> int:
    """The least integer that is at least ``min(K / 5, 3 sqrt(K))``, in integer arithmetic."""
    return min(-(-num_samples // 5), math.isqrt(9 * num_samples - 1) + 1)


def _smooth(log_ratio):
    """``(k, log quantiles [M, *batch])`` of ``log_ratio``, log(w / u), rising along axis 0."""
    length = len(log_ratio)
    log_excess = log_ratio + jnp.log(-jnp.expm1(-log_ratio))  # log(w / u - 1); ties with u: -inf
    log_scale = log_excess[-1]
    k, log_sigma = _zhang_stephens(log_excess - log_scale[None])
    k = (length * k + 10 * 0.5) / (length + 10)

    # log((e^(k t) - 1) / k) at t = -log(1 - (m - 1/2) / M), whatever the sign and size of k.
    k = _not_zero(k)
    probability = (np.arange(length) + 0.5) / length
    t = jnp.asarray(-np.log1p(-probability), k.dtype).reshape(-1, *[1] * k.ndim)
    product = k[None] * t
    log_growth = jnp.maximum(product, 0.0) + jnp.log(
        -jnp.expm1(-jnp.abs(product)) / jnp.abs(k)[None]
    )
    return k, jnp.logaddexp(0.0, (log_scale + log_sigma)[None] + log_growth)


def _zhang_stephens(log_y):
    r"""Shape and log scale of a generalised Pareto sample whose largest value is 1.

    With :math:`\theta = -k / \sigma`, a mean over a grid of :math:`1 - \theta = e^s`, weighted by
    the profile likelihood; the logarithm, as no excess may pass the end of the support.

    Args:
        log_y: Its logarithms ``[M, *batch]``, rising along axis 0 to 0; -inf is a value of zero.
    """
    length = len(log_y)
    num_grid = 30 + math.isqrt(length)
    quartile = log_y[int(length / 4 + 0.5) - 1]
    least = jnp.where(log_y == -jnp.inf, 0.0, log_y).min(0)
    quartile = jnp.where(quartile == -jnp.inf, least, quartile)  # ties: the least above zero
    place = np.log((np.sqrt(num_grid / (np.arange(num_grid) + 0.5)) - 1) / 3)
    place = jnp.asarray(place, log_y.dtype).reshape(-1, *[1] * quartile.ndim)
    s = _not_zero(place - quartile[None])

    k = _shape(log_y, s)
    log_weight = jax.nn.log_softmax(length * (_log_theta(s) - jnp.log(jnp.abs(k)) - k), axis=0)
    mean = _not_zero(jax.nn.logsumexp(log_weight + s, axis=0))
    k = _shape(log_y, mean[None])[0]
    return k, jnp.log(jnp.abs(k)) - _log_theta(mean)


def _shape(log_y, s):
    """The k that maximises the likelihood at ``s [G, *batch]``: mean log(1 + (e^s - 1) y)."""
    s = s[:, None]
    exact = jnp.log1p(jnp.expm1(jnp.minimum(s, _LARGE)) * jnp.exp(log_y)[None])
    return jnp.where(s < _LARGE, exact, jax.nn.softplus(s + log_y[None])).mean(1)


def _log_theta(s):
    """``log |e^s - 1|``, for s of any size."""
    return jnp.maximum(s, 0.0) + jnp.log(-jnp.expm1(-jnp.abs(s)))


def _not_zero(s):
    """``s``, moved off 0, where ratios that are continuous there would be 0 / 0."""
    eps = jnp.finfo(s.dtype).eps
    return jnp.where(jnp.abs(s) < eps, eps, s)
