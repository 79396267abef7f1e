"""Several runs in one program: each is the run it would be alone."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vi
from vi.training import Cause
from vi.training._chunk import chunk

RATES = jnp.array([0.3, 0.1, 0.03])
OPTIMIZER = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
DATA = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)


def loss(params, key, batch):
    error = batch @ params["w"] - 1 + 0.1 * jax.random.normal(key, (5,))
    return (error**2).mean(), {"worst": jnp.abs(error), "count": jnp.int32(1)}


STEP = vi.training.gradient_step(loss, OPTIMIZER)


@jax.vmap
def start(key, rate):
    state = vi.training.init({"w": jax.random.normal(key, (3,))}, OPTIMIZER)
    state.opt_state.hyperparams["learning_rate"] = rate
    return state


def states():
    return start(jax.random.split(jax.random.key(1), 3), RATES)


def keys():
    return jax.random.split(jax.random.key(0), 3)


def fit(key=None, step=STEP, state=None, num_steps=30, **options):
    key = keys() if key is None else key
    state = states() if state is None else state
    return vi.training.fit(key, step, state, DATA, num_steps=num_steps, batch_size=5, **options)


def of_run(tree, r):
    return jax.tree.map(lambda leaf: leaf[r], tree)


@pytest.fixture(scope="module")
def together():
    return fit(chunk_steps=7)


def test_seeds_and_rates_are_the_vmapped_run(together):
    """One program each; XLA may round a scan and a loop apart in the last bit."""

    def run(key, state):
        return vi.training.run(key, STEP, state, DATA, num_steps=30, batch_size=5)

    state, history = jax.jit(jax.vmap(run))(keys(), states())
    chex.assert_trees_all_close(together.state, state, rtol=1e-5)
    chex.assert_trees_all_close(together.history, history, rtol=1e-4, atol=1e-5)
    assert together.history["worst"].shape == (3, 30, 5)
    assert [str(s) for s in together.stopped] == ["ran all 30 steps"] * 3


@pytest.mark.parametrize("r", range(3))
def test_each_is_the_run_alone(together, r):
    alone = fit(keys()[r], state=of_run(states(), r))
    chex.assert_trees_all_close(of_run(together.state, r), alone.state, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(of_run(together.history, r), alone.history, rtol=1e-3, atol=1e-5)
    assert alone.stopped == together.stopped[r]


def test_runs_differ(together):
    assert len(np.unique(together.history["loss"][:, 0])) == 3


def poisoned(state, key, batch):
    """The step, with a loss that is not finite in the step ``extra``, parameters after it."""
    moved, metrics = STEP(dataclasses.replace(state, extra=None), key, batch)
    now = moved.step == state.extra
    loss = jnp.where(now, jnp.inf, metrics["loss"])
    params = {"w": jnp.where(moved.step > state.extra, jnp.nan, moved.params["w"])}
    return dataclasses.replace(moved, extra=state.extra, params=params), metrics | {"loss": loss}


@pytest.mark.parametrize("chunk_steps", [1, 8, 30])
@pytest.mark.parametrize("at", [(40, 12, 40), (12, 12, 5), (1, 30, 29), (2, 1, 1)])
def test_a_run_that_fails_stays_and_the_others_go_on(together, at, chunk_steps):
    state = dataclasses.replace(states(), extra=jnp.array(at))
    with pytest.warns(
        RuntimeWarning, match="runs? .*: stopped at step .*: the next has non-finite"
    ):
        result = fit(step=poisoned, state=state, chunk_steps=chunk_steps)
    for r, first_bad in enumerate(at):
        steps = min(first_bad - 1, 30)
        assert result.state.step[r] == steps
        losses = result.history["loss"][r]
        n = min(max(at) - 1, 30)
        assert len(losses) == n
        np.testing.assert_allclose(losses[:steps], together.history["loss"][r, :steps], rtol=1e-4)
        assert np.isnan(losses[steps:]).all()
        assert result.history["count"][r].tolist() == [1] * steps + [0] * (n - steps)
        cause = Cause.NON_FINITE if steps < 30 else Cause.DONE
        assert result.stopped[r][:2] == (cause, steps)
        assert jnp.isfinite(result.state.params["w"][r]).all()
        if steps == 30:
            chex.assert_trees_all_close(
                result.state.params["w"][r], together.state.params["w"][r], rtol=1e-4
            )


def test_a_rule_stops_each_run_on_its_own():
    def stop(history, evaluations):
        assert history["loss"].shape == (len(evaluations["first"]) * 5,)
        assert evaluations["step"][-1] == len(history["loss"])
        return "enough" if evaluations["first"][-1] * 10 < len(history["loss"]) else None

    def evaluate(keys, states):
        return {"first": jnp.arange(3.0), "noise": jax.vmap(jax.random.normal)(keys)}

    result = fit(evaluate=evaluate, eval_every=5, stop=stop)
    assert [s.step for s in result.stopped] == [5, 15, 25]
    assert {s.cause for s in result.stopped} == {Cause.EARLY}
    assert str(result.stopped[1]) == "stopped at step 15: enough"
    assert result.evaluations["step"].tolist() == [5, 10, 15, 20, 25]
    assert result.evaluations["noise"].shape == (3, 5)
    assert result.state.step.tolist() == [5, 15, 25]
    assert np.isfinite(result.history["loss"]).sum(1).tolist() == [5, 15, 25]


def test_reports_are_means_since_the_last(together):
    seen = {}
    fit(chunk_steps=4, eval_every=12, report=lambda at, m: seen.update({at: m}))
    assert list(seen) == [12, 24, 30]
    for begin, end in ((0, 12), (12, 24), (24, 30)):
        expected = {k: v[:, begin:end].mean(1) for k, v in together.history.items()}
        chex.assert_trees_all_close(seen[end], expected, rtol=1e-5)


def test_skipped_steps_are_counted_and_said():
    """The second run's loss has no finite gradient in every fourth step."""
    optimizer = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=3)

    def loss(params, extra, key, batch, step):
        value = ((batch @ params["w"] - 1) ** 2).mean()
        return jnp.where(extra & (step % 4 == 2), jnp.nan, 1.0) * value, (extra, {})

    step = vi.training.stateful_gradient_step(loss, optimizer)
    state = jax.vmap(lambda e: vi.training.init({"w": jnp.ones(3)}, optimizer, extra=e))(
        jnp.array([False, True])
    )
    with pytest.warns(RuntimeWarning, match="run 1: ran all 30 steps; .* skipped 7 as"):
        result = fit(keys()[:2], step, state)
    assert [s.skipped for s in result.stopped] == [0, 7]
    assert np.isnan(result.history["loss"]).sum(1).tolist() == [0, 7]
    assert result.state.step.tolist() == [30, 30]
    assert jnp.isfinite(result.state.params["w"]).all()


def test_a_skipped_step_leaves_batch_statistics_and_averages_finite():
    class Network(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    data = np.where(np.arange(23)[:, None] == 9, np.nan, DATA)
    optimizer = optax.apply_if_finite(
        optax.chain(optax.sgd(0.1), vi.training.average(0.9)), max_consecutive_errors=3
    )

    def loss(network, seen, key, batch, step):
        return (network.norm(batch) ** 2).mean(), (seen + batch.sum(), {})

    step = vi.training.stateful_gradient_step(loss, optimizer)
    state = vi.training.init(Network(), optimizer, extra=jnp.zeros(()))
    with pytest.warns(RuntimeWarning, match="skipped [0-9]+ as not finite"):
        result = vi.training.fit(
            jax.random.key(0), step, state, data, num_steps=40, batch_size=5, progress=True
        )
    assert result.stopped.cause is Cause.DONE
    floats = (result.state.variables, result.state.extra, vi.training.averaged(result.state).params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(floats))
    assert result.state.extra != 0


def test_more_failures_in_a_row_than_the_wrapper_bears_stop_the_run():
    optimizer = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=3)
    step = vi.training.stateful_gradient_step(
        lambda w, extra, key, batch, t: (
            jnp.where(t < 9, 1.0, jnp.nan) * (w**2).sum(),
            (extra, {}),
        ),
        optimizer,
    )
    state = vi.training.init(jnp.ones(3), optimizer)
    with pytest.warns(
        RuntimeWarning, match="stopped at step 12: the next has non-finite loss, params"
    ):
        result = fit(keys()[0], step, state)
    assert result.stopped == (
        Cause.NON_FINITE, 12, str(result.stopped), 3,
    )  # fmt: skip


def test_without_the_wrapper_the_same_step_stops_it():
    step = vi.training.stateful_gradient_step(
        lambda w, extra, key, batch, t: (
            jnp.where(t < 9, 1.0, jnp.nan) * (w**2).sum(),
            (extra, {}),
        ),
        optax.sgd(0.1),
    )
    with pytest.warns(RuntimeWarning, match="stopped at step 9: the next has non-finite loss"):
        fit(keys()[0], step, vi.training.init(jnp.ones(3), optax.sgd(0.1)))


def test_an_interrupt_returns_what_there_is():
    def report(step, metrics):
        if step == 10:
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="runs 0, 1, 2: interrupted at step 10"):
        result = fit(report=report, eval_every=5)
    assert [s.cause for s in result.stopped] == [Cause.INTERRUPTED] * 3
    assert result.history["loss"].shape == (3, 10)
    assert result.state.step.tolist() == [10] * 3


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (
            lambda: {"state": of_run(states(), 0)},
            r"state must be that of 3 runs, as key \(got step of",
        ),
        (lambda: {"key": keys()[0]}, r"state must be that of one run \(got step of shape \[3\]"),
        (lambda: {"key": keys()[:2]}, "state must be that of 2 runs"),
        (lambda: {"key": keys()[None]}, "key must be a single key"),
        (lambda: {"key": keys()[:0]}, "key must hold a key for each run"),
        (lambda: {"stop": lambda h, e: None}, "stop must come with eval_every"),
        (lambda: {"eval_every": 3}, "eval_every must come with"),
        (lambda: {"evaluate": lambda k, s: {"a": 1.0}}, "evaluate must return one entry per run"),
    ],
)
def test_bad_input_is_refused(bad, match):
    with pytest.raises(ValueError, match=f"^fit: {match}"):
        fit(num_steps=1, **bad())


@pytest.mark.parametrize("answer", [False, True, 0.5])
def test_a_rule_that_answers_something_else_is_refused(answer):
    with pytest.raises(ValueError, match="fit: stop must return a reason or None"):
        fit(eval_every=10, stop=lambda history, evaluations: answer)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (lambda k, s: {"loss": jnp.zeros(3)}, r"use other names than the metrics \(got loss\)"),
        (lambda k, s: {"a": ["yes"] * 3}, r"evaluate must return numbers \(got a: list\)"),
    ],
)
def test_evaluations_that_cannot_be_kept_are_refused(values, match):
    with pytest.raises(ValueError, match=match):
        fit(evaluate=values, report=lambda *_: None)


def test_nested_metrics_are_refused_before_training():
    def nested(state, key, batch):
        moved, metrics = STEP(state, key, batch)
        return moved, metrics | {"kl": {"a": metrics["loss"]}}

    with pytest.raises(ValueError, match=r"fit: metrics must be arrays by name \(got kl\)"):
        fit(step=nested)


def test_a_metric_may_be_called_step():
    def counting(state, key, batch):
        moved, metrics = STEP(state, key, batch)
        return moved, metrics | {"step": moved.step}

    result = fit(step=counting)
    assert result.history["step"].tolist() == [list(range(1, 31))] * 3


@pytest.mark.slow
def test_a_committed_state_compiles_once():
    step = vi.training.gradient_step(loss, OPTIMIZER)
    state = jax.device_put(states(), jax.devices()[0])
    jax.clear_caches()  # full of what other tests compiled, it would evict and count that too
    before = chunk._cache_size()
    fit(step=step, state=state)
    assert chunk._cache_size() == before + 1


def test_runs_at_different_steps_are_refused():
    state = dataclasses.replace(states(), step=jnp.array([3, 3, 4]))
    with pytest.raises(ValueError, match=r"state must be at one step in all runs \(got \[3, 4\]\)"):
        fit(state=state)


def test_a_run_that_is_not_finite_to_begin_with_is_named():
    state = states()
    bad = {"w": state.params["w"].at[1, 2].set(jnp.nan)}
    with pytest.raises(ValueError, match=r"have finite params \(got params\['w'\] of run 1\)"):
        fit(state=dataclasses.replace(state, params=bad))
