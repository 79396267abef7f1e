"""What a run of ``experiments.vae`` may be told, and what is refused before it starts."""

import pathlib
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Config:
    """Train a VAE with each bound and compare them on held-out digits."""

    bounds: Annotated[
        tuple[Literal["elbo", "iwae"], ...], tyro.conf.arg(metavar="{elbo,iwae} ...")
    ] = field(default=("elbo", "iwae"))
    """Bounds to train with; differences are against the first."""
    gradient: Literal["reparam", "dreg"] = "dreg"
    """Gradient estimator, for every bound."""
    num_samples: int = 20
    """K, draws of z per image and step."""
    num_steps: int = 4000
    """Optimiser steps per bound."""
    batch_size: int = 100
    """Images per step."""
    learning_rate: float = 3e-3
    """Adam's initial rate; it falls to 0 along a cosine."""
    hidden: int = 128
    """Units in each of the two hidden layers, of encoder and decoder."""
    latent: int = 20
    """Dimensions of z."""
    eval_samples: int = 5000
    """K of the test NLL."""
    seed: int = 0
    """Fixes initialisation, minibatches, bits and noise; the test bits are always the same."""
    out: pathlib.Path | None = None
    """Folder for results and pictures; by default runs/vae/digits-<seed>."""
    progress: bool | None = None
    """Show the progress bar; by default if stderr is a terminal."""


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    if not config.bounds:
        raise ValueError("--bounds must name at least one bound; try --bounds elbo iwae")
    counts = ("num_samples", "num_steps", "batch_size", "hidden", "latent", "eval_samples")
    for name in counts:
        if getattr(config, name) < 1:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} must be at least 1 (got {getattr(config, name)})")
    if not 0 < config.learning_rate < float("inf"):
        raise ValueError(f"--learning-rate must be positive (got {config.learning_rate})")
