"""A q that gives draws and log-probabilities in one call: what reparam asks of it."""

import chex
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import vi


class Shifted:
    """A normal; how it was drawn is counted, and log_prob may be missing."""

    def __init__(self, loc, scale, calls):
        self.base, self.calls = dist.Normal(loc, scale).to_event(1), calls

    def sample(self, key, sample_shape=()):
        self.calls.append("sample")
        return self.base.sample(key, sample_shape)

    def rsample(self, key, sample_shape=()):
        self.calls.append("rsample")
        return self.base.rsample(key, sample_shape)

    def rsample_and_log_prob(self, key, sample_shape=()):
        self.calls.append("rsample_and_log_prob")
        z = self.base.rsample(key, sample_shape)
        return z, self.base.log_prob(z)

    def log_prob(self, z):
        self.calls.append("log_prob")
        return self.base.log_prob(z)


class OnlyScored:
    """A flow whose inverse nobody has."""

    def __init__(self, q):
        self.rsample_and_log_prob = q.rsample_and_log_prob

    def sample(self, key, sample_shape=()):
        return self.rsample_and_log_prob(key, sample_shape)[0]

    rsample = sample

    def log_prob(self, z):
        raise NotImplementedError("no inverse")


def log_joint(z):
    return dist.Normal(0.5, 1.5).log_prob(z).sum(-1) + dist.Normal(z[..., 0], 1.0).log_prob(1.0)


AT = {"loc": jnp.array([0.3, -0.2]), "scale": jnp.array([0.7, 1.2])}
OBJECTIVES = {
    "reparam": vi.gradients.reparam(vi.bounds.iwae),
    "chunked": vi.gradients.reparam(vi.bounds.iwae, chunk_size=3),
    "replicated": vi.gradients.replicated(vi.gradients.reparam(vi.bounds.iwae), 4),
}


def value_of(objective, wrap, calls=None):
    calls = [] if calls is None else calls

    def value(params, key):
        q = wrap(Shifted(params["loc"], params["scale"], calls))
        return objective(key, q, log_joint, 8)

    return value


@pytest.mark.parametrize(
    "name",
    ["reparam", *(pytest.param(n, marks=pytest.mark.slow) for n in ("chunked", "replicated"))],
)
@pytest.mark.usefixtures("x64")
def test_value_and_gradient_are_those_of_scoring_apart(name):
    objective = OBJECTIVES[name]
    at = jax.tree.map(lambda a: a.astype(float), AT)
    apart = value_of(objective, lambda q: q.base)
    in_one = value_of(objective, OnlyScored)
    for transform in (lambda f: f, jax.grad, jax.jacfwd, jax.hessian):
        ours, theirs = (jax.jit(transform(f))(at, jax.random.key(0)) for f in (in_one, apart))
        chex.assert_trees_all_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_only_plain_differentiation_asks_for_it():
    for objective, asked in (
        (vi.gradients.reparam(vi.bounds.iwae), {"rsample_and_log_prob"}),
        (vi.gradients.dreg(vi.bounds.iwae), {"rsample", "log_prob"}),
        (vi.gradients.vimco(vi.bounds.iwae), {"rsample", "sample", "log_prob"}),
    ):
        calls = []
        jax.jit(jax.grad(value_of(objective, lambda q: q, calls)))(AT, jax.random.key(0))
        assert set(calls) == asked, objective


def test_a_draw_whose_score_is_detached_has_another_gradient():
    class Detached(OnlyScored):
        def __init__(self, q):
            def scored(key, shape):
                z, log_q = q.rsample_and_log_prob(key, shape)
                return z, jax.lax.stop_gradient(log_q)

            self.rsample_and_log_prob = scored

    objective = OBJECTIVES["reparam"]
    right = jax.jit(jax.grad(value_of(objective, OnlyScored)))(AT, jax.random.key(0))
    wrong = jax.jit(jax.grad(value_of(objective, Detached)))(AT, jax.random.key(0))
    assert float(jnp.abs(right["scale"] - wrong["scale"]).max()) > 0.1


class WithSeeds:
    """Draws beside which a key rides along."""

    has_rsample = True

    def __init__(self, params):
        self.base = dist.Normal(params["loc"], params["scale"]).to_event(1)

    def rsample(self, key, sample_shape=()):
        of_z, of_seed = jax.random.split(key)
        seeds = jax.random.split(of_seed, sample_shape)
        return {"z": self.base.rsample(of_z, sample_shape), "seed": seeds}

    sample = rsample

    def log_prob(self, z):
        return self.base.log_prob(z["z"])

    def has_path(self, z):
        return {"z": True, "seed": False}


@pytest.mark.parametrize("estimator", [vi.gradients.reparam, vi.gradients.dreg])
def test_seeds_ride_along_without_a_path(estimator):
    def noisy(z):
        noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(z["seed"])
        return log_joint(z["z"]) + (0.1 * noise * z["z"]).sum(-1)

    def value(params, key):
        return estimator(vi.bounds.elbo)(key, WithSeeds(params), noisy, 4)

    keys = jax.random.split(jax.random.key(1), 4000)
    each = jax.jit(jax.vmap(jax.grad(value), (None, 0)))(AT, keys)["loc"]
    exact = (0.5 - AT["loc"]) / 1.5**2 + jnp.array([1.0 - AT["loc"][0], 0.0])
    error = each.std(0, ddof=1) / 4000**0.5
    assert (jnp.abs(each.mean(0) - exact) < 5 * error).all()
    assert (jnp.abs(each.mean(0) - exact - 0.1) > 5 * error).all()
    bare = type("Bare", (), {k: v for k, v in vars(WithSeeds).items() if k != "has_path"})
    with pytest.raises(ValueError, match=r"reparameterised .got draws\['seed'\]"):
        jax.eval_shape(
            lambda p, k: estimator(vi.bounds.elbo)(k, bare(p), noisy, 4), AT, jax.random.key(1)
        )
