"""The IWAE paper's Table 1: its schedule and networks, the one program of a cell, and the table."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vi
from experiments import _table1, iwae_table1
from experiments._config import execute, resolve
from experiments._data import load_digits
from experiments._evaluate import Evaluation, Trained
from experiments._references import Cell
from experiments._vae import Architecture, build_vae

TOY = {"preset": "smoke", "progress": False, "num_samples": (1, 2), "objectives": ("iwae",)}
PAPER = [Cell(*pair) for pair in itertools.product((1, 2), (1, 5, 50))]


def test_the_schedule_has_eight_stages_of_3280_epochs():
    assert iwae_table1.stage_epochs() == [1, 3, 9, 27, 81, 243, 729, 2187]
    assert sum(iwae_table1.stage_epochs()) == 3280
    rates = [1e-3, 7.197e-4, 5.179e-4, 3.728e-4, 2.683e-4, 1.931e-4, 1.3895e-4, 1e-4]
    np.testing.assert_allclose(iwae_table1.stage_rates(), rates, rtol=2e-4)


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 3000])
def test_the_rate_changes_at_the_end_of_each_stage(steps_per_epoch):
    rate, rates = iwae_table1.rate_schedule(steps_per_epoch), iwae_table1.stage_rates()
    begins = np.concatenate([[0], np.cumsum(iwae_table1.stage_epochs())]) * steps_per_epoch
    for stage, (first, end) in enumerate(itertools.pairwise(begins)):
        for step in (first, end - 1):
            assert float(jax.jit(rate)(jnp.int32(step))) == pytest.approx(rates[stage]), step
    assert float(rate(jnp.int32(begins[-1]))) == pytest.approx(rates[-1])


@pytest.mark.parametrize("beta1", [0.9, 0.99])
def test_the_optimiser_is_the_papers_adam(beta1):
    optimizer = iwae_table1.make_optimizer(beta1, 1)
    params, gradients = jnp.zeros(()), [jnp.array(3e-4), jnp.array(-1e-4)]
    state, m, v = optimizer.init(params), 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        update, state = optimizer.update(gradient, state, params)
        m = beta1 * m + (1 - beta1) * float(gradient)
        v = 0.999 * v + 0.001 * float(gradient) ** 2
        m_hat, v_hat = m / (1 - beta1**step), v / (1 - 0.999**step)
        rate = iwae_table1.stage_rates()[step - 1]
        assert float(update) == pytest.approx(-rate * m_hat / (np.sqrt(v_hat) + 1e-4), rel=1e-4)


def test_the_two_layer_network_has_the_papers_sizes():
    blank = np.zeros((2, 784), np.uint8)
    images = load_digits()._replace(train=blank, shape=(28, 28))
    model = nnx.eval_shape(lambda: build_vae(Architecture(200, 50, 2), images, nnx.Rngs(0)))
    sizes = {}
    for name in ("encoder", "upper_encoder", "upper_decoder", "decoder"):
        network = getattr(model, name)
        layers = [network.first, network.second, *network.heads]
        sizes[name] = [layer.kernel.get_value().shape for layer in layers]
    assert sizes == {
        "encoder": [(784, 200), (200, 200), (200, 100), (200, 100)],
        "upper_encoder": [(100, 100), (100, 100), (100, 50), (100, 50)],
        "upper_decoder": [(50, 100), (100, 100), (100, 100), (100, 100)],
        "decoder": [(100, 200), (200, 200), (200, 784)],
    }


@pytest.mark.slow
def test_one_program_is_the_separate_programs():
    images, cell, keys = load_digits(), Cell(1, 3), jax.random.key(0)[None]
    optimizer = iwae_table1.make_optimizer(0.9, 1)

    def trained(objectives):
        state = iwae_table1.initial_state(
            cell, objectives, images, jax.random.clone(keys), optimizer
        )
        loss = iwae_table1.make_loss(objectives, cell.num_samples)
        step = vi.training.gradient_step(loss, optimizer)

        @jax.jit
        def run(state):
            train, key = images.train[:80].reshape(4, 20, -1), jax.random.key(1)
            return jax.lax.scan(
                lambda s, x: step(s, jax.random.fold_in(key, s.step), x), state, train
            )

        before = jax.tree.map(lambda leaf: leaf[0], state)
        after, history = run(before)
        moved = jax.tree.map(jnp.subtract, after.params, before.params)
        return before.params, moved, history

    before, together, history = trained(("vae", "dreg"))
    assert jax.tree.all(jax.tree.map(np.array_equal, before["vae"], before["dreg"]))
    _, alone, own = trained(("dreg",))
    np.testing.assert_allclose(history["dreg"], own["dreg"], rtol=1e-5)
    moved = optax.tree.norm(alone["dreg"])
    apart = jax.tree.map(jnp.subtract, together["dreg"], alone["dreg"])
    other = jax.tree.map(jnp.subtract, together["vae"], alone["dreg"])
    assert optax.tree.norm(apart) < 1e-4 * moved < 1e-2 * moved < optax.tree.norm(other)
    total = -20 * (history["vae"] + history["dreg"])  # summed over the batch
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)


def test_the_noise_of_a_cell_is_matched():
    images = load_digits()
    model = build_vae(Architecture(16, 4, 1), images, nnx.Rngs(0))
    models = dict.fromkeys(("vae", "iwae", "dreg"), model)
    x = (images.train[:5] > 0.5).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=1)
    def bounds(key, num_samples):
        return iwae_table1.bounds_of(list(models), num_samples, models, key, x)

    many, one = bounds(jax.random.key(0), 4), bounds(jax.random.key(0), 1)
    assert many["iwae"] == many["dreg"] > many["vae"]
    np.testing.assert_allclose(one["iwae"], one["vae"], rtol=1e-6)


def test_a_run_fills_its_cells(tmp_path):
    record = execute(
        iwae_table1.Config(**TOY, out=tmp_path),
        iwae_table1.PRESETS,
        iwae_table1.experiment,
        "iwae_table1",
    )
    values = {name: metric.value for name, metric in record.metrics.items()}
    one = "1 layer, k = 1: test NLL (shortened at epoch 1; IWAE = VAE; k = 20, 100 images)"
    two = "1 layer, k = 2: test NLL (shortened at epoch 1; k = 20, 100 images)"
    assert {name.split("/")[1] for name in values if "active" not in name} == {
        one,
        two,
        "1 layer, k = 2: minus the VAE's of k = 1, paired",
    }
    assert values[f"IWAE/{one}"] == values[f"VAE/{one}"]
    assert values[f"VAE/{two}"] is None  # it was not asked for
    assert str(record.metrics[f"DReG/{one}"]) == "not run"
    gap = values["IWAE/1 layer, k = 2: minus the VAE's of k = 1, paired"]
    assert gap == pytest.approx(values[f"IWAE/{two}"] - values[f"VAE/{one}"], abs=1e-5)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()} == {
        "1+layer%2C+k+%3D+1",
        "1+layer%2C+k+%3D+2",
    }
    assert set(record.pictures) == {"nll_against_k.png", "bounds.png", "samples.png"}
    assert all(metric.reference is None for metric in record.metrics.values())


def scored(nll: float) -> Trained:
    """An evaluation made up; NLLs of one seed and four images."""
    values = nll + np.array([[1.0, -1.0, 2.0, -2.0]])
    units = {"z": np.array([[1.0, 0.0, 0.5]])}
    return Trained(None, Evaluation(values, values, values, values, {}, units))  # pyright: ignore


def test_the_table_shows_every_published_cell_and_says_what_was_run():
    trained = {
        Cell(1, 1): {"vae": scored(90.0), "dreg": scored(89.0)},
        Cell(1, 5): {"vae": scored(89.5), "iwae": scored(88.0)},
        Cell(1, 7): {"iwae": scored(87.0)},
    }
    tables = _table1.published("mnist")
    metrics = _table1.measure(trained, tables, "shortened at epoch 8", "k = 9, 4 images")

    def row(cell, who="Burda et al. 2016"):
        single = "; IWAE = VAE" if cell.num_samples == 1 else ""
        done = f"shortened at epoch 8{single}; k = 9, 4 images" if cell in trained else "not run"
        return f"{cell}: test NLL ({done}), against {who}"

    for cell, who, column in itertools.product(PAPER, tables, ("VAE", "IWAE", "DReG")):
        metric = metrics[f"{column}/{row(cell, who)}"]
        name = column.lower()
        published = tables[who].get(cell, {}).get(name)
        assert metric.reference == published
        scores = _table1.scores_of(trained, cell, name)
        assert metric.value == (None if scores is None else scores.nll.mean())
        if scores is None:
            assert str(metric) == "not run"
            assert metric.difference is None
    iwae = metrics[f"IWAE/{row(Cell(1, 5))}"]
    assert iwae.value == 88.0
    assert iwae.reference is not None
    assert iwae.reference.value == 85.54
    dreg = metrics[f"DReG/{row(Cell(1, 1), 'nbip/IWAE')}"]
    assert dreg.reference is not None
    assert dreg.reference.value == 86.08
    assert metrics[f"DReG/{row(Cell(1, 1))}"].reference is None  # the paper has none
    unrun = metrics[f"VAE/{row(Cell(2, 50))}"]
    assert unrun.reference is not None
    assert unrun.reference.value == 84.78
    assert metrics["IWAE/1 layer, k = 5: minus the VAE's of k = 1, paired"].value == -2.0
    assert metrics["IWAE/1 layer, k = 5: minus the VAE's, paired"].value == -1.5
    assert metrics["IWAE/1 layer, k = 7: minus the VAE's of k = 1, paired"].value == -3.0
    assert metrics[f"IWAE/{row(Cell(1, 7))}"].reference is None
    assert metrics["IWAE/1 layer, k = 7: active units, z"].value == 2
    assert _table1.published("digits") == {}
    alone = _table1.measure(trained, {}, "full", "k = 9, 4 images")
    assert alone["IWAE/1 layer, k = 5: test NLL (full; k = 9, 4 images)"].value == 88.0


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_the_picture_holds_what_was_run_and_what_was_published(data):
    trained = {Cell(1, 1): {"vae": scored(90.0)}, Cell(1, 5): {"iwae": scored(88.0)}}
    lines = _table1.lines(trained, _table1.published(data), 1)
    assert {k: value for k, (value, _) in lines["IWAE"].items()} == {1: 90.0, 5: 88.0}
    assert list(lines["VAE"]) == [1]
    assert ("DReG, nbip/IWAE" in lines) == (data == "mnist")
    assert "DReG" not in lines


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu", "paper"])
def test_every_preset_is_complete(preset):
    config = resolve(iwae_table1.Config(preset=preset, data="mnist"), iwae_table1.PRESETS)
    iwae_table1.check(config)
    assert config.beta1 == 0.9


def test_at_one_sample_the_iwae_is_not_trained_beside_the_vae():
    of = iwae_table1.trained_in
    assert of(Cell(1, 1), ("vae", "iwae", "dreg")) == ["vae", "dreg"]
    assert of(Cell(1, 1), ("iwae",)) == ["vae"]
    assert of(Cell(2, 5), ("vae", "iwae", "dreg")) == ["vae", "iwae", "dreg"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 3)}, r"--layers must name 1, 2 or both, once each \(got '1 3'\); try"),
        ({"layers": ()}, r"--layers must .* \(got ''\)"),
        ({"num_samples": (5, 5)}, r"--num-samples must name counts .*, once each \(got '5 5'\)"),
        ({"num_samples": (0,)}, r"--num-samples must name counts of at least 1"),
        ({"objectives": ("vae", "vae")}, r"--objectives must name objectives, once each"),
        ({"num_epochs": 3281}, r"--num-epochs must be at most the schedule's 3280 \(got 3281\)"),
        ({"num_epochs": 0}, "--num-epochs must be an integer of at least 1"),
        ({"beta1": 1.0}, r"--beta1 must be from 0 to below 1 \(got 1\.0\); try 0\.9"),
    ],
)
def test_bad_settings_are_refused_before_training(fields, message):
    config = resolve(iwae_table1.Config(**{**TOY, **fields}), iwae_table1.PRESETS)
    with pytest.raises(ValueError, match=message):
        iwae_table1.check(config)
