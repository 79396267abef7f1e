"""The rows of the comparison: nats and bits of test images, and what each kind of model costs."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

import vi
from experiments._alternatives_fits import count_parameters
from experiments._evaluate import model_of
from experiments._likelihoods_vae import Greys
from experiments._results import Metric, over_data, over_seeds
from experiments._run import Run

NLL, SAMPLING = "test NLL", "drawing 1,000 images"
ALIKE, ALONE = "all levels alike", "each pixel alone"


def quality(
    scores: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray] | None, pixels: int
) -> dict[str, Metric]:
    """Of test images; ``first`` is what to take the paired difference from."""
    rows = {
        NLL: over_data(scores["nll"], better="lower"),
        "bits per pixel": over_data(_bits(scores["nll"], pixels), unit="bits", better="lower"),
    }
    if first is not None:
        behind = scores["nll"] - first["nll"]
        rows["test NLL - the first's, paired"] = over_data(behind, better="lower")
    rows["bound of one sample, above the NLL"] = over_data(scores["one"] - scores["nll"])
    return rows


def costs(
    run: Run, name: str, fit: vi.training.FitResult, drawn: Mapping[str, np.ndarray], k: int
) -> dict[str, Metric]:
    """Of the likelihood, of draws and of training."""
    model: Any = model_of(fit.state, 0)
    images, pixels = drawn["levels"].shape
    each = 1e6 * np.median(drawn["seconds"]) / images
    steps = np.array([stopped.step for stopped in fit.stopped])
    return {
        "samples of the NLL (0: exact)": Metric(0.0 if model.is_exact else k, unit="count"),
        "latent dimensions (0: none)": Metric(model.latent, unit="count"),
        "network passes of a draw": Metric(model.passes(pixels), unit="count"),
        SAMPLING: Metric(float(each), unit="ms", better="lower"),
        "parameters": Metric(count_parameters(fit.state), unit="count"),
        "steps until stopped": over_seeds(steps, unit="count"),
        "training": Metric(run.seconds[name]["wall"], unit="s"),
    }


def baselines(greys: Greys, levels: Int[np.ndarray, "M pixels"]) -> dict[str, Metric]:
    """What takes no network, exact: even levels, and each pixel's own frequencies."""
    pixels = levels.shape[1]
    counts = (greys.train[..., None] == np.arange(greys.num_levels)).sum(0) + 1.0
    log_mass = np.log(counts / counts.sum(-1, keepdims=True))
    alone = -log_mass[np.arange(pixels), levels].sum(-1)[None]
    return {
        f"{ALONE}/{NLL}": over_data(alone, better="lower"),
        f"{ALONE}/bits per pixel": over_data(_bits(alone, pixels), unit="bits", better="lower"),
        f"{ALIKE}/{NLL}": Metric(pixels * math.log(greys.num_levels)),
        f"{ALIKE}/bits per pixel": Metric(math.log2(greys.num_levels), unit="bits"),
    }


def _bits(nll: Float[np.ndarray, "S M"], pixels: int) -> Float[np.ndarray, "S M"]:
    return np.asarray(vi.likelihoods.bits_per_dimension(jnp.asarray(-nll), pixels))
