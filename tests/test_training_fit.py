"""The host loop: the same steps as run, and what happens between chunks."""

import dataclasses
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vi

KEY = jax.random.key(0)
OPTIMIZER = optax.adam(0.05)
DATA = {
    "x": np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32),
    "y": np.random.default_rng(1).normal(size=23).astype(np.float32),
}


def loss(params, key, batch):
    error = batch["x"] @ params["w"] - batch["y"] + 0.1 * jax.random.normal(key, (5,))
    return (error**2).mean(), {"worst": jnp.abs(error)}


STEP = vi.training.gradient_step(loss, OPTIMIZER)


def start():
    return vi.training.init({"w": jnp.ones(3)}, OPTIMIZER)


def fit(step=STEP, state=None, key=KEY, num_steps=30, **options):
    state = start() if state is None else state
    return vi.training.fit(key, step, state, DATA, num_steps=num_steps, batch_size=5, **options)


@pytest.fixture(scope="module")
def whole():
    """Thirty steps by run."""
    ran = jax.jit(lambda s: vi.training.run(KEY, STEP, s, DATA, num_steps=30, batch_size=5))
    return ran(start())


@pytest.mark.parametrize("chunk_steps", [None, 1, 4, 7, 30, 100])
def test_fit_is_run_whatever_the_chunks(whole, chunk_steps):
    state, history = whole
    result = fit(chunk_steps=chunk_steps)
    chex.assert_trees_all_equal(result.state, state)
    # a metric that no step depends on may be rounded as the program around it is fused
    chex.assert_trees_all_close(result.history, jax.tree.map(np.asarray, history), rtol=1e-6)
    assert result.history["worst"].shape == (30, 5)
    assert str(result.stopped) == "ran all 30 steps"
    assert result.evaluations == {}
    assert all(isinstance(leaf, np.ndarray) for leaf in result.history.values())


def test_fit_goes_on_where_it_stopped(whole):
    first = fit(num_steps=13, chunk_steps=5)
    second = fit(state=first.state, num_steps=17, chunk_steps=5)
    chex.assert_trees_all_equal(second.state, whole[0])
    joined = np.concatenate([first.history["loss"], second.history["loss"]])
    chex.assert_trees_all_equal(joined, np.asarray(whole[1]["loss"]))


def test_a_second_fit_compiles_nothing():
    traced = chex.assert_max_traces(
        loss, n=2
    )  # one for the shapes of the metrics, one for the loop
    step = vi.training.gradient_step(traced, OPTIMIZER)
    first = fit(step=step, evaluate=lambda key, state: {}, eval_every=7)
    for num_steps in (30, 11, 1):
        again = fit(step=step, key=jax.random.key(num_steps), num_steps=num_steps)
        assert again.compile_seconds < first.compile_seconds / 2
    fit(step=step, state=first.state)


def test_a_fit_of_another_capacity_is_seen_to_compile():
    step = vi.training.gradient_step(chex.assert_max_traces(loss, n=2), OPTIMIZER)
    fit(step=step, num_steps=1, chunk_steps=3)
    with pytest.raises(AssertionError, match="traced"):
        fit(step=step, num_steps=1, chunk_steps=2)


def test_what_was_passed_in_stays_usable(whole):
    state = start()
    before = jax.tree.map(np.array, state)
    fit(state=state)
    chex.assert_trees_all_equal(jax.tree.map(np.array, state), before)
    chex.assert_trees_all_equal(fit(state=state).state, whole[0])


def poison_loss(state, key, batch):
    """The step, with a loss that is not finite from step ``extra`` on (the first is 1)."""
    moved, metrics = STEP(state, key, batch)
    bad = moved.step >= state.extra
    return moved, metrics | {"loss": jnp.where(bad, jnp.inf, metrics["loss"])}


def poison_params(state, key, batch):
    """The step, with a parameter that is not a number from step ``extra`` on."""
    moved, metrics = STEP(state, key, batch)
    w = moved.params["w"]
    w = jnp.where(moved.step >= state.extra, w.at[1].set(jnp.nan), w)
    return dataclasses.replace(moved, params={"w": w}), metrics


def poisoned(at):
    return dataclasses.replace(start(), extra=jnp.int32(at))


@pytest.mark.parametrize("at", [1, 2, 16, 17, 30])
@pytest.mark.parametrize(
    ("step", "wrong"), [(poison_loss, "loss"), (poison_params, r"params\['w'\]")]
)
def test_the_first_bad_step_is_named_and_undone(whole, at, step, wrong):
    with pytest.warns(
        RuntimeWarning, match=f"stopped at step {at - 1}: the next has non-finite {wrong}$"
    ):
        result = fit(step=step, state=poisoned(at), chunk_steps=16)
    assert result.stopped[:2] == (vi.training.Cause.NON_FINITE, at - 1)
    assert result.state.step == at - 1
    expected = start() if at == 1 else fit(num_steps=at - 1, chunk_steps=16).state
    chex.assert_trees_all_equal(result.state, dataclasses.replace(expected, extra=jnp.int32(at)))
    losses = np.asarray(whole[1]["loss"])[: at - 1]
    chex.assert_trees_all_equal(result.history["loss"], losses)


def test_a_bad_first_step_of_a_chunk_is_not_evaluated_twice():
    with pytest.warns(RuntimeWarning, match="stopped at step 18: "):
        result = fit(
            step=poison_loss,
            state=poisoned(19),
            evaluate=lambda key, state: {"w": state.params["w"]},
            eval_every=18,
        )
    chex.assert_trees_all_equal(result.evaluations["step"], np.array([18], np.int32))


def test_a_stop_is_evaluated_too():
    with pytest.warns(RuntimeWarning):
        result = fit(
            step=poison_params, state=poisoned(9), evaluate=lambda key, state: {}, eval_every=5
        )
    chex.assert_trees_all_equal(result.evaluations["step"], np.array([5, 8], np.int32))


def test_evaluate_is_called_on_time_with_keys_of_the_step():
    def evaluate(key, state):
        return {"w": state.params["w"], "noise": jax.random.normal(key)}

    result = fit(evaluate=evaluate, eval_every=8)
    chex.assert_trees_all_equal(result.evaluations["step"], np.array([8, 16, 24, 30], np.int32))
    assert result.evaluations["w"].shape == (4, 3)
    chex.assert_trees_all_equal(result.evaluations["w"][-1], np.asarray(result.state.params["w"]))
    assert len(np.unique(result.evaluations["noise"])) == 4

    first = fit(evaluate=evaluate, eval_every=8, num_steps=10)
    second = fit(state=first.state, evaluate=evaluate, eval_every=8, num_steps=20)
    steps = [*first.evaluations["step"], *second.evaluations["step"]]
    assert steps == [8, 10, 16, 24, 30]
    chex.assert_trees_all_equal(
        second.evaluations, jax.tree.map(lambda e: e[1:], result.evaluations)
    )


def test_without_eval_every_only_the_end_is_evaluated():
    result = fit(evaluate=lambda key, state: {"b": 1.5})
    chex.assert_trees_all_equal(
        result.evaluations, {"step": np.array([30], np.int32), "b": np.array([1.5])}
    )


def test_seeds_train_side_by_side_in_one_step():
    def loss(w, key, x):
        return ((w - x - jax.random.normal(key)) ** 2).mean()

    optimizer = optax.sgd(0.1)
    one = vi.training.gradient_step(loss, optimizer)

    def step(state, key, batch):
        axes = dataclasses.replace(state, params=0, opt_state=0, step=None)
        keys = jax.random.split(key, 4)
        return jax.vmap(one, (axes, 0, None), (axes, 0))(state, keys, batch)

    state = vi.training.init(jnp.zeros(4), optimizer)
    result = vi.training.fit(KEY, step, state, jnp.ones(10), num_steps=6, batch_size=5)
    assert result.history["loss"].shape == (6, 4)
    assert len(np.unique(result.state.params)) == 4


def test_a_module_is_fitted_with_its_variables():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.norm, self.out = nnx.BatchNorm(3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)

    def loss(network, extra, key, batch, step):
        error = network.out(network.norm(batch["x"]))[:, 0] - batch["y"]
        return (error**2).mean(), (extra, {})

    step = vi.training.stateful_gradient_step(loss, OPTIMIZER)
    state = vi.training.init(Network(nnx.Rngs(0)), OPTIMIZER)
    result = fit(step=step, state=state, chunk_steps=7)
    ran, _ = vi.training.run(KEY, step, state, DATA, num_steps=30, batch_size=5)
    chex.assert_trees_all_close(result.state, ran, rtol=1e-4, atol=1e-5)
    assert (result.state.model.norm.mean[...] != 0).all()


# The bar


def test_no_bar_where_stderr_is_no_terminal(capsys):
    fit()
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_request(capsys):
    fit(progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "30/30" in err
    assert "loss" in err


@pytest.mark.parametrize(("progress", "shown"), [(None, True), (False, False)])
def test_a_terminal_gets_a_bar(capsys, monkeypatch, progress, shown):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal
    fit(progress=progress)
    assert ("30/30" in capsys.readouterr().err) == shown


# Bad input


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"chunk_steps": 0}, "chunk_steps must be an integer of at least 1"),
        ({"chunk_steps": 2.5}, "chunk_steps must be an integer of at least 1"),
        ({"eval_every": 0}, "eval_every must be an integer of at least 1"),
        ({"eval_every": 5}, r"eval_every must come with evaluate \(got no evaluate\)"),
        ({"evaluate": lambda key, state: 1.0}, "evaluate must return a dict without step"),
        ({"evaluate": lambda key, state: {"step": 1}}, "evaluate must return a dict without step"),
        (
            {"state": vi.training.init({"w": jnp.array([1.0, jnp.nan, 0.0])}, OPTIMIZER)},
            r"state must have finite params \(got params\['w'\]\)",
        ),
    ],
)
def test_bad_input_is_refused(bad, match):
    with pytest.raises(ValueError, match=f"^fit: {match}"):
        fit(num_steps=1, **bad)


def test_training_imports_no_numpyro():
    code = "import sys, vi.training; sys.exit('numpyro' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
