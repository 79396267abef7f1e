"""Every likelihood: normalised, SciPy's, finite where it is hard, and what masking leaves of it."""

import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from likelihoods import DRAWN, ELEMENTWISE, LIKELIHOODS

import vi

POSITIVE = {"scale", "df", "r"}
SLOW = {"zero_inflated_negative_binomial"}  # its two parts have rows of their own


def rows(names):
    return pytest.mark.parametrize(
        "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in names]
    )


each = rows(LIKELIHOODS)
elementwise = rows(ELEMENTWISE)


def settings(row, dtype=np.float64):
    """All settings of one entry, ``[P, 1, *tail]`` (``[P, V]``)."""
    as_event = (lambda v: v) if row.joint else (lambda v: v[:, None])
    return {name: as_event(value).astype(dtype) for name, value in row.params.items()}


def log_prob_of(row):
    return lambda params, x: row.make(params).log_prob(x)


@each
@pytest.mark.usefixtures("x64")
def test_sums_to_one_and_is_scipys(name):
    row = LIKELIHOODS[name]
    params, nodes = settings(row), np.asarray(row.nodes, np.float64)
    nodes = nodes if row.joint else nodes[:, None]
    of_nodes = jax.jit(jax.vmap(jax.vmap(log_prob_of(row), (0, None)), (None, 0)))
    log_p = np.asarray(of_nodes(params, nodes))  # [n, P]
    assert log_p.dtype == np.float64
    weights = np.reshape(row.log_weights, (-1, 1))
    np.testing.assert_allclose(np.exp(log_p + weights).sum(0), 1.0, rtol=1e-6)

    truth = row.truth(row.params, nodes[:, None] if row.joint else nodes)
    keep = truth > -300  # SciPy's own tails, and differences of its distribution functions
    assert keep.any(0).all()
    truth, ours = np.where(keep, truth, 0.0), np.where(keep, log_p, 0.0)
    reach = 1e-6 if "logistic" in name or name == "ordinal" else 1e-9
    np.testing.assert_allclose(ours, truth, rtol=1e-8, atol=reach)


def hard(row):
    """Every extreme combined with every other and with data: ``[n, 1, *tail]``, ``[n, 1]``."""
    *params, x = zip(*itertools.product(*row.extremes.values(), row.data), strict=True)
    params = {
        name: np.array(value, np.float32) for name, value in zip(row.extremes, params, strict=True)
    }
    x = np.array(x, np.float32)
    return (params, x) if row.joint else ({n: v[:, None] for n, v in params.items()}, x[:, None])


@each
def test_extremes_are_finite_and_float32_is_float64(name):
    """To 1e-5 of the value, or 2e-6 nats where that is more; slopes to 1e-4.

    The slope in a positive parameter below 1 is taken per e-fold, as such a one is learned.
    """
    row = LIKELIHOODS[name]
    params, x = hard(row)

    def both(params, x):
        value, back = jax.vjp(lambda p: log_prob_of(row)(p, x), params)
        slopes = back(jnp.ones_like(value))[0]
        unit = {n: jnp.minimum(v, 1) if n in POSITIVE else 1 for n, v in params.items()}
        return value, {n: slope * unit[n] for n, slope in slopes.items()}

    single, slopes = jax.device_get(jax.jit(both)(params, x))
    with jax.enable_x64(True):
        wide = {name: np.float64(value) for name, value in params.items()}
        double, truths = jax.device_get(jax.jit(both)(wide, np.float64(x)))
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    for leaf in jax.tree.leaves((single, double, slopes, truths)):
        assert np.isfinite(leaf).all()
    np.testing.assert_allclose(single, double, rtol=1e-5, atol=2e-6)
    for of, slope in slopes.items():
        np.testing.assert_allclose(slope, truths[of], rtol=1e-4, atol=2e-6, err_msg=of)


@each
def test_integers_and_half_precision_are_computed_in_float32(name):
    """Whole parameters, which every one of these dtypes holds."""
    row = LIKELIHOODS[name]
    x = row.values(2, 3)
    value = jax.jit(log_prob_of(row))

    def of(dtype):
        return {n: np.ceil(leaf).astype(dtype) for n, leaf in row.tiled(2, 3).items()}

    for dtype in (jnp.int32, jnp.float16):
        ours = value(of(dtype), x)
        assert ours.dtype == jnp.float32
        chex.assert_trees_all_close(ours, value(of(np.float32), x), rtol=1e-5, atol=1e-6)
    assert jax.eval_shape(value, of(jnp.bfloat16), x).dtype == jnp.float32


@each
def test_expands_and_maps_as_an_object(name):
    """As a NumPyro plate does that has an axis which the parameters lack."""
    row = LIKELIHOODS[name]
    size = 3
    params, x = row.tiled(2, size), row.values(4, 2, size)
    wide = row.make(params).expand((4, 2))
    assert isinstance(wide, vi.likelihoods.Observation)
    assert (wide.batch_shape, wide.event_shape) == ((4, 2), (size,))
    for wrong in (x[:, :1], x[..., :1], x[:3]):
        with pytest.raises(ValueError, match=r"log_prob: value must fit the parameters"):
            wide.log_prob(wrong)

    @jax.jit
    def every_way(params, x):
        likelihood = row.make(params)
        many = row.make(jax.tree.map(lambda p: jnp.broadcast_to(p, (4, *p.shape)), params))
        ways = [likelihood.expand((4, 2)).log_prob(x)]
        ways.append(jax.vmap(lambda likelihood, x: likelihood.log_prob(x))(many, x))
        if not row.joint:
            seen = jnp.ones((2, size), bool)
            ways.append(vi.likelihoods.masked(likelihood.expand((4, 2)), seen).log_prob(x))
            ways.append(vi.likelihoods.masked(likelihood, seen).expand((4, 2)).log_prob(x))
        return many.log_prob(x), ways

    truth, ways = every_way(params, x)
    for way in ways:
        chex.assert_trees_all_close(way, truth, rtol=1e-5, atol=1e-5)


@each
@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_the_value(name):
    """Forward mode against central differences, in float64, at every setting."""
    row = LIKELIHOODS[name]
    params = {name: value + 0.01 for name, value in settings(row).items()}
    x = np.float64(row.values(*jax.tree.leaves(params)[0].shape[:2]))
    value = jax.jit(log_prob_of(row))
    slope = jax.jit(lambda p, t, x: jax.jvp(lambda p: log_prob_of(row)(p, x), (p,), (t,))[1])
    rng = np.random.default_rng(0)
    along = {name: rng.normal(size=leaf.shape) for name, leaf in params.items()}
    step = 1e-5
    ahead, behind = (
        value({n: leaf + sign * step * along[n] for n, leaf in params.items()}, x)
        for sign in (1, -1)
    )
    numeric = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(slope(params, along, x), numeric, rtol=1e-5, atol=1e-5)


@each
def test_shapes_batch_jit_and_pytree(name):
    row = LIKELIHOODS[name]
    size = 3
    params, x = row.tiled(5, 2, size), row.values(2, size)
    whole = row.make(params).log_prob(x)
    assert whole.shape == (5, 2)
    assert whole.dtype == jnp.float32
    assert row.make(params).batch_shape == (5, 2)
    assert row.make(params).event_shape == (size,)
    chex.assert_trees_all_close(
        jax.jit(jax.vmap(log_prob_of(row), (0, None)))(params, x), whole, rtol=1e-5, atol=1e-5
    )
    if not row.continuous:
        chex.assert_trees_all_equal(row.make(params).log_prob(x.astype(np.int32)), whole)
    leaves, tree = jax.tree.flatten(row.make(params))
    again = jax.tree.unflatten(tree, leaves)
    chex.assert_trees_all_equal(again.log_prob(x), whole)
    with pytest.raises(ValueError, match="must fit the parameters"):
        again.log_prob(x[:, :1])
    assert row.make(params, event_ndims=2).event_shape == (2, size)
    for data in (np.broadcast_to(x, (5, 2, size)), x[0]):
        out = jax.eval_shape(log_prob_of(row), params, data)
        assert (out.shape, out.dtype) == ((5, 2), jnp.float32)
    with pytest.raises(ValueError, match="event_ndims must be"):
        row.make(params, event_ndims=4)


@each
def test_data_outside_of_the_support_are_refused(name):
    row = LIKELIHOODS[name]
    likelihood, x = row.make(row.tiled(2, 3)), row.values(2, 3)
    outside = row.outside | {np.nan: "vi.likelihoods.masked(likelihood, ~jnp.isnan(x))"}
    for value, message in outside.items():
        wrong = x.copy()
        wrong[1, 0] = value
        with pytest.raises(ValueError, match=re.escape(message)) as refused:
            likelihood.log_prob(wrong)
        assert "1 such of 6" in str(refused.value)
        jax.eval_shape(likelihood.log_prob, wrong)  # traced data are not looked at


@rows(DRAWN)
def test_draws_match_the_density(name):
    """A chi-square over the levels, or Kolmogorov and Smirnov over the integral of the density."""
    row, num_draws = LIKELIHOODS[name], 20_000
    params = settings(row, np.float32)
    likelihood = row.make(params)
    draws = np.asarray(jax.jit(lambda key: likelihood.sample(key, (num_draws,)))(jax.random.key(0)))
    assert draws.shape == (num_draws, *likelihood.batch_shape, 1)
    nodes = np.float32(row.nodes)
    log_p = row.truth(row.params, np.asarray(row.nodes, float)[:, None])
    mass = np.exp(log_p + np.reshape(row.log_weights, (-1, 1)))
    for of_draws, of_mass in zip(draws[..., 0].T, mass.T, strict=True):
        if row.continuous:
            cumulative = np.cumsum(of_mass) - of_mass / 2
            truth = lambda x, c=cumulative: np.interp(x, nodes, c)  # noqa: E731
            assert scipy.stats.kstest(of_draws, truth).pvalue > 1e-6
            assert scipy.stats.kstest(of_draws, lambda x, t=truth: t(x) ** 1.1).pvalue < 1e-6
        else:
            counts = np.bincount(of_draws.astype(int), minlength=len(nodes))
            assert counts.size == len(nodes)
            assert chi_square(counts, of_mass) > 1e-6
            tilted = of_mass.copy()
            tilted[np.argmin(abs(of_mass - 0.5))] *= 2
            assert chi_square(counts, tilted / tilted.sum()) < 1e-6


def chi_square(counts, mass):
    """The p-value, levels of fewer than 10 expected draws taken together."""
    expected = counts.sum() * mass
    rare = expected < 10
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = (v[expected > 1e-3] for v in (observed, expected))
    return scipy.stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


@elementwise
def test_masked_is_the_sum_over_what_is_observed(name):
    """Value and gradient; NaN, the impossible and parameters of NaN where nothing was observed."""
    row = LIKELIHOODS[name]
    params, x = row.tiled(3, 2, 4), row.values(2, 4)
    mask = np.array([[True, False, True, False], [False, False, False, False]])
    holed = np.where(mask, x, [np.nan, -7.5, np.inf, np.nan])

    def ours(params, mask, x):
        return vi.likelihoods.masked(row.make(params), mask).log_prob(x)

    def kept(params, x):
        entries = [
            log_prob_of(row)(jax.tree.map(lambda p, i=i: p[:, 0, i : i + 1], params), x[0, i, None])
            for i in (0, 2)
        ]
        return jnp.stack([sum(entries), jnp.zeros(3)], axis=-1)

    def with_gradient(f):
        def both(params, *rest):
            value, back = jax.vjp(lambda p: f(p, *rest), params)
            return value, back(jnp.ones_like(value))[0]

        return jax.jit(both)

    def at_gaps(p):
        return np.where(np.reshape(mask, (*mask.shape, *[1] * (p.ndim - 3))), p, np.float32(np.nan))

    value, gradient = with_gradient(ours)(jax.tree.map(at_gaps, params), mask, holed)
    truth = with_gradient(kept)(params, x)
    chex.assert_trees_all_close((value, gradient), truth, rtol=1e-5, atol=1e-6)
    assert (value[:, 1] == 0).all()
    for leaf in jax.tree.leaves(gradient):
        assert (leaf[:, 1] == 0).all()
        assert (leaf[:, 0, 1] == 0).all()
    jax.eval_shape(lambda p: ours(p, mask, holed), params)  # known data: missing, so not refused
    with pytest.raises(ValueError, match="mark what is missing"):
        ours(params, np.ones((2, 4), bool), holed)


def test_masking_after_scoring_is_not_enough():
    """The twin: a missing NaN, times zero, is one."""
    x, mask = jnp.array([1.0, jnp.nan]), jnp.array([True, False])

    def late(loc):
        base = vi.likelihoods.normal(loc, scale=1.0).base_dist
        return jnp.where(mask, base.log_prob(x), 0.0).sum()

    def ours(loc):
        return vi.likelihoods.masked(vi.likelihoods.normal(loc, scale=1.0), mask).log_prob(x)

    value, gradient = jax.jit(jax.value_and_grad(late))(jnp.zeros(2))
    assert jnp.isfinite(value)
    assert jnp.isnan(gradient).any()
    chex.assert_trees_all_close(jax.jit(jax.grad(ours))(jnp.zeros(2)), jnp.array([1.0, 0.0]))


@pytest.mark.usefixtures("x64")
def test_known_numbers_beside_float32_parameters_widen_nothing():
    loc, x = jnp.zeros((2, 3), jnp.float32), jnp.zeros((2, 3), jnp.float32)
    grid = {"scale": 0.5, "low": -1.0, "high": 1.0, "num_levels": 4}
    for likelihood in (
        vi.likelihoods.normal(loc, scale=0.5),
        vi.likelihoods.laplace(loc, scale=0.5),
        vi.likelihoods.student_t(loc, df=3, scale=0.5),
        vi.likelihoods.discretised_logistic(loc, **grid),
        vi.likelihoods.negative_binomial(loc, concentration=2.0),
        vi.likelihoods.zero_inflated(vi.likelihoods.poisson(loc), gate_logits=0.5),
    ):
        assert jax.eval_shape(likelihood.log_prob, x).dtype == jnp.float32
    assert vi.likelihoods.clamped_scale(loc, low=0.1, high=1.0).dtype == jnp.float32
