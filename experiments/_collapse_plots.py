"""How the rate goes in training, which dimensions carry it in the end, and what it costs."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._results import Metric

COLOURS = {
    "plain": "#222222",
    "linear": "#3465a4",
    "cyclical": "#cc5500",
    "free bits": "#4e9a06",
    "lagging": "#75507b",
    "factorised": "#999999",
}
POINTS = 150  # of a curve, each the mean of the steps around it
DRAWN_LINEARLY = 0.1  # nats; rates above are on a log scale


def collapse(
    rates: Mapping[str, Float[np.ndarray, "S N"]],
    by_dimension: Mapping[str, Float[np.ndarray, "S D"]],
    metrics: Mapping[str, Metric],
) -> Figure:
    """The rate over the steps; the rate of each dimension; ELBO and NLL against plain training."""
    figure = plt.figure(figsize=(9, 6.8), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.25, 1))
    _dynamics(figure.add_subplot(grid[0, :]), rates)
    _dimensions(figure.add_subplot(grid[1, 0]), by_dimension)
    _costs(figure.add_subplot(grid[1, 1]), [name for name in rates if name != "plain"], metrics)
    return figure


def _dynamics(axis: Axes, rates: Mapping[str, np.ndarray]) -> None:
    for name, each in rates.items():
        count = min(POINTS, each.shape[1])
        edges = np.linspace(0, each.shape[1], count + 1).astype(int)
        for i, values in enumerate(each):
            means = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
            label = name if i == 0 else None
            style = {"lw": 1.3, "alpha": 0.75, "ls": ":" if name == "factorised" else "-"}
            axis.plot(
                (edges[:-1] + edges[1:]) / 2, means, color=COLOURS[name], label=label, **style
            )
    axis.set_yscale("symlog", linthresh=DRAWN_LINEARLY)
    axis.set_ylim(bottom=0)
    axis.set_yticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
    axis.set_xlim(0, next(iter(rates.values())).shape[1])
    axis.set_xlabel("step")
    axis.set_ylabel("rate  KL(q(z|x) || p(z)), nats per image")
    axis.set_title("Whether the latent is used, as training goes on (a line per seed)", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, ncols=2)


def _dimensions(axis: Axes, by_dimension: Mapping[str, np.ndarray]) -> None:
    rows = np.stack([np.sort(kl[0])[::-1] for kl in by_dimension.values()])
    image = axis.imshow(rows, cmap="viridis", aspect="auto", vmin=0)
    if rows.shape[1] <= 16:
        for (row, column), value in np.ndenumerate(rows):
            colour = "w" if value < 0.6 * rows.max() else "k"
            text = {"ha": "center", "va": "center", "fontsize": 7, "color": colour}
            axis.text(column, row, f"{value:.2f}", **text)
    axis.set_yticks(range(len(rows)), list(by_dimension), fontsize=9)
    axis.set_xticks([])
    axis.set_xlabel("dimension of z, the most used first (first seed)")
    axis.set_title("Held-out rate of each dimension, nats", fontsize=10)
    axis.figure.colorbar(image, ax=axis, pad=0.02)


def _costs(axis: Axes, names: list[str], metrics: Mapping[str, Metric]) -> None:
    places = np.arange(len(names))
    signs = {"test ELBO - plain's, paired": -1, "test NLL - plain's, paired": 1}
    bars = zip(signs.items(), (-0.19, 0.19), ("-ELBO", "NLL"), ("0.65", "0.25"), strict=True)
    for (row, sign), shift, label, colour in bars:
        held = [metrics[f"{name}/{row}"] for name in names]
        values = [sign * (metric.value or 0.0) for metric in held]
        errors = [2 * (metric.stderr or 0.0) for metric in held]
        axis.bar(places + shift, values, 0.36, yerr=errors, color=colour, label=label, capsize=2)
    axis.axhline(0, color="k", lw=0.8)
    axis.set_xticks(places, names, fontsize=9, rotation=20)
    axis.set_ylabel("nats per image (bars: 2 s.e.)")
    axis.set_title("What it costs: less plain training's, paired", fontsize=10)
    axis.legend(fontsize=8)
