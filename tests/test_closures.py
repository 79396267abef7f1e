"""Whatever a log-joint closes over, under whatever transformation, the gradient is the same."""

import chex
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from flax import nnx

import vi
from vi.bounds import iwae
from vi.gradients import dreg, reparam

X = jnp.array([[0.5, -1.0, 2.0], [1.5, 0.0, -0.5]])
PARAMS = {"loc": 0.1 * X, "log_scale": -0.3 * jnp.ones_like(X), "w": jnp.array([0.7, 1.1, -0.4])}
TABLE = jnp.array([[1.0, 2.0, 3.0], [0.3, 0.6, 0.9]])

CLOSED_OVER = {
    "float": (jnp.array([0.2, 0.4, 0.1]), lambda z, c: z * c),
    "uint8": (jnp.array([3, 0, 7], jnp.uint8), lambda z, c: z * c),
    "bool": (jnp.array([True, False, True]), lambda z, c: jnp.where(c, z, -z)),
    "index": (jnp.array(1), lambda z, c: z * TABLE[c]),
    "key": (jax.random.key(7), lambda z, c: z + jax.random.normal(jax.random.clone(c), (3,))),
}


def objective_value(objective, params, closed_over, use, key):
    q = vi.families.normal(params["loc"], log_scale=params["log_scale"])

    def log_joint(z):
        loc = use(z, closed_over) * params["w"]
        return q_prior.log_prob(z) + dist.Normal(loc, 1.0).to_event(1).log_prob(X)

    q_prior = dist.Normal(jnp.zeros(3), 1.0).to_event(1)
    return objective(key, q, log_joint, 6).sum()


def by_hand(params, closed_over, use, key):
    """Plain reparameterisation: no engine, no closure conversion."""

    def plain(key, q, log_joint, num_samples):
        z = q.rsample(key, (num_samples,))
        return iwae(log_joint(z) - q.log_prob(z))

    return jax.grad(lambda p: objective_value(plain, p, closed_over, use, key))(params)


def _scan(value, params, closed_over, key):
    def step(total, _):
        return total + value(params, closed_over, jax.random.clone(key)), None

    return jax.lax.scan(step, 0.0, None, length=2)[0] / 2


def _checkpoint(value, *args):
    with jax.debug_key_reuse(False):  # jax.checkpoint itself redraws from the key it was given
        return jax.grad(jax.checkpoint(value))(*args)


def _vmap(value, params, closed_over, key):
    twice = jax.tree.map(_twice, (closed_over, key))
    return jax.vmap(value, in_axes=(None, 0, 0))(params, *twice).mean()


def _twice(a):
    fresh = jax.random.clone if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else jnp.copy
    return fresh(jnp.stack([fresh(a), fresh(a)]))


TRANSFORMATIONS = {
    "grad": lambda f: jax.grad(f),
    "jit(grad)": lambda f: jax.jit(jax.grad(f)),
    "grad(jit)": lambda f: jax.grad(jax.jit(f)),
    "checkpoint": lambda f: lambda *args: _checkpoint(f, *args),
    "scan": lambda f: jax.grad(lambda *args: _scan(f, *args)),
    "jit(scan)": lambda f: jax.jit(jax.grad(lambda *args: _scan(f, *args))),
    "vmap": lambda f: jax.grad(lambda *args: _vmap(f, *args)),
    "jacfwd": lambda f: jax.jacfwd(f),
    "jacfwd(jit)": lambda f: jax.jacfwd(jax.jit(f)),
}


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("kind", CLOSED_OVER)
def test_closures(kind, transformation):
    closed_over, use = CLOSED_OVER[kind]
    truth = by_hand(PARAMS, closed_over, use, jax.random.key(0))

    def value(params, closed_over, key):
        return objective_value(reparam(iwae), params, closed_over, use, key)

    gradient = TRANSFORMATIONS[transformation](value)(PARAMS, closed_over, jax.random.key(0))
    chex.assert_trees_all_close(gradient, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_chunks_under_every_transformation(transformation):
    """Two full chunks and a remainder, against the eager gradient of the same chunks."""
    closed_over, use = CLOSED_OVER["float"]

    def value(params, closed_over, key):
        return objective_value(dreg(iwae, chunk_size=4), params, closed_over, use, key)

    truth = jax.grad(value)(PARAMS, closed_over, jax.random.key(0))
    gradient = TRANSFORMATIONS[transformation](value)(PARAMS, closed_over, jax.random.key(0))
    chex.assert_trees_all_close(gradient, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("make", [reparam, dreg], ids=["reparam", "dreg"])
def test_a_bound_may_close_over_what_is_learned(make, chunk_size):
    """A traced alpha, differentiated, batched, under jit: its gradient at the draws held fixed."""

    def value(params, alpha, key):
        objective = make(lambda w: iwae((1 - alpha) * w) / (1 - alpha), chunk_size=chunk_size)
        q = vi.families.normal(params["loc"], log_scale=params["log_scale"])
        log_joint = lambda z: -(z**2).sum(-1)  # noqa: E731
        evaluation = objective.evaluate(key, q, log_joint, 6)
        return evaluation.value.sum(), evaluation.log_weights

    key = jax.random.key(0)
    (_, log_w), (d_params, d_alpha) = jax.jit(
        jax.value_and_grad(value, argnums=(0, 1), has_aux=True)
    )(PARAMS, 0.3, key)
    direct = jax.grad(lambda a: (iwae((1 - a) * log_w) / (1 - a)).sum())(0.3)
    chex.assert_trees_all_close(d_alpha, direct, rtol=1e-5, atol=1e-5)
    alphas = jnp.array([0.3, 0.6])
    mapped = jax.vmap(lambda a: jax.grad(value, has_aux=True)(PARAMS, a, jax.random.clone(key)))
    chex.assert_trees_all_close(
        jax.tree.map(lambda g: g[0], mapped(alphas)[0]), d_params, rtol=1e-4, atol=1e-5
    )


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.out = nnx.Linear(3, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.calls = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, z):
        return self.out(z)


def decoded(decoder, key):
    q = vi.families.normal(PARAMS["loc"], log_scale=PARAMS["log_scale"])

    def log_joint(z):
        return dist.Normal(decoder(z), 1.0).to_event(1).log_prob(X)

    return dreg(iwae)(key, q, log_joint, 6).sum()


def test_a_decoder_updated_in_place_is_read_anew():
    decoder = Decoder(nnx.Rngs(0))
    before = decoded(decoder, jax.random.key(0))
    decoder.out.kernel[...] = 2 * decoder.out.kernel[...]
    after = decoded(decoder, jax.random.key(0))
    fresh = Decoder(nnx.Rngs(0))
    fresh.out.kernel[...] = 2 * fresh.out.kernel[...]
    assert before != after
    assert after == decoded(fresh, jax.random.key(0))


def test_gradients_reach_an_nnx_module():
    decoder = Decoder(nnx.Rngs(0))
    graphdef, params, rest = nnx.split(decoder, nnx.Param, ...)

    def value(params):
        return decoded(nnx.merge(graphdef, params, rest, copy=True), jax.random.key(0))

    gradient = jax.jit(jax.grad(value))(params)
    assert float(jnp.abs(gradient["out"]["kernel"][...]).max()) > 0


@pytest.mark.parametrize("layer", ["dropout", "statistic"])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_module_that_mutates_inside_is_refused(layer, wrap):
    decoder = Decoder(nnx.Rngs(0))

    def mutate(z):
        if layer == "dropout":
            return decoder.dropout(decoder(z))
        decoder.calls[...] = decoder.calls[...] + 1
        return decoder(z)

    def value(key):
        q = vi.families.normal(PARAMS["loc"], log_scale=PARAMS["log_scale"])
        log_joint = lambda z: dist.Normal(mutate(z), 1.0).to_event(1).log_prob(X)  # noqa: E731
        return dreg(iwae)(key, q, log_joint, 6).sum()

    with pytest.raises(ValueError, match=r"dreg: log_joint must be pure .*nnx\.merge"):
        wrap(value)(jax.random.key(0))
