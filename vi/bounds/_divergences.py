"""The f-divergences that have a name.

Each is ``csiszar`` of the generator in its docstring, written in t = log u: so ratios may be as
small as exp(-1e4). With a known log p(x) ratios may also be large, and overflow as f(u) does.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.bounds._arguments import factory
from vi.bounds._csiszar import of_log_ratio
from vi.types import Bound

LogEvidence = float | Float[Array, ""] | None


@factory("forward_kl()")
def forward_kl(*, log_evidence: LogEvidence = None) -> Bound:
    r"""KL(p(z|x) || q(z|x)), the mass-covering direction: f(u) = u log u.

    Without ``log_evidence`` it is ``eubo`` - ``iwae``, at most log K: the rest as in ``csiszar``.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> log_w = jnp.array([0.0, 1.0, -1.0])
        >>> print(f"{vi.bounds.forward_kl()(log_w):.4f}")
        0.2662
        >>> print(f"{vi.bounds.eubo(log_w) - vi.bounds.iwae(log_w):.4f}")
        0.2662
    """
    return _divergence("forward_kl", lambda t: t * jnp.exp(t), 0.0, log_evidence)


@factory("reverse_kl()")
def reverse_kl(*, log_evidence: LogEvidence = None) -> Bound:
    r"""KL(q(z|x) || p(z|x)), the mode-seeking direction: f(u) = -log u.

    Without ``log_evidence`` it is ``iwae`` - ``elbo``; with it, log p(x) - ``elbo``, the gap of the
    ELBO. ``inf`` where a weight is zero; the rest as in ``csiszar``.
    """
    return _divergence("reverse_kl", lambda t: -t, math.inf, log_evidence)


@factory("chi_square()")
def chi_square(*, log_evidence: LogEvidence = None) -> Bound:
    r"""Pearson's chi-square of p(z|x) against q, the variance of the ratio: f(u) = (u - 1)^2.

    Without ``log_evidence`` it is K / ESS - 1; the rest as in ``csiszar``.
    """
    return _divergence("chi_square", lambda t: jnp.expm1(t) ** 2, 1.0, log_evidence)


@factory("squared_hellinger()")
def squared_hellinger(*, log_evidence: LogEvidence = None) -> Bound:
    r"""The squared Hellinger distance, from 0 to 1: f(u) = (sqrt(u) - 1)^2 / 2.

    It is ``1 - sum sqrt(p q)``; no moment of the weights beyond the mean is needed; the rest as in
    ``csiszar``.
    """
    return _divergence(
        "squared_hellinger", lambda t: 0.5 * jnp.expm1(t / 2) ** 2, 0.5, log_evidence
    )


@factory("jensen_shannon()")
def jensen_shannon(*, log_evidence: LogEvidence = None) -> Bound:
    r"""The Jensen-Shannon divergence, from 0 to log 2 nats.

    The mean of KL(p || m) and KL(q || m), m their mean:
    f(u) = (u log u - (1 + u) log((1 + u) / 2)) / 2; the rest as in ``csiszar``.
    """

    def g(t):
        large = t > 40.0
        below = jnp.where(large, 0.0, t)
        times = jnp.exp(below) * jax.nn.softplus(-below)  # u log(1 + 1 / u): 1 for large u
        scaled = math.log(2) * (jnp.exp(t) + 1) - jnp.where(large, 1.0, times)
        return 0.5 * (scaled - jax.nn.softplus(t))

    return _divergence("jensen_shannon", g, 0.5 * math.log(2), log_evidence)


@factory("total_variation()")
def total_variation(*, log_evidence: LogEvidence = None) -> Bound:
    r"""The total variation distance, from 0 to 1: f(u) = abs(u - 1) / 2.

    The absolute value has a kink where the densities cross: ``dreg`` refuses it, ``reparam`` is
    unbiased; the rest as in ``csiszar``.
    """

    def g(t):
        return 0.5 * jnp.abs(jnp.expm1(t))

    return _divergence("total_variation", g, 0.5, log_evidence, smooth=False)


def _divergence(name, g, at_zero, log_evidence, smooth=True):
    arguments = () if log_evidence is None else (log_evidence,)
    return of_log_ratio(name, arguments, g, at_zero, log_evidence, smooth)
