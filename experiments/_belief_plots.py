"""Pictures of belief networks trained in several ways: each function draws one figure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._plots import Points

COLOURS = tuple(plt.get_cmap("tab10")(i) for i in range(10))
Colours = Mapping[str, Any]
Found = Mapping[str, tuple[float, float]]
"""By name, a value and its standard error."""


def nll_points(
    found: Found, gaps: Found, published: Mapping[str, float], colours: Colours, title: str
) -> Figure:
    """Test NLL with two standard errors, a line for each name, and the paired differences."""
    size = (11, 0.4 * len(found) + 1.6)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True)
    for axis, values in ((left, found), (right, gaps)):
        for i, name in enumerate(found):
            if name in values:
                value, error = values[name]
                axis.errorbar(value, i, xerr=2 * error, fmt="o", color=colours[name], capsize=3)
    for name, value in published.items():
        left.plot(value, list(found).index(name), "kx")
    left.set_yticks(range(len(found)), list(found))
    left.invert_yaxis()
    left.margins(y=0.1)
    right.axvline(0, color="k", lw=0.8)
    crosses = "; crosses: published" if published else ""
    left.set_xlabel(f"test NLL, nats per image (bars: 2 s.e.{crosses})")
    right.set_xlabel("minus vimco's, paired by image")
    return _finish(figure, title)


def curves(lines: Mapping[str, Mapping[str, np.ndarray]], colours: Colours, title: str) -> Figure:
    """The held-out bound over the steps."""
    figure, axis = plt.subplots(figsize=(7.5, 4.4))
    for name, line in lines.items():
        axis.plot(line["step"], line["held-out bound"], color=colours[name], label=name)
    axis.set_xlabel("step")
    axis.set_ylabel("nats per held-out image")
    axis.legend(fontsize=8, ncols=2)
    return _finish(figure, title)


def variances(panels: Mapping[str, Mapping[str, Found]], colours: Colours, title: str) -> Figure:
    """The gradient's variance by method: a row for each point of training, a panel each block."""
    shape = len(panels), max(map(len, panels.values()))
    size = (4.6 * shape[1], 2.6 * shape[0] + 1.2)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharex=True, sharey=True)
    for line, (point, blocks) in zip(axes, panels.items(), strict=True):
        for axis, (block, found) in zip(line, blocks.items(), strict=True):
            for i, (name, (value, error)) in enumerate(found.items()):
                axis.errorbar(i, value, yerr=2 * error, fmt="o", color=colours[name], capsize=3)
            axis.set_yscale("log")
            axis.set_xticks(range(len(found)), list(found), rotation=25, ha="right")
            axis.margins(x=0.15, y=0.15)
            axis.set_title(f"{block}, {point}", fontsize=10)
        line[0].set_ylabel("tr Var of the gradient")
    return _finish(figure, title)


def nll_by_samples(found: Points, published: Points, title: str) -> Figure:
    """Test NLL against the K of training."""
    figure, axis = plt.subplots(figsize=(5.6, 4.0))
    for points, style, name in ((found, "o-", "vimco"), (published, "kx:", "published")):
        if points:
            values, errors = np.array(list(points.values())).T
            axis.errorbar(list(points), values, yerr=2 * errors, fmt=style, label=name, capsize=3)
    ticks = sorted({*found, *published})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [str(k) for k in ticks])
    axis.minorticks_off()
    axis.set_xlabel("K of training")
    axis.set_ylabel("test NLL, nats per image (bars: 2 s.e.)")
    axis.legend()
    return _finish(figure, title)


def _finish(figure: Figure, title: str) -> Figure:
    axes: list[Axes] = figure.axes
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure
