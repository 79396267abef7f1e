"""Panels of targets on the plane and of what was fitted to them."""

from collections.abc import Mapping

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._flow_targets import PLANE, Density
from experiments._results import Metric

_NODES = 200


def densities(
    draws: Mapping[str, Mapping[str, np.ndarray]], metrics: Mapping[str, Metric]
) -> Figure:
    """A column for each density: the target, then draws of every family on its contours."""
    families = list(next(iter(draws.values())))
    rows = 1 + len(families)
    size = (1.75 * len(draws) + 0.4, 1.95 * rows + 0.4)
    figure, axes = plt.subplots(rows, len(draws), figsize=size, squeeze=False)
    for column, (name, fits) in zip(axes.T, draws.items(), strict=True):
        target = PLANE[name]
        x, log_p = _on_grid(target)
        column[0].imshow(np.exp(log_p).T, origin="lower", extent=_extent(x), cmap="Greys")
        _bare(column[0], x, name)
        for axis, (family, z) in zip(column[1:], fits.items(), strict=True):
            axis.scatter(*z.T, s=0.6, lw=0, alpha=0.5, color="#cc5500")
            levels = log_p.max() + np.array([-4.5, -2.0, -0.5])
            style = {"levels": levels, "colors": "#222222", "linewidths": 0.5}
            axis.contour(x, x, log_p.T, linestyles="solid", **style)
            _bare(axis, x, f"KL {metrics[f'{family}/{name}, KL']}")
    for axis, name in zip(axes[:, 0], ["target", *families], strict=True):
        axis.set_ylabel(name, fontsize=9)
    figure.suptitle("Reverse-KL fits to known densities; KL(q || p) in nats", fontsize=11)
    figure.tight_layout(pad=0.4)
    return figure


def _on_grid(target: Density) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(-target.half_width, target.half_width, _NODES)
    z = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1)
    return x, np.asarray(target.log_density(jnp.asarray(z, jnp.float32)))


def _extent(x: np.ndarray) -> tuple[float, float, float, float]:
    return x[0], x[-1], x[0], x[-1]


def _bare(axis: Axes, x: np.ndarray, title: str) -> None:
    axis.set_xlim(x[0], x[-1])
    axis.set_ylim(x[0], x[-1])
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=8.5)
