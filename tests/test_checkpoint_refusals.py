"""What a checkpoint folder may suffer: a clear error, and the last good state intact."""

import dataclasses
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vi
from tests.test_checkpoints import DATA, OPTIMIZER, assert_same, fit, saved, start


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of steps 20 and 30."""
    fit(tmp_path, num_steps=20)
    fit(tmp_path, num_steps=30)
    assert saved(tmp_path) == ["20", "30"]
    return tmp_path


def the_files(checkpoint: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.stat().st_size)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """One bit of every 16th byte."""
    held = np.frombuffer(path.read_bytes(), np.uint8).copy()
    held[len(held) // 2 :: 16] ^= 1
    path.write_bytes(held.tobytes())


@pytest.mark.parametrize("damage", [cut, flip, pathlib.Path.unlink])
def test_a_damaged_checkpoint_is_refused_whichever_file_it_is(folder, damage):
    for i in range(len(the_files(folder / "30"))):
        other = folder / f"copy {i}"
        for step in ("20", "30"):
            shutil.copytree(folder / step, other / step)
        damage(the_files(other / "30")[i])
        with pytest.raises(ValueError, match="load: checkpoint must be whole") as refused:
            vi.training.load(other, start())
        got = f"(got {other / '30'}, damaged); delete it to go on from step 20"
        assert str(refused.value).endswith(got)


def test_after_deleting_the_damaged_one_it_goes_on(folder):
    cut(max(the_files(folder / "30"), key=lambda path: path.stat().st_size))
    with pytest.raises(ValueError, match=r"fit: checkpoint must be whole .* go on from step 20"):
        fit(folder)
    assert saved(folder) == ["20", "30"]
    shutil.rmtree(folder / "30")
    assert_same(fit(folder), fit(None))


def test_half_written_ones_are_cleared_away(folder):
    shutil.copytree(folder / "30", folder / "40.partial")
    (folder / "50.partial.orbax-checkpoint-tmp").mkdir()
    assert_same(fit(folder), fit(None))
    assert saved(folder) == ["30", "60"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"key": jax.random.key(1)}, "key"),
        ({"data": DATA + 1e-3}, "data"),
        ({"data": DATA[:20]}, "data"),
        ({"batch_size": 4}, "batch_size"),
        ({"eval_every": 10, "report": print}, "eval_every"),
        ({"state": vi.training.init({"w": np.full(3, 1.001)}, OPTIMIZER)}, "state"),
        ({"state": vi.training.init({"w": np.ones(4)}, OPTIMIZER)}, "state"),
        ({"state": vi.training.init({"w": np.ones(3)}, optax.sgd(0.1))}, "state"),
        ({"key": jax.random.key(1), "batch_size": 6}, "key, batch_size"),
    ],
)
def test_another_run_is_refused(folder, change, what):
    with pytest.raises(
        ValueError, match=rf"fit: checkpoint must be of this run \(got another {what} in"
    ):
        fit(folder, **change)
    assert saved(folder) == ["20", "30"]


def test_the_error_of_another_machine_s_rounding_is_not_another_state(folder):
    almost = vi.training.init({"w": np.full(3, 1.000001)}, OPTIMIZER)
    assert_same(fit(folder, state=almost), fit(None))


def test_another_order_of_the_runs_is_another_run(tmp_path):
    def both(rates):
        def one(rate):
            state = vi.training.init(
                {"w": jnp.ones(3) * rate}, OPTIMIZER, extra=jnp.full(2, jnp.nan)
            )
            return state

        keys = jax.random.split(jax.random.key(0), 2)
        return fit(tmp_path, key=keys, state=jax.vmap(one)(jnp.array(rates)), num_steps=20)

    first = both([0.3, 0.1])
    assert_same(both([0.3, 0.1]), first)
    with pytest.raises(ValueError, match=r"of this run \(got another state in"):
        both([0.1, 0.3])


def test_one_step_more_is_another_state(folder):
    later = dataclasses.replace(start(), step=jnp.int32(1_000_000))
    with pytest.raises(ValueError, match=r"of this run \(got another state in"):
        fit(folder, state=later)


def test_a_state_of_numpy_arrays_goes_on(tmp_path):
    state = dataclasses.replace(start(), extra=np.zeros(3))
    fit(tmp_path, state=state, num_steps=20)
    assert fit(tmp_path, state=state).state.step == 60


def test_a_remote_folder_is_refused():
    with pytest.raises(ValueError, match="Checkpoint: folder must be a local folder"):
        fit("gs://bucket/run")


def test_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"fit: a checkpoint could not be written to .*none is there"):
        fit(tmp_path / "file" / "below")


def test_a_folder_without_checkpoints_is_named(tmp_path):
    for empty in (tmp_path, tmp_path / "not there"):
        with pytest.raises(ValueError, match="load: folder must hold a checkpoint"):
            vi.training.load(empty, start())


def test_a_full_disk_keeps_the_last_good_state(tmp_path):
    """No file may grow beyond a limit that the first checkpoints are under."""
    code = f"""
import resource, sys; sys.path.insert(0, ".")
import jax, numpy as np, vi
from tests.test_checkpoints import fit
def fill(step, metrics):
    if step == 40:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    fit({str(tmp_path)!r}, eval_every=20, report=fill)
except OSError as error:
    print(error)
"""
    root = pathlib.Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    said = run.stdout.strip().splitlines()
    assert len(said) == 1, run.stderr
    assert said[0].startswith("fit: checkpoint of step 60 could not be written to")
    assert "the last good one is of step 0; make room" in said[0]
    assert vi.training.load(tmp_path, start()).step == 0
    resumed = fit(tmp_path, eval_every=20, report=lambda *_: None)
    assert_same(resumed, fit(None))


@pytest.mark.parametrize("every", [-1.0, float("nan")])
def test_seconds_are_checked(tmp_path, every):
    with pytest.raises(ValueError, match="Checkpoint: every_seconds must be >= 0"):
        vi.training.Checkpoint(tmp_path, every)
