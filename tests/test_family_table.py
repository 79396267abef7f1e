"""Every family, every property: exact densities, draws that follow them, right gradients."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tests.families import FAMILIES, NEIGHBOURS, Grid, batched
from vi.bounds import elbo, iwae, log_variance
from vi.gradients import dreg, fixed, reparam, score, vimco, wake

each = pytest.mark.parametrize("name", FAMILIES)
each_but_neighbours = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in NEIGHBOURS else ()) for n in FAMILIES],
)
NUM_DRAWS, NUM_REPLICATES, K = 20_000, 4096, 2
LEAST_EXPECTED = 10  # draws in a cell of the chi-square test


def log_joint(row, z):
    """A smooth function of any latent, of bounded slope, that tells its numbers apart."""
    total = 0.0
    for leaf in jax.tree.leaves(row.features(z)):
        x = jnp.asarray(leaf, float).reshape(leaf.shape[0], -1)
        each = 0.7 * jnp.sin(1.3 * x + 1 + jnp.arange(x.shape[1])) - jnp.logaddexp(x - 0.4, 0.4 - x)
        total = total + each.sum(-1) + 0.5 * jnp.cos(x.sum(-1))
    return total


class Exact(NamedTuple):
    """What quadrature or enumeration says, in float64."""

    grid: Grid
    mass: np.ndarray
    log_q: np.ndarray
    elbo_gradient: dict


@functools.cache
def exact(name) -> Exact:
    row = FAMILIES[name]

    def elbo_of(mass, log_q, log_w):
        return (mass * log_w).sum()

    with jax.enable_x64(True):
        grid = row.grid()
        mass, log_q, gradient = exact_gradient(row, elbo_of, grid.z, grid.log_volume)
        assert log_q.dtype == np.float64
    return Exact(grid, mass, log_q, gradient)


def exact_gradient(row, value, z, log_volume):
    """The masses and log-densities of nodes, and the gradient of ``value(mass, log_q, log_w)``."""

    @jax.jit
    def compute(params, z, log_volume):
        def of(params):
            log_q = row.make(params).log_prob(z)
            mass = jnp.exp(log_q + log_volume)
            log_w = jnp.where(mass > 0, log_joint(row, z) - log_q, 0.0)
            return value(mass, log_q, log_w), (mass, log_q)

        gradient, (mass, log_q) = jax.grad(of, has_aux=True)(params)
        return mass, log_q, gradient

    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), row.params)
    return jax.device_get(compute(params, z, log_volume))


@each
@pytest.mark.parametrize(("sample_shape", "batch"), [((), ()), ((4, 5), (2, 3))])
def test_shapes(name, sample_shape, batch):
    row = FAMILIES[name]
    event = jax.tree.map(lambda leaf: leaf.shape[1:], exact(name).grid.z)

    def draw(params, key):
        q = row.make(params)
        z = {"sample": q.sample(key, sample_shape)}
        if row.column != "score only":
            z["rsample"] = q.rsample(key, sample_shape)
        if hasattr(q, "rsample_and_log_prob"):
            z["scored"], log_q = q.rsample_and_log_prob(key, sample_shape)
            assert log_q.shape == (*sample_shape, *batch)
        return z, {name: q.log_prob(draws) for name, draws in z.items()}

    with jax.debug_key_reuse(False):
        z, log_q = jax.eval_shape(draw, batched(row.params, batch), jax.random.key(0))
    for draws in z.values():
        shapes = jax.tree.map(lambda leaf: leaf.shape, draws)
        assert shapes == jax.tree.map(
            lambda shape: (*sample_shape, *batch, *shape), event, is_leaf=is_shape
        )
    assert {leaf.shape for leaf in log_q.values()} == {(*sample_shape, *batch)}
    assert {leaf.dtype for leaf in log_q.values()} == {jnp.dtype(jnp.float32)}
    assert float not in {leaf.dtype for leaf in jax.tree.leaves(z)}


def is_shape(value):
    return isinstance(value, tuple)


@each_but_neighbours
def test_batch_equals_vmap_and_jit_equals_eager_and_q_is_a_pytree(name):
    row = FAMILIES[name]
    params = batched(row.params, (3,))
    q = row.make(params)
    likely = np.argsort(exact(name).mass)[::-1]
    z = at_nodes(name, likely[:: max(1, len(likely) // 40)][:5])
    z = jax.tree.map(lambda x: np.repeat(np.expand_dims(x, 1), 3, axis=1), z)
    eager = q.log_prob(z)

    @jax.jit
    def others(params, q, z):
        mapped = jax.vmap(lambda p, z: row.make(p).log_prob(z), (0, 1), 1)
        return mapped(params, z), row.make(params).log_prob(z), q and q.log_prob(z)

    assert row.is_pytree == (jax.tree.leaves(q)[0] is not q)
    leaves, structure = jax.tree.flatten(q)
    again = jax.tree.unflatten(structure, leaves)
    chex.assert_trees_all_equal(again.log_prob(z), eager)
    for other in others(params, q if row.is_pytree else None, z):
        if other is not None:
            chex.assert_trees_all_close(other, eager, rtol=2e-5, atol=2e-5)


def at_nodes(name, nodes):
    """Events in float32, those that are not counted."""

    def take(leaf):
        leaf = np.asarray(leaf)[nodes]
        return leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf

    return jax.tree.map(take, exact(name).grid.z)


@each
def test_the_density_has_mass_one_and_keeps_its_digits_in_float32(name):
    _, mass, log_q, _ = exact(name)
    assert abs(mass.sum() - 1) < 1e-5
    bulk = mass > 1e-7 * mass.max()
    in_float32 = jax.jit(lambda params, z: FAMILIES[name].make(params).log_prob(z))
    single = in_float32(FAMILIES[name].params, at_nodes(name, bulk))
    assert single.dtype == jnp.float32
    assert (mass[bulk] * np.abs(single - log_q[bulk])).sum() < 1e-4


def p_value(node, grid, mass):
    """Of a chi-square test of draws, given as nodes, against the masses of cells of nodes."""
    cell = np.arange(len(mass))
    if grid.axes:
        per_axis = {1: 30, 2: 10}[len(grid.axes)]
        lattice = mass.reshape(grid.axes)
        bins = []
        for axis in range(len(grid.axes)):
            marginal = lattice.sum(tuple(i for i in range(len(grid.axes)) if i != axis))
            middle = np.cumsum(marginal) - marginal / 2
            bins.append(np.clip((per_axis * middle).astype(int), 0, per_axis - 1))
        coordinates = np.stack(np.meshgrid(*bins, indexing="ij"), -1).reshape(len(mass), -1)
        cell = np.ravel_multi_index(tuple(coordinates.T), (per_axis,) * len(grid.axes))
    num_cells = cell.max() + 1
    expected = np.append(np.bincount(cell, mass), 0.0) * len(node)
    expected[-1] = max(len(node) - expected.sum(), 0.0)
    observed = np.bincount(np.append(cell, num_cells)[node], minlength=num_cells + 1)
    full = expected >= LEAST_EXPECTED
    expected = np.append(expected[full], expected[~full].sum())
    observed = np.append(observed[full], observed[~full].sum())
    if expected[-1] < LEAST_EXPECTED:
        expected = np.append(expected[:-2], expected[-2:].sum())
        observed = np.append(observed[:-2], observed[-2:].sum())
    statistic = ((observed - expected) ** 2 / expected).sum()
    return scipy.stats.chi2.sf(statistic, len(expected) - 1)


class Sampled(NamedTuple):
    """What draws say, in float32."""

    z: object
    mean: dict
    stderr: dict


OBJECTIVES = {
    "reparam": reparam(elbo),
    "vimco": vimco(elbo),
    "held draws": fixed(elbo),  # plain differentiation with the path forgotten: the twin
}
OTHERS = {
    "dreg": dreg(elbo),
    "score": score(elbo),
    "fixed": fixed(log_variance),
}
OF_TWO = {
    "reparam": reparam(iwae),
    "dreg": dreg(iwae),
    "score": score(iwae),
    "vimco": vimco(iwae),
    "wake": wake(iwae),
    "held draws": fixed(iwae),
}


def mean_gradients(row, objectives):
    """``(key, params) -> (mean, stderr)`` of each objective's gradient over replicates."""
    asked = {n: o for n, o in objectives.items() if n in (*row.estimators, "held draws")}

    def gradient(objective, key, params):
        def value(params):
            return objective(key, row.make(params), functools.partial(log_joint, row), K)

        return jax.grad(value)(params)

    def compute(key, params):
        keys = jax.random.split(key, (len(asked), NUM_REPLICATES))
        draws = {
            name: jax.vmap(functools.partial(gradient, objective), (0, None))(keys[i], params)
            for i, (name, objective) in enumerate(asked.items())
        }
        mean = jax.tree.map(lambda g: g.mean(0), draws)
        return mean, jax.tree.map(lambda g: g.std(0) / NUM_REPLICATES**0.5, draws)

    return compute


@functools.cache
def sampled(name) -> Sampled:
    row = FAMILIES[name]
    gradients = mean_gradients(row, OBJECTIVES)

    @jax.jit
    def compute(key, params):
        key, draw_key = jax.random.split(key)
        return row.make(params).sample(draw_key, (NUM_DRAWS,)), *gradients(key, params)

    return Sampled(*jax.device_get(compute(jax.random.key(3), row.params)))


@each_but_neighbours
def test_draws_follow_the_density(name):
    grid, mass, *_ = exact(name)
    z = sampled(name).z
    with jax.enable_x64(True):
        node, stretched = grid.locate(z), grid.stretch(z, grid.locate(z))
    assert p_value(node, grid, mass) > 1e-6
    assert p_value(stretched, grid, mass) < 1e-6  # what the test can see


def worst_score(mean, stderr, truth):
    """The largest distance from the truth, in standard errors, rounding allowed for."""

    def of_leaf(mean, stderr, truth):
        rounding = 1e-4 * np.abs(truth).max(initial=1e-2)
        return (np.abs(mean - truth) / np.hypot(stderr, rounding)).max()

    return max(jax.tree.leaves(jax.tree.map(of_leaf, mean, stderr, truth)))


@each_but_neighbours
def test_estimators_have_the_elbos_gradient(name):
    truth = exact(name).elbo_gradient
    _, mean, stderr = sampled(name)
    for estimator in mean:
        distance = worst_score(mean[estimator], stderr[estimator], truth)
        assert (distance > 5) == (estimator == "held draws"), (estimator, distance)


@pytest.mark.slow
@each
def test_the_other_estimators_have_it_too(name):
    """``fixed(log_variance)`` has that of minus the ELBO."""
    row = FAMILIES[name]
    truth = exact(name).elbo_gradient
    gradients = jax.jit(mean_gradients(row, OTHERS))(jax.random.key(4), row.params)
    mean, stderr = jax.device_get(gradients)
    for estimator in mean:
        sign = -1 if estimator == "fixed" else 1
        target = jax.tree.map(lambda g, s=sign: s * g, truth)
        assert worst_score(mean[estimator], stderr[estimator], target) < 5, estimator


@pytest.mark.slow
@each
def test_every_estimator_has_the_gradient_of_iwae(name):
    """Over all pairs of nodes; the wake phase has the score, by normalised weights."""
    row = FAMILIES[name]

    def iwae_of(mass, log_q, log_w):
        pairs = jnp.logaddexp(log_w[:, None], log_w) - jnp.log(2.0)
        return mass @ pairs @ mass

    def wake_of(mass, log_q, log_w):
        share = mass[:, None] * mass * jax.nn.sigmoid(log_w[:, None] - log_w)
        return jax.lax.stop_gradient(2 * share.sum(1)) @ log_q

    with jax.enable_x64(True):
        grid = row.grid(2 if len(row.grid().axes) == 2 else 4)
        mass, *_ = exact_gradient(row, lambda m, *_: m.sum(), grid.z, grid.log_volume)
        likely = mass > 1e-10 * mass.max()
        z = jax.tree.map(lambda leaf: leaf[likely], grid.z)
        *_, truth = exact_gradient(row, iwae_of, z, grid.log_volume[likely])
        *_, of_wake = exact_gradient(row, wake_of, z, grid.log_volume[likely])
    gradients = jax.jit(mean_gradients(row, OF_TWO))(jax.random.key(5), row.params)
    mean, stderr = jax.device_get(gradients)
    for estimator in mean:
        target = of_wake if estimator == "wake" else truth
        distance = worst_score(mean[estimator], stderr[estimator], target)
        assert (distance > 5) == (estimator == "held draws"), (estimator, distance)


WITHOUT_PATH = [name for name, row in FAMILIES.items() if row.column == "score only"]


@pytest.mark.parametrize("estimator", [reparam, dreg])
@pytest.mark.parametrize("name", WITHOUT_PATH)
def test_what_claims_no_path_refuses_estimators_that_need_one(name, estimator):
    row = FAMILIES[name]
    with pytest.raises(ValueError, match=f"{estimator.__name__}: q must be reparameterised"):
        estimator(elbo)(jax.random.key(0), row.make(row.params), lambda z: log_joint(row, z), K)
