"""A run that is cut and started again ends with the same bits, or says why it cannot."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vi
from tests import killed_fit
from vi.training import Cause
from vi.training._chunk import chunk

KEY = jax.random.key(0)
OPTIMIZER = optax.adam(0.05)
DATA = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)
SCRIPT = pathlib.Path(killed_fit.__file__)


def loss(params, key, batch):
    error = batch @ params["w"] - 1 + 0.1 * jax.random.normal(key, (5,))
    return (error**2).mean(), {"worst": jnp.abs(error)}


STEP = vi.training.gradient_step(loss, OPTIMIZER)


def start(width=3):
    return vi.training.init({"w": jnp.ones(width)}, OPTIMIZER)


def fit(folder, *, key=KEY, state=None, data=DATA, num_steps=60, batch_size=5, **options):
    state = start() if state is None else state
    options = {"chunk_steps": 7} | options
    return vi.training.fit(
        key, STEP, state, data, num_steps=num_steps, batch_size=batch_size, checkpoint=folder,
        **options,
    )  # fmt: skip


def saved(folder) -> list[str]:
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


def assert_same(ours, theirs):
    for name in ("state", "history", "evaluations", "stopped"):
        chex.assert_trees_all_equal(getattr(ours, name), getattr(theirs, name))


class StopError(Exception):
    pass


def dies_at(step):
    def report(at, metrics):
        if at == step:
            raise StopError

    return report


# Resuming


@pytest.mark.parametrize("at", [20, 40, 60])
def test_an_error_loses_nothing(tmp_path, at):
    evaluate = lambda key, state: {"w": state.params["w"], "z": jax.random.normal(key)}  # noqa: E731
    looks = {"evaluate": evaluate, "eval_every": 20}
    with pytest.raises(StopError):
        fit(tmp_path, **looks, report=dies_at(at))
    assert saved(tmp_path)[-1] == str(at)
    resumed = fit(tmp_path, **looks, chunk_steps=11)
    assert_same(resumed, fit(None, **looks))
    assert resumed.history["worst"].shape == (60, 5)
    assert resumed.evaluations["step"].tolist() == [20, 40, 60]


def test_an_evaluation_that_fails_is_made_up_for(tmp_path):
    def evaluate(key, state):
        if state.step == 40 and not broken:
            broken.append(True)
            raise StopError
        return {"z": jax.random.normal(key)}

    broken = []
    with pytest.raises(StopError):
        fit(tmp_path, evaluate=evaluate, eval_every=20)
    resumed = fit(tmp_path, evaluate=evaluate, eval_every=20)
    assert_same(resumed, fit(None, evaluate=evaluate, eval_every=20))


def test_a_finished_run_returns_at_once_and_a_longer_one_goes_on(tmp_path):
    first = fit(tmp_path, num_steps=30)
    again = fit(tmp_path, num_steps=30)
    assert_same(again, first)
    assert again.compile_seconds == 0
    assert again.run_seconds == first.run_seconds
    assert_same(fit(tmp_path), fit(None))
    with pytest.raises(
        ValueError, match=r"num_steps must be at least what is saved \(got 59 for 60"
    ):
        fit(tmp_path, num_steps=59)


def test_how_it_stopped_is_remembered(tmp_path):
    early = {"stop": lambda history, _: "enough" if len(history["loss"]) >= 40 else None}
    stopped = fit(tmp_path / "a", eval_every=20, **early)
    assert str(stopped.stopped) == "stopped at step 40: enough"
    assert_same(fit(tmp_path / "a", eval_every=20, **early), stopped)

    bad = np.where(np.arange(23)[:, None] == 9, np.inf, DATA)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="next has non-finite loss"):
            result = fit(tmp_path / "b", data=bad)
        assert result.stopped.cause is Cause.NON_FINITE
        assert result.stopped.step == len(result.history["loss"]) < 5


def test_two_states_are_kept_and_nothing_else(tmp_path):
    fit(vi.training.Checkpoint(tmp_path, every_seconds=0), num_steps=30)
    assert saved(tmp_path) == ["28", "30"]
    shutil.rmtree(tmp_path / "30")
    assert_same(fit(tmp_path), fit(None))


@pytest.fixture(scope="module")
def whole():
    """The run that nothing cut, without checkpoints."""
    return killed_fit.fit(None)


def test_a_killed_process_ends_with_the_same_bits(tmp_path, whole):
    lives = kill_and_resume(tmp_path, "look")
    assert len(lives) == 2
    assert lives[-1].stdout.strip() == killed_fit.digest(whole)


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_ten_identical_ends(tmp_path, whole):
    moments = np.random.default_rng().uniform(0.0, 1.0, 10)
    ends = [kill_and_resume(tmp_path / f"{i}", t)[-1].stdout.strip() for i, t in enumerate(moments)]
    assert ends == [killed_fit.digest(whole)] * 10, moments


def kill_and_resume(folder, when):
    """Run until it dies, so many seconds into training or in a look, and again until it lives."""
    lives = []
    while not lives or lives[-1].returncode == -signal.SIGKILL:
        command = [sys.executable, str(SCRIPT), str(folder), str(0 if lives else when)]
        run = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])
        assert run.returncode in (0, -signal.SIGKILL), run.stderr
        lives.append(run)
    return lives


def test_an_interrupt_saves_and_returns(tmp_path, whole):
    """A real SIGINT, in another process, wherever it hits."""
    code = f"""
import sys, warnings; sys.path.insert(0, "."); warnings.simplefilter("ignore")
from tests import killed_fit
import time
print("ready", flush=True)
result = killed_fit.fit({str(tmp_path)!r}, report=lambda *_: time.sleep(0.05))
print(result.stopped[0])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=SCRIPT.parents[1]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    while not tmp_path.exists() or not any(n.isdecimal() and n != "0" for n in saved(tmp_path)):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.startswith("interrupted at step ")
    assert 0 < int(said.split()[-1]) < killed_fit.STEPS
    assert killed_fit.digest(killed_fit.fit(tmp_path)) == killed_fit.digest(whole)


def test_an_interrupt_within_a_save_waits_for_its_end(tmp_path, monkeypatch):
    """Whatever of a save it hits; Orbax's threads would write on behind a second one."""
    begun, ended = [], []
    real = vi.training._resume.save

    def save(*arguments):
        begun.append(arguments[1])
        if len(begun) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # Python's handler runs here, if ever
        real(*arguments)
        ended.append(arguments[1])

    monkeypatch.setattr(vi.training._resume, "save", save)
    often = vi.training.Checkpoint(tmp_path, every_seconds=0)
    with pytest.warns(RuntimeWarning, match="interrupted at step"):
        result = fit(often)
    assert result.stopped.cause is Cause.INTERRUPTED
    assert ended == begun
    assert result.stopped.step == begun[2]
    monkeypatch.undo()
    assert_same(fit(often), fit(None))


def test_a_resumed_run_compiles_once(tmp_path):
    jax.clear_caches()  # full of what other tests compiled, it would evict and count that too
    with pytest.raises(StopError):
        fit(tmp_path, eval_every=20, report=dies_at(20))
    before = chunk._cache_size()
    fit(tmp_path, eval_every=20, report=lambda *_: None)
    assert chunk._cache_size() == before


# Loading


@pytest.mark.slow
def test_load_gives_the_newest_state_whatever_it_holds(tmp_path):
    """Batch statistics, dropout's key and count, Adam's moments, an average, a typed key."""

    def blank(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(9), leaf.size).reshape(leaf.shape)
        return jnp.zeros_like(leaf)

    with pytest.raises(StopError):
        killed_fit.fit(tmp_path, report=dies_at(260))
    first = vi.training.load(tmp_path, jax.tree.map(blank, killed_fit.start()))
    assert first.step.tolist() == [260, 260]
    result = killed_fit.fit(tmp_path)
    chex.assert_trees_all_equal(
        vi.training.load(tmp_path, jax.tree.map(blank, result.state)), result.state
    )
    loaded = vi.training.load(tmp_path, killed_fit.start())
    chex.assert_trees_all_equal(
        killed_fit.digest(result._replace(state=loaded)), killed_fit.digest(result)
    )


@pytest.mark.slow
def test_another_device_can_load(tmp_path):
    """Saved on the second of two devices, and sharded over both; read where there is one."""
    code = f"""
import jax, jax.numpy as jnp, numpy as np, optax, vi
from jax.sharding import NamedSharding, PartitionSpec
first, second = jax.devices()
step = vi.training.gradient_step(lambda w, key, x: ((w - x) ** 2).mean(), optax.adam(0.1))
state = vi.training.init(jnp.arange(4.0), optax.adam(0.1))
mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
spread = NamedSharding(mesh, PartitionSpec("d"))
everywhere = NamedSharding(mesh, PartitionSpec())
spread_state = jax.tree.map(lambda a: jax.device_put(a, spread if a.ndim else everywhere), state)
for name, placed in (("second", jax.device_put(state, second)), ("spread", spread_state)):
    with jax.default_device(second):
        fitted = vi.training.fit(jax.random.key(0), step, placed, np.ones((9, 4), np.float32),
            num_steps=5, batch_size=3, checkpoint={str(tmp_path)!r} + "/" + name)
    print(fitted.state.params.tolist())
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | flags
    )
    assert run.returncode == 0, run.stderr
    printed = run.stdout.splitlines()
    optimizer = optax.adam(0.1)
    like = vi.training.init(jnp.zeros(4), optimizer)
    for name, line in zip(("second", "spread"), printed, strict=True):
        state = vi.training.load(tmp_path / name, like)
        assert state.params.tolist() == json.loads(line)
        assert state.params.devices() == {jax.devices()[0]}
        assert state.step == 5
    dtype_lost = dataclasses.replace(like, params=like.params.astype(jnp.bfloat16))
    with pytest.raises(
        ValueError, match=r"be of the state's structure \(got .*params float32\[4\]"
    ):
        vi.training.load(tmp_path / "spread", dtype_lost)
