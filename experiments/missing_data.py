"""Importance-weighted training on incomplete rows, and what it puts in their gaps.

Half of a table's entries are removed completely at random. An autoencoder is trained on what is
left by the importance-weighted bound of the observed entries (the MIWAE of Mattei and Frellsen
2019, which is not the grouped bound of that name), and again by the ELBO; each fills the gaps with
the posterior mean, by self-normalised importance weighting. Beside them on the same masks: the
column's mean, iterative PCA of the rank that best predicts observed entries held out for that, and
a Bayesian ridge regression of every column on the rest, in turns. Errors are at the removed
entries, in standard deviations of their column; nothing but the score looks at them. A seed is a
mask and an initialisation; differences are paired by row.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import vi
from experiments import _missing_baselines, _missing_plots
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import fingerprint
from experiments._evaluate import model_of, stream
from experiments._missing_model import Likelihood, Rows, RowVAE, Sizes, fill, make_loss
from experiments._missing_table import (
    Incomplete,
    Table,
    load_table,
    pseudo_values,
    remove,
)
from experiments._results import Metric, Result, over_data, over_seeds
from experiments._run import Run

INIT, FILL = 0, 0x66696C6C  # "fill": streams of each seed's key
MIWAE, TWIN, PCA = "MIWAE", "ELBO", "iterative PCA"
AGAINST = "mean", PCA, "ridge", TWIN
HELD_OUT = 0.1  # of the observed entries, to choose the rank of PCA by

PRESET: Any = None  # the preset fills it


@dataclass(frozen=True)
class Config(Common):
    """Remove entries of a table and fill them in by five methods."""

    data: str = "breast_cancer"
    """breast_cancer, diabetes, iris or wine of scikit-learn, or FILE.npz:NAME, an array [N, D]."""
    num_seeds: int = 3
    """So many masks, each with its own initialisation, from --seed on."""
    missing: float = 0.5
    """Probability with which each entry is removed."""
    likelihood: Likelihood = "student_t"
    """Of an entry given z."""
    num_samples: int = PRESET
    """K of the training bound; the twin's is 1."""
    num_steps: int = PRESET
    """Optimiser steps of each model."""
    batch_size: int = PRESET
    """Rows per step, or all if there are fewer."""
    learning_rate: float = PRESET
    """AdamW's initial rate; it falls to a hundredth along a cosine."""
    weight_decay: float = PRESET
    """AdamW's times the number of rows: fewer rows speak less loudly against it."""
    hidden: int = PRESET
    """Units in each of the two hidden layers, of encoder and decoder."""
    latent: int = PRESET
    """Dimensions of z."""
    impute_samples: int = PRESET
    """K of the imputation."""
    max_rank: int = PRESET
    """Most components that iterative PCA may have."""


# fmt: off
CPU: dict[str, Any] = dict(
    num_samples=20, num_steps=4000, batch_size=64, learning_rate=3e-3, weight_decay=100.0,
    hidden=128, latent=8, impute_samples=2000, max_rank=10,
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        num_samples=5, num_steps=20, hidden=8, latent=2, impute_samples=20, max_rank=2
    ),
    "cpu": CPU,
    "gpu": CPU | dict(num_samples=50, num_steps=20_000, impute_samples=10_000),
    "paper": CPU | dict(
        num_steps=500_000, learning_rate=1e-3, weight_decay=0.0, latent=10, impute_samples=10_000,
        max_rank=30,
    ),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    if not 0 < config.missing < 1:
        rule, got = "be above 0 and below 1", config.missing
        raise ValueError(f"--missing must {rule} (got {got}); try --missing 0.5")
    counts = "num_steps", "batch_size", "hidden", "latent", "impute_samples", "max_rank"
    require_counts(config, *counts)
    require_counts(config, "num_samples", least=2)
    require_positive(config, "learning_rate")
    if config.weight_decay < 0:
        got = config.weight_decay
        raise ValueError(f"--weight-decay must be at least 0 (got {got}); 0 is for none")


def as_rows(parts: list[Incomplete]) -> Rows:
    """What the models see of every seed's table, ``[S, N, D]``."""
    values = np.stack([part.values for part in parts]).astype(np.float32)
    return Rows(jnp.asarray(values), jnp.asarray(np.stack([part.observed for part in parts])))


def train(config: Config, run: Run, tables: Rows, name: str, num_samples: int) -> Any:
    """The models of all seeds, each on its own table; they begin alike for every K."""
    count, columns = tables.values.shape[1:]
    rate = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, 0.01)
    decay = config.weight_decay / count
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adamw(rate, weight_decay=decay))
    sizes = Sizes(columns, config.hidden, config.latent)

    def init(key, table):
        model = RowVAE(sizes, config.likelihood, nnx.Rngs(key))
        return vi.training.init(model, optimizer, extra=table)

    return run.fit(
        name,
        vi.training.stateful_gradient_step(make_loss(num_samples), optimizer),
        jax.jit(jax.vmap(init))(stream(run.key, INIT), tables),
        np.arange(count),
        num_steps=config.num_steps,
        batch_size=min(config.batch_size, count),
    ).state


def fill_all(config: Config, run: Run, tables: Rows, state: Any) -> dict[str, np.ndarray]:
    """Every seed's table completed, and the effective number of draws, stacked over seeds."""
    each = []
    for i, key in enumerate(stream(run.key, FILL)):
        table = Rows(tables.values[i], tables.observed[i])
        each.append(fill(key, model_of(state, i), table, config.impute_samples))
    return {
        "filled": np.stack([one.mean for one in each]),
        "effective_samples": np.stack([one.effective_samples for one in each]),
    }


def baselines(config: Config, run: Run, parts: list[Incomplete]) -> dict[str, np.ndarray]:
    """Every seed's table completed without a network, by method; and the rank of PCA."""
    seeded = list(zip(parts, run.seeds, strict=True))
    best = functools.partial(_missing_baselines.best_pca, share=HELD_OUT, max_rank=config.max_rank)
    pca = [best(part, seed=seed) for part, seed in seeded]
    return {
        "mean": np.stack([part.values for part in parts]),
        PCA: np.stack([fit.filled for fit in pca]),
        "ridge": np.stack([_missing_baselines.regressions(*one) for one in seeded]),
        "rank": np.array([fit.rank for fit in pca]),
    }


def measure(
    run: Run,
    parts: list[Incomplete],
    filled: dict[str, np.ndarray],
    effective_samples: dict[str, np.ndarray],
    rank: np.ndarray,
) -> dict[str, Metric]:
    """The table: one column per method, MIWAE's differences from the others."""
    rows = {
        name: np.stack([pseudo_values(*one) for one in zip(each, parts, strict=True)])
        for name, each in filled.items()
    }
    error = "RMSE at removed entries"
    metrics = {
        f"{name}/{error}": over_data(each, unit="sd", better="lower") for name, each in rows.items()
    }
    for name in AGAINST:
        ahead = over_data(rows[MIWAE] - rows[name], unit="sd", better="lower")
        metrics[f"{MIWAE}/RMSE - {name}'s, paired"] = ahead
    for name, each in effective_samples.items():
        effective = over_seeds(np.median(each, axis=1), unit="count")
        metrics[f"{name}/effective draws of a row, median"] = effective
        metrics[f"{name}/training"] = Metric(run.seconds[name]["wall"], unit="s")
    metrics[f"{PCA}/components"] = over_seeds(rank, unit="count")
    return metrics


def facts(table: Table, parts: list[Incomplete]) -> dict[str, Any]:
    """What the protocol says of the table and its gaps."""
    return {
        "values": table.fingerprint,
        "rows": len(table.values),
        "columns": table.values.shape[1],
        "masks": fingerprint(jnp.stack([jnp.asarray(part.observed) for part in parts])),
    }


def experiment(config: Config, run: Run) -> Result:
    """Remove, fill in by every method, and score."""
    check(config)
    table = load_table(config.data)
    parts = [remove(table, config.missing, seed) for seed in run.seeds]
    run.protocol(
        **facts(table, parts),
        optimizer="gradients clipped at norm 10, adamw, cosine decay to a hundredth",
        estimator="dreg(iwae)",
        rank_by=f"{HELD_OUT:.0%} of the observed entries",
    )
    tables = as_rows(parts)
    others = run.once("baselines", lambda: baselines(config, run, parts))
    filled = {name: others[name] for name in ("mean", PCA, "ridge")}
    effective = {}
    for name, number in ((TWIN, 1), (MIWAE, config.num_samples)):
        state = train(config, run, tables, name, number)
        held = run.once(
            f"filling in by {name}",
            lambda state=state: fill_all(config, run, tables, state),
        )
        filled[name], effective[name] = held["filled"], held["effective_samples"]
    metrics = measure(run, parts, filled, effective, others["rank"])
    errors = {name: metrics[f"{name}/RMSE at removed entries"] for name in filled}
    title = f"{table.name}, {config.missing:.0%} removed"
    first = {name: each[0] for name, each in filled.items() if name != "mean"}
    ours = frozenset({MIWAE, TWIN})
    return Result(
        metrics,
        {
            "errors": lambda: _missing_plots.bars(errors, ours, title),
            "imputed": lambda: _missing_plots.scatter(first, parts[0], title),
        },
    )


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
