"""The frontiers of rate and distortion, what their slopes are, and what each beta is worth."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._rate_frontier import LEAST_STEP, slopes
from experiments._rate_table import Sweep

NETWORK, LINEAR = "#3465a4", "#cc5500"


def frontiers(
    betas: Sequence[float], network: Sweep, linear: Sweep, exact: Float[np.ndarray, "2 points"]
) -> Figure:
    """Both frontiers with lines of equal ELBO; below, their slopes and the log p of each beta."""
    figure, axes = plt.subplots(
        2, 2, figsize=(8.2, 6.8), height_ratios=(1.35, 1), layout="constrained"
    )
    axes[0][1].plot(*exact, color="0.35", lw=1, label="closed form")
    _frontier(axes[0][0], betas, network)
    dots = _frontier(axes[0][1], betas, linear)
    axes[0][0].set_title("Network, bits (numbers: active units)", fontsize=10)
    axes[0][1].set_title("Linear VAE, grey values (numbers: active units)", fontsize=10)
    axes[0][0].set_ylabel("distortion  $-E_q\\,\\log p(x|z)$, nats")
    figure.colorbar(dots, ax=axes[0].tolist(), label="$\\log_{10}\\beta$", pad=0.02)
    _slopes(axes[1][0], betas, network, linear)
    _worth(axes[1][1], betas, network, linear)
    return figure


def _frontier(axis: Axes, betas: Sequence[float], sweep: Sweep):
    rate, distortion = sweep.rate.mean(0), sweep.distortion.mean(0)
    wide, high = np.ptp(rate), np.ptp(distortion)
    axis.set_xlim(rate.min() - 0.06 * wide, rate.max() + 0.1 * wide)
    axis.set_ylim(distortion.min() - 0.08 * high, distortion.max() + 0.12 * high)
    ends = np.array(axis.get_xlim())
    sums = (rate + distortion).min() + np.arange(-1, 5) * max(wide, high) / 5
    for i, total in enumerate(sums):
        name = "R + D constant" if i == 0 else None
        axis.plot(ends, total - ends, color="0.8", lw=0.8, zorder=0, label=name)
    for one in zip(sweep.rate, sweep.distortion, strict=True):
        axis.plot(*one, color="0.6", lw=0.6, zorder=1)
    style = {"c": np.log10(betas), "cmap": "viridis", "edgecolors": "k", "linewidths": 0.4}
    dots = axis.scatter(rate, distortion, s=38, zorder=3, **style)
    shown = None
    for place in np.argsort(rate):
        here = np.array([rate[place] / wide, distortion[place] / high])
        if shown is None or np.hypot(*(here - shown)) > 0.05:
            units = f"{sweep.active_units.mean(0)[place]:.2g}"
            where = (rate[place], distortion[place])
            axis.annotate(units, where, (5, 4), textcoords="offset points", fontsize=8)
            shown = here
    axis.legend(loc="upper right", fontsize=8)
    axis.set_xlabel("rate  KL(q(z|x) || p(z)), nats")
    return dots


def _slopes(axis: Axes, betas: Sequence[float], network: Sweep, linear: Sweep) -> None:
    ends = np.array([min(betas), max(betas)])
    axis.fill_between(ends, 0.75 * ends, 1.25 * ends, color="0.88", label="$\\beta$ within 25 %")
    axis.plot(ends, ends, color="0.5", lw=0.8)
    for sweep, colour, name in ((network, NETWORK, "network"), (linear, LINEAR, "linear")):
        found = slopes(betas, sweep.rate, sweep.distortion)
        for i, (each, judged) in enumerate(zip(found.slope, found.is_judged, strict=True)):
            label = name if i == 0 else None
            at = -found.expected[judged]
            axis.plot(at, -each[judged], "o", ms=3.5, mfc="none", color=colour, label=label)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("$\\beta$, geometric mean of two neighbours")
    axis.set_ylabel("$-\\Delta D / \\Delta R$ between them")
    axis.set_title(f"Slopes, rates at least {LEAST_STEP} nat apart", fontsize=10)
    axis.legend(fontsize=8)


def _worth(axis: Axes, betas: Sequence[float], network: Sweep, linear: Sweep) -> None:
    for sweep, colour, name in ((network, NETWORK, "network"), (linear, LINEAR, "linear")):
        mean = sweep.log_p.mean(0)
        axis.plot(betas, mean, "o-", ms=3.5, color=colour, label=name)
        low, high = sweep.log_p.min(0), sweep.log_p.max(0)
        axis.fill_between(betas, low, high, color=colour, alpha=0.2, lw=0)
    axis.axhline(0, color="0.5", lw=0.8)
    axis.set_xscale("log")
    axis.set_yscale("symlog", linthresh=1)
    axis.set_yticks([0, -0.5, -1, -3, -10], ["0", "-0.5", "-1", "-3", "-10"])
    axis.set_xlabel("$\\beta$")
    axis.set_ylabel("test log p less that at $\\beta = 1$, nats")
    axis.set_title("What each is worth on held-out images", fontsize=10)
    axis.legend(fontsize=8)
