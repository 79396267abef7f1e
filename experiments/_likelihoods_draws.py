"""What models of grey images draw: the share of greys, their histogram, and pictures."""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from jaxtyping import Array, Float, Int

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import vi
from experiments import _plots
from experiments._evaluate import model_of, stream
from experiments._likelihoods_readings import FixedNormal, Logistic
from experiments._likelihoods_vae import GreyVAE
from experiments._results import Metric, over_seeds
from experiments._run import Run

SHOWN = 8
QUANTILES = np.linspace(0, 1, 101)
_STREAM = 0x64726177  # "draw": of every seed's key
_BINS = 32  # of a histogram, at most

Held = Mapping[str, np.ndarray]
"""By ``<likelihood>/<what>``, a seed each on the first axis."""


def draw(
    run: Run,
    fits: Mapping[str, vi.training.FitResult],
    x_test: Float[Array, "M pixels"],
    num_draws: int,
) -> dict[str, np.ndarray]:
    """Levels that each model draws, their means, those outside of the range, learned scales."""
    keys, held = stream(run.key, _STREAM), {}
    for kind, fit in fits.items():
        each = [
            _look(jax.random.clone(key), model_of(fit.state, i), x_test, num_draws)
            for i, key in enumerate(keys)
        ]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
        held |= {f"{kind}/{what}": array for what, array in stacked.items()}
    return held


@functools.partial(jax.jit, static_argnames="num_draws")
def _look(key: Array, model: GreyVAE, x: Float[Array, "M pixels"], num_draws: int):
    made = vi.predictive.generate(key, model.prior(), model.draw, (num_draws,))
    reading = model.reading
    found = {
        "levels": reading.levels(made.values).astype(jnp.uint8),
        "means": reading.mean(made.observation)[:SHOWN],
    }
    if isinstance(reading, FixedNormal):
        found["outside"] = ((made.values < 0) | (made.values > 1)).mean()
    if isinstance(reading, FixedNormal | Logistic):
        outputs = model.outputs(model.means(key, x, 1)["z"])
        found["scale"] = jnp.quantile(reading.scale(outputs), QUANTILES)
    return found


def measure(
    held: Held, kinds: Sequence[str], levels: Int[np.ndarray, "M pixels"], num_levels: int
) -> dict[str, Metric]:
    """How grey the draws of each likelihood are, against data."""
    data = frequencies(levels, num_levels)
    grey = "pixels neither black nor white"
    metrics = {}
    for kind in kinds:
        each = np.stack([frequencies(drawn, num_levels) for drawn in held[f"{kind}/levels"]])
        apart = abs(each - data).sum(-1) / 2
        rows = {
            grey: over_seeds(each[:, 1:-1].sum(-1), unit="share"),
            "levels, total variation from data": over_seeds(apart, unit="share", better="lower"),
        }
        if f"{kind}/outside" in held:
            rows["draws outside of the range"] = over_seeds(held[f"{kind}/outside"], unit="share")
        if f"{kind}/scale" in held:
            middle = held[f"{kind}/scale"][:, len(QUANTILES) // 2]
            rows["standard deviation, median pixel"] = over_seeds(middle, unit="of the range")
        metrics |= {f"{kind}/{row}": metric for row, metric in rows.items()}
    metrics[f"test images/{grey}"] = Metric(float(data[1:-1].sum()), unit="share")
    return metrics


def frequencies(
    levels: Int[np.ndarray, "..."], num_levels: int
) -> Float[np.ndarray, " num_levels"]:
    """The share of each level."""
    return np.bincount(levels.reshape(-1), minlength=num_levels) / levels.size


def samples(
    held: Held,
    kinds: Sequence[str],
    levels: Int[np.ndarray, "M pixels"],
    num_levels: int,
    shape: tuple[int, ...],
) -> Figure:
    """A row for each likelihood: draws, a gap, and the means that they were drawn around."""
    top = num_levels - 1
    gap = np.zeros((1, levels.shape[1]))
    rows = {"test images": (levels[:SHOWN] / top, levels[SHOWN : 2 * SHOWN] / top)}
    for kind in kinds:
        rows[kind] = held[f"{kind}/levels"][0, :SHOWN] / top, held[f"{kind}/means"][0]
    title = "Draws x from p(x | z) with z from the prior (left), and their means E[x | z] (right)"
    tiles = {name: np.concatenate([left, gap, right]) for name, (left, right) in rows.items()}
    return _plots.image_rows(tiles, shape, title)


def greys(
    held: Held, kinds: Sequence[str], levels: Int[np.ndarray, "M pixels"], num_levels: int
) -> Figure:
    """The histogram of each likelihood's draws on that of the data, and the scales learned."""
    columns = -(-(len(kinds) + 1) // 2)
    size = (2.7 * columns, 5.0)
    figure, axes = plt.subplots(2, columns, figsize=size, squeeze=False, layout="constrained")
    bins = min(num_levels, _BINS)
    edges = np.linspace(0, 1, bins + 1)
    data = frequencies(levels.astype(int) * bins // num_levels, bins)
    *panels, last = axes.flat[: len(kinds) + 1]
    for axis, kind in zip(panels, kinds, strict=True):
        drawn = frequencies(held[f"{kind}/levels"].astype(int) * bins // num_levels, bins)
        axis.stairs(data, edges, fill=True, color="#cccccc", label="test images")
        axis.stairs(drawn, edges, color=_plots.COLOURS[1], lw=1.4, label="draws")
        axis.set_yscale("log")
        axis.set_ylim(1e-3, 1)
        axis.set_title(kind, fontsize=10)
    panels[0].legend(fontsize=7)
    for colour, kind in zip(
        _plots.COLOURS, (k for k in kinds if f"{k}/scale" in held), strict=False
    ):
        last.plot(held[f"{kind}/scale"][0], QUANTILES, color=colour, label=kind)
        last.legend(fontsize=7)
    last.set_xscale("log")
    last.set_title("standard deviation: share below", fontsize=10)
    for axis in axes.flat[len(kinds) + 1 :]:
        axis.set_visible(False)
    figure.suptitle("Grey values of the models' draws, and the scales they learned", fontsize=11)
    return figure
