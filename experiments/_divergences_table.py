"""Every bound that moves q: how it is fitted, and its exact mean at infinite and at finite K."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from experiments import _divergences_exact as exact
from experiments._divergences_exact import Mean
from vi.bounds import (
    chi_square,
    csiszar,
    cubo,
    declaration,
    elbo,
    eubo,
    forward_kl,
    grouped,
    iwae,
    jensen_shannon,
    log_variance,
    mix,
    renyi,
    reverse_kl,
    squared_hellinger,
    total_variation,
    tvo_lower,
    tvo_upper,
    vr_max,
)
from vi.gradients import Objective, dreg, fixed, reparam

ALPHAS = (5.0, 2.0, 1.5, 0.9, 0.75, 0.5, 0.25, 0.1, -0.5)
BETAS = (0.0, 0.5, 1.0)
GROUP = 8  # samples in each group of the bounds that fit q at small K alone
CIWAE = 0.5
LEFT, RIGHT = slice(0, -1), slice(1, None)


class Member(NamedTuple):
    """A bound and what is known of it; the weights have mean 1, for the targets are normalised."""

    objective: Objective
    limit: Mean | None  # None where the limit of large K does not depend on q
    finite: Mean | None  # None where no quadrature is known
    of_gradient: Mean | None = None  # where the gradient's mean is that of another function

    @property
    def sign(self) -> float:
        """What to multiply the bound with for a loss."""
        return -1.0 if declaration(self.objective.bound).sense == "maximise" else 1.0

    def searched(self, mean: Mean) -> tuple[Mean, str]:
        """The function whose optimum is the fit's, and the way to go."""
        if self.of_gradient is not None:
            return self.of_gradient, "maximise"
        return mean, declaration(self.objective.bound).sense


def members(num_samples: int) -> dict[str, Member]:
    """All of them by name, for K draws."""
    K, num_groups = num_samples, num_samples // GROUP

    def by_dreg(bound, limit, finite):
        return Member(dreg(bound), limit, finite)

    def of_family(bound, family: Callable[[int | None], Mean]):
        return by_dreg(bound, family(None), family(K))

    held: dict[str, Member] = {}
    for alpha in ALPHAS:
        held[f"renyi({alpha:g})"] = of_family(
            renyi(alpha), lambda k, power=1 - alpha: exact.power_mean(power, k)
        )
    held["elbo"] = by_dreg(elbo, exact.elbo, exact.elbo)
    held["cubo(2)"] = of_family(cubo(2.0), lambda k: exact.power_mean(2.0, k))
    held["eubo"] = of_family(eubo, lambda k: exact.tempered_mean(1.0, k))
    for name, bound, at in (("lower", tvo_lower, LEFT), ("upper", tvo_upper, RIGHT)):
        held[f"tvo_{name}, {len(BETAS) - 1} steps"] = of_family(
            bound(BETAS), lambda k, at=at: exact.riemann(BETAS, at, k)
        )
    iwae_mean, small = exact.power_mean(1.0, K), exact.power_mean(1.0, GROUP)
    ciwae = exact.combined([(CIWAE, exact.elbo), (1 - CIWAE, small)])
    miwae = grouped(iwae, num_groups)
    held[f"iwae, K = {GROUP}"] = by_dreg(miwae, None, small)
    held[f"ciwae({CIWAE:g}), K = {GROUP}"] = by_dreg(mix(CIWAE, elbo, miwae), None, ciwae)
    largest = reparam(grouped(vr_max, num_groups))
    held[f"vr_max, K = {GROUP}"] = Member(largest, None, exact.largest(GROUP))
    # Divergences, by the weights' own sum: biased at finite K, and so is where they are least.
    eubo_mean = exact.tempered_mean(1.0, K)
    held["forward_kl"] = by_dreg(
        forward_kl(),
        exact.tempered_mean(1.0),
        exact.combined([(1.0, eubo_mean), (-1.0, iwae_mean)]),
    )
    held["reverse_kl"] = by_dreg(
        reverse_kl(),
        exact.combined([(-1.0, exact.elbo)]),
        exact.combined([(1.0, iwae_mean), (-1.0, exact.elbo)]),
    )
    held["chi_square"] = of_family(chi_square(), exact.chi_square)
    held["squared_hellinger"] = of_family(squared_hellinger(), exact.squared_hellinger)
    held["jensen_shannon"] = by_dreg(jensen_shannon(), exact.jensen_shannon, None)
    held["total_variation"] = Member(reparam(total_variation()), exact.total_variation, None)
    # The same with log p(x) known, unbiased. Of f only f(u) - c (u - 1) is kept, whose mean is the
    # same: with c the slope at large u its variance is finite where that of the weights is not.
    for name, f, mean in (
        ("Hellinger", _hellinger, exact.squared_hellinger()),
        ("JS", _jensen_shannon, exact.jensen_shannon),
        ("TV", _total_variation, exact.total_variation),
    ):
        bound = csiszar(f, log_evidence=0.0, smooth=f is not _total_variation)
        estimator = reparam if f is _total_variation else dreg
        held[f"csiszar, {name}"] = Member(estimator(bound), mean, mean)
    held["log_variance"] = by_dreg(log_variance, exact.log_variance, exact.log_variance)
    held["log_variance, fixed"] = Member(
        fixed(log_variance), exact.log_variance, exact.log_variance, exact.elbo
    )
    return held


def _hellinger(u):
    return 1 - jnp.sqrt(u)


def _jensen_shannon(u):
    u = jnp.maximum(u, 1e-12)  # at 0 the last term is 0 times infinity
    return jnp.log(2.0) - 0.5 * (jnp.log1p(u) + u * jnp.log1p(1 / u))


def _total_variation(u):
    return jnp.maximum(1 - u, 0.0)
