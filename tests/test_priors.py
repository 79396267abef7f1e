"""Every prior: an exact density, draws that follow it, and a derivative for what is learned."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import sklearn.gaussian_process.kernels as sk
from flax import nnx
from numpyro.distributions import kl_divergence

import vi
from tests.priors import PRIORS
from tests.test_family_table import p_value

each = pytest.mark.parametrize("name", PRIORS)
NUM_DRAWS = 20_000


@functools.cache
def exact(name):
    """The grid, the masses and the log-densities of its nodes, in float64."""
    row = PRIORS[name]
    with jax.enable_x64(True):
        grid = row.grid()
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), row.params)
        log_p = jax.device_get(jax.jit(lambda p, z: row.make(p).log_prob(z))(params, grid.z))
        assert log_p.dtype == np.float64
        return grid, np.exp(log_p + grid.log_volume), log_p


def events(grid, nodes):
    def take(leaf):
        leaf = np.asarray(leaf)[nodes]
        return leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf

    return jax.tree.map(take, grid.z)


@each
def test_the_density_has_mass_one_its_digits_in_float32_and_draws_that_follow_it(name):
    row, (grid, mass, log_p) = PRIORS[name], exact(name)
    assert abs(mass.sum() - 1) < 1e-5
    bulk = mass > 1e-7 * mass.max()

    @jax.jit
    def compute(params, z, key):
        prior = row.make(params)
        return prior.log_prob(z), prior.sample(key, (NUM_DRAWS,))

    single, z = compute(row.params, events(grid, bulk), jax.random.key(3))
    assert single.dtype == jnp.float32
    assert (mass[bulk] * np.abs(single - log_p[bulk])).sum() < 1e-4
    with jax.enable_x64(True):
        node = grid.locate(z)
        # no relabelling of equal outcomes would be seen
        stretched = grid.stretch(z, node) if np.ptp(mass) else np.maximum(node - 1, 0)
    assert p_value(node, grid, mass) > 1e-6
    assert p_value(stretched, grid, mass) < 1e-6  # what the test can see


@each
def test_shapes_and_that_jit_and_vmap_change_nothing(name):
    row, (grid, mass, _) = PRIORS[name], exact(name)
    likely = np.argsort(mass)[::-1]
    z = events(grid, likely[:: max(1, len(likely) // 40)][:6])
    twice = jax.tree.map(lambda leaf: leaf.reshape(2, 3, *leaf.shape[1:]), z)
    prior = row.make(row.params)
    eager = prior.log_prob(twice)
    assert eager.shape == (2, 3)

    @jax.jit
    def others(params, z, key):
        mapped = jax.vmap(jax.vmap(lambda z: row.make(params).log_prob(z)))(z)
        return row.make(params).log_prob(z), mapped, row.make(params).sample(key, (4, 5))

    whole, mapped, draws = others(row.params, twice, jax.random.key(0))
    for other in (whole, mapped):
        np.testing.assert_allclose(other, eager, rtol=2e-5, atol=2e-5)
    shapes = jax.tree.map(lambda leaf: leaf.shape, draws)
    assert shapes == jax.tree.map(lambda leaf: (4, 5, *leaf.shape[1:]), z)


@each
def test_what_is_learned_has_the_derivative_of_a_normalised_density(name):
    """The score has mean zero: a missing constant would show."""
    row, (grid, _, _) = PRIORS[name], exact(name)
    if not row.params:
        pytest.skip("nothing to learn")

    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), row.params)

        @jax.jit
        @jax.grad
        def of_mass(params, z, log_volume):
            return jnp.exp(row.make(params).log_prob(z) + log_volume).sum()

        @jax.jit
        @jax.grad
        def of_squares(params, z, log_volume):  # a twin: it is not constant in any of them
            return jnp.exp(2 * row.make(params).log_prob(z) + log_volume).sum()

        gradient = of_mass(params, grid.z, grid.log_volume)
        other = of_squares(params, grid.z, grid.log_volume)
    if name == "scale_mixture":  # its shares are not moved along the simplex
        gradient.pop("shares")
    assert all(np.abs(leaf).max() < 1e-4 for leaf in jax.tree.leaves(gradient))
    assert any(np.abs(leaf).max() > 1e-2 for leaf in jax.tree.leaves(other))


KLS = {
    "normal, standard normal": (
        vi.families.normal(jnp.array([0.3, -0.4]), scale=jnp.array([0.7, 1.2])),
        dist.Normal(jnp.zeros(2), 1.0).to_event(1),
    ),
    "normal, laplace_softmax": (
        vi.families.normal(jnp.array([0.3, -0.4]), scale=jnp.array([0.7, 1.2])),
        vi.priors.laplace_softmax(jnp.array([2.1, 3.0])),
    ),
    "full_rank, MultivariateNormal": (
        vi.families.full_rank(
            jnp.array([0.3, -0.4]), scale_tril=jnp.array([[0.9, 0.0], [0.5, 0.7]])
        ),
        dist.MultivariateNormal(jnp.zeros(2), scale_tril=jnp.array([[1.1, 0.0], [-0.3, 0.8]])),
    ),
    "Dirichlet, Dirichlet": (
        dist.Dirichlet(jnp.array([2.1, 3.0, 2.5])),
        dist.Dirichlet(jnp.array([1.0, 1.5, 0.8])),
    ),
    "Gamma, Gamma": (dist.Gamma(1.7, 1.3), dist.Gamma(2.2, 0.9)),
    "Beta, Beta": (dist.Beta(1.6, 2.3), dist.Beta(0.9, 1.2)),
    "Categorical, uniform_codes": (
        dist.Categorical(probs=jnp.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])).to_event(1),
        vi.priors.uniform_codes(3, event_shape=(2,)),
    ),
}


@pytest.mark.parametrize("name", KLS)
def test_an_analytic_kl_is_that_of_draws(name):
    q, p = KLS[name]

    @jax.jit
    def compute(key):
        z = q.sample(key, (100_000,))
        return q.log_prob(z) - p.log_prob(z)

    ratios = np.asarray(compute(jax.random.key(0)), float)
    stderr = ratios.std() / len(ratios) ** 0.5
    assert abs(ratios.mean() - kl_divergence(q, p)) < 5 * stderr
    if "uniform" not in name:  # the twin: the other direction, where it is finite
        assert abs(ratios.mean() - kl_divergence(p, q)) > 5 * stderr


def test_an_ar1_is_its_dense_normal_and_the_ornstein_uhlenbeck_process():
    with jax.enable_x64(True):
        a, s = np.array([0.8, -0.5]), np.array([0.4, 1.1])
        z = np.random.default_rng(0).normal(size=(7, 6, 2))
        ours = vi.priors.ar1(6, coefficient=a, scale=s).log_prob(z)
        lag = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
        dense = sum(
            scipy.stats.multivariate_normal(
                np.zeros(6), s[d] ** 2 / (1 - a[d] ** 2) * a[d] ** lag
            ).logpdf(z[..., d])
            for d in range(2)
        )
        np.testing.assert_allclose(ours, dense, rtol=1e-12)
        kernel = vi.priors.matern12(-1 / np.log(0.8), variance=s[0] ** 2 / (1 - 0.64))
        process = vi.priors.gaussian_process(jnp.arange(6.0), kernel, size=1, jitter=0.0)
        one = vi.priors.ar1(6, coefficient=a[:1], scale=s[:1])
        np.testing.assert_allclose(
            process.log_prob(z[..., :1]), one.log_prob(z[..., :1]), rtol=1e-10
        )


def test_draws_of_a_long_chain_have_its_covariance_at_every_lag():
    prior = vi.priors.ar1(12, coefficient=jnp.array([0.8]), scale=jnp.array([0.6]))
    z = np.asarray(jax.jit(lambda key: prior.sample(key, (50_000,)))(jax.random.key(0)))[..., 0]
    for t in range(12):
        products = z[:, 0] * z[:, t]
        stderr = products.std() / len(z) ** 0.5
        assert abs(products.mean() - 0.8**t) < 5 * stderr
        assert abs(products.mean() - 0.9 * 0.8**t) > 5 * stderr or t > 5


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (vi.priors.squared_exponential(0.7, variance=1.3), 1.3 * sk.RBF(0.7)),
        (vi.priors.matern12(0.7, variance=1.3), 1.3 * sk.Matern(0.7, nu=0.5)),
        (vi.priors.matern32(0.7, variance=1.3), 1.3 * sk.Matern(0.7, nu=1.5)),
        (vi.priors.matern52(0.7, variance=1.3), 1.3 * sk.Matern(0.7, nu=2.5)),
        (vi.priors.cauchy(0.7), sk.RationalQuadratic(0.7 / 2**0.5, alpha=1.0)),
        (vi.priors.periodic(0.9, 0.7, variance=1.3), 1.3 * sk.ExpSineSquared(0.7, 0.9)),
    ],
)
def test_kernels_and_processes_are_those_of_scikit_learn(ours, theirs):
    with jax.enable_x64(True):
        times = np.sort(np.random.default_rng(0).uniform(0, 3, 8))
        covariance = theirs(times[:, None])
        np.testing.assert_allclose(ours(times[:, None], times[None]), covariance, rtol=1e-12)
        z = np.random.default_rng(1).normal(size=(5, 8, 2))
        prior = vi.priors.gaussian_process(times, ours, size=2, jitter=0.1)
        normal = scipy.stats.multivariate_normal(
            np.zeros(8), covariance + 0.1 * np.diag(np.diag(covariance))
        )
        both = normal.logpdf(z[..., 0]) + normal.logpdf(z[..., 1])
        np.testing.assert_allclose(prior.log_prob(z), both, rtol=1e-10)


def test_laplace_softmax_is_the_laplace_approximation_of_the_dirichlet():
    """Its mode, and the inverse of its curvature there, both in the basis of the softmax."""
    with jax.enable_x64(True):
        alpha = jnp.array([2.1, 3.0, 0.7, 5.0])
        prior = vi.priors.laplace_softmax(alpha)

        def log_density(logits):
            return (alpha * jax.nn.log_softmax(logits)).sum()

        np.testing.assert_allclose(jax.grad(log_density)(prior.mean), 0.0, atol=1e-12)
        curvature = -jax.hessian(log_density)(prior.mean)
        np.testing.assert_allclose(prior.variance, np.diag(np.linalg.pinv(curvature)), rtol=1e-9)


@pytest.mark.parametrize("weight", [1e-18, 1e-6, 1e-3, 0.1, 0.41, 0.43, 1.0, 30.0, 1e6, 1e15])
def test_the_horseshoe_is_the_integral_over_its_local_scales(weight):
    scale = 0.3

    def integrand(log_local):
        local = np.exp(log_local)
        normal = scipy.stats.norm.logpdf(weight, 0, scale * local)
        return np.exp(normal + np.log(2 / np.pi) - np.log1p(local**2) + log_local)

    middle = np.log(weight / scale)
    points = sorted({0.0, middle})
    edges = [-90.0, *points, 90.0]
    truth = sum(
        scipy.integrate.quad(integrand, a, b, epsabs=0, epsrel=1e-11, limit=500)[0]
        for a, b in itertools.pairwise(edges)
    )
    single = vi.priors.horseshoe(scale, event_shape=()).log_prob(jnp.float32(weight))
    with jax.enable_x64(True):
        prior = vi.priors.horseshoe(scale, event_shape=())
        log_p, slope = jax.value_and_grad(prior.log_prob)(float(weight))
        step = 1e-4 * weight
        ends = [float(prior.log_prob(w)) for w in (weight + step, weight - step)]
    np.testing.assert_allclose(log_p, np.log(truth), rtol=1e-8)
    np.testing.assert_allclose(single, log_p, rtol=1e-5)
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-4)


def test_the_horseshoe_at_its_pole_is_infinite_and_no_nan():
    prior = vi.priors.horseshoe(1.0, event_shape=())
    value, slope = jax.value_and_grad(prior.log_prob)(0.0)
    assert value == np.inf
    assert slope == 0


DATUM = 0.6


def encode(params, x):
    loc = params["slope"] * x + params["shift"]
    return vi.families.normal(loc, scale=0.5 + 0.1 * x**2)


def vamp_log_joint(params, z):
    prior = vi.priors.VampPrior(params["raw"])(lambda x: encode(params, x))
    return prior.log_prob(z) + dist.Normal(jnp.tanh(z[..., 0]), 0.7).log_prob(DATUM)


@pytest.mark.parametrize(
    "estimator",
    [
        vi.gradients.dreg,
        pytest.param(vi.gradients.reparam, marks=pytest.mark.slow),
        pytest.param(vi.gradients.vimco, marks=pytest.mark.slow),
    ],
)
def test_an_estimator_keeps_the_vamp_priors_own_path_through_the_encoder(estimator):
    params = {
        "slope": jnp.array([0.8]),
        "shift": jnp.array([0.2]),
        "raw": jnp.array([[-1.0], [0.4], [1.5]]),
    }
    z = np.linspace(-7, 7, 4001)[:, None]

    def make_q(params):
        return encode(params, jnp.array([DATUM]))

    def elbo(params, prior_params):
        log_q = make_q(params).log_prob(z)
        return (jnp.exp(log_q) * (vamp_log_joint(prior_params, z) - log_q)).sum() * (z[1] - z[0])[0]

    truth = jax.jit(jax.grad(lambda p: elbo(p, p)))(params)
    without = jax.jit(jax.grad(elbo))(params, params)  # the encoder's role in the prior forgotten

    def check(truth):
        return vi.testing.check_gradient(
            estimator(vi.bounds.elbo),
            make_q,
            params,
            lambda p: lambda z: vamp_log_joint(p, z),
            key=jax.random.key(0),
            num_samples=2,
            num_replicates=4000,
            truth=truth,
            batch_size=2000,
        )

    assert check(truth).passed
    assert not check(without).passed


def test_a_hierarchy_is_exact_where_everything_is_linear_whichever_way_q_runs():
    """``z2 ~ N(0, 1), z1 ~ N(z2, 1), x ~ N(z1, 1)``: weights of the exact posterior are p(x)."""
    x = 1.3
    prior = vi.priors.hierarchical(
        {
            "z2": dist.Normal(jnp.zeros(1), 1.0).to_event(1),
            "z1": lambda z2: dist.Normal(z2, 1.0).to_event(1),
        }
    )
    q = vi.families.chain(
        {
            "z1": dist.Normal(jnp.array([2 * x / 3]), (2 / 3) ** 0.5).to_event(1),
            "z2": lambda z1: dist.Normal(z1 / 2, 0.5**0.5).to_event(1),
        }
    )
    z = q.sample(jax.random.key(0), (50,))

    def log_joint(z):
        return prior.log_prob(z) + dist.Normal(z["z1"][..., 0], 1.0).log_prob(x)

    log_w = vi.types.log_weights(z, q, log_joint)
    np.testing.assert_allclose(log_w, scipy.stats.norm.logpdf(x, 0, 3**0.5), atol=1e-5)


def test_three_groups_depend_on_the_last_or_on_all():
    def given(*earlier):
        return dist.Normal(sum(earlier), 1.0).to_event(1)

    first = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
    groups = {"a": first, "b": given, "c": given}
    z = {"a": jnp.array([[1.0]]), "b": jnp.array([[3.0]]), "c": jnp.array([[5.0]])}
    normal = scipy.stats.norm.logpdf
    shared = normal(1) + normal(3, 1)
    of_last = vi.priors.hierarchical(groups).log_prob(z)
    np.testing.assert_allclose(of_last, [shared + normal(5, 3)], rtol=1e-6)
    of_all = vi.priors.autoregressive(groups).log_prob(z)
    np.testing.assert_allclose(of_all, [shared + normal(5, 4)], rtol=1e-6)


def refusals():
    ones, first = jnp.ones(2), dist.Normal(jnp.zeros(1), 1.0).to_event(1)
    priors, rngs = vi.priors, nnx.Rngs(0)
    return {
        "MixturePrior: num_components must be an integer": lambda: priors.MixturePrior(
            2, num_components=0, rngs=rngs
        ),
        "MixturePrior: spread must be positive": lambda: priors.MixturePrior(
            2, num_components=3, spread=0.0, rngs=rngs
        ),
        r"VampPrior: raw must be \[C": lambda: priors.VampPrior(jnp.zeros(3)),
        r"VampPrior: logits must be \[C\]": lambda: priors.VampPrior(
            jnp.zeros((3, 2)), logits=jnp.zeros(2)
        ),
        "VampPrior: posterior must give a NumPyro distribution": lambda: priors.VampPrior(
            jnp.zeros((3, 2))
        )(lambda x: dist.Normal(x, 1.0)),
        "hierarchical: 'a' must be a distribution": lambda: priors.hierarchical({"a": lambda: 0}),
        "autoregressive: 'b' must be a function": lambda: priors.autoregressive(
            {"a": first, "b": first}
        ),
        "hierarchical: groups must name": lambda: priors.hierarchical({}),
        r"hierarchical.log_prob: value must have the groups \['a'\]": lambda: priors.hierarchical(
            {"a": first}
        ).log_prob({"b": ones}),
        r"markov: first must have events \[D\]": lambda: priors.markov(
            dist.Normal(0.0, 1.0), lambda z: first, num_steps=3
        ),
        "markov.log_prob: transition must score each step": lambda: priors.markov(
            first, lambda z: dist.Normal(z, 1.0), num_steps=3
        ).log_prob(jnp.zeros((3, 1))),
        r"markov.log_prob: value must have events \[3, 1\]": lambda: priors.markov(
            first, lambda z: first, num_steps=3
        ).log_prob(jnp.zeros((4, 1))),
        "ar1: coefficient must lie between": lambda: priors.ar1(3, coefficient=ones, scale=ones),
        "ar1: scale must be positive": lambda: priors.ar1(3, coefficient=ones / 2, scale=0 * ones),
        r"gaussian_process: times must be \[T\]": lambda: priors.gaussian_process(
            jnp.zeros((3, 1)), priors.matern12(1.0), size=1
        ),
        "gaussian_process: kernel must give a positive definite": lambda: priors.gaussian_process(
            jnp.zeros(3), priors.squared_exponential(1.0), size=1, jitter=0.0
        ),
        "matern12: length_scale must be positive": lambda: priors.matern12(-1.0),
        "laplace_softmax: concentration must have two": lambda: priors.laplace_softmax(jnp.ones(1)),
        "laplace_softmax: concentration must be positive": lambda: priors.laplace_softmax(-ones),
        "scale_mixture: shares must be probabilities": lambda: priors.scale_mixture(
            ones, shares=ones, event_shape=()
        ),
        "horseshoe: scale must be positive": lambda: priors.horseshoe(0.0, event_shape=()),
        "uniform_codes: num_codes must be an integer": lambda: priors.uniform_codes(
            0, event_shape=()
        ),
    }


@pytest.mark.parametrize("message", refusals())
def test_bad_input_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        refusals()[message]()
