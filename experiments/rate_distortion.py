"""What beta buys: the frontier of rate and distortion, and its slope.

Trains one beta-VAE for every beta in a single program, on the same dynamically binarised images and
noise, and a linear VAE on the grey values beside it, whose frontier has a closed form. All begin as
one model at the least beta, from which each weight then rises to its own. A minimum of
``distortion + beta rate`` lies where the frontier has slope ``-beta``: the chord between neighbours
is held against the geometric mean of their betas, where their rates differ by half a nat or more.
Rate and distortion are the training objective's own terms, on the training images. Models of one
ELBO lie on one line of slope -1; held-out log p(x) says which beta is worth most.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import vi
from experiments import _evaluate, _rate_linear, _rate_plots, _rate_sweep
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import Images, facts, probabilities
from experiments._evaluate import model_of, stream
from experiments._rate_linear import Spectrum
from experiments._rate_table import Sweep, log_p_over, measure
from experiments._results import Result
from experiments._run import Run
from experiments._task import bits_of
from experiments._vae import Architecture, build_vae

INIT, TERMS = range(2)  # streams of each seed's key
DRAWS = 16  # sets of bits of every training image, for rate and distortion

PRESET: Any = None  # the preset fills it


@dataclass(frozen=True)
class Config(Common):
    """Train a VAE for every beta and measure rate, distortion and log p."""

    betas: tuple[float, ...] = PRESET
    """Weights of the rate, rising; with 1 among them."""
    num_steps: int = PRESET
    """Optimiser steps of the networks, all betas at once."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate for the networks; it falls to a thousandth along a cosine."""
    hidden: int = PRESET
    """Units in each of the two hidden layers, of encoder and decoder."""
    latent: int = PRESET
    """Dimensions of the networks' z."""
    linear_steps: int = PRESET
    """Steps of the linear VAEs, each with the exact expectation over all images."""
    linear_latent: int = PRESET
    """Dimensions of their z; the noise is such that the least beta has use for just so many."""
    linear_axes: int = PRESET
    """Principal axes of the grey values that they see, the others left to the noise."""
    eval_samples: int = PRESET
    """K of the test NLL."""
    test_images: int | None = PRESET
    """Score on the first so many test images; by default on all, but for the presets that say."""


# fmt: off
CPU: dict[str, Any] = dict(
    betas=(0.05, 0.077, 0.12, 0.18, 0.28, 0.42, 0.65, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0),
    num_steps=6000, batch_size=100, learning_rate=1e-3, hidden=200, latent=16, linear_steps=5000,
    linear_latent=100, linear_axes=120, eval_samples=500, test_images=500,
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        betas=(0.1, 1.0, 10.0), num_steps=20, hidden=8, latent=2, linear_steps=20, linear_latent=4,
        eval_samples=10, test_images=50,
    ),
    "cpu": CPU,
    "digits-cpu": CPU | dict(
        learning_rate=3e-3, hidden=64, latent=8, linear_latent=48, linear_axes=64,
        test_images=None,
    ),
    "gpu": CPU | dict(
        num_steps=60_000, latent=32, linear_steps=10_000, linear_latent=200, linear_axes=784,
        eval_samples=1000, test_images=2000,
    ),
    "paper": CPU | dict(
        num_steps=500_000, hidden=500, latent=50, linear_steps=30_000, linear_latent=200,
        linear_axes=784, eval_samples=5000, test_images=None,
    ),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    betas = config.betas
    if len(betas) < 2 or min(betas) <= 0 or 1.0 not in betas or list(betas) != sorted(set(betas)):
        rule, got = "be positive numbers that rise, with 1 among them", " ".join(map(str, betas))
        raise ValueError(f"--betas must {rule} (got {got}); try --betas 0.1 1 10")
    counts = "num_steps", "batch_size", "hidden", "latent", "linear_steps", "linear_latent"
    require_counts(config, *counts, "linear_axes", "eval_samples")
    require_positive(config, "learning_rate")


def network(config: Config, run: Run, images: Images, x_test: jax.Array) -> tuple[Sweep, Any]:
    """Train and measure the networks; the sweep, and held-out NLL ``[betas, S, M]``."""
    rate = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, 1e-3)
    optimizer = optax.adam(rate)
    weights = _rate_sweep.parting(config.betas, config.num_steps)

    def init(key):
        model = build_vae(Architecture(config.hidden, config.latent, 1), images, nnx.Rngs(key))
        return vi.training.init(_rate_sweep.stacked(model, config.betas), optimizer)

    fit = run.fit(
        "network",
        vi.training.stateful_gradient_step(
            _rate_sweep.of_all(_rate_sweep.loss, weights), optimizer
        ),
        jax.jit(jax.vmap(init))(stream(run.key, INIT)),
        images.train,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
    )
    states = [_rate_sweep.at_beta(fit.state, place) for place in range(len(config.betas))]
    measured = jax.jit(_rate_sweep.terms, static_argnums=3)

    def compute():
        keys = stream(run.key, TERMS)
        rows = [
            [measured(jax.random.clone(k), model_of(s, i), images.train, DRAWS) for s in states]
            for i, k in enumerate(keys)
        ]
        rates, distortions = np.moveaxis(np.asarray(rows), -1, 0)
        return {"rate": rates, "distortion": distortions}

    held = run.once("rate and distortion of the networks", compute)
    scores = [
        _evaluate.evaluate_seeds(run, f"scoring beta {b:g}", s, x_test, config.eval_samples)
        for b, s in zip(config.betas, states, strict=True)
    ]
    nll = np.stack([s.nll for s in scores])
    units = np.stack([s.active_units["z"] for s in scores], -1)
    return Sweep(held["rate"], held["distortion"], units, log_p_over(config.betas, nll)), nll


def linear(
    config: Config, run: Run, data: Spectrum, noise: float, grey: np.ndarray, grey_test: np.ndarray
) -> tuple[Sweep, Any]:
    """Train and measure the linear VAEs; the sweep, and held-out NLL ``[betas, S, M]``, exact."""
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, config.linear_steps, 1e-4))
    weights = _rate_sweep.parting(config.betas, config.linear_steps)
    num_axes, constant = len(data.variances), data.constant(noise)

    def init(key):
        vae = _rate_linear.start(key, num_axes, config.linear_latent)
        return vi.training.init(_rate_sweep.stacked(vae, config.betas), optimizer)

    loss = _rate_linear.make_loss(data.variances, noise, constant)
    fit = run.fit(
        "linear",
        vi.training.stateful_gradient_step(_rate_sweep.of_all(loss, weights), optimizer),
        jax.jit(jax.vmap(init))(stream(run.key, INIT)),
        _rate_linear.moment_points(num_axes),
        num_steps=config.linear_steps,
        batch_size=num_axes,
    )

    @jax.jit
    def measured(vaes, u, u_test, x_test):
        variances = jnp.asarray(data.variances, jnp.float32)

        def one(vae):
            rate, distortion = _rate_linear.terms(vae, u, variances, noise, constant)
            return {
                "rate": rate.mean(),
                "distortion": distortion.mean(),
                "active_units": vi.diagnostics.active_units(u_test @ vae.encoder).count,
                "nll": -vae.model(data, noise).log_evidence(x_test),
            }

        return jax.lax.map(lambda seed: jax.lax.map(one, seed), vaes)

    def compute():
        coordinates = data.standardise(grey), data.standardise(grey_test)
        return measured(fit.state.params, *coordinates, grey_test)

    held = run.once("the linear VAEs", compute)
    nll = np.moveaxis(held["nll"], 1, 0)
    log_p = log_p_over(config.betas, nll)
    return Sweep(held["rate"], held["distortion"], held["active_units"], log_p), nll


def experiment(config: Config, run: Run) -> Result:
    """Train, measure and draw."""
    check(config)
    images, x_test = bits_of(config)
    grey, grey_test = (np.asarray(probabilities(part)) for part in (images.train, images.test))
    grey_test = grey_test[: len(x_test)]
    data = _rate_linear.spectrum(grey, config.linear_axes)
    noise = _rate_linear.noise_variance(data.variances, config.betas, config.linear_latent)
    run.protocol(
        **facts(images, x_test),
        optimizer="adam, cosine decay to a thousandth (linear: from 0.01 to a ten-thousandth)",
        estimator="reparam, K = 1, the KL in closed form; linear: exact",
        weights="0.3 of the steps at the least beta, 0.3 rising geometrically, then its own",
        linear_noise_variance=noise,
    )
    of_network, network_nll = network(config, run, images, x_test)
    of_linear, linear_nll = linear(config, run, data, noise, grey, grey_test)
    options = noise, config.linear_latent, data.constant(noise)
    optima = [_rate_linear.optimum(data.variances, b, *options) for b in config.betas]
    curve = np.geomspace(min(config.betas), max(config.betas), 200)
    exact = np.array([_rate_linear.optimum(data.variances, b, *options)[:2] for b in curve]).T
    metrics = measure(config.betas, "network", of_network, network_nll, None)
    metrics |= measure(config.betas, "linear", of_linear, linear_nll, optima)

    def draw():
        return _rate_plots.frontiers(config.betas, of_network, of_linear, exact)

    arrays = {
        f"{n}: {f}": a
        for n, s in (("network", of_network), ("linear", of_linear))
        for f, a in s._asdict().items()
    }
    return Result(metrics, {"frontier": draw}, {"betas": np.array(config.betas)} | arrays)


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
