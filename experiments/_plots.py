"""Pictures of trained autoencoders: each function draws one figure and returns it."""

from collections.abc import Iterable, Mapping

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#3465a4", "#cc5500", "#4e9a06", "#75507b")


def image_rows(rows: Mapping[str, np.ndarray], shape: tuple[int, ...], title: str) -> Figure:
    """Rows of as many images ``[n, pixels]`` of values in 0..1, each with its name before it."""
    columns = max(len(images) for images in rows.values())
    blank = np.zeros((columns, np.prod(shape)))
    filled = [np.concatenate([images, blank[len(images) :]]) for images in rows.values()]
    mosaic = _mosaic(np.concatenate(filled), shape, columns)
    figure, axis = plt.subplots(figsize=(0.62 * columns + 1.6, 0.66 * len(rows) + 0.5))
    axis.imshow(mosaic, cmap="gray_r", vmin=0, vmax=1, aspect="equal")
    height = (len(mosaic) + 1) / len(rows)
    axis.set_yticks(height * (np.arange(len(rows)) + 0.5) - 1, list(rows), fontsize=9)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(pad=0.3, rect=(0, 0, 1, 0.99))
    return figure


def image_grids(
    grids: Mapping[str, np.ndarray], shape: tuple[int, ...], columns: int, title: str
) -> Figure:
    """One mosaic of images ``[n, pixels]`` per name, side by side."""
    figure, axes = plt.subplots(1, len(grids), figsize=(4.2 * len(grids), 4.6), squeeze=False)
    for axis, (name, images) in zip(axes[0], grids.items(), strict=True):
        axis.imshow(_mosaic(images, shape, columns), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def _mosaic(images: np.ndarray, shape: tuple[int, ...], columns: int) -> np.ndarray:
    """The images in lines of ``columns``, a pixel between them."""
    lines = len(images) // columns
    tiles = np.reshape(images[: lines * columns], (lines, columns, *_drawn(shape)))
    edges = [(0, 1) if axis in (2, 3) else (0, 0) for axis in range(tiles.ndim)]
    framed = np.pad(tiles, edges, constant_values=0.15)
    across = np.concatenate(list(np.moveaxis(framed, 1, 0)), axis=2)
    return np.concatenate(list(across), axis=0)[:-1, :-1]


def _drawn(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Pixels that form no square are one line."""
    return shape if len(shape) > 1 else (1, *shape)


def latent_space(means: Mapping[str, np.ndarray], labels: np.ndarray | None) -> Figure:
    """Posterior means on their two leading principal axes, coloured by class where there are."""
    figure, axes = plt.subplots(1, len(means), figsize=(4.6 * len(means), 4.4), squeeze=False)
    colours, classes = {"color": COLOURS[0]}, np.arange(0)
    if labels is not None:
        classes = np.arange(labels.max() + 1)
        ends = {"vmin": -0.5, "vmax": len(classes) - 0.5}
        colours = {"c": labels, "cmap": "tab10" if len(classes) <= 10 else "turbo", **ends}
    dots = None
    for axis, (name, points) in zip(axes[0], means.items(), strict=True):
        points = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))
        centred = points - points.mean(0)
        _, singular, directions = np.linalg.svd(centred, full_matrices=False)
        explained = (singular[:2] ** 2).sum() / (singular**2).sum()
        dots = axis.scatter(*(centred @ directions[:2].T).T, s=14, **colours)
        axis.set_title(f"{name}: {100 * explained:.0f} % of the means' variance", fontsize=10)
        axis.set_xlabel("first principal axis")
        axis.set_ylabel("second principal axis")
    by_class = "" if labels is None else ", by class"
    figure.suptitle(f"Posterior means of held-out images{by_class}", fontsize=11)
    figure.tight_layout()
    if labels is not None and dots is not None:
        ticks = classes[:: -(-len(classes) // 26)]
        figure.colorbar(dots, ax=axes[0].tolist(), ticks=ticks, label="class", pad=0.02)
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
        _dress(axis, title, "step")
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


Points = dict[int, tuple[float, float]]
"""A line: by k a value and its standard error."""


def nll_against_samples(panels: Mapping[str, Mapping[str, Points]], names: Iterable[str]) -> Figure:
    """NLL against the k of training, a panel each, coloured by what stands before a comma.

    What has a comma in its name is published.
    """
    colours = dict(zip(names, COLOURS, strict=False))
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.4), squeeze=False)
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for name, points in lines.items():
            values, errors = np.array(list(points.values())).T
            published = "," in name
            axis.errorbar(
                list(points),
                values,
                yerr=None if published else errors,
                fmt="x:" if published else "o-",
                alpha=0.6 if published else 1.0,
                color=colours[name.split(",")[0]],
                ms=5,
                label=name,
            )
        ticks = sorted({k for points in lines.values() for k in points})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [str(k) for k in ticks])
        axis.minorticks_off()
        _dress(axis, title, "k of training")
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("test NLL, nats per image (bars: 1 s.e.)")
    figure.suptitle("Test NLL by objective and k; dotted: published, full schedule", fontsize=11)
    figure.tight_layout()
    return figure


def bound_curves(panels: Mapping[str, Mapping[str, np.ndarray]], names: Iterable[str]) -> Figure:
    """The bounds of these names on held-out images over the steps, a panel each."""
    colours = dict(zip(names, COLOURS, strict=False))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.8), squeeze=False)
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for name in (name for name in colours if name in lines):
            axis.plot(lines["step"], lines[name], color=colours[name], label=name)
        _dress(axis, title, "step")
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("nats per held-out image")
    figure.suptitle("The bounds trained on, each at its own k", fontsize=11)
    figure.tight_layout()
    return figure


def _dress(axis: Axes, title: str, xlabel: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(xlabel)
    axis.grid(alpha=0.3)
