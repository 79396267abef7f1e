"""One style under every label, and images completed with their label and without."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from jaxtyping import Array, Float, Int

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments._conditional_halves import DRAWS, upper
from experiments._conditional_vae import ConditionalVAE

STYLES, SHOWN = 10, 10
_BLANK = (0.80, 0.87, 0.95)  # of pixels that are not known
_LINE = 0.65


def styles(key: Array, model: ConditionalVAE, classes: int) -> dict[str, np.ndarray]:
    """Mean pixels of every label at each of a few draws of z, ``[classes, STYLES, pixels]``."""

    @jax.jit
    def means(key, model):
        z = model.prior().sample(key, (STYLES,))
        z = jnp.broadcast_to(z, (classes, *z.shape))
        return model.decode(z, jnp.eye(classes)[:, None]).mean

    return {"means": np.asarray(means(key, model))}


def draw(
    means: Float[np.ndarray, "classes styles pixels"],
    completed: Mapping[str, Mapping[str, np.ndarray]],
    bits: Float[np.ndarray, "M pixels"],
    labels: Int[np.ndarray, " M"],
    shape: tuple[int, ...],
) -> Figure:
    """Both in one figure; ``completed``: by heading, what ``_conditional_halves`` fills in."""
    classes, names = len(means), list(completed)
    shape = shape if len(shape) > 1 else (1, *shape)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 4.8), layout="constrained")
    _mosaic(left, [list(row) for row in means], shape)
    left.set_yticks(_centres(classes, shape[0]), [str(y) for y in range(classes)])
    left.set_ylabel("label y that is asked for")
    left.set_xticks(_centres(STYLES, shape[1]), [str(i + 1) for i in range(STYLES)])
    left.set_xlabel("style z, the same down each column")
    left.set_title("Means of p(x | z, y)", fontsize=10)
    known = upper(bits.shape[1])
    picks = np.unique(labels, return_index=True)[1][:SHOWN]
    rows = []
    for i in picks:
        row = [bits[i], np.where(known, bits[i], np.nan)]
        for held in completed.values():
            row += [held["mean"][0, i], *held["draws"][0, i]]
        rows.append(row)
    _mosaic(right, rows, shape)
    right.set_yticks(_centres(len(picks), shape[0]), [str(labels[i]) for i in picks])
    right.set_ylabel("label of the image")
    centres = _centres(len(rows[0]), shape[1])
    middles = [
        centres[2 + i * (1 + DRAWS) : 2 + (i + 1) * (1 + DRAWS)].mean() for i in range(len(names))
    ]
    right.set_xticks([*centres[:2], *middles], ["bits", "known", *names], fontsize=9)
    for i in range(len(names)):
        right.axvline(centres[2 + i * (1 + DRAWS)] - (shape[1] + 1) / 2, color="k", lw=1.2)
    right.set_title(f"Lower half given the upper: the mean, and {DRAWS} draws", fontsize=10)
    return figure


def _mosaic(axis, rows: list[list[np.ndarray]], shape: tuple[int, ...]) -> None:
    """Rows of images, NaN being blank, with a line between them."""
    lines = []
    for row in rows:
        tiles = [
            np.pad(_ink(image, shape), ((0, 1), (0, 1), (0, 0)), constant_values=_LINE)
            for image in row
        ]
        lines.append(np.concatenate(tiles, axis=1))
    axis.imshow(np.concatenate(lines)[:-1, :-1], interpolation="nearest")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _ink(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Black on white, ``[height, width, 3]``."""
    flat = np.repeat(1 - image[:, None], 3, axis=1) if len(shape) < 3 else 1 - image.reshape(-1, 3)
    return np.where(np.isnan(flat), _BLANK, flat).reshape(*shape[:2], 3)


def _centres(count: int, size: int) -> np.ndarray:
    return (size + 1) * np.arange(count) + (size - 1) / 2
