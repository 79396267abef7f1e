"""Incomplete tables: the masks, the units, every way to fill the gaps, and a short run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vi
from experiments import _missing_baselines, missing_data
from experiments._config import execute, resolve
from experiments._missing_model import Rows, RowVAE, Sizes, fill, make_loss
from experiments._missing_table import (
    Incomplete,
    Table,
    hold_out,
    load_table,
    pseudo_values,
    remove,
    standardise,
    without,
)

METHODS = ("mean", "iterative PCA", "ridge", "ELBO", "MIWAE")


def low_rank(rows, columns, rank, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, rank)) @ random.normal(size=(rank, columns)) + 3.0


def test_entries_are_removed_whatever_they_are():
    """The removed share of small and of large values is the one asked for, at five sigma."""
    table = Table("t", np.random.default_rng(1).normal(size=(4000, 5)))
    part = remove(table, 0.3, seed=4)
    large = table.values > 0.5
    for group in (large, ~large, *(large & (np.arange(5) == j) for j in range(5))):
        count = group.sum()
        assert abs((~part.observed[group]).mean() - 0.3) < 5 * np.sqrt(0.21 / count)
    again, other = remove(table, 0.3, seed=4), remove(table, 0.3, seed=5)
    assert (part.observed == again.observed).all()
    assert abs((part.observed == other.observed).mean() - 0.58) < 0.03  # 0.7^2 + 0.3^2


def test_units_are_those_of_the_observed_entries_alone():
    """Other values in the gaps change nothing; the units of the whole table would differ."""
    values = np.random.default_rng(2).normal(2.0, 3.0, size=(50, 3))
    observed = np.random.default_rng(3).random(values.shape) < 0.6
    part = standardise(Table("t", values), observed)
    altered = standardise(Table("t", np.where(observed, values, 1e6)), observed)
    np.testing.assert_array_equal(part.values, altered.values)
    held = [part.values[observed[:, j], j] for j in range(3)]
    np.testing.assert_allclose([h.mean() for h in held], 0.0, atol=1e-12)
    np.testing.assert_allclose([h.std() for h in held], 1.0)
    assert (part.values[~observed] == 0).all()
    np.testing.assert_allclose(part.truth[observed], part.values[observed])
    naive = (values - values.mean(0)) / values.std(0)
    assert np.abs(naive - part.truth).max() > 0.01


def test_held_out_entries_were_observed_and_are_hidden():
    part = remove(Table("t", low_rank(200, 6, 2)), 0.5, seed=0)
    held = hold_out(part, 0.2, seed=0)
    fewer = without(part, held)
    assert 0.1 < held.sum() / part.observed.sum() < 0.3
    assert not (held & ~part.observed).any()
    assert (fewer.observed == part.observed & ~held).all()
    assert (fewer.values[held] == 0).all()


def test_iterative_pca_completes_a_table_of_low_rank():
    table = Table("t", low_rank(120, 12, 2))
    part = remove(table, 0.3, seed=0)
    filled = _missing_baselines.em_pca(part.values, part.observed, 2, tolerance=1e-9)
    np.testing.assert_allclose(filled, part.truth, atol=1e-4)
    too_few = _missing_baselines.em_pca(part.values, part.observed, 1)
    assert np.abs(too_few - part.truth).max() > 0.1
    best = _missing_baselines.best_pca(part, 0.1, seed=0, max_rank=4)
    assert best.rank in (2, 3)  # centred by observed means, a table of rank 2 can have rank 3
    assert (best.filled[part.observed] == part.values[part.observed]).all()


def test_noise_has_no_components():
    table = Table("t", np.random.default_rng(0).normal(size=(150, 5)))
    part = remove(table, 0.5, seed=0)
    best = _missing_baselines.best_pca(part, 0.2, seed=0, max_rank=4)
    assert best.rank == 0
    np.testing.assert_allclose(best.filled, part.values, atol=1e-12)


class Linear(RowVAE):
    """``x = W z + noise``: a normal model whose conditional means are known."""

    def __init__(self, weights, scale):
        columns, latent = weights.shape
        super().__init__(Sizes(columns, 4, latent), "normal", nnx.Rngs(0))
        self.weights, self.scale = nnx.Variable(weights), scale

    def decode(self, z):
        return vi.likelihoods.normal(z @ self.weights[...].T, scale=self.scale)

    def posterior(self, rows):
        zero = jnp.zeros((len(rows.values), self.latent))
        return vi.families.normal(zero, log_scale=zero)


def test_a_linear_model_fills_in_its_conditional_means():
    """``E[x_m | x_o]`` of the joint normal, by NumPy; and not where the gaps are ignored."""
    random = np.random.default_rng(5)
    weights, scale = random.normal(size=(4, 2)), 0.7
    values = random.normal(size=(30, 2)) @ weights.T + scale * random.normal(size=(30, 4))
    observed = random.random(values.shape) < 0.6
    covariance = weights @ weights.T + scale**2 * np.eye(4)
    expected = values.copy()
    for row, seen in zip(expected, observed, strict=True):
        gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        row[~seen] = gain @ row[seen]
    model = Linear(jnp.asarray(weights, jnp.float32), scale)
    table = Rows(jnp.where(observed, values, jnp.nan).astype(jnp.float32), jnp.asarray(observed))
    count = 20_000
    filled = fill(jax.random.key(0), model, table, count)
    assert filled.mean.shape == (30, 4)
    # a column's posterior sd is below its prior's, so this bounds the error of the weighted mean
    spread = np.sqrt(np.diag(covariance)) / np.sqrt(np.asarray(filled.effective_samples))[:, None]
    assert (np.abs(filled.mean - expected) < 5 * spread).all()
    np.testing.assert_array_equal(filled.mean[observed], values.astype(np.float32)[observed])
    zeros = Rows(jnp.where(observed, values, 0.0).astype(jnp.float32), jnp.ones((30, 4), bool))
    ignoring = fill(jax.random.key(0), model, zeros, count)
    assert (np.abs(ignoring.mean - expected) > 5 * spread).any()


@pytest.mark.parametrize("likelihood", ["student_t", "normal"])
def test_gaps_are_not_looked_at(likelihood):
    """Loss and gradient are the same whatever stands in the gaps; observed entries change both."""
    model = RowVAE(Sizes(3, 4, 2), likelihood, nnx.Rngs(0))
    random = np.random.default_rng(0)
    values, observed = random.normal(size=(6, 3)).astype(np.float32), random.random((6, 3)) < 0.5
    value_and_gradient = jax.jit(jax.value_and_grad(make_loss(3), has_aux=True))

    def compute(values):
        table = Rows(jnp.asarray(values), jnp.asarray(observed))
        (value, _), gradient = value_and_gradient(
            model, table, jax.random.key(1), jnp.arange(6), jnp.zeros((), jnp.int32)
        )
        return [np.asarray(leaf) for leaf in (value, *jax.tree.leaves(gradient))]

    before = compute(values)
    for kept, new in zip(before, compute(np.where(observed, values, np.nan)), strict=True):
        np.testing.assert_array_equal(kept, new)
    assert np.isfinite(np.concatenate([leaf.ravel() for leaf in before])).all()
    assert before[0] != compute(np.where(observed, values + 1, values))[0]


def test_pseudo_values_average_to_the_rmse_and_know_its_error():
    """Against the spread of the RMSE over fresh tables, within a fifth."""
    random = np.random.default_rng(0)

    def one():
        truth, observed = random.standard_t(8, size=(300, 4)), random.random((300, 4)) < 0.5
        part = Incomplete(np.where(observed, truth, 0.0), observed, truth)
        each = pseudo_values(part.values, part)
        rmse = np.sqrt(np.mean(truth[~observed] ** 2))
        assert each.mean() == pytest.approx(rmse)
        return rmse, each.std(ddof=1) / np.sqrt(len(each))

    errors, stderrs = np.array([one() for _ in range(400)]).T
    assert stderrs.mean() == pytest.approx(errors.std(ddof=1), rel=0.2)


@pytest.mark.slow
def test_a_run_writes_every_metric(tmp_path):
    config = missing_data.Config(
        preset="smoke", data="wine", num_seeds=2, progress=False, out=tmp_path
    )
    record = execute(config, missing_data.PRESETS, missing_data.experiment, "missing_data")
    error = {name: record.metrics[f"{name}/RMSE at removed entries"].value for name in METHODS}
    assert all(value is not None and np.isfinite(value) for value in error.values())
    for name in METHODS[:-1]:
        difference = record.metrics[f"MIWAE/RMSE - {name}'s, paired"]
        assert difference.value == pytest.approx(error["MIWAE"] - error[name])
        assert difference.stderr is not None
    assert error["ridge"] < error["iterative PCA"] < error["mean"]
    with np.load(tmp_path / "stages" / "filling+in+by+MIWAE.npz") as held:
        part = remove(load_table("wine"), 0.5, seed=0)
        np.testing.assert_array_equal(
            held["filled"][0][part.observed], part.values.astype(np.float32)[part.observed]
        )
    for picture in ("errors.png", "imputed.png"):
        assert (tmp_path / picture).stat().st_size > 10_000


@pytest.mark.slow
def test_a_trained_model_beats_the_mean_and_iterative_pca(tmp_path):
    """The claim of the experiment, on the table where it is learnt soonest."""
    sizes = {"num_seeds": 1, "num_samples": 5, "num_steps": 1000, "hidden": 64}
    config = missing_data.Config(**sizes, progress=False, out=tmp_path)
    record = execute(config, missing_data.PRESETS, missing_data.experiment, "missing_data")
    for name in ("mean", "iterative PCA"):
        difference = record.metrics[f"MIWAE/RMSE - {name}'s, paired"]
        assert difference.value is not None
        assert difference.stderr is not None
        assert difference.value < -2 * difference.stderr


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu", "paper"])
def test_every_preset_is_complete(preset):
    config = resolve(missing_data.Config(preset=preset), missing_data.PRESETS)
    missing_data.check(config)
    assert None not in [getattr(config, name) for name in missing_data.PRESETS["cpu"]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"missing": 0.0}, r"--missing must be above 0 and below 1 \(got 0\.0\); try"),
        ({"missing": 1.0}, r"--missing must be above 0 and below 1 \(got 1\.0\); try"),
        ({"num_samples": 1}, r"--num-samples must be an integer of at least 2 \(got 1\)"),
        ({"latent": 0}, "--latent must be an integer of at least 1"),
        ({"weight_decay": -0.1}, r"--weight-decay must be at least 0 \(got -0\.1\)"),
        ({"data": "boston"}, r"--data must be one of breast_cancer, .*FILE\.npz:NAME \(got bos"),
        ({"data": "none.npz:x"}, r"--data none\.npz:x must name a file \(got none there\)"),
        ({"data": "none.npz"}, r"--data must be one of .* \(got .*none\.npz\)"),
        ({"data": "wine", "missing": 0.999}, r"--missing must leave two values in every column"),
    ],
)
def test_what_would_fail_late_is_refused_by_its_flag(tmp_path, fields, message):
    config = missing_data.Config(**({"preset": "smoke"} | fields), out=tmp_path, progress=False)
    with pytest.raises(ValueError, match=message):
        execute(config, missing_data.PRESETS, missing_data.experiment, "missing_data")
    assert not (tmp_path / "checkpoints").exists()


def test_tables_of_a_file(tmp_path):
    path, values = tmp_path / "held.npz", np.random.default_rng(0).normal(size=(9, 3))
    bad = np.where(values > 1, np.nan, values)
    np.savez(path, good=np.c_[values, np.ones(9)], bad=bad, text=np.array(["a"]), flat=values[0])
    table = load_table(f"{path}:good")
    assert table.name == "good"
    np.testing.assert_array_equal(table.values, values)  # a column of ones says nothing
    for name, message in (
        ("other", r"name an array of the file \(got good, bad, text, flat there\)"),
        ("bad", r"be finite \(got values that are not\); entries are removed here"),
        ("text", r"be numbers \[N, D\]"),
        ("flat", r"be numbers \[N, D\] in two rows or more \(got float64 \[3\]\)"),
    ):
        with pytest.raises(ValueError, match=message):
            load_table(f"{path}:{name}")
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"name a whole \.npz file"):
        load_table(f"{path}:good")
