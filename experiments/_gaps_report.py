"""The gaps of every posterior as numbers, paired over images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments._results import Metric, Reference, over_data

APPROXIMATION, AMORTISATION, TOTAL = "approximation gap", "amortisation gap", "total gap"
SOURCE = "Cremer, Li and Duvenaud 2018 (Inference suboptimality)"
PROTOCOL = "MNIST, another network and binarisation, 50 latents, diagonal normal, training images"
PUBLISHED = {TOTAL: 2.77, APPROXIMATION: 1.43, AMORTISATION: 1.34}

Gaps = dict[str, Float[np.ndarray, "S M"]]


def gaps(scores: Mapping[str, np.ndarray]) -> Gaps:
    """Per seed and image, of ``ais``, ``iwae``, ``optimal`` and ``elbo``; the two sum to the total.

    The truth is whichever of two lower bounds on log p(x) is larger in the mean over the images.
    The larger for each image would be the larger of two noises too: 0.04 nats above both here.
    """
    held = {name: np.asarray(scores[name], np.float64) for name in scores}
    annealed = held["ais"].mean(1, keepdims=True) > held["iwae"].mean(1, keepdims=True)
    truth = np.where(annealed, held["ais"], held["iwae"])
    return {
        "log p(x)": truth,
        APPROXIMATION: truth - held["optimal"],
        AMORTISATION: held["optimal"] - held["elbo"],
        TOTAL: truth - held["elbo"],
    }


def table(config: Any, scores: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Metric]:
    """One column per posterior; differences against the first are paired over images."""
    first = next(iter(scores))
    metrics = {}
    for kind, held in scores.items():
        found, reference = gaps(held), {}
        if config.data == "mnist" and kind == "diagonal":
            reference = {
                name: Reference(value, SOURCE, "recalled", PROTOCOL)
                for name, value in PUBLISHED.items()
            }
        rows = {
            "log p(x), the larger of AIS and IWAE": over_data(found["log p(x)"], better="higher"),
            "ELBO of the encoder's q": over_data(held["elbo"], better="higher"),
            "ELBO of the best q": over_data(held["optimal"], better="higher"),
        }
        for name in (APPROXIMATION, AMORTISATION, TOTAL):
            rows[name] = over_data(found[name], better="lower", reference=reference.get(name))
        if kind != first:
            for name, theirs in gaps(scores[first]).items():
                if name != "log p(x)":
                    behind = found[name] - theirs
                    rows[f"{name} - {first}'s, paired"] = over_data(behind, better="lower")
        estimate = f"AIS - IWAE at k = {config.eval_samples}, paired"
        rows[estimate] = over_data(held["ais"] - held["iwae"])
        width = over_data(held["upper"] - held["lower"], better="lower")
        rows["simulated x: upper - lower bound by AIS"] = width
        rows["AIS acceptance"] = over_data(held["acceptance"], unit="share")
        metrics |= {f"{kind}/{row}": metric for row, metric in rows.items()}
    return metrics
