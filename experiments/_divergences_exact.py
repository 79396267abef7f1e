"""The mean of every bound, exactly: in the limit of large K and at finite K, by quadrature.

A law of the log-weights is given by nodes, and all in float64. At finite K, with x = w^b,

    log c = int_0^inf (exp(-t) - exp(-t c)) / t dt
    c^-r = int_0^inf t^(r - 1) exp(-t c) dt / Gamma(r)

turn the mean over K independent weights into one integral over t: with c = sum_k x_k,
E exp(-t c) = M(t)^K, where M(t) = E exp(-t x).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

LOG_T = np.arange(-60.0, 60.0, 0.4)  # the integrands are analytic in log t: trapezoids do


class Law(NamedTuple):
    """Nodes of the law of log w under q: the logs of their masses, and their values."""

    log_mass: np.ndarray
    log_w: np.ndarray


Mean = Callable[[Law], float]
"""The mean of a bound under a law: the limit of large K, or at the K it was made for."""


def elbo(law: Law) -> float:
    """E log w."""
    return float(np.exp(law.log_mass) @ law.log_w)


def log_variance(law: Law) -> float:
    """Half the variance of log w."""
    return float(0.5 * np.exp(law.log_mass) @ (law.log_w - elbo(law)) ** 2)


def power_mean(power: float, num_samples: int | None = None) -> Mean:
    """The log of the power mean of K weights: ``iwae`` at power 1, ``renyi`` at 1 - alpha."""

    def limit(law):
        return _log_moment(law, power) / power

    if num_samples is None:
        return limit

    def finite(law):
        _, log_m = _transform(law, power)
        gap = np.exp(-np.exp(LOG_T)) - np.exp(num_samples * log_m)
        return float(_STEP * gap.sum() - math.log(num_samples)) / power + elbo(law)

    return finite


def tempered_mean(beta: float, num_samples: int | None = None) -> Mean:
    """The mean of log w under the weights to the power beta: ``eubo`` at 1, the ELBO at 0."""

    def limit(law):
        return float(special.softmax(law.log_mass + beta * law.log_w) @ law.log_w)

    if beta == 0 or num_samples is None:
        return elbo if beta == 0 else limit

    def finite(law):
        return _ratio(law, beta, 1.0, law.log_w, beta, num_samples) * num_samples

    return finite


def riemann(betas: Sequence[float] | np.ndarray, at: slice, num_samples: int | None = None) -> Mean:
    """A Riemann sum of the thermodynamic integral, with the integrand at these of its betas."""
    widths = np.diff(betas)
    means = [tempered_mean(float(beta), num_samples) for beta in np.asarray(betas)[at]]

    def mean(law):
        return float(sum(w * mean(law) for w, mean in zip(widths, means, strict=True)))

    return mean


def squared_hellinger(num_samples: int | None = None) -> Mean:
    """1 - E sqrt(u); u is the weight, of mean 1, in the limit, and over the mean of K else."""

    def limit(law):
        return 1 - math.exp(_log_moment(law, 0.5))

    if num_samples is None:
        return limit

    def finite(law):
        ones = np.ones_like(law.log_w)
        return 1 - math.sqrt(num_samples) * _ratio(law, 1.0, 0.5, ones, 0.5, num_samples)

    return finite


def chi_square(num_samples: int | None = None) -> Mean:
    """E u^2 - 1, of the same u."""

    def limit(law):
        with np.errstate(over="ignore"):
            return float(np.expm1(_log_moment(law, 2.0)))

    if num_samples is None:
        return limit

    def finite(law):
        ones = np.ones_like(law.log_w)
        return num_samples**2 * _ratio(law, 1.0, 2.0, ones, 2.0, num_samples) - 1

    return finite


def jensen_shannon(law: Law) -> float:
    """The mean over (p + q) / 2 of what one draw tells of which of the two it came from."""
    log_p = law.log_mass + law.log_w
    both = np.logaddexp(law.log_mass, log_p) - math.log(2)
    terms = np.exp(law.log_mass) * (law.log_mass - both) + np.exp(log_p) * (log_p - both)
    return float(0.5 * terms.sum())


def total_variation(law: Law) -> float:
    """E (1 - w)+."""
    return float(-(np.exp(law.log_mass) @ np.expm1(np.minimum(law.log_w, 0.0))))


def largest(num_samples: int) -> Mean:
    """The mean of the largest of K log-weights, by their distribution function."""

    def finite(law):
        order = np.argsort(law.log_w)
        below = np.minimum(np.cumsum(np.exp(law.log_mass[order])), 1.0)
        return float(np.diff(below**num_samples, prepend=0.0) @ law.log_w[order])

    return finite


def combined(terms: Sequence[tuple[float, Mean]]) -> Mean:
    """A weighted sum of means."""
    return lambda law: float(sum(weight * mean(law) for weight, mean in terms))


_STEP = float(LOG_T[1] - LOG_T[0])


def _log_moment(law: Law, power: float) -> float:
    """The log of E w^power."""
    terms = law.log_mass + power * law.log_w
    return float(terms.max() + np.log(np.exp(terms - terms.max()).sum()))


def _transform(law: Law, power: float) -> tuple[np.ndarray, np.ndarray]:
    """The exponents -t x ``[T, N]`` and log M(t), for x = w^power over exp(power E log w)."""
    below = power * (law.log_w - elbo(law))
    exponents = -np.exp(np.minimum(LOG_T[:, None] + below, 700.0))
    missed = np.expm1(exponents) @ np.exp(law.log_mass)
    return exponents, np.log1p(np.maximum(missed, np.nextafter(-1.0, 0.0)))


def _ratio(
    law: Law, beta: float, order: float, factor: np.ndarray, power: float, num_samples: int
) -> float:
    """E [factor_1 w_1^power / (sum_k w_k^beta)^order], where power = beta * order."""
    exponents, log_m = _transform(law, beta)
    below = power * (law.log_w - elbo(law))
    # t^order w^power is at most of the order of (t x)^order: its exponent and -t x are added first.
    inner = np.exp(order * LOG_T[:, None] + below + exponents)
    held = inner @ (np.exp(law.log_mass) * factor)
    integral = _STEP * held @ np.exp((num_samples - 1) * log_m)
    return float(integral / special.gamma(order))
