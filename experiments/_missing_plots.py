"""Pictures of imputation: the error of every method, and imputed values against true ones."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments._missing_table import Incomplete
from experiments._results import Metric

_OURS, _OTHERS = "#cc5500", "#7f8c9b"
_EDGE = 3.5  # standard deviations shown


def bars(errors: Mapping[str, Metric], ours: frozenset[str], title: str) -> Figure:
    """The RMSE of every method with its standard error, and a dot for each seed."""
    figure, axis = plt.subplots(figsize=(1.15 * len(errors) + 1.6, 3.6))
    for at, (name, metric) in enumerate(errors.items()):
        assert metric.value is not None
        colour = _OURS if name in ours else _OTHERS
        axis.bar(at, metric.value, 0.62, color=colour, yerr=metric.stderr, capsize=4)
        axis.plot(np.full(len(metric.seeds), at), metric.seeds, ".", color="black", ms=4)
        axis.annotate(f"{metric.value:.3f}", (at, 0.03), ha="center", color="white", fontsize=9)
    axis.set_xticks(range(len(errors)), list(errors), fontsize=9)
    axis.set_ylabel("RMSE at removed entries, in sd")
    axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout(pad=0.5)
    return figure


def scatter(filled: Mapping[str, np.ndarray], part: Incomplete, title: str) -> Figure:
    """A panel for each method: what it put in the gaps against what had been there."""
    figure, axes = plt.subplots(
        1, len(filled), figsize=(2.4 * len(filled) + 0.6, 3.3), sharey=True, squeeze=False
    )
    gaps = ~part.observed
    truth = part.truth[gaps]
    for axis, (name, values) in zip(axes[0], filled.items(), strict=True):
        axis.plot([-_EDGE, _EDGE], [-_EDGE, _EDGE], color="black", lw=0.7)
        axis.scatter(truth, values[gaps], s=3, lw=0, alpha=0.35, color=_OURS, rasterized=True)
        axis.set_xlim(-_EDGE, _EDGE)
        axis.set_ylim(-_EDGE, _EDGE)
        axis.set_aspect("equal")
        rmse = np.sqrt(np.mean((values[gaps] - truth) ** 2))
        axis.set_title(f"{name}, {rmse:.3f}", fontsize=9)
        axis.set_xlabel("true, in sd", fontsize=8)
    axes[0, 0].set_ylabel("imputed, in sd", fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return figure
