"""The gaps as stacked bars, and what they are on the plane."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._gaps_report import AMORTISATION, APPROXIMATION
from experiments._plots import COLOURS
from experiments._results import Metric

PICTURED = 2  # images, those that the encoder's q fits worst
LEVELS = np.array([-4.5, -2.0, -0.5])  # below the peak: 3, 2 and 1 deviations of a normal
NEAR = -8.0  # below the peak: how far a panel goes


def gaps(
    metrics: Mapping[str, Metric], kinds: Sequence[str], panels: Mapping[str, np.ndarray]
) -> Figure:
    """Bars, and beside them the panels of ``_flow_plane``, where there are some."""
    names = list(dict.fromkeys(name.rpartition("/")[0] for name in panels))
    if not names:
        figure, axis = plt.subplots(figsize=(5.0, 3.6))
        _bars(axis, metrics, kinds)
        figure.tight_layout()
        return figure
    figure = plt.figure(figsize=(3.5 + 1.3 * len(names), 3.4), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(3.5, 1.3 * len(names)))
    left, right = halves
    _bars(left.subplots(), metrics, kinds)
    axes = right.subplots(PICTURED, len(names), squeeze=False)
    worst = np.argsort(panels[f"{names[0]}/kl"])[::-1][:PICTURED]
    for row, i in zip(axes, worst, strict=True):
        log_p, log_qs = panels[f"{names[0]}/p"][i], [panels[f"{name}/q"][i] for name in names]
        for axis, name, log_q in zip(row, names, log_qs, strict=True):
            _panel(axis, log_p, log_q)
            _go_near(axis, [log_p, *log_qs])
            axis.set_xlabel(f"KL {panels[f'{name}/kl'][i]:.2f}", fontsize=8.5)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(f"{name} q", fontsize=9)
    right.suptitle("p(z | x) shaded, q in lines; two latent dimensions, two images", fontsize=9)
    return figure


def _bars(axis: Axes, metrics: Mapping[str, Metric], kinds: Sequence[str]) -> None:
    """Both gaps of every posterior, stacked; lines are one standard deviation over seeds."""
    left, rows = np.zeros(len(kinds)), np.arange(len(kinds))
    for name, colour, lift in (
        (APPROXIMATION, COLOURS[0], -0.15),
        (AMORTISATION, COLOURS[1], 0.15),
    ):
        shown = [metrics[f"{kind}/{name}"] for kind in kinds]
        means = np.array([metric.value for metric in shown])
        axis.barh(rows, means, left=left, height=0.62, color=colour, label=name, alpha=0.85)
        for row, middle, mean in zip(range(len(kinds)), left + means / 2, means, strict=True):
            axis.text(
                middle, row, f"{mean:.2f}", ha="center", va="center", color="white", fontsize=8
            )
        left = left + means
        spreads: Any = [metric.spread or metric.stderr or 0.0 for metric in shown]
        axis.errorbar(left, rows + lift, xerr=spreads, fmt="none", ecolor="#222222", capsize=2)
    axis.set_yticks(rows, kinds)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.12 * left.max())
    several = metrics[f"{kinds[0]}/{APPROXIMATION}"].spread is not None
    over = "1 s.d. over seeds" if several else "1 s.e. over images"
    axis.set_xlabel(f"log p(x) - ELBO, nats per held-out image\n(lines: {over})", fontsize=9)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8, frameon=False)


def _panel(axis: Axes, log_p: np.ndarray, log_q: np.ndarray) -> None:
    """The true posterior in three shades, q in three lines."""
    at = np.linspace(0, 1, len(log_p))
    levels = log_p.max() + LEVELS
    axis.contourf(
        at, at, log_p.T, levels=[*levels, np.inf], colors=("#dddddd", "#aaaaaa", "#666666")
    )
    style: dict[str, Any] = {"colors": COLOURS[1], "linewidths": 1.2, "linestyles": "solid"}
    axis.contour(at, at, log_q.T, levels=log_q.max() + LEVELS, **style)
    axis.set_xticks([])
    axis.set_yticks([])


def _go_near(axis: Axes, log_densities: Sequence[np.ndarray]) -> None:
    """Show where any of them has its mass."""
    near = np.max([each - each.max() for each in log_densities], axis=0) > NEAR
    at = np.linspace(0, 1, len(near))
    for other, limits in ((1, axis.set_xlim), (0, axis.set_ylim)):
        inside = at[near.any(other)]
        limits(inside[0], inside[-1])
