"""Pictures of trained autoencoders: each function draws one figure and returns it."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLOURS = ("#3465a4", "#cc5500", "#4e9a06", "#75507b")


def image_rows(rows: Mapping[str, np.ndarray], side: int, title: str) -> Figure:
    """Rows of images ``[n, pixels]``, each with its name before it."""
    width = max(len(images) for images in rows.values())
    figure, axes = plt.subplots(
        len(rows), width, figsize=(0.62 * width + 1.6, 0.66 * len(rows) + 0.5), squeeze=False
    )
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=False):
            axis.imshow(np.reshape(image, (side, side)), cmap="gray_r", vmin=0, vmax=1)
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color("#dddddd")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(pad=0.3, rect=(0, 0, 1, 0.99))
    return figure


def image_grids(grids: Mapping[str, np.ndarray], side: int, columns: int, title: str) -> Figure:
    """One mosaic of images ``[n, pixels]`` per name, side by side."""
    figure, axes = plt.subplots(1, len(grids), figsize=(4.2 * len(grids), 4.6), squeeze=False)
    for axis, (name, images) in zip(axes[0], grids.items(), strict=True):
        lines = len(images) // columns
        tiles = np.reshape(images[: lines * columns], (lines, columns, side, side))
        framed = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)))
        mosaic = framed.transpose(0, 2, 1, 3).reshape(lines * (side + 1), columns * (side + 1))
        axis.imshow(mosaic[:-1, :-1], cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def latent_space(means: Mapping[str, np.ndarray], labels: np.ndarray) -> Figure:
    """Posterior means on their two leading principal axes, coloured by class."""
    figure, axes = plt.subplots(1, len(means), figsize=(4.6 * len(means), 4.4), squeeze=False)
    dots = None
    for axis, (name, points) in zip(axes[0], means.items(), strict=True):
        points = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))
        centred = points - points.mean(0)
        _, singular, directions = np.linalg.svd(centred, full_matrices=False)
        explained = (singular[:2] ** 2).sum() / (singular**2).sum()
        flat = centred @ directions[:2].T
        dots = axis.scatter(*flat.T, c=labels, cmap="tab10", s=14, vmin=-0.5, vmax=9.5)
        axis.set_title(f"{name}: {100 * explained:.0f} % of the means' variance", fontsize=10)
        axis.set_xlabel("first principal axis")
        axis.set_ylabel("second principal axis")
    figure.suptitle("Posterior means of held-out images, by class", fontsize=11)
    figure.tight_layout()
    if dots is not None:
        figure.colorbar(dots, ax=axes[0].tolist(), ticks=range(10), label="class", pad=0.02)
    return figure


def training_curves(evaluations: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Held-out rate, distortion and their sum over the steps."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6))
    parts = {
        "rate  KL(q(z|x) || p(z))": lambda e: e["rate"],
        "distortion  -E log p(x|z)": lambda e: e["distortion"],
        "their sum, -ELBO": lambda e: e["rate"] + e["distortion"],
    }
    for axis, (title, part) in zip(axes, parts.items(), strict=True):
        for colour, (name, values) in zip(COLOURS, evaluations.items(), strict=False):
            axis.plot(values["step"], part(values), color=colour, label=name)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("nats per held-out image")
    axes[0].legend()
    figure.suptitle("The loss, split into rate and distortion", fontsize=11)
    figure.tight_layout()
    return figure


def bound_against_samples(
    bounds: Mapping[str, Mapping[int, np.ndarray]],
    gaps: Mapping[str, Mapping[int, tuple[float, float]]],
) -> Figure:
    """The bound on held-out log p(x) against the K it is evaluated with, and the paired gap."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for colour, (name, ladder) in zip(COLOURS, bounds.items(), strict=False):
        samples = list(ladder)
        values = [float(ladder[k].mean()) for k in samples]
        left.semilogx(samples, values, "o-", ms=3, color=colour, label=name)
    left.set_xlabel("evaluation K")
    left.set_ylabel("bound on log p(x), nats per image")
    left.legend()
    for colour, (name, ladder) in zip(COLOURS[1:], gaps.items(), strict=False):
        samples = list(ladder)
        mean, stderr = np.array([ladder[k] for k in samples]).T
        right.semilogx(samples, mean, "o-", ms=3, color=colour, label=name)
        right.fill_between(samples, mean - 2 * stderr, mean + 2 * stderr, color=colour, alpha=0.2)
    right.axhline(0, color="k", lw=0.8)
    right.set_xlabel("evaluation K")
    right.set_ylabel("paired difference, nats (band: 2 s.e.)")
    if gaps:
        right.legend()
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.suptitle("What each model is worth, by the K it is judged with", fontsize=11)
    figure.tight_layout()
    return figure


def save(figures: Mapping[str, Figure], out) -> list[str]:
    """Write each figure as ``<name>.png`` and return the names."""
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", dpi=110)
        plt.close(figure)
    return [f"{name}.png" for name in figures]
