"""Signal to noise of gradient estimators against K: the law on a toy, then on an autoencoder.

The toy, its sizes and its parameters a little off their optimum are those of Rainforth et al.
(2018), "Tighter variational bounds are not necessarily better": as K grows, the inference network's
gradient loses its signal as K^(-1/2) under reparam and gains as K^(1/2) under dreg; the model's
gains under both. The law is one of large K, and slopes are fitted to the larger half of the K's.
There reparam's mean is far below its noise; dreg's has the same expectation and is known well, so
it serves as the signal of both. The model's gradient is measured once more where q has the
posterior's mean: elsewhere the error of q is in it, a term of order 1/K that hides the law while K
is small. Then the same meter on an autoencoder, before and after a short training.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

import vi
from experiments import _snr_report, _snr_toy, _snr_vae
from experiments._config import Common, main, require_counts
from experiments._data import Images, fingerprint, load_images
from experiments._evaluate import stream
from experiments._results import Result
from experiments._run import Run
from experiments._snr_report import MATCHED, Arrays, Tables
from experiments._vae import Architecture

IWAE = [vi.gradients.reparam(vi.bounds.iwae), vi.gradients.dreg(vi.bounds.iwae)]
ELBO = [vi.gradients.reparam(vi.bounds.elbo)]
ESTIMATORS = [*ELBO, *IWAE]
AT_ONCE = 1024  # draws of each datum of the toy: replicates times K
TOY, ON_TOY, ON_VAE = range(0x746F79, 0x746F7C)  # "toy": streams of each seed's key

PRESET: Any = None  # the preset fills it
Points = Annotated[
    tuple[Literal["initial", "trained"], ...], tyro.conf.arg(metavar="{initial,trained} ...")
]


@dataclass(frozen=True)
class Config(Common):
    """Measure the gradients' signal-to-noise ratio against K; --data is the autoencoder's."""

    num_samples: tuple[int, ...] = PRESET
    """K's on the toy, ascending."""
    num_replicates: int = PRESET
    """Gradients measured on the toy at each K, at least."""
    num_draws: int = PRESET
    """At small K more gradients, until K times their number is this."""
    vae_samples: tuple[int, ...] = PRESET
    """K's on the autoencoder, ascending."""
    vae_replicates: int = PRESET
    """Gradients measured on the autoencoder at each K."""
    points: Points = PRESET
    """Where on the autoencoder: before its training, after it, or both."""
    num_steps: int = PRESET
    """Steps of the autoencoder's training, of 100 images each."""
    hidden: int = PRESET
    """Units in each of its hidden layers."""
    latent: int = PRESET
    """Dimensions of its latent."""


# fmt: off
CPU: dict[str, Any] = dict(
    num_samples=(1, 4, 16, 64, 256, 1024), num_replicates=20, num_draws=4096,
    vae_samples=(1, 4, 16, 64), vae_replicates=40, points=("initial", "trained"), num_steps=600,
    hidden=200, latent=50,
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        num_samples=(1, 4), num_draws=40, vae_samples=(2,), vae_replicates=20,
        points=("initial",), num_steps=28, hidden=32, latent=8,
    ),
    "cpu": CPU,
    "digits-cpu": dict(vae_replicates=200, num_steps=280, hidden=128, latent=20),
    "gpu": CPU | dict(num_replicates=500, num_draws=10_000, vae_replicates=1000, num_steps=1200),
    "paper": CPU | dict(
        num_replicates=10_000, num_draws=10_000, vae_replicates=1000, num_steps=1200
    ),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    for name, least in (("num_samples", 2), ("vae_samples", 1)):
        counts = getattr(config, name)
        if len(counts) < least or min(counts) < 1 or list(counts) != sorted(set(counts)):
            rule, got = f"be {least} or more counts, ascending", " ".join(map(str, counts))
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} must {rule} (got {got!r}); try {flag} 1 4 16")
    if not config.points or len(set(config.points)) < len(config.points):
        rule, got = "name initial, trained or both, once each", " ".join(config.points)
        raise ValueError(f"--points must {rule} (got {got!r}); try --points trained")
    require_counts(config, "num_replicates", "vae_replicates", least=20)
    require_counts(config, "num_draws", "num_steps", "hidden", "latent")


def tables(meter: vi.diagnostics.GradientMeter) -> Arrays:
    """A meter's tables ``[E, G]``, and the ratio with the last estimator's mean for all."""
    shared, error = meter.snr_with(meter.names[-1])
    sd = np.sqrt(meter.total_variance[0] / meter.sizes)
    error_of_sd = meter.total_variance[1] / meter.total_variance[0] * sd / 2
    mine = {"shared_snr": shared, "shared_snr_stderr": error, "sd": sd, "sd_stderr": error_of_sd}
    return meter.arrays() | mine


def stacked(each: list[Arrays]) -> Arrays:
    """The tables of all seeds, ``[S, E, G]``."""
    return {name: np.stack([one[name] for one in each]) for name in each[0]}


def measure_toy(config: Config, run: Run, toys: list[_snr_toy.Toy], k: int) -> Arrays:
    """Both estimators where all parameters are off, and the model's where q is matched."""
    count = max(config.num_replicates, config.num_draws // k)
    options: dict[str, Any] = {"num_replicates": count, "num_timings": 0}
    options["batch_size"] = max(1, AT_ONCE // k)

    def of_seed(key, toy):
        losses = {repr(o): _snr_toy.make_loss(o, k, toy.x) for o in IWAE}
        one, other = jax.random.split(jax.random.fold_in(key, k))
        near = vi.diagnostics.gradient_meter(one, losses, toy.params, **options)
        mu = {"mu": toy.matched["mu"]}
        loss = {repr(IWAE[0]): _snr_toy.make_loss(IWAE[0], k, toy.x, toy.matched)}
        matched = vi.diagnostics.gradient_meter(other, loss, mu, **options)
        return tables(near) | {f"{MATCHED}/{n}": v for n, v in tables(matched).items()}

    keys = stream(run.key, ON_TOY)
    return run.once(
        f"toy, K = {k}",
        lambda: stacked([of_seed(key, toy) for key, toy in zip(keys, toys, strict=True)]),
    )


def measure_vae(config: Config, run: Run, images: Images) -> dict[str, dict[int, Tables]]:
    """All estimators at each point of the training and each K."""
    architecture = Architecture(config.hidden, config.latent, 1)
    x, keys = _snr_vae.minibatch(run, images), stream(run.key, ON_VAE)

    def of_seed(key, state, k):
        losses = {repr(o): _snr_vae.make_loss(o, k, state, x) for o in ESTIMATORS}
        own, count = jax.random.fold_in(key, k), config.vae_replicates
        return tables(
            vi.diagnostics.gradient_meter(own, losses, state.params, num_replicates=count)
        )

    def at(point, states, k):
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(config.num_seeds)]
        return run.once(
            f"{point}, K = {k}",
            lambda: stacked([of_seed(key, s, k) for key, s in zip(keys, each, strict=True)]),
        )

    num_steps = config.num_steps if "trained" in config.points else 0
    points = _snr_vae.states(run, images, architecture, num_steps)
    return {
        point: {k: at(point, points[point], k) for k in config.vae_samples}
        for point in config.points
    }


def experiment(config: Config, run: Run) -> Result:
    """Measure both, fit the slopes and draw."""
    check(config)
    images = load_images(config.data, data_dir=config.data_dir, download=config.download)
    if len(images.train) < _snr_vae.BATCH:
        rule = f"hold at least {_snr_vae.BATCH} training images, a batch"
        raise ValueError(f"--data must {rule} (got {len(images.train)}); choose a larger set")
    run.protocol(
        images=images.fingerprint,
        minibatch_sha256=fingerprint(_snr_vae.minibatch(run, images)),
        toy=_snr_toy.PROTOCOL,
        training="the ELBO under reparam, K = 1, adam 1e-3",
    )
    toys = [_snr_toy.make_toy(key) for key in stream(run.key, TOY)]
    toy = {k: measure_toy(config, run, toys, k) for k in config.num_samples}
    vae = measure_vae(config, run, images)
    exact = [(_snr_toy.exact_snr(t.x, t.params), _snr_toy.exact_snr(t.x, t.matched)) for t in toys]
    names = [repr(objective) for objective in ESTIMATORS]
    kept = {"toy": toy, **vae}
    return Result(
        _snr_report.toy_metrics(toy, exact) | _snr_report.vae_metrics(vae, names),
        _snr_report.figures(toy, vae, names),
        {
            f"{n}/K = {k}/{t}": a
            for n, by in kept.items()
            for k, ts in by.items()
            for t, a in ts.items()
        },
    )


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
