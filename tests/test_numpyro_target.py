"""The unconstrained log-density of NumPyro models, against sums made by hand."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import linen, nnx
from jax.flatten_util import ravel_pytree
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import flax_module, random_flax_module, random_nnx_module
from numpyro.distributions import constraints
from numpyro.handlers import mask, reparam, scale, seed, substitute
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import constrain_fn, potential_energy
from scipy import stats
from scipy.special import expit, gammaln

from vi.numpyro._target import log_density

Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
NORMAL = stats.norm.logpdf


def schools(J, sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", J):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.deterministic("above", theta - mu)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def schools_by_hand(u):
    tau = np.exp(u["tau"])
    prior = NORMAL(u["mu"], 0, 5) + stats.halfcauchy.logpdf(tau, 0, 5) + u["tau"]
    return prior + NORMAL(u["theta"], u["mu"], tau).sum() + NORMAL(Y, u["theta"], SIGMA).sum()


def without_centre(*args, **kwargs):
    return reparam(schools, config={"theta": LocScaleReparam(0.0)})(*args, **kwargs)


def without_centre_by_hand(u):
    tau = np.exp(u["tau"])
    prior = NORMAL(u["mu"], 0, 5) + stats.halfcauchy.logpdf(tau, 0, 5) + u["tau"]
    x = u["theta_decentered"]
    return prior + NORMAL(x).sum() + NORMAL(Y, u["mu"] + tau * x, SIGMA).sum()


def supports(y):
    """A support that depends on a latent, a simplex, correlations, an ordered vector."""
    sigma = numpyro.sample("sigma", dist.HalfCauchy(1.0))
    width = numpyro.sample("width", dist.Uniform(0, sigma))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([1.0, 2.0, 3.5])))
    corr = numpyro.sample("corr", dist.LKJCholesky(3, 1.5))
    ordered = constraints.ordered_vector
    cuts = numpyro.sample("cuts", dist.ImproperUniform(ordered, (), (3,)))
    numpyro.factor("pull", -0.5 * jnp.sum(cuts**2))
    numpyro.sample("y", dist.Normal(corr @ weights + cuts, width).to_event(1), obs=y)


def supports_by_hand(u, y):
    sigma = np.exp(u["sigma"])
    total = stats.halfcauchy.logpdf(sigma) + u["sigma"]
    s = expit(u["width"])
    width = sigma * s
    total += -np.log(sigma) + np.log(sigma * s * (1 - s))
    # stick-breaking: the sticks of a Dirichlet are independent beta variables
    s = expit(u["weights"] - np.log([2, 1]))
    total += (stats.beta.logpdf(s, [1, 2], [5.5, 3.5]) + np.log(s * (1 - s))).sum()
    weights = np.array([s[0], (1 - s[0]) * s[1], (1 - s[0]) * (1 - s[1])])
    # a vine: the partial correlations of an LKJ matrix are independent, and tanh(u)
    r, shape = np.tanh(u["corr"]), np.array([2.0, 2.0, 1.5])
    total += (stats.beta.logpdf((1 + r) / 2, shape, shape) - np.log(2) + np.log1p(-(r**2))).sum()
    root = np.sqrt(1 - r**2)
    corr = np.array([[1, 0, 0], [r[0], root[0], 0], [r[1], root[1] * r[2], root[1] * root[2]]])
    cuts = np.cumsum([u["cuts"][0], *np.exp(u["cuts"][1:])])
    total += u["cuts"][1:].sum() - 0.5 * (cuts**2).sum()
    return total + NORMAL(y, corr @ weights + cuts, width).sum()


def series(y):
    width = numpyro.sample("width", dist.HalfNormal(1.0))
    first = numpyro.sample("first", dist.Normal())

    def body(x, y):
        x = numpyro.sample("x", dist.Uniform(x - width, x + width))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)
        numpyro.deterministic("twice", 2 * x)
        return x, None

    scan(body, first, y)


def series_by_hand(u, y):
    width, x = np.exp(u["width"]), u["first"]
    total = stats.halfnorm.logpdf(width) + u["width"] + NORMAL(x)
    for step, seen in zip(u["x"], y, strict=True):
        s = expit(step)
        x = x - width + 2 * width * s
        total += np.log(s * (1 - s)) + NORMAL(seen, x)
    return total


def improper(y):
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    tau = numpyro.sample("tau", dist.ImproperUniform(constraints.positive, (), ()))
    numpyro.sample("y", dist.Normal(mu, tau).expand([8]).to_event(1), obs=y)


def improper_by_hand(u):
    return u["tau"] + NORMAL(Y, u["mu"], np.exp(u["tau"])).sum()


SERIES = np.array([0.3, 1.0, -0.2, 0.7])
ORDERED = np.array([-1.0, 0.2, 0.9])
BY_HAND = {
    "eight schools": (schools, (8, SIGMA, Y), schools_by_hand),
    "eight schools, not centred": (without_centre, (8, SIGMA, Y), without_centre_by_hand),
    "supports": (supports, (ORDERED,), functools.partial(supports_by_hand, y=ORDERED)),
    "series": (series, (SERIES,), functools.partial(series_by_hand, y=SERIES)),
    "improper": (improper, (Y,), improper_by_hand),
}


@functools.cache
def target_of(name):
    """A target made in float64, of the first table, once."""
    model, args, _ = BY_HAND[name]
    return log_density(model, *args)


def point(target, seed=0):
    """A point of size about one."""
    flat, unravel = ravel_pytree(target.initial)
    return unravel(0.8 * jax.random.normal(jax.random.key(seed), flat.shape))


def as_numpy(u):
    return {name: np.asarray(value) for name, value in u.items()}


@pytest.mark.parametrize("name", BY_HAND)
def test_value_is_the_sum_by_hand(x64, name):
    target, by_hand = target_of(name), BY_HAND[name][2]
    density = jax.jit(target.log_density)
    for number in range(3):
        u = point(target, number)
        value = density(u, target.data)
        assert value.shape == ()
        chex.assert_trees_all_close(value, by_hand(as_numpy(u)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_density_without_jacobians_would_be_seen(x64, name):
    model, args, by_hand = BY_HAND[name]
    target = target_of(name)

    @jax.jit
    def forgetful(u):
        values = target.constrain(u, target.data)
        return numpyro.infer.util.log_density(model, args, {}, values)[0]

    u = point(target)
    assert abs(forgetful(u) - by_hand(as_numpy(u))) > 1e-2


def test_a_support_kept_from_the_first_point_would_be_seen(x64):
    target = target_of("supports")
    u = point(target)
    frozen = u | {"width": target.initial["width"]}
    values = jax.jit(target.constrain)(frozen, target.data)
    chex.assert_trees_all_close(values["width"], 0.5 * jnp.exp(u["sigma"]), rtol=1e-12)
    assert abs(values["width"] - 0.5) > 1e-2


@pytest.mark.parametrize("name", BY_HAND)
def test_gradient_is_that_of_differences(x64, name):
    target = target_of(name)
    start, unravel = ravel_pytree(point(target))
    density = lambda flat: target.log_density(unravel(flat), target.data)  # noqa: E731
    steps = 1e-5 * jnp.eye(start.size)
    up, down = jax.jit(jax.vmap(jax.vmap(density)))(jnp.stack([start + steps, start - steps]))
    gradient = jax.jit(jax.grad(density))(start)
    chex.assert_trees_all_close(gradient, (up - down) / 2e-5, rtol=1e-6, atol=1e-6)


def integral(density):
    """Over the real line, by the trapezoid rule."""
    u = jnp.linspace(-40.0, 40.0, 8001)
    return 0.01 * jnp.exp(jax.jit(jax.vmap(density))(u)).sum()


def coin(flips):
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    with numpyro.plate("N", len(flips)):
        numpyro.sample("flips", dist.Bernoulli(p), obs=flips)


def test_it_integrates_to_the_evidence(x64):
    flips = jnp.array([1.0, 0, 1, 1, 0, 1])
    target = log_density(coin, flips)
    beta = lambda a, b: gammaln(a) + gammaln(b) - gammaln(a + b)  # noqa: E731
    evidence = np.exp(beta(6, 5) - beta(2, 3))
    found = integral(lambda u: target.log_density({"p": u}, target.data))
    chex.assert_trees_all_close(found, evidence, rtol=1e-10)
    without = integral(
        lambda u: target.log_density({"p": u}, target.data) + 2 * jax.nn.softplus(u) - u
    )
    assert abs(without / evidence - 1) > 0.1


def scaled():
    with scale(scale=2.0):
        numpyro.sample("x", dist.HalfNormal(1.0))


def test_a_scale_is_that_of_the_density_and_not_of_its_coordinates(x64):
    target = log_density(scaled)
    exact = 1 / np.sqrt(np.pi)  # the integral of 4 N(x; 0, 1)^2 over x > 0
    ours = integral(lambda u: target.log_density({"x": u}, target.data))
    chex.assert_trees_all_close(ours, exact, rtol=1e-10)
    numpyros = integral(lambda u: -potential_energy(scaled, (), {}, {"x": u}))
    assert abs(numpyros / exact - 1) > 0.1


def masked():
    with mask(mask=False):
        numpyro.sample("x", dist.HalfNormal(1.0))
    numpyro.factor("decay", -(numpyro.sample("rate", dist.Normal()) ** 2))


def test_a_mask_leaves_the_jacobian(x64):
    target = log_density(masked)
    u = {"x": jnp.array(0.7), "rate": jnp.array(0.3)}
    value = jax.jit(target.log_density)(u, target.data)
    chex.assert_trees_all_close(value, 0.7 + NORMAL(0.3) - 0.09, rtol=1e-12)


def plated(x, y, observed=None):
    with numpyro.plate("D", 3):
        w = numpyro.sample("w", dist.StudentT(3.0, 0.0, 1.0))
        s = numpyro.sample("s", dist.Gamma(2.0, 1.0))
    with numpyro.plate("N", x.shape[0]), mask(mask=x[:, 0] > 0):
        numpyro.sample("y", dist.Normal(x @ (w * s), 1), obs=y, obs_mask=observed)


def scan_of_plates(y):
    def body(x, y):
        with numpyro.plate("P", 3):
            x = numpyro.sample("x", dist.LogNormal(jnp.log(x), 1))
            numpyro.sample("y", dist.Normal(x, 1), obs=y)
        return x, None

    scan(body, jnp.ones(3), y)


def mixture(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("K", 2):
        loc = numpyro.sample("loc", dist.Normal(0, 3))
    with numpyro.plate("N", len(y)):
        parts = dist.Normal(loc, 1.0)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=y)


X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
AS_NUMPYRO = {
    "plates and a mask": (plated, (X, X.sum(1))),
    "an obs_mask": (plated, (X, X.sum(1), X[:, 1] > 0)),
    "a scan of plates": (scan_of_plates, (X,)),
    "a mixture": (mixture, (X[:, 0],)),
    "eight schools": (schools, (8, SIGMA, Y)),
}


@pytest.mark.parametrize("name", AS_NUMPYRO)
def test_without_scales_it_is_numpyros_potential(name):
    model, args = AS_NUMPYRO[name]
    target = log_density(model, *args)
    u = point(target)
    ours = jax.jit(target.log_density)(u, target.data)
    theirs = jax.jit(lambda u: -potential_energy(model, args, {}, u))(u)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5)
    ours = jax.jit(target.constrain)(u, target.data)
    replay = functools.partial(constrain_fn, model, args, {}, return_deterministic=True)
    theirs = jax.jit(replay)(u)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


# Data as arguments


def test_other_data_of_the_same_shape_compile_nothing():
    traced = chex.assert_max_traces(schools, n=3)  # two to make the target, one to compile
    target = log_density(traced, 8, SIGMA, y=Y)
    density, u = jax.jit(target.log_density), point(target)
    for shift in range(3):
        data = jax.tree.map(lambda leaf, shift=shift: leaf + shift, target.data)
        again = log_density(schools, 8, SIGMA + shift, y=Y + shift)
        chex.assert_trees_all_close(
            density(u, data), jax.jit(again.log_density)(u, again.data), rtol=1e-6
        )
    with pytest.raises(AssertionError, match="traced"):
        jax.jit(lambda u, data: target.log_density(u, data))(u, target.data)


def test_only_arrays_are_data():
    def model(size, y, *, name, transform, flag, none, table):
        assert (size, name, flag, none) == (3, "mu", True, None)
        mu = numpyro.sample(name, dist.Normal(0, transform(2.0)).expand([size]).to_event(1))
        numpyro.factor("f", -jnp.sum((mu - table["y"]) ** 2) + y.sum())

    options = {"name": "mu", "transform": np.sqrt, "flag": True, "none": None}
    target = log_density(model, 3, Y, table={"y": np.ones(3), "label": "b"}, **options)
    expected = (None, Y), dict.fromkeys(options) | {"table": {"y": np.ones(3), "label": None}}
    chex.assert_trees_all_close(target.data, jax.tree.map(jnp.asarray, expected))
    assert jax.tree.structure(target.data) == jax.tree.structure(expected)
    assert np.isfinite(jax.jit(target.log_density)(target.initial, target.data))


def test_points_and_data_sets_go_through_vmap():
    target = log_density(schools, 8, SIGMA, Y)
    points = jax.vmap(lambda scale: jax.tree.map(lambda x: scale + x, target.initial))(
        jnp.array([-0.3, 0.0, 0.5])
    )
    sets = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), target.data)
    over_points = jax.vmap(target.log_density, (0, None))
    together = jax.jit(jax.vmap(over_points, (None, 0)))(points, sets)
    assert together.shape == (2, 3)
    alone = [
        jax.jit(target.log_density)(
            jax.tree.map(lambda leaf, j=j: leaf[j], points),
            jax.tree.map(lambda leaf, i=i: leaf[i], sets),
        )
        for i in range(2)
        for j in range(3)
    ]
    chex.assert_trees_all_close(together.ravel(), jnp.stack(alone), rtol=1e-5)
    values = jax.jit(jax.vmap(target.constrain, (0, None)))(points, target.data)
    assert jax.tree.map(jnp.shape, values) == {
        "mu": (3,), "tau": (3,), "theta": (3, 8), "above": (3, 8),
    }  # fmt: skip


def test_names_are_in_the_order_of_the_flat_point(x64):
    target = target_of("supports")
    flat, unravel = ravel_pytree(target.initial)
    assert target.names == (
        "corr[0]", "corr[1]", "corr[2]", "cuts[0]", "cuts[1]", "cuts[2]",
        "sigma", "weights[0]", "weights[1]", "width",
    )  # fmt: skip
    for place, name in enumerate(target.names):
        moved = unravel(flat.at[place].add(1.0))
        site, _, index = name.partition("[")
        changed = {
            s: np.flatnonzero(np.ravel(moved[s])).tolist() for s in moved if np.any(moved[s])
        }
        assert changed == {site: [int(index[:-1]) if index else 0]}
    matrix = log_density(scan_of_plates, X)
    assert matrix.names[:4] == ("x[0,0]", "x[0,1]", "x[0,2]", "x[1,0]")


def test_constrain_gives_latents_on_their_supports_and_deterministic_sites(x64):
    target = target_of("series")
    u = point(target)
    values = jax.jit(target.constrain)(u, target.data)
    assert sorted(values) == ["first", "twice", "width", "x"]
    chex.assert_trees_all_close(values["twice"], 2 * values["x"])
    x = np.concatenate([values["first"][None], values["x"]])
    assert (np.abs(np.diff(x)) < values["width"]).all()
    target = target_of("supports")
    values = jax.jit(target.constrain)(point(target), target.data)
    assert values["weights"].sum() == pytest.approx(1)
    chex.assert_trees_all_close((values["corr"] ** 2).sum(1), jnp.ones(3))
    assert (np.diff(values["cuts"]) > 0).all()
    assert 0 < values["width"] < values["sigma"]


# Modules


class Network(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.linear(x))).sum(-1)


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(x).sum(-1)


def regression(net, x, y):
    numpyro.sample("y", dist.Normal(net(x), 1).to_event(1), obs=y)


class Linear(nnx.Linear):
    def __call__(self, x):
        return super().__call__(x).sum(-1)


def nnx_regression(module, x, y):
    regression(random_nnx_module("net", module, dist.Normal(0, 2)), x, y)


def linen_regression(x, y):
    regression(random_flax_module("net", Dense(), dist.Normal(0, 2), input_shape=(3,)), x, y)


def trained_regression(x, y):
    numpyro.sample("b", dist.Normal())
    regression(flax_module("net", Dense(), input_shape=(3,)), x, y)


LINEAR = Linear(3, 2, rngs=nnx.Rngs(0))


def linear_by_hand(u, weight, bias):
    prediction = (X @ u[weight] + u[bias]).sum(-1)
    prior = sum(NORMAL(leaf, 0, 2).sum() for leaf in u.values())
    return prior + NORMAL(X[:, 0], prediction, 1).sum()


@pytest.mark.parametrize(
    ("model", "weight", "bias"),
    [
        (functools.partial(nnx_regression, LINEAR), "net/kernel", "net/bias"),
        (linen_regression, "net/Dense_0.kernel", "net/Dense_0.bias"),
    ],
)  # fmt: skip
def test_random_modules_are_their_weights(model, weight, bias):
    target = log_density(model, X, X[:, 0])
    u = point(target)
    for _ in range(2):  # a module that kept the first trace would fail in the second
        value = jax.jit(lambda u, data: target.log_density(u, data))(u, target.data)
        by_hand = linear_by_hand(as_numpy(u), weight, bias)
        chex.assert_trees_all_close(value, np.float32(by_hand), rtol=1e-5)


def test_a_module_in_evaluation_is_a_density_and_in_training_none():
    module = Network(nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"must stay as it is \(got site net\$state\); put the module"
    ):
        log_density(functools.partial(nnx_regression, module), X, X[:, 0])
    module.eval()
    target = log_density(functools.partial(nnx_regression, module), X, X[:, 0])
    first, second = (
        jax.jit(lambda u: target.log_density(u, target.data))(target.initial) for _ in range(2)
    )
    assert first == second


def test_parameters_are_fixed_by_substitution():
    with pytest.raises(ValueError, match=r"must have a value \(got site net\$params\); fix it"):
        log_density(trained_regression, X, X[:, 0])
    net = {"Dense_0": {"kernel": 0.1 * jnp.arange(6.0).reshape(3, 2), "bias": jnp.ones(2)}}
    target = log_density(substitute(trained_regression, {"net$params": net}), X, X[:, 0])
    prediction = np.asarray(X @ net["Dense_0"]["kernel"] + net["Dense_0"]["bias"]).sum(-1)
    expected = NORMAL(0) + NORMAL(X[:, 0], prediction).sum()
    chex.assert_trees_all_close(
        jax.jit(target.log_density)(target.initial, target.data), np.float32(expected), rtol=1e-5
    )
    assert target.names == ("b",)


def test_what_the_user_has_substituted_is_no_latent():
    target = log_density(substitute(schools, {"tau": jnp.array(2.0)}), 8, SIGMA, Y)
    assert "tau" not in target.names
    whole = log_density(schools, 8, SIGMA, Y)
    u = point(target)
    expected = jax.jit(whole.log_density)(u | {"tau": jnp.log(2.0)}, whole.data) - jnp.log(2.0)
    value = jax.jit(target.log_density)(u, target.data)
    chex.assert_trees_all_close(value, expected, rtol=1e-5)


# Refusals


def subsampled():
    with numpyro.plate("N", 9, subsample_size=3), numpyro.plate("M", 4):
        numpyro.sample("z", dist.Normal())


def discrete():
    numpyro.sample("b", dist.Bernoulli(0.5))
    numpyro.sample("a", dist.Poisson(2.0))
    numpyro.sample("z", dist.Normal())


def parameters():
    numpyro.sample("z", dist.Normal())
    numpyro.param("b", jnp.ones(3))
    numpyro.param("a", lambda key: jax.random.normal(key))


def noisy():
    noise = jax.random.normal(numpyro.prng_key())
    numpyro.factor("f", noise * numpyro.sample("z", dist.Normal()))


def steep(y):
    z = numpyro.sample("z", dist.Normal())
    numpyro.sample("y", dist.Uniform(1, 2), obs=y)
    numpyro.factor("f", jnp.log(z))


REFUSED = {
    "a subsample": (
        lambda: log_density(subsampled),
        "every site must be a full plate (got site N); pass subsample_size=None",
    ),
    "a subsample in a seeded model": (
        lambda: log_density(seed(subsampled, jax.random.key(0))),
        "every site must be a full plate (got site N)",
    ),
    "discrete latents": (
        lambda: log_density(discrete),
        "every site must be continuous (got sites a, b); sum it out, or use svi_step",
    ),
    "a Delta": (
        lambda: log_density(lambda: numpyro.sample("z", dist.Delta(jnp.zeros(3)).to_event(1))),
        "every site must have a density (got site z); use numpyro.deterministic in place of Delta",
    ),
    "a sphere": (
        lambda: log_density(lambda: numpyro.sample("z", dist.ProjectedNormal(jnp.ones(3)))),
        "site z must have a support that R^D maps onto (got Sphere()); use ",
    ),
    "parameters": (
        lambda: log_density(parameters),
        "must have a value (got sites a, b); fix it: numpyro.handlers.substitute(model, data=",
    ),
    "noise": (lambda: log_density(noisy), "model must draw nothing (got numpyro.prng_key); put"),
    "nothing to infer": (
        lambda: log_density(lambda y: numpyro.sample("y", dist.Normal(), obs=y), 1.0),
        "model must have a latent site (got none); give it a numpyro.sample without obs",
    ),
    "data out of support": (
        lambda: log_density(steep, jnp.array(3.0)),
        "every site must be finite at the initial point (got sites f, y); see that the data lie",
    ),
    "traced data": (
        lambda: jax.jit(lambda y: log_density(coin, y).initial)(jnp.ones(3)),
        "data must be concrete (got traced [0][0]); make the target outside",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    bad, message = REFUSED[name]
    with pytest.raises(ValueError, match="^log_density: .*" + re.escape(message)):
        bad()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u, d: ({"mu": u["mu"]}, d), "u['theta'] [8] (got no u['tau']"),
        (lambda u, d: (jax.tree.map(lambda x: x[None], u), d), "(got u['mu'] [1], u['tau'] [1], "),
        (lambda u, d: (u | {"nu": u["mu"]}, d), "u must hold no u['nu'] (got u['nu'] []); pass"),
        (lambda u, d: (u, ((None, d[0][1], Y[:7]), {})), "[0][2] [8] (got data[0][2] [7])"),
        (lambda u, d: (u, d[0]), "data must hold "),
    ],
)  # fmt: skip
def test_other_shapes_are_refused(change, message):
    target = log_density(schools, 8, SIGMA, Y)
    for function in (target.log_density, target.constrain):
        with pytest.raises(ValueError, match=re.escape(message)):
            function(*change(target.initial, target.data))
