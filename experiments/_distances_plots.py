"""Pictures of codes: how disentangled each method's are, and what each dimension does."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments._plots import COLOURS

Codes = Mapping[str, np.ndarray]
SHOWN = ("VAE", "beta-TC-VAE")
LINES = 7  # of a traversal: the dimensions with the highest rate


def codes(methods: Mapping[str, Codes], terms: Mapping[str, str], num_data: int) -> Figure:
    """Every seed's MIG by method, and the KL of those with a posterior in its three terms."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), width_ratios=(1.1, 1))
    for place, held in enumerate(methods.values()):
        migs = held["mig"]
        around = place + 0.24 * (np.arange(len(migs)) - (len(migs) - 1) / 2) / max(len(migs), 2)
        left.plot(around, migs, "o", ms=5, color=COLOURS[0], alpha=0.7)
        left.hlines(np.median(migs), place - 0.3, place + 0.3, color=COLOURS[1], lw=2)
    left.set_xticks(range(len(methods)), list(methods), rotation=30, ha="right")
    left.set_ylim(bottom=0)
    left.set_ylabel("MIG (dots: seeds; bar: median)")
    left.set_title("One dimension per factor?", fontsize=10)
    stacked = {name: held for name, held in methods.items() if set(terms) <= set(held)}
    bottom = np.zeros(len(stacked))
    for (term, label), colour in zip(terms.items(), COLOURS, strict=False):
        heights = np.array([held[term].mean() for held in stacked.values()])
        right.bar(range(len(stacked)), heights, 0.6, bottom, color=colour, label=label)
        bottom += heights
    most = f"log {num_data:,}: all there is to tell"
    right.axhline(np.log(num_data), color="k", lw=0.8, ls="--", label=most)
    right.set_xticks(range(len(stacked)), list(stacked), rotation=30, ha="right")
    right.set_ylabel("nats per image")
    right.set_title("The KL to the prior, in three terms", fontsize=10)
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    return figure


def traversals(methods: Mapping[str, Codes], factors: Sequence[str]) -> Figure:
    """One line per dimension of the first seed, those with the highest rate first."""
    shown = {name: methods[name] for name in SHOWN if name in methods}
    figure, axes = plt.subplots(1, len(shown), figsize=(4.5 * len(shown), 3.7), squeeze=False)
    for axis, (name, held) in zip(axes[0], shown.items(), strict=True):
        images, rates, shares = held["traversal"], held["rates"][0], held["share"][0]
        side = int(images.shape[-1] ** 0.5)
        order = np.argsort(-rates)[:LINES]
        tiles = images[order].reshape(len(order), -1, side, side)
        framed = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.4)
        axis.imshow(np.concatenate(np.concatenate(framed, 1), 1), cmap="gray_r", vmin=0, vmax=1)
        best = shares[order].argmax(1)
        labels = [
            f"{factors[f]} {shares[d, f]:.2f}, {rates[d]:.1f} nats"
            for d, f in zip(order, best, strict=True)
        ]
        axis.set_yticks((side + 1) * (np.arange(len(order)) + 0.5), labels, fontsize=8)
        ends = (side + 1) * (np.array([0, images.shape[1] - 1]) + 0.5)
        axis.set_xticks(ends, ["-2", "2"], fontsize=8)
        axis.set_xlabel("value of the dimension", fontsize=9)
        axis.set_title(f"{name}, MIG {held['mig'][0]:.2f}", fontsize=10)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    note = "beside it, the factor it tells most (as a share of that factor's entropy) and its KL"
    figure.suptitle(f"One dimension of the code moved, the others held; {note}", fontsize=9)
    figure.tight_layout()
    return figure
