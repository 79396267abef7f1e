"""The bounds against exact numbers: optima as K grows without limit, means at finite K."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from vi.bounds import (
    Roulette,
    cubo,
    elbo,
    eubo,
    grouped,
    iwae,
    jackknife,
    log_variance,
    mix,
    renyi,
    sumo,
    tvo_lower,
    tvo_upper,
)

# A correlated target: p = N(0, [[1, .9], [.9, 1]]) is normalised, so that log p(x) = 0, and
# q = N(0, v I). Along the eigenvectors of p, with variances 1.9 and 0.1,
# log w = sum_i [log(v / variance_i) + eps_i^2 (1 - v / variance_i)] / 2.

VARIANCES = np.array([1.9, 0.1])


def log_weight(v, eps):
    return 0.5 * (np.log(v / VARIANCES) + eps**2 * (1 - v / VARIANCES)).sum(-1)


def log_mean_power(v, s):
    """``log E_q w^s`` in closed form; infinite where the moment does not exist."""
    curvature = 1 - s * (1 - v / VARIANCES)
    if (curvature <= 0).any():
        return np.inf
    return 0.5 * (s * np.log(v / VARIANCES) - np.log(curvature)).sum()


def mean_log_weight(v, beta):
    """``E log w`` under q w^beta, the derivative of ``log E_q w^beta`` in beta."""
    ratio = 1 - v / VARIANCES
    return 0.5 * (np.log(v / VARIANCES) + ratio / (1 - beta * ratio)).sum()


def limit(name, v):
    """What a bound tends to as K grows without limit."""
    kind, _, argument = name.partition(" ")
    if kind == "elbo":
        return mean_log_weight(v, 0.0)
    if kind == "eubo":
        return mean_log_weight(v, 1.0)
    s = float(argument) if kind == "cubo" else 1 - float(argument)
    return log_mean_power(v, s) / s


OPTIMA = {  # the optimal v, and the value there
    "elbo": (0.19, -0.830366),
    "eubo": (1.0, 0.830366),
    "renyi 0.1": (0.912036, -0.087365),
    "renyi 0.25": (0.750999, -0.234427),
    "renyi 0.5": (0.435890, -0.499003),
    "renyi 0.75": (0.252996, -0.703281),
    "renyi 0.9": (0.208325, -0.786283),
    "renyi 1.5": (0.147974, -0.975457),
    "renyi 2": (0.132521, -1.058500),
    "renyi 5": (0.111035, -1.245140),
    "cubo 2": (1.433740, 0.529250),
}
THERMODYNAMIC = {  # at v = 1, by the number of equal steps
    2: (-1.555132, 0.576447),
    5: (-0.536513, 0.316119),
    10: (-0.244229, 0.182087),
    50: (-0.043954, 0.041309),
}


@pytest.mark.parametrize("name", OPTIMA)
def test_the_optimum_of_each_limit(name):
    sign = 1 if name in ("eubo", "cubo 2") else -1
    grid = np.linspace(0.1001, 1.8999, 1001)
    best = grid[np.argmin([sign * limit(name, v) for v in grid])]
    found = optimize.minimize_scalar(
        lambda v: sign * limit(name, v),
        bounds=(best - 2e-3, best + 2e-3),
        options={"xatol": 1e-10},
    )
    v, value = OPTIMA[name]
    assert abs(found.x - v) < 2e-6
    assert abs(limit(name, found.x) - value) < 6e-7


@functools.cache
def nodes(v, num_wide=2000, num_narrow=400):
    """Log-weights at the midpoints of cells of equal probability: a stratified sample of q."""
    wide = stats.norm.ppf((np.arange(num_wide) + 0.5) / num_wide)
    narrow = stats.norm.ppf((np.arange(num_narrow) + 0.5) / num_narrow)
    eps = np.stack(np.meshgrid(wide, narrow, indexing="ij"), -1)
    return jnp.asarray(log_weight(v, eps).reshape(-1))


def bound_of(name):
    kind, _, argument = name.partition(" ")
    return {"elbo": elbo, "eubo": eubo}.get(kind) or {"renyi": renyi, "cubo": cubo}[kind](
        float(argument)
    )


BOUNDED = 1.95  # at this v every weight is below its value at the centre


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", OPTIMA)
def test_our_bound_tends_to_it(name):
    """At 800,000 stratified draws: where weights are bounded, or else at the optimum."""
    unbounded = name in ("elbo", "renyi 1.5", "renyi 2", "renyi 5")  # log w, or a negative power
    v, tolerance = (OPTIMA[name][0], 1.2e-2) if unbounded else (BOUNDED, 1e-3)
    value = jax.jit(bound_of(name))(nodes(v))
    assert abs(value - limit(name, v)) < tolerance
    others = [limit(other, v) for other in OPTIMA if other != name]
    assert np.abs(value - np.array(others)).min() > 2 * tolerance, "it would pass for another"


@pytest.mark.parametrize("num_steps", THERMODYNAMIC)
def test_the_thermodynamic_sums(num_steps):
    grid = np.linspace(0, 1, num_steps + 1)
    means = np.array([mean_log_weight(1.0, beta) for beta in grid])
    lower, upper = means[:-1].mean(), means[1:].mean()
    assert abs(lower - THERMODYNAMIC[num_steps][0]) < 6e-7
    assert abs(upper - THERMODYNAMIC[num_steps][1]) < 6e-7


@pytest.mark.usefixtures("x64")
def test_our_thermodynamic_bounds_tend_to_their_sums():
    grid, log_w = np.linspace(0, 1, 6), nodes(BOUNDED)
    means = np.array([mean_log_weight(BOUNDED, beta) for beta in grid])
    assert abs(jax.jit(tvo_lower(grid))(log_w) - means[:-1].mean()) < 1e-2  # the ELBO is in it
    assert abs(jax.jit(tvo_upper(grid))(log_w) - means[1:].mean()) < 1e-3
    assert abs(means[:-1].mean() - means[1:].mean()) > 0.1


def test_values_at_one_fixed_q():
    assert abs(limit("elbo", 1.0) + 3.432792) < 6e-7
    assert abs(limit("renyi 0.5", 1.0) + 0.604092) < 6e-7
    assert abs(limit("eubo", 1.0) - 0.830366) < 6e-7
    assert abs(limit("cubo 2", 1.0) - 0.830366) < 6e-7


# Means at finite K, exactly. With independent weights x_k = w_k^s and M(t) = E exp(-t x),
# E log sum_k x_k = int (exp(-t) - M(t)^K) / t dt, and E[g(x_1) / sum_k x_k] =
# int E[g(x) exp(-t x)] M(t)^(K - 1) dt, both in u = log t.


@functools.cache
def quadrature(v, s):
    """``u``, ``M(exp(u))`` and the weights' log, their power and their mass on a grid of noise."""
    eps = np.linspace(0.0, 8.5, 71)  # the weight is even in both
    mass = np.where(eps == 0, 0.5, 1.0) * np.exp(-(eps**2) / 2)
    mass = np.outer(mass, mass).reshape(-1) / mass.sum() ** 2
    log_w = log_weight(v, np.stack(np.meshgrid(eps, eps, indexing="ij"), -1)).reshape(-1)
    u = np.linspace(-30, 60, 601)
    damped = np.exp(-np.exp(np.minimum(u[:, None] + s * log_w, 50.0)))
    return u, damped, log_w, mass


def mean_renyi(v, s, K):
    """``E renyi(1 - s)`` at K samples."""
    u, damped, _, mass = quadrature(v, s)
    integrand = np.exp(-np.exp(np.minimum(u, 50.0))) - (damped @ mass) ** K
    return (np.trapezoid(integrand, u) - np.log(K)) / s


def mean_tempered(v, beta, K):
    """The mean of the self-normalised ``E_{q w^beta} log w`` at K samples."""
    u, damped, log_w, mass = quadrature(v, beta)
    first = damped @ (mass * log_w * np.exp(beta * log_w))
    return K * np.trapezoid(np.exp(u) * first * (damped @ mass) ** (K - 1), u)


V, K = 2.0, 8  # at this v every weight is below its value at the centre
ELBO_MEAN = mean_log_weight(V, 0.0)
FINITE = {
    "iwae": (iwae, lambda: mean_renyi(V, 1.0, K)),
    "renyi(0.5)": (renyi(0.5), lambda: mean_renyi(V, 0.5, K)),
    "cubo(2)": (cubo(2.0), lambda: mean_renyi(V, 2.0, K)),
    "eubo": (eubo, lambda: mean_tempered(V, 1.0, K)),
    "tvo_lower": (
        tvo_lower([0, 0.3, 1]),
        lambda: 0.3 * ELBO_MEAN + 0.7 * mean_tempered(V, 0.3, K),
    ),
    "tvo_upper": (
        tvo_upper([0, 0.3, 1]),
        lambda: 0.3 * mean_tempered(V, 0.3, K) + 0.7 * mean_tempered(V, 1.0, K),
    ),
    "jackknife": (
        jackknife(iwae),
        lambda: K * mean_renyi(V, 1.0, K) - (K - 1) * mean_renyi(V, 1.0, K - 1),
    ),
    "grouped": (grouped(iwae, 4), lambda: mean_renyi(V, 1.0, 2)),
    "mix": (mix(0.3, elbo, iwae), lambda: 0.3 * ELBO_MEAN + 0.7 * mean_renyi(V, 1.0, K)),
    "log_variance": (
        log_variance,
        lambda: 0.25 * ((1 - V / VARIANCES) ** 2).sum(),  # half of Var(a eps^2), a = (1 - r) / 2
    ),
}


@functools.cache
def draws_of_log_w(replicates=100_000):
    """Log-weights ``[K, R]``, the same for every bound."""
    eps = jax.random.normal(jax.random.key(0), (K, replicates, 2))
    return jnp.asarray(log_weight(V, np.asarray(eps, np.float64)), jnp.float32)


def simulate(bound):
    """The mean of a bound and its standard error; the mean of log w, known, is its control."""
    log_w = draws_of_log_w()
    value = np.asarray(jax.jit(bound)(log_w), np.float64)
    control = np.asarray(log_w, np.float64).mean(0) - ELBO_MEAN
    slope = np.cov(value, control)[0, 1] / control.var()
    value = value - slope * control
    return value.mean(), value.std(ddof=1) / np.sqrt(len(value))


@pytest.mark.parametrize("name", FINITE)
def test_the_mean_at_finite_K(name):
    bound, truth = FINITE[name]
    mean, stderr = simulate(bound)
    assert abs(mean - truth()) < 5 * stderr, (mean, stderr, truth())


def test_a_twin_misses_the_mean_at_finite_K():
    """Dividing by K - 1; a path whose weights are not tempered."""
    mean, stderr = simulate(lambda w: jax.nn.logsumexp(w, 0) - np.log(w.shape[0] - 1))
    assert abs(mean - mean_renyi(V, 1.0, K)) > 5 * stderr
    mean, stderr = simulate(lambda w: 0.3 * elbo(w) + 0.7 * eubo(w))
    assert abs(mean - FINITE["tvo_lower"][1]()) > 5 * stderr


def test_the_jackknife_takes_away_the_order_of_one_over_K():
    """By exact means: the bias of iwae halves as K doubles, that of its jackknife falls by four."""
    bias = {K: mean_renyi(V, 1.0, K) for K in (63, 64, 127, 128)}
    corrected = {K: K * bias[K] - (K - 1) * bias[K - 1] for K in (64, 128)}
    np.testing.assert_allclose(bias[128] / bias[64], 0.5, rtol=0.1)
    np.testing.assert_allclose(corrected[128] / corrected[64], 0.25, rtol=0.15)


# Russian roulette: its law, and the mean over N of the estimate, summed term by term.


def test_the_mean_over_the_roulette_is_iwae():
    log_w, terms = 2 * jax.random.normal(jax.random.key(0), (13, 4)), jnp.arange(1, 13)
    for roulette in (Roulette(budget=12), Roulette(cutoff=5, decay=0.7, budget=12)):
        survival = np.append(np.asarray(roulette.survival(jnp.arange(1, 13)), np.float64), 0.0)
        mass = survival[:-1] - survival[1:]  # the budget takes all that is beyond it
        np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-6)
        mean, twin = (
            mass @ np.asarray(jax.jit(jax.vmap(lambda n, law=law: sumo(n, *law)(log_w)))(terms))
            for law in ((roulette,), ())
        )
        np.testing.assert_allclose(mean, iwae(log_w), rtol=1e-5, atol=1e-5)
        assert (np.abs(twin - iwae(log_w)).max() > 1e-2) == (roulette.cutoff == 5)


@pytest.mark.parametrize("roulette", [Roulette(), Roulette(cutoff=4, decay=0.5)])
def test_the_draws_follow_the_law(roulette):
    draws = np.asarray(roulette.sample(jax.random.key(1), (200_000,)))
    assert draws.min() == 1
    for k in (2, 3, 4, 5, 8, 20, 80, 90):
        survival = float(roulette.survival(jnp.asarray(k)))
        stderr = np.sqrt(survival * (1 - survival) / len(draws))
        assert abs((draws >= k).mean() - survival) < 5 * stderr + 1e-9, k
    capped = roulette._replace(budget=3).sample(jax.random.key(1), (200_000,))
    np.testing.assert_array_equal(capped, np.minimum(draws, 3))


def test_each_datum_has_its_own_number_of_terms():
    log_w = jax.random.normal(jax.random.key(2), (6, 3))
    stops = jnp.array([1, 3, 5])
    together = sumo(stops)(log_w)
    apart = [sumo(int(n))(log_w[:, i]) for i, n in enumerate(stops)]
    np.testing.assert_allclose(together, jnp.stack(apart), rtol=1e-6)
    traced = jax.jit(lambda stops: sumo(stops)(log_w))(stops)
    np.testing.assert_allclose(traced, together, rtol=1e-6)
    moved = log_w.at[2:, 0].add(7.0)  # the first datum uses two samples alone
    np.testing.assert_allclose(sumo(stops)(moved)[0], together[0], rtol=1e-6)


# Table D. p = N(0, 1) and q = N(0, s^2), so log p(x) = 0 and
# log w = log s - z^2 / 2 + z^2 / (2 s^2) with z = s eps. For s > 1 the weight lies in (0, s]: it
# and its logarithm have every moment.


def log_weights(noise, s=1.5):
    return jnp.log(s) + 0.5 * noise**2 * (1 - s**2)


def relative_variance(s=1.5):
    """E w^2 - 1 in closed form: E w^2 = s^2 E exp(-(s^2 - 1) eps^2) = s^2 / sqrt(2 s^2 - 1)."""
    return s**2 / np.sqrt(2 * s**2 - 1) - 1


def finite_K_gap(K, s=1.5):
    r"""K (log p - L_K) exactly, by one quadrature.

    log x = int_0^inf (exp(-t) - exp(-t x)) / t dt, so the mean of the log of the sum of K
    independent weights is int (exp(-t) - M(t)^K) / t dt with M(t) = E exp(-t w), in u = log t.
    """
    eps = np.linspace(0, 9, 501)  # the weight is even
    mass = np.where(eps == 0, 0.5, 1.0) * np.exp(-(eps**2) / 2)
    weight = s * np.exp(0.5 * eps**2 * (1 - s**2))
    u = np.linspace(-40, 55, 2001)
    transform = np.exp(-np.exp(u)[:, None] * weight) @ (mass / mass.sum())
    mean_log_sum = np.trapezoid(np.exp(-np.exp(u)) - transform**K, u)
    return K * (np.log(K) - mean_log_sum)


def test_the_limit_of_domke_and_sheldon_is_table_D():
    assert abs(relative_variance() / 2 - 0.101338) < 5e-7
    np.testing.assert_allclose(finite_K_gap(1), 0.5 * (1.5**2 - 1) - np.log(1.5), rtol=1e-6)
    gaps = [finite_K_gap(K) - relative_variance() / 2 for K in (10, 100, 1000)]
    np.testing.assert_allclose(gaps[1] / gaps[0], 0.1, rtol=0.5)  # the next order is 1 / K
    np.testing.assert_allclose(gaps[2] / gaps[1], 0.1, rtol=0.2)
    assert abs(finite_K_gap(10) - 0.1016) < 5 * 0.0023, "the measurement on record"


def gap_by_simulation(bound, K=10, replicates=200_000):
    """K (log p - L_K) and its standard error; the control E log w is known exactly.

    The bound and the mean of log w share their noise; subtracting the second, less its mean, leaves
    the mean of the first and takes away most of its variance.
    """
    log_w = log_weights(jax.random.normal(jax.random.key(0), (K, replicates)))
    control = log_w.mean(0) - (np.log(1.5) - 0.5 * (1.5**2 - 1))
    value = np.asarray(-K * (bound(log_w) - 0.5 * control), np.float64)
    return value.mean(), value.std(ddof=1) / np.sqrt(replicates)


def test_iwae_at_K_10_hits_its_finite_K_truth():
    mean, stderr = gap_by_simulation(jax.jit(iwae))
    assert abs(mean - finite_K_gap(10)) < 5 * stderr


def test_a_broken_twin_misses_the_finite_K_truth():
    """Dividing by K - 1, as one would for a variance."""
    mean, stderr = gap_by_simulation(lambda w: jax.nn.logsumexp(w, 0) - np.log(w.shape[0] - 1))
    assert abs(mean - finite_K_gap(10)) > 5 * stderr


def test_iwae_rises_with_K_from_the_elbo():
    """Theorem 1, in paired differences: halving the same samples never raises the mean."""
    log_w = log_weights(jax.random.normal(jax.random.key(1), (16, 20_000)))
    for K in (1, 2, 4, 8):
        more = iwae(log_w[: 2 * K])
        fewer = 0.5 * (iwae(log_w[:K]) + iwae(log_w[K : 2 * K]))
        assert (more >= fewer - 1e-5).all(), "the log is concave: it holds draw by draw"
    one = np.asarray(iwae(log_w[:1]) - elbo(log_w[:1]))
    np.testing.assert_allclose(one, 0.0, atol=1e-6)
