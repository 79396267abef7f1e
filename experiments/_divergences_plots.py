"""Pictures of fitted normals: a panel for each bound, and the optimum against Renyi's alpha."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse

from experiments._divergences_exact import power_mean
from experiments._divergences_fits import Fits
from experiments._divergences_targets import CORRELATED, VARIANCES, log_mixture, optima
from experiments._plots import COLOURS

BLUE, ORANGE, GREEN, _ = COLOURS
TARGET, INK, DIM = "#9aa5b1", "#222222", "#666666"
COLUMNS = 7


def correlated(fits: Mapping[str, Fits], num_samples: int) -> Figure:
    """Circles of one and two standard deviations of q on the target's ellipses."""
    figure, axes = _panels(fits, 2.0, 2.2)
    tints = _tints(len(fits))
    for axis, (name, fit), colour in zip(axes, fits.items(), tints, strict=True):
        for deviations, shade in ((3, 0.22), (2, 0.38), (1, 0.6)):
            width, height = 2 * deviations * np.sqrt(VARIANCES)
            style = {"fc": TARGET, "alpha": shade, "lw": 0}
            axis.add_patch(Ellipse((0, 0), width, height, angle=45, **style))
        each = np.exp(2 * fit.params[fit.shown][:, 0])
        scale = np.sqrt(each.mean())
        for deviations in (1, 2):
            axis.add_patch(Circle((0, 0), deviations * scale, fill=False, ec=colour, lw=1.8))
        axis.add_patch(Circle((0, 0), 2 * scale, fc=colour, alpha=0.16, lw=0))
        best = np.exp(fit.known[0].params[0])
        axis.add_patch(Circle((0, 0), 2 * best, fill=False, ec=INK, lw=1.0, ls=(0, (4, 3))))
        axis.set_xlim(-3.9, 3.9)
        axis.set_ylim(-3.9, 3.9)
        axis.set_aspect("equal")
        _name(axis, name, colour, f"v {_with_error(each)}", *_exact(fit, _variance))
    _head(
        figure,
        "N(0, v I) fitted to a correlated Gaussian by every bound, from mode-seeking to"
        f" mass-covering (K = {num_samples:,})",
        "shaded: the target, 1 to 3 standard deviations. rings: the fitted q, 1 and 2."
        " dashed: its exact optimum at this K, else in the limit. value: the bound's, there",
    )
    return figure


def mixture(fits: Mapping[str, Fits], num_samples: int) -> Figure:
    """Densities of the fitted q's at each optimum, the best one filled, over the mixture's."""
    figure, axes = _panels(fits, 2.0, 2.05)
    z = np.linspace(-5.5, 5.5, 400)
    tints = _tints(len(fits))
    for axis, (name, fit), colour in zip(axes, fits.items(), tints, strict=True):
        axis.fill_between(z, np.exp(log_mixture(z)), color=TARGET, alpha=0.55, lw=0)
        for index, optimum in enumerate(fit.known):
            held = fit.params[fit.nearest == index]
            if len(held):
                density = _normal(z, *held.mean(0))
                axis.plot(z, density, color=colour, lw=1.8 if index == 0 else 0.9)
                if index == 0:
                    axis.fill_between(z, density, color=colour, alpha=0.16, lw=0)
            if index == 0:
                exact = _normal(z, *optimum.params)
                axis.plot(z, exact, color=INK, lw=1.0, ls=(0, (4, 3)))
        for ends, nearest in zip(fit.params.swapaxes(0, 1), fit.nearest.T, strict=True):
            if (nearest == -1).any():
                lost = _normal(z, *ends[nearest == -1].mean(0))
                axis.plot(z, lost, color=colour, lw=0.9, ls=":")
        axis.set_xlim(z[0], z[-1])
        axis.set_ylim(0, 0.93)
        loc, log_scale = fit.params[fit.shown].T
        loc, scale = loc.mean(), np.exp(log_scale).mean()
        _name(axis, name, colour, f"m {loc:.3f}   s {scale:.3f}", *_exact(fit, _loc_and_scale))
    _head(
        figure,
        "N(m, s²) fitted to a mixture by every bound, from mode-seeking to mass-covering"
        f" (K = {num_samples:,})",
        "shaded: the target. filled: fits at the bound's best optimum; thin lines: fits at its"
        " other optima. dotted: at none. dashed: the best, exact, at this K, else in the limit",
    )
    return figure


def against_alpha(fits: Mapping[str, Fits], num_samples: int) -> Figure:
    """The exact optimum of Renyi's bound and its value, and what was fitted."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.3))
    alphas = np.concatenate([np.linspace(-2.0, 2.0, 41), np.linspace(2.2, 5.5, 8)]) + 0.02
    curve = [
        optima(
            CORRELATED,
            power_mean(1 - alpha),
            "maximise" if alpha > 0 else "minimise",
            CORRELATED.starts,
        )[0]
        for alpha in alphas
    ]
    v, values = np.exp([2 * o.params[0] for o in curve]), np.array([o.value for o in curve])
    for side in (alphas < 0, alphas > 0):
        label = "exact, K to infinity" if side[-1] else None
        left.semilogy(alphas[side], v[side], color=BLUE, lw=1.8, label=label)
        right.plot(alphas[side], values[side], color=BLUE, lw=1.8, label=label)
    for name, fit in fits.items():
        alpha = _alpha(name)
        if alpha is None:
            continue
        each, value = np.exp(2 * fit.params[fit.shown][:, 0]), fit.values[:, fit.shown]
        labelled = {"label": f"fitted, K = {num_samples:,}"} if name == "elbo" else {}
        style = {"fmt": "o", "color": ORANGE, "ms": 5, "zorder": 3} | labelled
        left.errorbar(alpha, each.mean(), 2 * _stderr(each), **style)
        right.errorbar(alpha, value.mean(), 2 * _stderr(value), **style)
        if fit.optima.at_k:
            best = fit.optima.at_k[0]
            ring = {"marker": "o", "mfc": "none", "mec": INK, "ms": 10, "lw": 0}
            labelled = {"label": "exact, that K"} if name == "elbo" else {}
            left.plot(alpha, np.exp(2 * best.params[0]), **ring, **labelled)
            right.plot(alpha, best.value, **ring, **labelled)
    for axis, title in ((left, "Optimal v"), (right, "The bound there, nats")):
        axis.axvline(0, color=DIM, lw=0.8, ls=":")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("alpha  (below 0: minimised, cubo(1 - alpha);  1: the ELBO)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
    ticks = [0.1, 0.19, 0.5, 1.0, 1.9]
    left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    left.minorticks_off()
    figure.suptitle("Renyi's bound on the correlated Gaussian: small alpha covers it", fontsize=11)
    figure.tight_layout()
    return figure


def _alpha(name: str) -> float | None:
    if name.startswith("renyi("):
        return float(name[6:-1])
    return {"elbo": 1.0, "cubo(2)": -1.0}.get(name)


def _with_error(values: np.ndarray) -> str:
    """Mean and standard error, to the latter's first digit."""
    error = _stderr(values)
    digits = int(np.clip(-np.floor(np.log10(error)), 2, 6)) if error > 0 else 6
    return f"{values.mean():.{digits}f} ± {error:.{digits}f}"


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size))


def _panels(fits, width: float, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, len(fits))
    rows = -(-len(fits) // columns)
    size = (max(width * columns, 10.5), height * rows + 0.9)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    top = 1 - 0.75 / size[1]
    figure.subplots_adjust(0.01, 0.6 / size[1], 0.99, top - 0.25 / size[1], 0.06, 0.6)
    return figure, list(axes.flat)[: len(fits)]


def _tints(count: int) -> np.ndarray:
    """Colours from blue, mode-seeking, to orange, mass-covering."""
    return plt.get_cmap("plasma")(np.linspace(0.05, 0.77, count))


def _name(axis: Axes, name: str, colour, *lines: str) -> None:
    axis.set_title(name, fontsize=9.5, color=colour, fontweight="bold", pad=3)
    style = {"ha": "center", "va": "top", "transform": axis.transAxes, "linespacing": 1.35}
    axis.text(0.5, -0.02, "\n".join(lines), fontsize=7.5, color=INK, **style)


def _exact(fit: Fits, show) -> list[str]:
    limit, at_k = fit.optima
    if limit and at_k and limit[0].value == at_k[0].value:
        return [f"exact {show(limit[0])}"]
    lines = {"exact": at_k, "limit": limit}
    return [f"{name} {show(found[0])}" for name, found in lines.items() if found]


def _variance(optimum) -> str:
    return f"{np.exp(2 * optimum.params[0]):.4f}   value {optimum.value:.3f}"


def _loc_and_scale(optimum) -> str:
    loc, log_scale = optimum.params
    return f"{loc:.3f}, {np.exp(log_scale):.3f}   value {optimum.value:.3f}"


def _head(figure: Figure, title: str, legend: str) -> None:
    height = figure.get_size_inches()[1]
    figure.suptitle(title, fontsize=12, y=1 - 0.1 / height, va="top")
    figure.text(0.5, 1 - 0.42 / height, legend, ha="center", va="top", fontsize=8.5, color=DIM)


def _normal(z: np.ndarray, loc: float, log_scale: float) -> np.ndarray:
    return np.exp(-0.5 * ((z - loc) / np.exp(log_scale)) ** 2 - log_scale) / np.sqrt(2 * np.pi)
