"""A variational autoencoder on handwritten digits: the ELBO against the importance-weighted bound.

Trains the same network once per bound, in one run, on dynamically binarised images; then asks which
explains held-out images better, and by how much for sure, with the difference paired per image.
"""

import pathlib
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import tyro
from flax import nnx

import vi
from experiments import _evaluate, _plots, _results
from experiments._config import Config, check
from experiments._data import (
    TEST_BITS_SEED,
    Images,
    binarise,
    fingerprint,
    fixed_test,
    load_digits,
)
from experiments._evaluate import Evaluation, mean_and_stderr, paired
from experiments._results import Metric
from experiments._vae import VAE, build_vae, log_joint, posterior

BOUNDS = {"elbo": vi.bounds.elbo, "iwae": vi.bounds.iwae}
GRADIENTS = {"reparam": vi.gradients.reparam, "dreg": vi.gradients.dreg}
SHOWN = 12


class Trained(NamedTuple):
    """One bound's run: the model, what ``fit`` returned, and its held-out evaluation."""

    model: VAE
    fit: vi.training.FitResult
    evaluation: Evaluation


def make_loss(objective: vi.gradients.Objective, num_samples: int) -> Callable[..., Any]:
    """Minus the bound, on fresh bits of the grey images."""

    def loss(model, key, grey):
        bits_key, draws_key = jax.random.split(key)
        x = binarise(bits_key, grey)
        q = posterior(model, x)
        return -objective(draws_key, q, log_joint(model, x), num_samples).mean()

    return loss


def train(config: Config, bound: str, images: Images, x_test: jax.Array) -> Trained:
    """Train with one bound; every bound starts from the same weights and sees the same images."""
    init_key, fit_key, rate_key, test_key = jax.random.split(jax.random.key(config.seed), 4)
    model = build_vae(images.train, config.hidden, config.latent, nnx.Rngs(init_key))
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_steps)
    optimizer = optax.adam(schedule)
    objective = GRADIENTS[config.gradient](BOUNDS[bound])
    step = vi.training.gradient_step(make_loss(objective, config.num_samples), optimizer)

    def held_out(_, state):
        # the same noise every time: the curves show training, not sampling
        terms = _evaluate.rate_distortion(
            jax.random.clone(rate_key), state.model, x_test, _evaluate.RATE_SAMPLES
        )
        return {"rate": terms.rate.mean(), "distortion": terms.distortion.mean()}

    result = vi.training.fit(
        fit_key,
        step,
        vi.training.init(model, optimizer),
        images.train,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        evaluate=held_out,
        eval_every=max(config.num_steps // 20, 1),
        progress=config.progress,
    )
    if int(result.state.step) < config.num_steps:
        raise ValueError(f"training with {objective} {result.stopped}; lower --learning-rate")
    model = result.state.model
    scores = _evaluate.evaluate(test_key, model, x_test, num_samples=config.eval_samples)
    return Trained(model, result, scores)


def measure(config: Config, trained: dict[str, Trained]) -> dict[str, dict[str, Metric]]:
    """The table: one row per bound, differences against the first."""
    first = trained[config.bounds[0]].evaluation
    rows = {}
    for name, (_, fit, scores) in trained.items():
        tail = -fit.history["loss"][-max(config.num_steps // 20, 1) :].mean()
        gap = None if scores is first else Metric(*paired(scores.nll, first.nll))
        row = {
            "training bound": Metric(float(tail)),
            f"test NLL, k = {config.eval_samples}": Metric(*mean_and_stderr(scores.nll)),
            f"test NLL - {config.bounds[0]}'s, paired": gap,
            f"least ESS of the {config.eval_samples}": Metric(
                float(scores.effective_samples.min()), unit="count"
            ),
            "rate": Metric(*mean_and_stderr(scores.rate)),
            "distortion": Metric(*mean_and_stderr(scores.distortion)),
            "active units": Metric(scores.active_units, unit="count"),
            "to compile": Metric(fit.compile_seconds, unit="s"),
            "to run": Metric(fit.run_seconds, unit="s"),
        }
        rows[name] = {label: metric for label, metric in row.items() if metric is not None}
    return rows


def draw(config: Config, trained: dict[str, Trained], images: Images, x_test: jax.Array):
    """The pictures, by file name."""
    key = jax.random.key(config.seed + 1)
    shown = x_test[:SHOWN]
    originals = {"test image": images.test[:SHOWN], "as bits": np.asarray(shown)}
    models = {name: t.model for name, t in trained.items()}
    rebuilt, sampled, between, means = {}, {}, {}, {}
    first_of_class = np.array([np.argmax(images.test_labels == c) for c in range(10)])
    start, end = first_of_class[[0, 2, 4]], first_of_class[[1, 7, 9]]
    for name, model in models.items():
        reconstruct_key, sample_key = (jax.random.fold_in(key, i) for i in range(2))
        rebuilt[name] = np.asarray(_evaluate.reconstruct(reconstruct_key, model, shown))
        sampled[name] = np.asarray(_evaluate.generate(sample_key, model, 100))
        means[name] = np.asarray(posterior(model, x_test).mean)
        path = np.asarray(_evaluate.interpolate(model, x_test[start], x_test[end], SHOWN))
        between |= {f"{name} {i + 1}": path[:, i] for i in range(path.shape[1])}
    ladders = {name: t.evaluation.bounds for name, t in trained.items()}
    first = config.bounds[0]
    gaps = {
        f"{name} - {first}": {k: paired(v, ladders[first][k]) for k, v in ladder.items()}
        for name, ladder in ladders.items()
        if name != first
    }
    side = images.side
    return {
        "reconstructions": _plots.image_rows(originals | rebuilt, side, "Held-out digits, rebuilt"),
        "samples": _plots.image_grids(sampled, side, 10, "Mean pixels of draws from the prior"),
        "interpolation": _plots.image_rows(between, side, "Between the codes of two test images"),
        "latent": _plots.latent_space(means, images.test_labels),
        "rate_distortion": _plots.training_curves(
            {name: t.fit.evaluations for name, t in trained.items()}
        ),
        "bound_against_k": _plots.bound_against_samples(ladders, gaps),
    }


def lines(trained: dict[str, Trained]) -> list[dict[str, Any]]:
    """``metrics.jsonl``: each step's loss, and each held-out evaluation."""
    rows = []
    for name, (_, fit, _) in trained.items():
        for step, value in enumerate(fit.history["loss"], start=1):
            rows.append({"bound": name, "step": step, "loss": value})
        for values in zip(*fit.evaluations.values(), strict=True):
            rows.append({"bound": name, **dict(zip(fit.evaluations, values, strict=True))})
    return rows


def experiment(config: Config, out: pathlib.Path) -> dict[str, dict[str, Metric]]:
    """Train, measure, draw and write; returns the table."""
    begun = time.perf_counter()
    check(config)
    images = load_digits()
    x_test = fixed_test(images)
    protocol = {k: v for k, v in asdict(config).items() if k not in ("out", "progress")} | {
        "data": images.name,
        "train_images": len(images.train),
        "test_images": len(images.test),
        "binarisation": f"train: fresh every step; test: once, seed {TEST_BITS_SEED}",
        "test_bits_sha256": fingerprint(x_test),
        "optimizer": "adam, cosine decay to 0",
        "prior": "standard normal",
        "hidden_layers": "two, tanh, Glorot uniform; output bias: logit of the mean pixel",
        "published_reference": None,
    }
    _results.prepare(out, protocol)
    trained = {}
    for bound in config.bounds:
        print(f"training with {GRADIENTS[config.gradient](BOUNDS[bound])} ...", file=sys.stderr)
        trained[bound] = train(config, bound, images, x_test)
    metrics = measure(config, trained)
    _results.write_metrics(out / "metrics.jsonl", lines(trained))
    seconds = time.perf_counter() - begun
    _results.write_results(out, "vae", protocol, metrics, seed=config.seed, seconds=seconds)
    _results.print_table(
        f"VAE on {images.name}: K = {config.num_samples}, {config.gradient}, seed {config.seed}",
        metrics,
        f"± is the standard error over {len(images.test)} test images, for this seed; lower NLL is"
        " better.",
    )
    pictures = _plots.save(draw(config, trained, images, x_test), out)
    print(f"{time.perf_counter() - begun:.0f} s; written to {out}: results.json, metrics.jsonl and")
    print("  " + ", ".join(pictures))
    return metrics


def main() -> None:
    """Run from the command line."""
    config = tyro.cli(Config, description=__doc__, prog="python -m experiments.vae")
    out = config.out or pathlib.Path("runs/vae") / f"digits-{config.seed}"
    try:
        experiment(config, out)
    except ValueError as error:
        sys.exit(f"experiments.vae: {error}")
    except KeyboardInterrupt:
        sys.exit("experiments.vae: interrupted")


if __name__ == "__main__":
    main()
