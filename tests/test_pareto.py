"""Pareto smoothing, held to ArviZ's float64 and to tails whose shape is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from scipy import optimize, stats

from vi.bounds import elbo, iwae
from vi.diagnostics import ParetoSmoothed, pareto_k, pareto_smoothed
from vi.diagnostics._pareto import _tail_length
from vi.types import log_weights

# with the digits of compiled code as users run it, which quick compilation loses
smooth = jax.jit(pareto_smoothed, compiler_options={"xla_backend_optimization_level": 3})

# Sizes at which min(K / 5, 3 sqrt(K)) is a whole number: arviz-stats 0.8 rounds it down, the paper
# and earlier ArviZ up.
SIZES = [100, 900, 10_000]


def columns(num_samples, dtype, seed=0):
    """Log-weights ``[K, 10]``: bounded, light, heavy, hundreds of nats wide, ties, zeros, 1e4."""
    random = np.random.default_rng(seed)
    noise, other = random.normal(size=(2, num_samples))
    heavy = 3 * noise
    tails = [
        -np.abs(noise),
        -np.square([noise, other]).sum(0),
        0.3 * noise,
        heavy,
        30 * noise,
        200 * noise,
        np.round(heavy, 1),
        np.where(other > 1, -np.inf, heavy),
        heavy + 1e4,
        heavy - 1e4,
    ]
    return np.stack(tails, axis=1).astype(dtype)


def by_arviz(log_w):
    """Its smoothed log-weights, which sum to one, and k-hat, computed in float64."""
    return array_stats.psislw(-log_w.astype(np.float64), axis=0)


def normalised(log_w):
    """Rising log-weights, without those of zero: which of equal weights comes first is open."""
    log_w = np.asarray(log_w, np.float64)
    log_w = np.sort(log_w - np.logaddexp.reduce(log_w, axis=0), axis=0)
    return log_w[np.isfinite(log_w).all(1)]


@pytest.mark.parametrize("num_samples", SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_agrees_with_arviz_in_float32(num_samples, seed):
    """On the same float32 numbers: k to 1e-5, log-weights to 1e-5 and their own last bits."""
    log_w = columns(num_samples, np.float32, seed)
    log_smoothed, k = by_arviz(log_w)
    got = smooth(log_w)
    assert got.pareto_k.dtype == got.log_weights.dtype == np.float32
    np.testing.assert_allclose(got.pareto_k, k, rtol=1e-6, atol=1e-5)
    error = np.abs(normalised(got.log_weights) - normalised(log_smoothed.T))
    last_bits = (
        4 * np.finfo(np.float32).eps * np.abs(log_w).max(0, where=log_w > -np.inf, initial=0)
    )
    assert (error < 1e-5 + last_bits).all()
    unsmoothed = np.abs(normalised(log_w) - normalised(log_smoothed.T)).max(0)
    assert (unsmoothed > 1e-3 + last_bits).all(), "log-weights as they were pass"
    length = min(num_samples / 5, 3 * num_samples**0.5)
    no_prior = (k * (length + 10) - 5) / length
    assert (np.abs(no_prior - k) > 1e-3).all(), "a fit without its prior passes"


def test_it_agrees_with_arviz_in_float64_where_both_round_the_tail_down(x64, monkeypatch):
    """At K = 1000 the tail has 94.9: 95 weights in the paper and here, 94 in ArviZ."""
    log_w = columns(1000, np.float64)
    log_smoothed, k = by_arviz(log_w)
    assert (np.abs(jax.jit(pareto_k)(log_w) - k) > 1e-3).all(), "the rounding does not show"
    floor = lambda num_samples: min(num_samples // 5, math.isqrt(9 * num_samples))  # noqa: E731
    monkeypatch.setattr("vi.diagnostics._pareto._tail_length", floor)
    got = jax.jit(lambda log_w: pareto_smoothed(log_w))(log_w)
    np.testing.assert_allclose(got.pareto_k, k, rtol=1e-11, atol=1e-11)
    expected = normalised(log_smoothed.T)
    np.testing.assert_allclose(normalised(got.log_weights), expected, rtol=1e-10, atol=1e-10)


def log_ratio(energy, scale):
    """The log-weight, up to a constant, of q = N(0, s^2 I), p = N(0, I) at ``|z|^2 / (2 s^2)``."""
    return energy * (1 - scale**2)


def fitted_shape(dimension, scale, fraction):
    """The k of the generalised Pareto law closest to the exact law of the largest weights.

    Closest as maximum likelihood sees it, by quadrature: what a fit to an infinite sample above
    this quantile would give. It is the shape itself only in the limit of the far tail, or where the
    tail is exactly Pareto, as it is in two dimensions for s < 1.
    """
    probability = (np.arange(100_000) + 0.5) / 100_000
    law = stats.gamma(dimension / 2)
    tail = law.isf if scale < 1 else law.ppf  # for s > 1 the largest weights are near the mode
    beyond = tail(fraction * (1 - probability)) - tail(fraction)
    excess = np.expm1(log_ratio(beyond, scale))

    def shape_and_loss(s):
        theta = np.expm1(s) / excess.max()
        k = np.log1p(theta * excess).mean()
        return k, k - np.log(theta / k)

    best = optimize.minimize_scalar(lambda s: shape_and_loss(s)[1], bounds=(-12, 12)).x
    return shape_and_loss(best)[0]


TAILS = [(2, 0.6), (2, 0.8), (1, 0.7), (10, 0.9), (2, 1.5), (4, 1.5), (10, 1.5)]


@pytest.fixture(scope="module")
def replicates():
    """k-hat ``[R = 40]`` of each tail at each K; ``|z|^2 / (2 s^2)`` has a gamma law."""
    random, fit = np.random.default_rng(7), jax.jit(pareto_k)

    def log_w(num_samples):
        draws = [random.gamma(dimension / 2, size=(num_samples, 40)) for dimension, _ in TAILS]
        of_tail = [log_ratio(e, scale) for e, (_, scale) in zip(draws, TAILS, strict=True)]
        return np.stack(of_tail, axis=1).astype(np.float32)

    return {
        (tail, num_samples): np.asarray(k, np.float64)
        for num_samples in (100, 1000, 10_000)
        for tail, k in zip(TAILS, fit(log_w(num_samples)), strict=True)
    }


@pytest.mark.parametrize(
    ("tail", "num_samples"),
    [
        ((2, 0.6), 1000),
        ((2, 0.8), 1000),
        ((2, 0.6), 10_000),
        ((2, 0.8), 10_000),
        ((1, 0.7), 10_000),
        ((10, 0.9), 10_000),
        ((10, 1.5), 10_000),
    ],
)
def test_its_mean_is_the_shape_of_the_tail_it_sees(replicates, tail, num_samples):
    """The exact tail above its own threshold, drawn to 1/2 by the prior's ten draws.

    k-hat has every moment here; its spread is (1 + k) / sqrt(M). The fit has a bias of order 1 / M,
    which 40 replicates do not resolve where k is above -1/2; below, no fit is regular.
    """
    dimension, scale = tail
    length = min(-(-num_samples // 5), int(np.ceil(3 * num_samples**0.5)))
    k = replicates[tail, num_samples]
    stderr = k.std(ddof=1) / len(k) ** 0.5
    shape = fitted_shape(dimension, scale, length / num_samples)
    if dimension == 2:
        np.testing.assert_allclose(shape, 1 - scale**2, atol=1e-3)
    assert abs(k.mean() - (length * shape + 10 * 0.5) / (length + 10)) < 5 * stderr
    twin = shape + 0.2
    assert abs(k.mean() - (length * twin + 10 * 0.5) / (length + 10)) > 5 * stderr


@pytest.mark.parametrize("dimension", [2, 4, 10])
def test_bounded_weights_approach_their_shape(replicates, dimension):
    """Here k = -2 / d: what the finite tail and the prior add to it falls as K grows."""
    sizes = (100, 1000, 10_000)
    error = [replicates[(dimension, 1.5), K].mean() + 2 / dimension for K in sizes]
    assert (np.diff(error) < 0).all()
    assert 0 < error[-1] < 0.3


def test_q_equal_to_the_posterior_is_perfect():
    """The two densities differ in rounding alone: 1e-4 nats here, not 0."""
    scale = jnp.linspace(0.1, 3.0, 200)
    q = dist.Normal(jnp.zeros(200), scale).to_event(1)
    posterior = dist.MultivariateNormal(jnp.zeros(200), scale_tril=jnp.diag(scale))

    @jax.jit
    def weights(key):
        return log_weights(q.sample(key, (1000,)), q, lambda z: posterior.log_prob(z) - 700.0)

    log_w = weights(jax.random.key(0))
    assert 0 < jnp.ptp(log_w) < 1e-2
    log_w = jnp.stack([log_w, jnp.full(1000, -3.0), jnp.zeros(1000)], axis=1)
    got = smooth(log_w)
    np.testing.assert_array_equal(got.pareto_k, -np.inf)
    np.testing.assert_array_equal(got.log_weights, log_w)
    wider = smooth(log_w + 0.1 * jax.random.normal(jax.random.key(1), log_w.shape))
    assert np.isfinite(wider.pareto_k).all()


def edges():
    """Columns ``[100, 10]``, the shape of ``columns(100)``: one compilation serves both."""
    noise = jax.random.normal(jax.random.key(0), (100,))
    place = jnp.arange(100)
    two = jnp.where(place < 3, 1.0, 0.0)
    three = jnp.where(place < 1, 5.0, two)
    cases = {
        "half of them zero, the others equal": jnp.where(place < 50, 0.0, -jnp.inf),
        "the largest thirty equal": jnp.where(place < 30, 2.0, noise - 5),
        "no threshold above zero": jnp.where(place < 20, noise, -jnp.inf),
        "one weight": jnp.where(place < 1, noise, -jnp.inf),
        "no weight": jnp.full(100, -jnp.inf),
        "two values": two,
        "three values": three,
        "three values far apart": 100 * three,
        "a threshold just above zero": jnp.where(place < 21, noise, -jnp.inf),
        "a NaN": noise.at[3].set(jnp.nan),
    }
    return list(cases), jnp.stack(list(cases.values()), axis=1)


def test_edges():
    """Ties at the threshold are excesses of zero, which ArviZ has no answer to."""
    names, log_w = edges()
    got = smooth(log_w)
    k = dict(zip(names, np.asarray(got.pareto_k), strict=True))
    for name in names[:2]:
        assert k[name] == -np.inf, name
    for name in names[2:5]:
        assert k[name] == np.inf, name
    np.testing.assert_array_equal(got.log_weights[:, :5], log_w[:, :5])
    assert k["two values"] < k["three values"] < k["three values far apart"]
    assert np.isfinite(got.log_weights[:, 5:8]).all()
    assert np.isfinite(k["a threshold just above zero"])
    assert np.isnan(k["a NaN"])
    infinite = smooth(jnp.asarray(columns(100, np.float32)).at[7].set(jnp.inf))
    assert np.isnan(infinite.pareto_k).all()


def test_smoothing_keeps_scale_order_maximum_and_all_but_the_tail():
    log_w = 2 * jax.random.normal(jax.random.key(0), (1000, 3))
    got = smooth(log_w)
    length = 95  # ceil(3 sqrt(1000))
    order = np.argsort(log_w, axis=0)
    body, tail = order[:-length], order[-length:]
    moved = got.log_weights != log_w
    assert not np.take_along_axis(moved, body, 0).any()
    assert np.take_along_axis(moved, tail, 0).mean() > 0.9
    assert (np.diff(np.take_along_axis(np.asarray(got.log_weights), order, 0), axis=0) >= 0).all()
    assert (got.log_weights.max(0) <= log_w.max(0)).all()
    np.testing.assert_allclose(iwae(got.log_weights), iwae(log_w), atol=0.3)
    assert (np.abs(iwae(normalised(got.log_weights)) - iwae(log_w)) > 3).all()  # as ArviZ scales
    for shift in (-3.0, 50.0):
        moved = smooth(log_w + shift)
        np.testing.assert_allclose(moved.pareto_k, got.pareto_k, atol=1e-4)
        np.testing.assert_allclose(moved.log_weights, got.log_weights + shift, atol=1e-4)


def test_smoothing_lowers_the_error_of_the_mean_weight():
    """At k = 0.44 weights have a variance, which is what a z-test of absolute errors needs."""

    @jax.jit
    @jax.vmap
    def errors(key):
        energy = jax.random.exponential(key, (1000,))
        log_w = log_ratio(energy, 0.75) + 2 * jnp.log(0.75)
        smoothed = pareto_smoothed(log_w).log_weights
        return jnp.abs(jnp.expm1(iwae(log_w))), jnp.abs(jnp.expm1(iwae(smoothed)))

    raw, smoothed = np.asarray(errors(jax.random.split(jax.random.key(5), 1000)), np.float64)
    gain = raw - smoothed
    assert gain.mean() > 5 * gain.std(ddof=1) / len(gain) ** 0.5


@pytest.mark.parametrize("num_samples", [21, 101, 226])
def test_nothing_finite_gives_nan(num_samples):
    log_w = np.concatenate([columns(num_samples, np.float32, seed) for seed in range(20)], axis=1)
    got = smooth(log_w)
    assert np.isfinite(got.pareto_k).all()
    assert not np.isnan(got.log_weights).any()


def test_jit_batch_and_dtype():
    log_w = jax.random.normal(jax.random.key(0), (60, 2, 3))
    with jax.numpy_rank_promotion("raise"):
        axes = ParetoSmoothed(1, 0)
        each_of = jax.vmap(jax.vmap(pareto_smoothed, 1, axes), 1, axes)
        whole, each, k = jax.jit(lambda w: (pareto_smoothed(w), each_of(w), pareto_k(w)))(log_w)
        eager = pareto_smoothed(log_w[:, 0, 0])
    for got, one, expected in zip(each, eager, whole, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
        np.testing.assert_allclose(one, expected[..., 0, 0], atol=1e-5)
    np.testing.assert_allclose(k, whole.pareto_k, atol=1e-5)
    assert elbo(whole.log_weights).shape == (2, 3)
    assert jax.eval_shape(pareto_k, log_w.astype(jnp.bfloat16)).dtype == jnp.float32


def test_the_tail_has_the_length_of_the_paper():
    for num_samples in (*range(21, 400), 1000, 10_000, 99_856, 10**8):
        expected = np.ceil(min(num_samples / 5, 3 * num_samples**0.5))
        assert _tail_length(num_samples) == expected


@pytest.mark.parametrize(
    ("log_w", "message"),
    [
        (jnp.zeros(20), r"log_w must have at least 21 samples \(got 20\)"),
        (jnp.zeros((20, 100)), "draw more: a tail of 5"),
        (jnp.zeros(30, int), "log_w must be floating"),
        (jnp.zeros(()), r"log_w must be \[K, \*batch\]"),
    ],
)
@pytest.mark.parametrize("function", [pareto_k, pareto_smoothed])
def test_bad_input_is_refused(function, log_w, message):
    with pytest.raises(ValueError, match=f"^{function.__name__}: .*{message}"):
        function(log_w)
