"""Networks inside NumPyro programs: parameters that are pytrees, mutable state, dropout."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.contrib.module import flax_module, nnx_module, random_nnx_module
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import vi
from vi.bounds import elbo, iwae
from vi.gradients import dreg, reparam, vimco

X = jnp.array(np.random.default_rng(0).normal(size=(8, 3)))


class Encoder(nn.Module):
    """Statistics of the batch, and noise."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train=True):
        h = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(4)(x))
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.tanh(h))
        return nn.Dense(2)(h), nn.softplus(nn.Dense(2)(h))


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(2, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, z):
        return self.out(jnp.tanh(self.hidden(z)))


class Normalised(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.norm = nnx.Linear(2, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, z):
        return self.out(self.norm(self.hidden(z)))


def model(x, decoder):
    decode = nnx_module("decoder", decoder)
    with numpyro.plate("N", len(x)):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(decode(z), 1).to_event(1), obs=x)


def guide(x, decoder, dropout=0.0):
    rng = {"rngs": {"dropout": numpyro.prng_key()}} if dropout else {}
    encode = flax_module(
        "encoder", Encoder(dropout), input_shape=(1, 3), mutable=["batch_stats"],
        apply_rng=["dropout"] if dropout else None,
    )  # fmt: skip
    loc, scale = encode(x, **rng)
    with numpyro.plate("N", len(x)):
        numpyro.sample("z", dist.Normal(loc, scale + 0.1).to_event(1))


def started(loss, decoder, dropout=0.0, rate=1e-2):
    svi = SVI(model, guide, optax.adam(rate), loss, decoder=decoder)
    return svi, svi.init(jax.random.key(0), X)


@pytest.mark.parametrize("decoder", [Decoder, Normalised])
def test_a_step_is_numpyros(decoder):
    module = decoder(nnx.Rngs(0))
    states, losses = zip(
        *(
            jax.jit(svi.update)(state, X)
            for svi, state in (started(loss, module) for loss in (vi.numpyro.ELBO(), Trace_ELBO()))
        ),
        strict=True,
    )
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert jax.tree.leaves(states[0].mutable_state)
    chex.assert_trees_all_close(states[0].mutable_state, states[1].mutable_state, rtol=1e-5)


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize(
    "objective", [reparam(elbo), dreg(iwae), vimco(elbo), dreg(iwae, chunk_size=2)]
)
def test_mutable_state_leaves_as_the_last_particle_left_it(objective, num_particles):
    if objective.rule.__name__ == "_vimco" and num_particles == 1:
        num_particles = 2
    module = Normalised(nnx.Rngs(0))
    svi, state = started(vi.numpyro.Loss(objective, num_particles=num_particles), module)
    moved, loss = jax.jit(svi.update)(state, X)
    assert jnp.isfinite(loss)
    chex.assert_trees_all_equal_shapes_and_dtypes(moved.mutable_state, state.mutable_state)
    before, means = (
        of.mutable_state["encoder$state"]["batch_stats"]["BatchNorm_0"]["mean"]
        for of in (state, moved)
    )
    hidden = svi.get_params(state)["encoder$params"]["Dense_0"]
    np.testing.assert_allclose(
        means - 0.9 * before,
        0.1 * (X @ hidden["kernel"] + hidden["bias"]).mean(0),
        rtol=1e-3,
        atol=1e-6,
    )
    scanned, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: svi.update(s, X), s, None, 3))(state)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(scanned.mutable_state))


def test_the_last_particle_is_the_last():
    """The decoder's statistics are those of one particle's z: of the last, by its log-weights."""

    def counting(x):
        state = numpyro.primitives.mutable("seen$state", lambda: {"z": jnp.zeros(())})
        z = numpyro.sample("z", dist.Normal(0, 1))
        state["z"] = jax.lax.stop_gradient(z)
        numpyro.sample("x", dist.Normal(z, 1).expand([len(x)]).to_event(1), obs=x)

    def drawn(x):
        numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.3), 1))

    params = {"loc": jnp.array(0.3), "seen$state": {"z": jnp.zeros(())}}
    data = jnp.array([0.4, 1.0])
    log_w = vi.numpyro.log_weights(
        jax.random.key(0), params, counting, drawn, data, num_particles=5
    )
    for objective in (reparam(iwae), dreg(iwae)):
        loss = vi.numpyro.Loss(objective, num_particles=5)
        out = loss.loss_with_mutable_state(jax.random.key(0), params, counting, drawn, data)
        z = out["mutable_state"]["seen$state"]["z"]
        of_last = dist.Normal(0, 1).log_prob(z) + dist.Normal(z, 1).log_prob(data).sum()
        np.testing.assert_allclose(of_last - dist.Normal(0.3, 1).log_prob(z), log_w[-1], rtol=1e-5)
        assert abs(float(log_w[-1] - log_w[0])) > 1e-3


def test_numpyro_drops_mutable_state_of_many_particles():
    module = Normalised(nnx.Rngs(0))
    svi, state = started(RenyiELBO(num_particles=4), module)
    with pytest.raises(NotImplementedError, match="mutable state"):
        svi.update(state, X)


@pytest.mark.parametrize("objective", [reparam(iwae), dreg(iwae)])
def test_dropout_is_redrawn_and_the_same_where_a_particle_is_rescored(objective):
    module = Decoder(nnx.Rngs(0))
    noisy = lambda x, decoder: guide(x, decoder, dropout=0.5)  # noqa: E731
    svi = SVI(
        model, noisy, optax.adam(1e-2), vi.numpyro.Loss(objective, num_particles=4), decoder=module
    )
    state = svi.init(jax.random.key(0), X)
    params = svi.get_params(state) | state.mutable_state
    loss = jax.jit(lambda key: svi.loss.loss(key, params, model, noisy, X, decoder=module))
    log_w = vi.numpyro.log_weights(
        jax.random.key(1), params, model, noisy, X, decoder=module, num_particles=4
    )
    np.testing.assert_allclose(loss(jax.random.key(1)), -iwae(log_w).sum(), rtol=1e-5)
    assert abs(float(loss(jax.random.key(1)) - loss(jax.random.key(2)))) > 1e-3


@pytest.mark.slow
def test_a_random_module_is_a_bayesian_network():
    module = Decoder(nnx.Rngs(0))

    def bayesian(z, x):
        decode = random_nnx_module("decoder", module, prior=dist.Normal(0, 1))
        with numpyro.plate("N", len(x)):
            numpyro.sample("x", dist.Normal(decode(z), 1).to_event(1), obs=x)

    auto = AutoNormal(bayesian, init_loc_fn=numpyro.infer.init_to_value(values={}))
    z = X[:, :2]
    losses = {}
    for name, loss in {"ours": vi.numpyro.ELBO(), "theirs": Trace_ELBO()}.items():
        svi = SVI(bayesian, auto, optax.adam(1e-2), loss)
        state = svi.init(jax.random.key(0), z, X)
        _, losses[name] = jax.jit(
            lambda s, svi=svi: jax.lax.scan(lambda s, _: svi.update(s, z, X), s, None, 5)
        )(state)
    np.testing.assert_allclose(losses["ours"], losses["theirs"], rtol=1e-5)
    svi = SVI(bayesian, auto, optax.adam(1e-2), vi.numpyro.IWAE(4))
    assert jnp.isfinite(jax.jit(svi.update)(svi.init(jax.random.key(0), z, X), z, X)[1])
