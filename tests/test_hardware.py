"""A preset for an accelerator, run without one: it says so, says how long, and goes on."""

import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vi
from experiments import _hardware
from experiments._config import Common, execute
from experiments._results import Result, over_seeds

DATA = np.ones((4, 1), np.float32)
SLEEP, STEPS = 0.004, 60_000


def step_of(loss):
    return vi.training.gradient_step(loss, optax.sgd(0.1))


def state():
    return jax.vmap(lambda w: vi.training.init(w, optax.sgd(0.1)))(jnp.zeros((1, 1)))


def experiment(config, run):
    """Four steps towards the data."""
    step = step_of(lambda w, key, x: ((w - x) ** 2).mean())
    fit = run.fit("it", step, state(), DATA, num_steps=4, batch_size=2)
    return Result({"it/w": over_seeds(fit.state.params[:, 0])})


@pytest.mark.parametrize(("backend", "preset", "says"), [
    ("cpu", "gpu", True), ("cpu", "cpu", False), ("gpu", "gpu", False),
])  # fmt: skip
def test_it_says_so_and_goes_on(tmp_path, capsys, monkeypatch, backend, preset, says):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    config = Common(preset=preset, out=tmp_path, progress=False)
    record = execute(config, {"gpu": {}, "cpu": {}}, experiment, "test_hardware")
    said = capsys.readouterr().err
    assert (f"--preset {preset} is meant for an accelerator" in said) == says
    assert bool(re.search(r"training it: about \d+ seconds here", said)) == says
    np.testing.assert_allclose(record.metrics["it/w"].value, 1 - 0.8**4, rtol=1e-6)


def test_the_estimate_is_of_all_steps(capsys):
    def loss(w, key, x):
        def sleep(w):
            time.sleep(SLEEP)
            return np.asarray(w)

        shape = jax.ShapeDtypeStruct((1,), jnp.float32)
        slow = jax.pure_callback(sleep, shape, jax.lax.stop_gradient(w), vmap_method="sequential")
        return ((w - x) ** 2).mean() + 0 * slow.sum()

    keys = jax.random.key(0)[None]
    sizes = {"num_steps": STEPS, "batch_size": 2}
    _hardware.say_how_long("it", keys, step_of(loss), state(), DATA, **sizes)
    minutes = re.search(r"training it: about ([\d.]+) minutes", capsys.readouterr().err)
    assert minutes is not None
    assert float(minutes[1]) + 0.05 >= SLEEP * STEPS / 60
    assert float(minutes[1]) < 10 * SLEEP * STEPS / 60
