"""Nats against the seconds of a draw, and draws."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments._results import Metric

SHOWN = 10
_MARKS = ("#3465a4", "o"), ("#06989a", "s"), ("#75507b", "D"), ("#cc5500", "^"), ("#4e9a06", "v")


def costs_and_draws(
    points: Mapping[str, tuple[Metric, Metric]],
    rows: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
) -> Figure:
    """Left, the test NLL of each model by its sampling time; right, images ``[n, pixels]``."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.0, 3.6), width_ratios=(1.0, 1.25), layout="constrained"
    )
    for (colour, mark), (name, (seconds, nll)) in zip(_MARKS, points.items(), strict=False):
        assert seconds.value is not None
        assert nll.value is not None
        bar = {"yerr": nll.stderr, "fmt": mark, "ms": 7, "mfc": "none", "capsize": 3}
        left.errorbar(seconds.value, nll.value, color=colour, label=name, **bar)
    left.set_xscale("log")
    left.margins(0.15)
    left.legend(fontsize=8)
    left.set_xlabel("ms to draw 1,000 images")
    low, high = np.log10(left.get_xlim())
    left.set_xlim(10 ** np.floor(low), 10 ** np.ceil(high))
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set_ylabel("test NLL, nats per image (bars: 1 s.e.)")
    left.grid(alpha=0.3)
    height, width = (shape if len(shape) > 1 else (1, *shape))[:2]
    lines = [_line(images[:SHOWN], (height, width)) for images in rows.values()]
    right.imshow(np.concatenate(lines)[:-1, :-1], cmap="gray_r", vmin=0, vmax=1)
    middles = (height + 1) * np.arange(len(rows)) + (height - 1) / 2
    right.set_yticks(middles, list(rows), fontsize=8)
    right.set_xticks([])
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    right.set_title("Draws, of levels", fontsize=10)
    left.set_title("Nats against the time of a draw", fontsize=10)
    return figure


def _line(images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Images side by side, a pixel between them; of colours their mean."""
    tiles = images.reshape(len(images), *shape, -1).mean(-1)
    return np.concatenate(np.pad(tiles, ((0, 0), (0, 1), (0, 1)), constant_values=0.3), axis=1)
