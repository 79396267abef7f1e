"""Forces carried to constraints: exact in float64, and near an edge right in float32 still."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

from tests.models import noise_grid
from vi.bounds import elbo, iwae
from vi.families import constrained
from vi.gradients import dreg, reparam


class Given(dist.Normal):
    """A normal whose draws come from given noise, in every precision the same."""

    def __init__(self, loc, scale, noise):
        super().__init__(loc, scale)
        self.noise = jnp.asarray(noise, jnp.result_type(loc))

    def sample(self, key, sample_shape=()):
        return self.loc + self.scale * self.noise

    rsample = sample


class ScoredAtThePoint:
    """A family that scores its draws by carrying them back."""

    def __init__(self, q):
        self.rsample, self.sample, self.log_prob = q.rsample, q.sample, q.log_prob


INTERVALS = constraints.interval(np.array([-1.0, 2.0]), np.array([1.0, 5.0]))
SUPPORTS = {
    "positive": (constraints.positive, [0.3, -0.4]),
    "below 1": (constraints.less_than(1.0), [0.3, -0.4]),
    "an interval per entry": (INTERVALS, [0.3, -0.4]),
    "softplus": (constraints.softplus_positive, [0.3, -0.4]),
    "entries of an event": (constraints.independent(constraints.positive, 1), [0.3, -0.4]),
    "simplex": (constraints.simplex, [0.3, -0.4, 0.1]),
    "two simplices": (constraints.simplex, [[0.3, -0.4], [0.1, 0.9]]),
    "ordered": (constraints.ordered_vector, [0.3, -0.4, 0.1]),
    "positive ordered": (constraints.positive_ordered_vector, [0.3, -0.4]),
    "lower cholesky": (constraints.lower_cholesky, [0.3, -0.4, 0.1]),
    "softplus cholesky": (constraints.softplus_lower_cholesky, [0.3, -0.4, 0.1]),
    "positive definite": (constraints.positive_definite, [0.3, -0.4, 0.1]),
    "correlations": (constraints.corr_cholesky, [0.3, -0.4, 0.1]),
    "correlation matrix": (constraints.corr_matrix, [0.3, -0.4, 0.1]),
    "zero sum": (constraints.zero_sum(1), [0.3, -0.4]),
}
NEAR = {"positive", "simplex", "lower cholesky", "correlations", "an interval per entry"}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in NEAR else pytest.mark.slow) for n in SUPPORTS]
)
def test_the_force_is_the_derivative_along_the_surface(name):
    """Pulled back to the coordinates it is that of NumPyro's own density, which inverts."""
    support, loc = SUPPORTS[name]
    loc = jnp.asarray(loc)
    base = dist.Normal(loc + 0.1 * jnp.arange(2.0).reshape(2, *(1,) * loc.ndim), 0.7)
    base = base.to_event(loc.ndim)
    q = constrained(base, support)
    carry = dist.biject_to(support)

    @jax.jit
    def compute(key):
        z, log_q, force = q.rsample_and_force(key, (3,))
        u = base.rsample(jax.random.clone(key), (3,))
        theirs, pull = jax.vjp(carry, u)
        at_point = jax.grad(lambda z: q.log_prob(z).sum())(z)
        forgetful = jax.grad(lambda u: base.log_prob(u).sum())(u)
        return (z, theirs), (log_q, q.log_prob(z)), (pull(force), pull(at_point)), forgetful

    draws, scores, (ours, theirs), forgetful = compute(jax.random.key(0))
    np.testing.assert_allclose(*draws, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(*scores, rtol=1e-9)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-8, atol=1e-10)
    if name != "zero sum":  # which is flat
        assert abs(ours[0] - forgetful).max() > 0.1


def a_target(z):
    """Bounded, and so are its slopes times the slopes of a bijection."""
    weight = 0.3 + jnp.arange(z.shape[-1], dtype=z.dtype)
    return (weight / (1 + z**2)).reshape(*z.shape[:1], -1).sum(-1)


EDGES = {
    "an interval": (constraints.interval(-1.0, 2.0), [30.0, -60.0, 14.0, 16.5]),
    "above 2": (constraints.greater_than(2.0), [-40.0, 1.0]),
    "simplex, little left": (constraints.simplex, [20.0, -20.0, 14.0, 3.0]),
    "simplex, nothing left": (constraints.simplex, [30.0, 1.0]),
    "correlations": (constraints.corr_cholesky, [12.0, -11.0, 7.0]),
}


def near_an_edge(name, wrap, dtype):
    """The gradient of dreg at given draws, in one precision."""
    support, loc = EDGES[name]
    params = {"loc": np.asarray(loc, dtype), "log_scale": np.full(len(loc), -0.5, dtype)}
    noise = np.random.default_rng(0).normal(size=(8, len(loc)))

    def value(params):
        u = Given(params["loc"], jnp.exp(params["log_scale"]), noise).to_event(1)
        q = wrap(constrained(u, support))
        return dreg(elbo)(jax.random.key(0), q, a_target, 8)

    return jax.device_get(jax.jit(jax.grad(value))(params))


def by_hand(name):
    """Sticking the landing in the coordinates: NumPyro's bijection forward, in float64."""
    support, loc = EDGES[name]
    carry = dist.biject_to(support)
    noise = np.random.default_rng(0).normal(size=(8, len(loc)))

    def value(params, held):
        u = params["loc"] + jnp.exp(params["log_scale"]) * noise
        z = carry(u)
        log_det = carry.log_abs_det_jacobian(u, z).reshape(8, -1).sum(-1)
        log_q = dist.Normal(held["loc"], jnp.exp(held["log_scale"])).log_prob(u).sum(-1) - log_det
        return (a_target(z) - log_q).mean()

    with jax.enable_x64(True):
        params = {"loc": jnp.asarray(loc, float), "log_scale": jnp.full(len(loc), -0.5)}
        return jax.device_get(jax.jit(jax.grad(value))(params, params))


@pytest.mark.parametrize("name", EDGES)
def test_float32_near_an_edge_is_float64(name):
    truth = by_hand(name)
    ours = near_an_edge(name, lambda q: q, np.float32)
    chex.assert_trees_all_close(ours, truth, rtol=2e-3, atol=2e-3)
    at_the_point = near_an_edge(name, ScoredAtThePoint, np.float32)
    errors = jax.tree.map(lambda a, b: np.abs(a - b).max(), at_the_point, truth)
    assert not max(jax.tree.leaves(errors)) < 0.05  # or NaN


@pytest.mark.parametrize(
    ("support", "loc"),
    [
        (constraints.positive, [0.3, -120.0, 0.5]),
        (constraints.ordered_vector, [0.3, -120.0, 0.5]),
        (constraints.ordered_vector, [5.0, -25.0, 1.0]),
    ],
)
def test_where_a_slope_is_lost_a_draw_is_a_constant(support, loc):
    """What it does to the gradient is bounded; the point itself has no log-density."""
    noise = np.random.default_rng(0).normal(size=(4, 3))

    def gradient(wrap):
        def value(loc):
            q = wrap(constrained(Given(loc, 1.0, noise).to_event(1), support))
            return dreg(elbo)(jax.random.key(0), q, a_target, 4)

        return jax.jit(jax.grad(value))(jnp.array(loc))

    assert (jnp.abs(gradient(lambda q: q)) < 5).all()
    assert not jnp.isfinite(gradient(ScoredAtThePoint)).all()


def logit_normal(params, noise):
    """An interval whose ends are learned, and its log-density by hand."""
    u = params["loc"] + jnp.exp(params["log_scale"]) * noise
    share = jax.nn.sigmoid(u)
    width = params["high"] - params["low"]
    log_q = dist.Normal(params["loc"], jnp.exp(params["log_scale"])).log_prob(u)
    return params["low"] + width * share, log_q - jnp.log(width * share * (1 - share))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("bound", "chunk_size"), [(elbo, None), (iwae, 1)])
def test_ends_of_an_interval_are_learned_by_quadrature(bound, chunk_size):
    """Both modes; the ends move a draw whose coordinates stay. Half a force is not enough."""
    params = {"loc": 0.3, "log_scale": -0.4, "low": -0.7, "high": 1.6}
    params = jax.tree.map(jnp.asarray, params)
    noise, mass = noise_grid(2, 65)

    def log_p(z):
        return jnp.sin(2 * z) - z**2

    def exact(params):
        z, log_q = logit_normal(params, noise.T)
        return mass @ bound(log_p(z) - log_q)

    def mean(estimator, wrap=lambda q: q):
        def value(params):
            if chunk_size is None:
                u = Given(params["loc"], jnp.exp(params["log_scale"]), noise.T)
            else:
                u = InChunks(params["loc"], jnp.exp(params["log_scale"]), noise.T)
            q = wrap(constrained(u, constraints.interval(params["low"], params["high"])))
            objective = estimator(bound, chunk_size=chunk_size)
            return mass @ objective(jax.random.key(0), q, log_p, 2)

        return value

    @jax.jit
    def compute(params):
        one = jax.tree.map(jnp.ones_like, params)
        forward = jax.jvp(mean(dreg), (params,), (one,))[1]
        gradients = [jax.grad(value)(params) for value in (exact, mean(dreg), mean(reparam))]
        return *gradients, forward, jax.grad(mean(dreg, Halved))(params)

    truth, ours, plain, forward, wrong = jax.device_get(compute(params))
    chex.assert_trees_all_close(ours, truth, rtol=1e-8, atol=1e-8)
    chex.assert_trees_all_close(plain, truth, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(forward, sum(truth.values()), rtol=1e-8)
    assert abs(wrong["low"] - truth["low"]) > 1e-2


class InChunks(Given):
    """Each chunk of one draw has its own noise, told by its key: the first is that of chunk 0."""

    def sample(self, key, sample_shape=()):
        first = jax.random.fold_in(jax.random.split(jax.random.key(0), 1)[0], 0)
        with jax.debug_key_reuse(False):
            is_first = (jax.random.key_data(key) == jax.random.key_data(first)).all()
        chosen = jnp.where(is_first, self.noise[:1], self.noise[1:])
        return self.loc + self.scale * chosen

    rsample = sample


class Halved(ScoredAtThePoint):
    """A broken twin: half of the force."""

    def __init__(self, q):
        super().__init__(q)
        self.q = q

    def rsample_and_force(self, key, sample_shape=()):
        z, log_q, force = self.q.rsample_and_force(key, sample_shape)
        return z, log_q, jax.tree.map(lambda f: f / 2, force)
