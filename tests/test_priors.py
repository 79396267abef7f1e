"""Every prior: an exact density, draws that follow it, and a derivative for what is learned."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
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
from vi.priors._weights import _log_scaled_e1

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
        one_key, key = jax.random.split(key)
        each_key = jax.vmap(lambda key: row.make(params).sample(key, (5,)))
        draws = each_key(jax.random.split(key, 4))
        return row.make(params).log_prob(z), mapped, row.make(params).sample(one_key, (4, 5)), draws

    whole, mapped, draws, of_keys = others(row.params, twice, jax.random.key(0))
    for other in (whole, mapped):
        np.testing.assert_allclose(other, eager, rtol=2e-5, atol=2e-5)
    shapes = jax.tree.map(lambda leaf: leaf.shape, draws)
    assert shapes == jax.tree.map(lambda leaf: (4, 5, *leaf.shape[1:]), z)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, of_keys)


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


def test_the_derivatives_of_the_horseshoe_are_analytic_and_store_no_levels():
    """Both derivatives in log x, by the series and the fraction, against scipy's own function."""
    log_x = np.array([-60.0, -8.0, -1.0, -0.01, 0.01, 1.0, 3.0, 5.0])
    x = np.exp(log_x)
    inverse = np.exp(-x) / scipy.special.exp1(x)
    slope = x - inverse
    curvature = x + inverse * slope  # which loses digits itself where x is large
    with jax.enable_x64(True):

        @jax.jit
        @jax.vmap
        def compute(u):
            first = jax.grad(_log_scaled_e1)
            return first(u), jax.grad(first)(u), jax.jvp(_log_scaled_e1, (u,), (1.0,))[1]

        ours, second, forward = compute(log_x)
    np.testing.assert_allclose(ours, slope, rtol=1e-8)
    np.testing.assert_allclose(forward, slope, rtol=1e-8)
    np.testing.assert_allclose(second, curvature, rtol=1e-7, atol=1e-9)
    weights = jnp.ones((8, 1000))
    prior = vi.priors.horseshoe(1.0, event_shape=(1000,))
    compiled = jax.jit(jax.grad(lambda w: prior.log_prob(w).sum())).lower(weights).compile()
    analysis = compiled.memory_analysis()
    if analysis is not None:  # where the backend says it
        assert analysis.temp_size_in_bytes < 40 * weights.nbytes


@pytest.mark.usefixtures("x64")
def test_float32_values_stay_float32_where_float64_is_on():
    z = jnp.ones((3, 2), jnp.float32)

    def log_probs(z):
        process = vi.priors.gaussian_process(z[:2, 0], vi.priors.matern12(1.0), size=1)
        vamp = vi.priors.VampPrior(z)(lambda x: vi.families.normal(x, scale=jnp.ones_like(x)))
        horseshoe = vi.priors.horseshoe(0.1, event_shape=(2,))
        return horseshoe.log_prob(z), process.log_prob(z[..., None]), vamp.log_prob(z)

    assert {log_p.dtype for log_p in jax.eval_shape(log_probs, z)} == {np.dtype("float32")}


@pytest.mark.parametrize("batch", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_a_transition_with_parameters_for_each_datum_scores_each_with_its_own(batch):
    """Also where the batch is as long as the steps are, and broadcasting would hide it."""
    a, num_steps = jnp.linspace(0.1, 0.9, batch)[:, None] * jnp.ones(2), 4
    prior = vi.priors.markov(
        dist.Normal(jnp.zeros((batch, 2)), 1.0).to_event(1),
        lambda z: dist.Normal(a * z, 1.0).to_event(1),
        num_steps=num_steps,
    )

    @jax.jit
    def compute(key):
        z = prior.sample(key, (5,))
        return z, prior.log_prob(z)

    z, log_p = compute(jax.random.key(0))
    assert z.shape == (5, batch, num_steps, 2)
    before = np.concatenate([np.zeros_like(z[..., :1, :]), z[..., :-1, :]], axis=-2)
    truth = scipy.stats.norm.logpdf(z, np.asarray(a)[:, None] * before).sum((-1, -2))
    np.testing.assert_allclose(log_p, truth, rtol=1e-5)


def test_a_chain_of_one_step_is_its_first_state():
    z = jnp.array([[[0.3]], [[-0.4]]])
    prior = vi.priors.ar1(1, coefficient=jnp.array([0.6]), scale=jnp.array([0.8]))
    assert prior.sample(jax.random.key(0), (5,)).shape == (5, 1, 1)
    np.testing.assert_allclose(prior.log_prob(z), scipy.stats.norm.logpdf(z[:, 0, 0]), rtol=1e-6)


class Turn(nnx.Module):
    def __init__(self):
        self.matrix = nnx.Param(jnp.array([[0.9, -0.3], [0.3, 0.9]]))

    def __call__(self, z):
        return dist.Normal(z @ self.matrix[...], 0.1).to_event(1)


def test_a_chain_is_a_pytree_and_a_numpyro_distribution():
    priors = (
        vi.priors.ar1(3, coefficient=jnp.array([0.5, 0.2]), scale=jnp.ones(2)),
        vi.priors.markov(dist.Normal(jnp.zeros(2), 1.0).to_event(1), Turn(), num_steps=3),
    )
    z = jnp.ones((4, 3, 2))

    @jax.jit
    def compute(priors, z):
        def model():
            with numpyro.plate("N", 4):
                numpyro.sample("z", priors[0])

        def total(priors):
            return sum(p.log_prob(z).sum() for p in priors)

        in_plate, _ = numpyro.infer.util.log_density(model, (), {}, {"z": z})
        return in_plate, priors[0].log_prob(z).sum(), jax.grad(total)(priors)

    in_plate, alone, gradient = compute(priors, z)
    np.testing.assert_allclose(in_plate, alone, rtol=1e-6)
    assert np.abs(gradient[1].transition.matrix[...]).min() > 0
    assert priors[0].support(z).shape == (4,)


@pytest.mark.parametrize("prior_of", [vi.priors.hierarchical, vi.priors.autoregressive])
def test_a_group_that_depends_on_none_is_drawn_anew_for_each(prior_of):
    """Also where the draws are as many as its entries."""

    def normal(size):
        return dist.Normal(jnp.zeros(size), 1.0).to_event(1)

    prior = prior_of({"a": normal(2), "b": lambda *earlier: normal(3)})

    @jax.jit
    def compute(key):
        z = prior.sample(key, (3,))
        return z, prior.log_prob(z)

    z, log_p = compute(jax.random.key(0))
    assert z["b"].shape == (3, 3)
    assert len(np.unique(z["b"])) == 9
    normal_density = scipy.stats.norm.logpdf
    truth = normal_density(z["a"]).sum(-1) + normal_density(z["b"]).sum(-1)
    np.testing.assert_allclose(log_p, truth, rtol=1e-5)


def test_a_vamp_prior_takes_a_flow_with_a_context_as_its_encoder():
    flow = vi.flows.coupling(
        2,
        num_layers=1,
        transformer=vi.flows.affine(),
        hidden=(4,),
        context_size=3,
        rngs=nnx.Rngs(0),
    )
    raw = jax.random.normal(jax.random.key(0), (4, 3))

    def encoder(x):
        return flow(vi.families.normal(x[..., :2], scale=jnp.ones_like(x[..., :2])), context=x)

    z = jax.random.normal(jax.random.key(1), (2, 3, 2))

    @jax.jit
    def compute(z):
        each = jnp.stack([encoder(u).log_prob(z.reshape(6, 2)).reshape(2, 3) for u in raw], axis=-1)
        prior = vi.priors.VampPrior(raw)(encoder)
        draws = prior.sample(jax.random.key(2), (5,))
        return prior.log_prob(z), jax.nn.logsumexp(each, -1) - jnp.log(4), draws

    ours, truth, draws = compute(z)
    assert draws.shape == (5, 2)
    np.testing.assert_allclose(ours, truth, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_steps", "tolerance"),
    [(30, 0.1), (300, 0.3), pytest.param(1000, 0.5, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("kernel_of", [vi.priors.squared_exponential, vi.priors.matern52])
def test_a_smooth_process_has_its_nats_in_float32(kernel_of, num_steps, tolerance):
    """Against float64 at the jitter of float32, whose formula the docstring gives."""
    kernel, times = kernel_of(0.2), np.linspace(0, 1, num_steps, dtype=np.float32)
    single = vi.priors.gaussian_process(times, kernel, size=1)
    with jax.enable_x64(True):
        jitter = 10 * num_steps * float(np.finfo(np.float32).eps)
        double = vi.priors.gaussian_process(np.float64(times), kernel, size=1, jitter=jitter)
        z = np.asarray(double.sample(jax.random.key(0), (8,)), np.float32)
        truth = np.asarray(double.log_prob(np.float64(z)))
    assert np.abs(np.asarray(single.log_prob(z)) - truth).max() < tolerance


def test_a_traced_covariance_without_a_factor_is_nan_and_no_number():
    times = jnp.zeros(20)

    def log_prob(length_scale):
        kernel = vi.priors.squared_exponential(length_scale)
        return vi.priors.gaussian_process(times, kernel, size=1, jitter=0.0).log_prob(
            jnp.zeros((20, 1))
        )

    assert np.isnan(jax.jit(log_prob)(0.2))


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
        "markov.log_prob: transition must score each state": lambda: priors.markov(
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
        "cauchy: length_scale must be one number": lambda: priors.cauchy(jnp.ones(3)),
        "periodic: period must be one number": lambda: priors.periodic(ones, 1.0),
        "gaussian_process: jitter must be at least 0": lambda: priors.gaussian_process(
            jnp.arange(3.0), priors.matern12(1.0), size=1, jitter=-1e-3
        ),
        "MixturePrior: spread must be positive and finite": lambda: priors.MixturePrior(
            2, num_components=3, spread=np.inf, rngs=rngs
        ),
        r"horseshoe: event_shape must be a tuple of sizes \(got 3\)": lambda: priors.horseshoe(
            1.0, event_shape=3
        ),
        "uniform_codes: event_shape must be a tuple": lambda: priors.uniform_codes(
            3, event_shape=3
        ),
        "scale_mixture: event_shape must be a tuple": lambda: priors.scale_mixture(
            ones, shares=ones / 2, event_shape=3
        ),
        r"scale_mixture.log_prob: value must have events \[3, 2\]": lambda: priors.scale_mixture(
            ones, shares=ones / 2, event_shape=(3, 2)
        ).log_prob(ones),
        r"horseshoe.log_prob: value must have events \[3, 2\]": lambda: priors.horseshoe(
            1.0, event_shape=(3, 2)
        ).log_prob(jnp.ones((3, 1))),
        r"uniform_codes.log_prob: value must have events \[7, 7\]": lambda: priors.uniform_codes(
            4, event_shape=(7, 7)
        ).log_prob(jnp.ones(7, int)),
        r"MixturePrior.log_prob: value must have events \[2\]": lambda: priors.MixturePrior(
            2, num_components=3, rngs=rngs
        )().log_prob(jnp.ones((5, 1))),
        r"laplace_softmax.log_prob: value must have events \[2\]": lambda: priors.laplace_softmax(
            ones
        ).log_prob(jnp.ones((5, 1))),
        "markov: transition must keep the shape": lambda: priors.markov(
            first, lambda z: dist.Normal(jnp.ones((3, 1)) * z, 1.0).to_event(1), num_steps=4
        ).sample(jax.random.key(0), (3,)),
        "hierarchical: 'b' must have the batch of 'a'": lambda: priors.hierarchical(
            {"a": first, "b": lambda a: dist.Normal(jnp.zeros(3), 1.0)}
        ).sample(jax.random.key(0), (3,)),
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
