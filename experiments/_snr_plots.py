"""Pictures of signal, noise and efficiency against K."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments._plots import COLOURS


class Slope(NamedTuple):
    """A power law ``exp(level) K^value`` and the K's it was fitted to."""

    value: float
    stderr: float
    level: float
    samples: np.ndarray


class Line(NamedTuple):
    """Values by K, with their standard errors and maybe a fit."""

    samples: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    slope: Slope | None = None


def fit_slope(samples: np.ndarray, values: np.ndarray, errors: np.ndarray) -> Slope:
    """Least squares of log values on log K; its error is that of the values."""
    centred = np.log(samples) - np.log(samples).mean()
    weights = centred / np.square(centred).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        logs, relative = np.log(values), errors / values
        slope = float(weights @ logs)
        stderr = float(np.sqrt(np.square(weights * relative).sum()))
    return Slope(slope, stderr, float(logs.mean() - slope * np.log(samples).mean()), samples)


def against_samples(
    panels: Mapping[str, Mapping[str, Line]],
    title: str,
    ylabel: str,
    *,
    columns: int,
) -> Figure:
    """Log-log lines against K, a panel for each name; a dashed line is the fitted law."""
    rows = -(-len(panels) // columns)
    size = (4.2 * columns, 3.5 * rows + 0.3)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    names = dict.fromkeys(name for lines in panels.values() for name in lines)
    colours = dict(zip(names, COLOURS, strict=False))
    for axis, (panel, lines) in zip(axes.flat, panels.items(), strict=False):
        for i, (name, (samples, values, errors, slope)) in enumerate(lines.items()):
            # smaller ones on top: where two estimators are one, both are seen
            style, label = {"color": colours[name], "ms": max(7 - 2 * i, 3), "fmt": "o-"}, name
            if slope is not None:
                law = np.exp(slope.level) * slope.samples**slope.value
                axis.plot(slope.samples, law, "--", color=colours[name], lw=1)
                style["fmt"], label = "o", f"{name}: slope {slope.value:+.2f}"
            seen = values > 0
            axis.errorbar(samples[seen], values[seen], errors[seen], label=label, **style)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(panel, fontsize=10)
        axis.set_xlabel("K")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for line in axes:
        line[0].set_ylabel(ylabel)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure
