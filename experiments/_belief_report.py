"""From trained belief networks and gradient tables to metrics and pictures."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments import _belief_plots, _plots
from experiments._belief_meter import BLOCKS, METERED, ONE_GRADIENT, Arrays
from experiments._evaluate import Trained, generate, mean_and_stderr, model_of, paired, stream
from experiments._references import belief_nll
from experiments._results import Metric, over_data, over_seeds
from experiments._run import Run

NAMES = {
    "score": "score",
    "nvil": "score, NVIL baseline",
    "vimco": "vimco",
    "wake_sleep": "reweighted wake-sleep",
    "relaxed": "relaxed",
    "tvo": "vimco(tvo)",
}
SHOWN = 16
STREAM = 0x73626C66  # "sblf": of the first seed's key

Cell = tuple[str, int]
"""A method and its K."""
Cells = Mapping[Cell, Trained]


def label(cell: Cell, num_samples: int) -> str:
    """The column of a method; its K is named where it is not the common one."""
    method, k = cell
    return NAMES[method] + ("" if k == num_samples else f", K = {k}")


def nll_metrics(config: Any, trained: Cells) -> dict[str, Metric]:
    """A column for each method, with its paired difference to vimco at the common K."""
    last, metrics = max(config.num_steps // 20, 1), {}
    base = trained.get(("vimco", config.num_samples))
    for cell, (fit, scores) in trained.items():
        published = belief_nll(config.data, config.layers, config.hidden, *cell)
        rows = {
            "draws a step, K": Metric(cell[1], unit="count"),
            "training bound, its own": over_seeds(fit.history["bound"][:, -last:].mean(1)),
            "test ELBO": over_data(scores.bounds[1], better="higher"),
            f"test NLL, k = {config.eval_samples}": over_data(
                scores.nll, reference=published, better="lower"
            ),
            f"least ESS of the {config.eval_samples}": over_seeds(
                scores.effective_samples.min(1), unit="count"
            ),
        }
        if base is not None and cell != ("vimco", config.num_samples):
            gap = over_data(scores.nll - base.evaluation.nll, better="lower")
            rows["test NLL - vimco's, paired"] = gap
        for layer, count in scores.active_units.items():
            rows[f"active units, {layer}"] = over_seeds(count, unit="count")
        name = label(cell, config.num_samples)
        metrics |= {f"{name}/{row}": metric for row, metric in rows.items()}
    return metrics


def gradient_metrics(config: Any, tables: Mapping[str, Arrays]) -> dict[str, Metric]:
    """By method, point and block: variance, its ratio to score's, and signal to noise."""
    metrics, measured = {}, metered(config.methods)
    for point, table in tables.items():
        for i, method in enumerate(measured):
            for j, block in enumerate(BLOCKS.values()):
                rows = {"gradient variance": "total_variance", "gradient SNR": "snr"}
                if "score" in measured and method in ONE_GRADIENT[1:]:
                    rows["gradient variance / score's"] = "relative_variance"
                for row, name in rows.items():
                    values, errors = (table[n][:, i, j] for n in (name, f"{name}_stderr"))
                    metrics[f"{NAMES[method]}/{point} {block}: {row}"] = _mean(values, errors)
    return metrics


def metered(methods: tuple[str, ...]) -> list[str]:
    """The methods whose gradients are measured, as they lie in the tables."""
    return [method for method in METERED if method in methods]


def figures(
    config: Any, run: Run, trained: Cells, tables: Mapping[str, Arrays], shape: tuple[int, ...]
) -> dict[str, Callable[[], Figure]]:
    """All by file name; of the first seed, but for the NLLs, which are means over seeds."""
    k, draw = config.num_samples, functools.partial
    names = {cell: label(cell, k) for cell in trained}
    shown = dict.fromkeys([*NAMES.values(), *names.values()])
    colours = dict(zip(shown, itertools.cycle(_belief_plots.COLOURS), strict=False))
    scores = {cell: t.evaluation.nll.mean(0) for cell, t in trained.items()}
    nlls = {cell: mean_and_stderr(nll) for cell, nll in scores.items()}
    base = scores.get(("vimco", k))
    gaps = {} if base is None else {names[cell]: paired(nll, base) for cell, nll in scores.items()}
    held = {cell: belief_nll(config.data, config.layers, config.hidden, *cell) for cell in trained}
    published = {cell: reference.value for cell, reference in held.items() if reference}
    lines = {
        names[cell]: {n: v if n == "step" else v[0] for n, v in t.fit.evaluations.items()}
        for cell, t in trained.items()
    }
    found = {
        "nll": draw(
            _belief_plots.nll_points,
            {names[cell]: value for cell, value in nlls.items()},
            gaps,
            {names[cell]: value for cell, value in published.items()},
            colours,
            f"Test NLL by method, K = {k} where none is named",
        ),
        "curves": draw(
            _belief_plots.curves,
            lines,
            colours,
            f"Bound of the discrete model on held-out images, K = {k}",
        ),
        "samples": _samples(run, {names[cell]: t for cell, t in trained.items()}, shape),
    }
    if tables:
        panels = {point: _by_block(config.methods, table) for point, table in tables.items()}
        title = f"Noise of one minibatch's gradient, K = {k} (bars: 2 s.e.)"
        found["gradient_variance"] = draw(_belief_plots.variances, panels, colours, title)
    ladder = {cell[1]: value for cell, value in sorted(nlls.items()) if cell[0] == "vimco"}
    if len(ladder) > 1:
        crosses = {cell[1]: (v, 0.0) for cell, v in sorted(published.items()) if cell[0] == "vimco"}
        title = "vimco: test NLL against the K of training"
        found["nll_against_k"] = draw(_belief_plots.nll_by_samples, ladder, crosses, title)
    return found


def _by_block(methods: tuple[str, ...], table: Arrays) -> dict[str, dict[str, tuple[float, float]]]:
    """Variances with their errors, of the first seed."""
    values, errors = (table[f"total_variance{end}"][0] for end in ("", "_stderr"))
    return {
        block: {NAMES[m]: (values[i, j], errors[i, j]) for i, m in enumerate(metered(methods))}
        for j, block in enumerate(BLOCKS.values())
    }


def _samples(run: Run, trained: Mapping[str, Trained], shape) -> Callable[[], Figure]:
    key = stream(run.key, STREAM)[0]
    look = jax.jit(lambda key, model: generate(key, model, SHOWN))
    drawn = {
        name: np.asarray(look(jax.random.clone(key), model_of(t.fit.state, 0)["belief"]))
        for name, t in trained.items()
    }
    title = "Mean pixels of draws from the network"
    return lambda: _plots.image_rows(drawn, shape, title)


def _mean(values: np.ndarray, errors: np.ndarray) -> Metric:
    """The mean over seeds, whose draws are independent."""
    error = np.sqrt(np.square(errors).sum()) / len(errors)
    return Metric(float(values.mean()), float(error), unit="", seeds=tuple(map(float, values)))
