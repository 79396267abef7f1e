"""State, steps and the pure run."""

import dataclasses
from functools import partial

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vi
from vi.training import _run

N, B = 23, 5
KEY = jax.random.key(0)


def make_data(size=N):
    x = jax.random.normal(jax.random.key(1), (size, 3))
    return {"x": x, "y": x @ jnp.array([1.0, -2.0, 0.5]) + 0.3}


def make_params(seed=2):
    return {"w": jax.random.normal(jax.random.key(seed), (3,)), "b": jnp.zeros(())}


def noisy_least_squares(params, key, batch):
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return ((error + 0.1 * jax.random.normal(key, error.shape)) ** 2).mean()


ADAM = optax.adam(0.05)
INJECTED_SGD = optax.inject_hyperparams(optax.sgd)
STEP = vi.training.gradient_step(noisy_least_squares, ADAM)


def adam_run(key, state, data, num_steps):
    return vi.training.run(key, STEP, state, data, num_steps=num_steps, batch_size=B)


compiled_run = jax.jit(adam_run, static_argnames="num_steps")


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@partial(jax.jit, static_argnames=("num_steps", "size", "batch_size"))
def batches(key, num_steps, *, size=N, batch_size=B):
    """The data that each step received, ``[num_steps, batch_size]``."""
    optimizer = optax.sgd(0.0)
    step = vi.training.gradient_step(lambda w, key, x: (w, {"seen": x}), optimizer)
    state = vi.training.init(jnp.zeros(()), optimizer)
    data = jnp.arange(size)
    _, history = vi.training.run(key, step, state, data, num_steps=num_steps, batch_size=batch_size)
    return history["seen"]


# Steps


def test_one_sgd_step_is_the_hand_gradient():
    def loss(params, key, batch):
        error = batch["x"] @ params["w"] + params["b"] - batch["y"]
        return (error**2).mean(), {"worst": jnp.abs(error).max()}

    optimizer, params, data = optax.sgd(0.1), make_params(), make_data()
    state = vi.training.init(params, optimizer)
    state, metrics = vi.training.gradient_step(loss, optimizer)(state, KEY, data)

    x, y, w = (np.asarray(a, np.float64) for a in (data["x"], data["y"], params["w"]))
    error = x @ w - y
    chex.assert_trees_all_close(metrics["loss"], (error**2).mean(), rtol=1e-5)
    chex.assert_trees_all_close(metrics["worst"], np.abs(error).max(), rtol=1e-5)
    chex.assert_trees_all_close(state.params["w"], w - 0.2 * x.T @ error / N, rtol=1e-5)
    chex.assert_trees_all_close(state.params["b"], -0.2 * error.mean(), rtol=1e-5)
    assert state.step == 1


def test_stateful_step_carries_extra_and_sees_the_step():
    def loss(w, extra, key, x, step):
        average = 0.9 * extra + 0.1 * w
        return ((w - x) ** 2).mean(), (average, {"rate": 0.5**step, "average": average})

    optimizer = optax.sgd(0.1)
    state = vi.training.init(jnp.ones(()), optimizer, extra=jnp.zeros(()))
    step = vi.training.stateful_gradient_step(loss, optimizer)
    state, history = vi.training.run(KEY, step, state, jnp.zeros(4), num_steps=3, batch_size=2)

    w = 0.8 ** np.arange(4)
    average = 0.1 * (0.9 ** np.array([2, 1, 0]) * w[:3]).sum()
    chex.assert_trees_all_close(state.params, w[3], rtol=1e-6)
    chex.assert_trees_all_close(state.extra, average, rtol=1e-6)
    chex.assert_trees_all_close(history["rate"], np.array([1.0, 0.5, 0.25]))
    chex.assert_trees_all_equal(history["average"][-1], state.extra)


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda w, key, x: x * w, r"gradient_step: loss must return a scalar \(got shape \[4\]\)"),
        (lambda w, key, x: (w, {"loss": w}), "gradient_step: metrics must not be named loss"),
        (lambda w, key, x: (w, w), "gradient_step: metrics must be a dict of arrays"),
    ],
)
def test_losses_refused(loss, match):
    state = vi.training.init(jnp.ones(()), ADAM)
    with pytest.raises(ValueError, match=match):
        vi.training.gradient_step(loss, ADAM)(state, KEY, jnp.ones(4))


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda w, e, key, x, step: w, r"must return \(value, \(extra, metrics\)\)"),
        (lambda w, e, key, x, step: (w, e), r"must return \(value, \(extra, metrics\)\)"),
        (lambda w, e, key, x, step: (x * w, (e, {})), "loss must return a scalar"),
        (lambda w, e, key, x, step: (w, (e, {"loss": w})), "metrics must not be named loss"),
    ],
)
def test_stateful_losses_refused(loss, match):
    state = vi.training.init(jnp.ones(()), ADAM)
    with pytest.raises(ValueError, match=f"^stateful_gradient_step: .*{match}"):
        vi.training.stateful_gradient_step(loss, ADAM)(state, KEY, jnp.ones(4))


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({}, "init: params must hold something to train"),
        ({"n": jnp.arange(3)}, r"init: params\['n'\] must be a floating array \(got int32\)"),
        ([1.0], r"init: params\[0\] must be a floating array \(got 1.0\)"),
        (
            {"net": nnx.Linear(1, 1, rngs=nnx.Rngs(0)), "scale": jnp.ones(())},
            r"init: params must be all modules or all arrays \(got array \['scale'\]\)",
        ),
    ],
)
def test_params_refused(params, match):
    with pytest.raises(ValueError, match=match):
        vi.training.init(params, ADAM)


def test_state_is_a_copy_of_numpy_arrays():
    params = {"w": np.ones(3, np.float32)}
    state = vi.training.init(params, ADAM)
    params["w"][:] = 7.0
    chex.assert_trees_all_equal(state.params["w"], jnp.ones(3))


# The pure run


def test_a_run_in_parts_is_the_same_run():
    data, start = make_data(), vi.training.init(make_params(), ADAM)
    whole, history = compiled_run(KEY, start, data, num_steps=9)
    state, pieces = start, []
    for _ in range(3):  # an epoch has four steps: both cuts lie within one
        state, piece = compiled_run(KEY, state, data, num_steps=3)
        pieces.append(piece)
    chex.assert_trees_all_equal(state, whole)
    chex.assert_trees_all_equal(jax.tree.map(lambda *p: jnp.concatenate(p), *pieces), history)
    assert history["loss"].shape == (9,)
    assert state.step == 9


def test_run_learns_under_jit_as_without():
    data, start = make_data(), vi.training.init(make_params(), ADAM)
    ran, compiled = (f(KEY, start, data, num_steps=200) for f in (adam_run, compiled_run))
    chex.assert_trees_all_close(compiled, ran, rtol=1e-4)
    chex.assert_trees_all_close(ran[0].params["w"], jnp.array([1.0, -2.0, 0.5]), atol=0.1)


@jax.jit
def train_seed(key, at):
    init_key, run_key = jax.random.split(key)
    params = {"w": jax.random.normal(init_key, (3,)), "b": jnp.zeros(())}
    state = dataclasses.replace(vi.training.init(params, ADAM), step=at)
    return adam_run(run_key, state, make_data(), num_steps=9)


@pytest.mark.parametrize("starts", [[0] * 8, [0, 1, 2, 3, 4, 5, 6, 7]])
def test_vmapped_seeds_are_the_single_runs(starts):
    keys, starts = jax.random.split(jax.random.key(5), 8), jnp.array(starts)
    together = jax.vmap(train_seed)(keys, starts)
    alone = stacked(map(train_seed, keys, starts))
    chex.assert_trees_all_close(together, alone, rtol=2e-5, atol=1e-6)
    assert together[1]["loss"].shape == (8, 9)
    assert len(np.unique(together[1]["loss"][:, 0])) == 8


def sgd_run(key, rate, *, make_optimizer=INJECTED_SGD):
    optimizer = make_optimizer(learning_rate=rate)
    step = vi.training.gradient_step(noisy_least_squares, optimizer)
    state = vi.training.init(make_params(), optimizer)
    state, history = vi.training.run(key, step, state, make_data(), num_steps=9, batch_size=B)
    return state.params, history


def test_vmapped_seeds_and_rates_are_the_single_runs():
    keys, rates = jax.random.split(jax.random.key(6), 3), jnp.array([0.01, 0.05])
    grid = jax.jit(jax.vmap(jax.vmap(sgd_run, (None, 0)), (0, None)))(keys, rates)
    single = jax.jit(partial(sgd_run, make_optimizer=optax.sgd))
    alone = stacked([stacked([single(key, rate) for rate in rates]) for key in keys])
    chex.assert_trees_all_close(grid, alone, rtol=2e-5, atol=1e-6)
    assert grid[1]["loss"].shape == (3, 2, 9)


def test_run_is_differentiable_in_the_rate():
    def final_loss(rate):
        return sgd_run(KEY, rate)[1]["loss"][-1]

    low, high = jax.jit(jax.vmap(final_loss))(jnp.array([0.009, 0.011]))
    slope = jax.jit(jax.grad(final_loss))(0.01)
    chex.assert_trees_all_close(slope, (high - low) / 0.002, rtol=0.02)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jex.jaxprs_in_params(equation.params):
            yield from equations(inner)


def draws_order_only_at_epoch_starts(depth):
    """Whether in a run vmapped ``depth`` times one scalar condition guards the permutation."""
    keys = jax.random.split(jax.random.key(7), (3, 2)[:depth])
    start = vi.training.init(make_params(), ADAM)
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, keys.shape + leaf.shape), start)
    train = partial(adam_run, data=make_data(), num_steps=9)
    for _ in range(depth):
        train = jax.vmap(train)
    found = list(equations(jax.make_jaxpr(train)(keys, states).jaxpr))
    conditions = [e for e in found if e.primitive.name == "cond"]
    guarded = [e for c in conditions for b in c.params["branches"] for e in equations(b.jaxpr)]
    sorts = [e for e in found if e.primitive.name == "sort"]
    return (
        len(conditions) == 1
        and conditions[0].invars[0].aval.shape == ()
        and len(sorts) > 0
        and len(sorts) == sum(e.primitive.name == "sort" for e in guarded)
    )


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_permutation_stays_conditional_under_vmap(depth):
    assert draws_order_only_at_epoch_starts(depth)


def test_a_batched_predicate_would_be_seen(monkeypatch):
    monkeypatch.setattr(_run, "_any_of_batch", lambda flag: flag)
    with jax.debug_key_reuse(False):
        assert not draws_order_only_at_epoch_starts(1)


@pytest.mark.parametrize(("size", "per_epoch"), [(20, 4), (23, 4)])
def test_an_epoch_visits_each_datum_once(size, per_epoch):
    epochs = np.asarray(batches(KEY, 3 * per_epoch, size=size)).reshape(3, per_epoch * B)
    for epoch in epochs:
        assert len(set(epoch)) == per_epoch * B
    if size % B == 0:
        chex.assert_trees_all_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (3, 1)))
    assert not (epochs[0] == epochs[1]).all()
    assert not (epochs[1] == epochs[2]).all()


def test_the_order_follows_from_the_key():
    chex.assert_trees_all_equal(batches(KEY, 9), batches(jax.random.key(0), 9))
    assert not (batches(KEY, 9) == batches(jax.random.key(1), 9)).all()


def test_over_many_epochs_the_remainder_differs():
    epochs = np.asarray(batches(KEY, 40)).reshape(10, 20)
    assert len({frozenset(range(N)) - frozenset(epoch) for epoch in epochs}) == 10


def test_the_whole_data_set_may_be_one_batch():
    chex.assert_trees_all_equal(
        np.sort(batches(KEY, 2, batch_size=N), axis=1), np.tile(np.arange(N), (2, 1))
    )


def test_noise_differs_from_step_to_step():
    step = vi.training.gradient_step(
        lambda w, key, x: (w, {"noise": jax.random.normal(key)}), optax.sgd(0.0)
    )
    state = vi.training.init(jnp.zeros(()), optax.sgd(0.0))
    _, history = vi.training.run(KEY, step, state, jnp.zeros(3), num_steps=10, batch_size=3)
    assert len(np.unique(history["noise"])) == 10


def test_bytes_stay_bytes():
    def loss(w, key, batch):
        assert batch["x"].dtype == jnp.uint8
        return (w - batch["x"] / 255 * batch["y"]).mean()

    data = {"x": np.full(8, 255, np.uint8), "y": np.ones(8, np.float32)}
    step = vi.training.gradient_step(loss, ADAM)
    state = vi.training.init(jnp.zeros(()), ADAM)
    vi.training.run(KEY, step, state, data, num_steps=2, batch_size=4)


def test_a_step_of_ones_own_need_not_count():
    def step(state, key, x):
        return dataclasses.replace(state, params=x.mean()), {"loss": x.mean(), "seen": x}

    state = vi.training.init(jnp.zeros(()), ADAM)
    data = jnp.arange(10.0)
    state, history = vi.training.run(KEY, step, state, data, num_steps=5, batch_size=2)
    assert state.step == 5
    chex.assert_trees_all_equal(np.sort(history["seen"].ravel()), np.arange(10.0))


def test_a_step_must_report_its_loss():
    state = vi.training.init(jnp.zeros(()), ADAM)
    with pytest.raises(ValueError, match="step: metrics must contain loss"):
        vi.training.run(
            KEY, lambda state, key, x: (state, {}), state, jnp.ones(4), num_steps=1, batch_size=2
        )


def test_float64(x64):
    params, data = jax.tree.map(lambda a: a.astype(jnp.float64), (make_params(), make_data()))
    state, history = adam_run(KEY, vi.training.init(params, ADAM), data, 5)
    assert state.params["w"].dtype == history["loss"].dtype == jnp.float64
    assert state.step.dtype == jnp.int32


BAD_RUNS = [
    ({"key": 0}, "key must be a typed PRNG key"),
    ({"key": np.zeros(2, np.uint32)}, "key must be a typed PRNG key"),
    ({"num_steps": 0}, "num_steps must be an integer of at least 1"),
    ({"num_steps": 2.0}, "num_steps must be an integer of at least 1"),
    ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
    ({"batch_size": True}, "batch_size must be an integer of at least 1"),
    ({"batch_size": 24}, r"batch_size must be at most N = 23 \(got 24\)"),
    ({"data": {}}, "data must hold at least one array"),
    ({"data": jnp.zeros((0, 3))}, "data must have at least one datum"),
    (
        {"data": {"x": jnp.zeros((23, 3)), "y": jnp.zeros(22)}},
        r"data must have one length N in all leaves \(got data\['x'\] 23, data\['y'\] 22\)",
    ),
    ({"data": {"x": jnp.zeros(23), "y": 1.0}}, r"data\['y'\] must be an array \[N, \.\.\.\]"),
    ({"data": (jnp.zeros(()),)}, r"data\[0\] must be an array \[N, \.\.\.\]"),
    ({"state": make_params()}, r"state must be a vi\.training\.State \(got dict\)"),
    (
        {"state": jax.vmap(lambda _: vi.training.init(make_params(), ADAM))(jnp.zeros(8))},
        r"state must be that of one run \(got step of shape \[8\]\)",
    ),
]


@pytest.mark.parametrize("where", [vi.training.run, vi.training.fit])
@pytest.mark.parametrize(("bad", "match"), BAD_RUNS)
def test_bad_input_is_refused_before_any_compute(where, bad, match):
    def step(state, key, batch):
        raise AssertionError("the step was traced")

    state = vi.training.init(make_params(), ADAM)
    good = {"key": KEY, "step": step, "state": state, "data": make_data()}
    arguments = good | {"num_steps": 3, "batch_size": B} | bad
    with pytest.raises(ValueError, match=f"^{where.__name__}: {match}"):
        where(**arguments)
