"""The pictures of ``elbo_identities``: each function draws one figure and returns it."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from experiments._em import Staircase
from experiments._identities_exact import relative_variance
from experiments._plots import COLOURS

BLUE, ORANGE, GREEN, VIOLET = COLOURS
EVIDENCE = "#222222"
SHOWN = 7  # iterations of a staircase


def decompositions(
    t: np.ndarray,
    path: Mapping[str, np.ndarray],
    num_samples: Sequence[int],
    gaps: np.ndarray,
    stderrs: np.ndarray,
) -> Figure:
    """The evidence split at the ELBO, the ELBO split into rate and distortion, and the gap by K."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2))
    log_evidence = path["log_evidence"]
    elbo = path["log_joint"] + path["entropy"]
    left.fill_between(
        t, elbo, log_evidence, color=ORANGE, alpha=0.25, lw=0, label="KL(q || posterior)"
    )
    left.plot(t, log_evidence, color=EVIDENCE, lw=1.8, label="log p(x)")
    left.plot(t, elbo, color=BLUE, lw=1.8, label="ELBO")
    left.legend(loc="lower right", fontsize=9)
    _dress(left, "log p(x) = ELBO + KL(q || posterior)", _PATH, "nats per datum")

    rate, distortion = path["rate"], path["distortion"]
    middle.stackplot(
        t, distortion, rate, colors=[GREEN, VIOLET], alpha=0.3, labels=["distortion", "rate"]
    )
    middle.plot(t, rate + distortion, color=BLUE, lw=1.8, label="their sum, -ELBO")
    middle.plot(t, -log_evidence, color=EVIDENCE, lw=1.8, label="-log p(x)")
    middle.set_ylim(0, None)
    middle.legend(loc="upper right", fontsize=9)
    _dress(middle, "-ELBO = distortion + rate", _PATH, "nats per datum")

    K = np.array(num_samples)
    right.errorbar(K, gaps, yerr=2 * stderrs, fmt="o-", ms=4, color=BLUE, label="measured (2 s.e.)")
    limit = relative_variance() / (2 * K)
    right.plot(K, limit, "--", color=ORANGE, label="Var(w / p(x)) / 2K")
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.set_xticks(K, [str(k) for k in K])
    right.legend(fontsize=9)
    _dress(right, "The importance-weighted bound: log p(x) - E[L_K]", "K", "nats per datum")
    figure.tight_layout()
    return figure


_PATH = "t:  q ∝ p(z) p(x|z)^t, from the prior to the posterior"


def staircases(climbs: Mapping[str, Staircase]) -> Figure:
    """ELBO and log p(x) by half steps of EM, the first iterations after the first E step."""
    figure, axes = plt.subplots(1, len(climbs), figsize=(6.4 * len(climbs), 4.6), squeeze=False)
    for axis, (name, stairs) in zip(axes[0], climbs.items(), strict=True):
        _staircase(axis, stairs)
        _dress(axis, name, "iteration: the E step (shaded), then the M step", "nats per datum")
    figure.suptitle(
        "EM climbs the ELBO: an E step lifts it to log p(x), an M step lifts both", fontsize=11
    )
    figure.tight_layout()
    return figure


def _staircase(axis: Axes, stairs: Staircase) -> None:
    first = _first_shown(stairs.log_likelihood[::2])
    shown = slice(2 * first - 1, 2 * (first + SHOWN))
    elbo, log_likelihood = stairs.elbo[shown], stairs.log_likelihood[shown]
    half = first + np.arange(len(elbo)) / 2  # an E step ends at the iteration's number
    for iteration in half[2::2]:
        axis.axvspan(iteration - 0.5, iteration, color=EVIDENCE, alpha=0.06, lw=0)
    axis.fill_between(
        half, elbo, log_likelihood, color=ORANGE, alpha=0.25, lw=0, label="KL(q || posterior)"
    )
    axis.plot(half, log_likelihood, color=EVIDENCE, lw=1.8, label="log p(x)")
    axis.plot(half, elbo, color=BLUE, lw=1.8, label="ELBO")
    axis.plot(half[::2], elbo[::2], "o", color=BLUE, ms=5, label="they touch")
    axis.set_xticks(half[::2])
    axis.margins(x=0.02)
    axis.legend(loc="lower right", fontsize=9)


def _first_shown(log_likelihood: Any) -> int:
    """The first iteration from which on no M step makes nearly the whole rise that is shown."""
    for first in range(1, len(log_likelihood) - SHOWN):
        rises = np.diff(log_likelihood[first - 1 : first + SHOWN])
        if rises.max() < 0.7 * rises.sum():
            return first
    return 1


def linear_vae(curves: Mapping[str, Mapping[str, np.ndarray]], log_evidence: float) -> Figure:
    """How far each linear VAE is below probabilistic PCA, by steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2))
    left.axhline(log_evidence, color=EVIDENCE, lw=1.8, label="pPCA's log p(x), exact")
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        left.plot(curve["step"], curve["elbo"], color=colour, label=f"ELBO, {name}")
        gaps = {"ELBO": (curve["elbo"], "-"), "own log p(x)": (curve["log_evidence"], ":")}
        for what, (values, line) in gaps.items():
            label = f"{what}, {name}"
            right.semilogy(curve["step"], log_evidence - values, line, color=colour, label=label)
    right.axhline(0.1, color=EVIDENCE, lw=0.8, ls="--")
    across = right.get_yaxis_transform()
    right.text(0.98, 0.105, "0.1 nat", ha="right", va="bottom", fontsize=9, transform=across)
    left.legend(loc="lower right", fontsize=9)
    right.legend(fontsize=9)
    _dress(left, "The linear VAE's exact ELBO", "step", "nats per training image")
    _dress(right, "pPCA's log p(x) minus", "step", "nats per training image")
    figure.tight_layout()
    return figure


def components(
    weights: Mapping[str, np.ndarray], shape: tuple[int, ...], columns: int = 10
) -> Figure:
    """The longest columns of each ``W [P, D]``, by length, with the first's signs."""
    first = next(iter(weights.values()))
    count = min(columns, first.shape[1])
    drawn = shape if len(shape) > 1 else (1, *shape)
    size = (0.95 * count + 1.4, 1.05 * len(weights) + 0.5)
    figure, axes = plt.subplots(len(weights), count, figsize=size, squeeze=False)
    ordered = {name: _by_length(w)[:, :count] for name, w in weights.items()}
    first = next(iter(ordered.values()))
    most = max(np.abs(w).max() for w in ordered.values())
    for row, (name, w) in zip(axes, ordered.items(), strict=True):
        for axis, column, reference in zip(row, w.T, first.T, strict=True):
            image = (column * np.sign(column @ reference)).reshape(drawn)
            image = image.mean(-1) if image.ndim > 2 else image
            axis.imshow(image, cmap="RdBu_r", vmin=-most, vmax=most)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color("#999999")
        row[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
    figure.suptitle("The decoder's columns, longest first (their signs are arbitrary)", fontsize=11)
    figure.tight_layout(pad=0.5)
    return figure


def _by_length(weights: np.ndarray) -> np.ndarray:
    return weights[:, np.argsort(-np.linalg.norm(weights, axis=0))]


def mixture(points: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> Figure:
    """The data and where the components ended: ellipses of one and two standard deviations."""
    figure, axis = plt.subplots(figsize=(5.6, 5.0))
    axis.scatter(*points.T, s=5, color="#888888", alpha=0.6, lw=0)
    colours = plt.get_cmap("tab10")
    for c, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        variances, axes = np.linalg.eigh(covariance)
        angle = np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))
        for deviations in (1, 2):
            width, height = 2 * deviations * np.sqrt(variances[::-1])
            style = {"fill": False, "ec": colours(c % 10), "lw": 2.2 / deviations}
            axis.add_patch(Ellipse(tuple(mean), width, height, angle=angle, **style))
        axis.plot(*mean, "+", color=colours(c % 10), ms=9, mew=2)
    axis.set_aspect("equal")
    _dress(axis, "The mixture that EM found", "first principal component", "second")
    figure.tight_layout()
    return figure


def _dress(axis: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.3)
