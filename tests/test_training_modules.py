"""NNX modules in training: what trains, what is carried, what is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vi

N, B = 23, 5
KEY = jax.random.key(0)
ADAM = optax.adam(0.05)


def make_data():
    x = jax.random.normal(jax.random.key(1), (N, 3))
    return {"x": x, "y": x @ jnp.array([1.0, -2.0, 0.5]) + 0.3}


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


class Network(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.shift = nnx.Variable(jnp.ones(4))

    def __call__(self, x):
        return self.dropout(self.norm(self.linear(x))) + self.shift


def network_loss(network, key, batch):
    return (network(batch["x"]).mean(-1) - batch["y"]).var()


def stateful_network_loss(network, extra, key, batch, step):
    return network_loss(network, key, batch), (extra, {})


def test_only_params_reach_the_optimiser():
    state = vi.training.init(Network(nnx.Rngs(0)), optax.adam(0.1))
    shapes = {"linear": {"kernel": (3, 4), "bias": (4,)}, "norm": {"scale": (4,), "bias": (4,)}}
    assert jax.tree.map(jnp.shape, state.params) == shapes
    assert jax.tree.map(jnp.shape, state.opt_state[0].mu) == shapes
    assert isinstance(state.model, Network)
    chex.assert_trees_all_equal(state.model.shift[...], jnp.ones(4))


def test_a_module_trains_as_its_pytree_does():
    linear = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    params = {"kernel": linear.kernel[...], "bias": linear.bias[...]}

    def module_loss(linear, key, batch):
        return ((linear(batch["x"])[:, 0] - batch["y"]) ** 2).mean()

    def pytree_loss(params, key, batch):
        prediction = batch["x"] @ params["kernel"] + params["bias"]
        return ((prediction[:, 0] - batch["y"]) ** 2).mean()

    ends = []
    for loss, start in ((module_loss, linear), (pytree_loss, params)):
        step, state = vi.training.gradient_step(loss, ADAM), vi.training.init(start, ADAM)
        ends.append(vi.training.run(KEY, step, state, make_data(), num_steps=9, batch_size=B))
    chex.assert_trees_all_close(ends[0][0].params, ends[1][0].params, rtol=1e-5, atol=1e-6)


def test_several_modules_train_together():
    encoder, decoder = (nnx.Linear(3, 3, rngs=nnx.Rngs(i)) for i in range(2))

    def loss(model, key, batch):
        return ((model["decoder"](model["encoder"](batch["x"])) - batch["x"]) ** 2).mean()

    state = vi.training.init({"encoder": encoder, "decoder": decoder}, ADAM)
    step = vi.training.gradient_step(loss, ADAM)
    end, _ = vi.training.run(KEY, step, state, make_data(), num_steps=3, batch_size=B)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, end.params)
    assert all(jax.tree.leaves(moved))
    assert set(end.model) == {"encoder", "decoder"}


def test_batch_statistics_and_dropout_are_carried():
    network, data = Network(nnx.Rngs(0)), make_data()
    state = vi.training.init(network, ADAM)
    step = vi.training.stateful_gradient_step(stateful_network_loss, ADAM)
    state, _ = jax.jit(step)(state, KEY, data)

    hidden = np.asarray(data["x"] @ network.linear.kernel[...])
    chex.assert_trees_all_close(
        state.variables["norm"]["mean"], 0.5 * hidden.mean(0), rtol=1e-5, atol=1e-6
    )
    chex.assert_trees_all_close(
        state.variables["norm"]["var"], 0.5 + 0.5 * hidden.var(0), rtol=1e-5
    )
    state, _ = vi.training.run(KEY, step, state, data, num_steps=4, batch_size=B)
    assert state.model.dropout.rngs.count[...] == 5
    chex.assert_trees_all_equal(state.model.norm.mean[...], state.variables["norm"]["mean"])


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (nnx.BatchNorm(3, rngs=nnx.Rngs(0)), r"\['mean'\]"),
        (
            nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(0))),
            r"\['count'\]",
        ),
    ],
)
def test_what_a_plain_step_would_lose_is_refused(module, named):
    def loss(module, key, batch):
        return (module(batch["x"]) ** 2).mean()

    step = vi.training.gradient_step(loss, ADAM)
    match = f"^gradient_step: loss must leave the module's variables.*{named}.*use stateful_"
    with pytest.raises(ValueError, match=match):
        step(vi.training.init(module, ADAM), KEY, make_data())
    module.eval()
    state, _ = jax.jit(step)(vi.training.init(module, ADAM), KEY, make_data())
    assert state.step == 1


def test_a_variable_that_appears_is_refused():
    class Keeping(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones(3))

        def __call__(self, x):
            self.seen = nnx.Variable(x)
            return x * self.w

    def loss(module, extra, key, batch, step):
        return module(batch["x"]).mean(), (extra, {})

    step = vi.training.stateful_gradient_step(loss, ADAM)
    match = "must neither add nor remove module variables .*seen"
    with pytest.raises(ValueError, match=match):
        step(vi.training.init(Keeping(), ADAM), KEY, make_data())


def test_an_update_in_place_leaves_the_state_alone():
    network = Network(nnx.Rngs(0))
    state = vi.training.init(network, ADAM)
    before = jax.tree.map(jnp.copy, (state.params, state.variables))
    network.linear.kernel[...] = jnp.zeros((3, 4))
    network.norm.mean[...] = jnp.ones(4)
    state.model.linear.bias[...] = jnp.ones(4)
    chex.assert_trees_all_equal((state.params, state.variables), before)


def test_vmapped_modules_share_one_structure():
    # Not Adam: the bias before the normalisation has a gradient of rounding alone.
    optimizer = optax.sgd(0.1)
    step = vi.training.stateful_gradient_step(stateful_network_loss, optimizer)

    def make(key):
        return vi.training.init(Network(nnx.Rngs(key)), optimizer)

    keys, data = jax.random.split(jax.random.key(8), 4), make_data()
    states, other = jax.jit(jax.vmap(make))(keys), make(jax.random.key(9))
    assert (states.graphdef, hash(states.graphdef)) == (other.graphdef, hash(other.graphdef))

    @jax.jit
    def train(state):
        return vi.training.run(KEY, step, state, data, num_steps=5, batch_size=B)

    together, _ = jax.vmap(train)(states)
    alone = [train(jax.tree.map(lambda leaf, at=at: leaf[at], states))[0] for at in range(4)]
    chex.assert_trees_all_close(
        (together.params, together.variables["norm"]),
        stacked([(state.params, state.variables["norm"]) for state in alone]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_bare_array_made_under_jit_is_refused():
    class Shifted(nnx.Module):
        def __init__(self):
            self.w, self.shift = nnx.Param(jnp.ones(3)), jnp.ones(3)

    with pytest.raises(ValueError, match="init: params must have a hashable structure"):
        jax.jit(lambda: vi.training.init(Shifted(), ADAM))()
