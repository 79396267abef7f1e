"""Why the ELBO falls short of log p(x): the family of q, or the encoder that picks from it.

Trains one variational autoencoder for each posterior, from the same encoder, decoder, images and
noise: a mean-field normal, a normal of full covariance, an inverse autoregressive flow, and a
mean-field normal refined by a few steps up each image's own ELBO (semi-amortised). For held-out
images it then finds log p(x) by annealed importance sampling, and the best q of the same family for
each image alone. What the best q lacks is the approximation gap; what the encoder's q lacks of the
best is the amortisation gap. Both are per image, and differences from the first posterior are
paired. Where the model makes the image itself, annealing from both ends bounds its own error. Last,
with two latent dimensions, it draws the best q of each family on the true posterior.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
import tyro
from flax import nnx

import vi
from experiments import _flow_plane, _gaps_plots, _gaps_report
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import Images, binarise, facts
from experiments._evaluate import model_of, stream
from experiments._flow_vae import build, heads
from experiments._gaps_local import Climb, score
from experiments._gaps_plane import best_of_families
from experiments._gaps_truth import Annealing, Decoder, annealed, bidirectional
from experiments._results import Result
from experiments._run import Run
from experiments._task import bits_of
from experiments._vae import log_joint, posterior

INIT, SCORE, ANNEAL, SIMULATE = range(4)  # streams of each seed's key
PLANE, SEEN = "diagonal, 2-D", 4  # the model with two latent dimensions, and its images

PRESET: Any = None  # the preset fills it
Kind = Literal["diagonal", "full", "iaf", "spline", "refined"]
Posteriors = Annotated[tuple[Kind, ...], tyro.conf.arg(metavar="{diagonal,full,...} ...")]


@dataclass(frozen=True)
class Config(Common):
    """Train a VAE with each posterior and split what its ELBO lacks."""

    posteriors: Posteriors = PRESET
    """Among diagonal, full, iaf, spline and refined; differences are against the first."""
    num_steps: int = PRESET
    """Optimiser steps per posterior."""
    plane_steps: int = PRESET
    """Steps of the model with two latent dimensions; 0 for none."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate; it falls to a hundredth along a cosine."""
    hidden: int = PRESET
    """Units in each of the two hidden layers, of encoder and decoder."""
    latent: int = PRESET
    """Dimensions of z; even, for the spline coupling flow."""
    num_layers: int = PRESET
    """Layers of a flow."""
    flow_hidden: int = PRESET
    """Units of a flow's conditioner."""
    num_chains: int = PRESET
    """Annealed chains of each image."""
    num_temperatures: int = PRESET
    """Temperatures from the prior to the posterior."""
    leapfrog_steps: int = PRESET
    """Leapfrog steps of each Hamiltonian transition."""
    local_steps: int = PRESET
    """Steps of Adam towards the best q of each image."""
    local_samples: int = PRESET
    """Draws in each of those steps."""
    local_rate: float = PRESET
    """Adam's initial rate there; it falls to a hundredth along a cosine."""
    eval_samples: int = PRESET
    """Draws of the ELBOs, and k of the importance-weighted bound."""
    test_images: int | None = PRESET
    """Score the first so many test images, and as many that the model makes; by default all."""


# fmt: off
CPU: dict[str, Any] = dict(
    posteriors=("diagonal", "full", "iaf", "refined"), num_steps=15_000, plane_steps=3_000,
    batch_size=100, learning_rate=1e-3, hidden=200, latent=50, num_layers=4, flow_hidden=64,
    num_chains=8, num_temperatures=500, leapfrog_steps=5, local_steps=800, local_samples=10,
    local_rate=0.01, eval_samples=5000, test_images=50,
)
LONG: dict[str, Any] = dict(
    num_steps=200_000, num_chains=16, num_temperatures=5000, leapfrog_steps=10, local_steps=5000,
    flow_hidden=128, test_images=200,
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        posteriors=("diagonal", "iaf"), num_steps=20, plane_steps=0, hidden=16, latent=4,
        num_layers=2, flow_hidden=8, num_chains=2, num_temperatures=5, leapfrog_steps=1,
        local_steps=5, local_samples=2, eval_samples=20, test_images=5,
    ),
    "cpu": CPU,
    "digits-cpu": CPU | dict(
        num_steps=3000, plane_steps=2000, learning_rate=2e-3, hidden=128, latent=16,
        leapfrog_steps=2,
    ),
    "gpu": CPU | LONG,
    "paper": CPU | LONG | dict(num_steps=1_000_000, num_chains=100, num_temperatures=10_000),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    names = config.posteriors
    if not names or len(set(names)) < len(names):
        rule, got = "name each posterior once, and at least one", " ".join(names)
        raise ValueError(f"--posteriors must {rule} (got {got!r}); try --posteriors diagonal iaf")
    counts = "num_steps", "batch_size", "hidden", "latent", "num_layers", "flow_hidden"
    require_counts(config, *counts, "num_chains", "num_temperatures", "leapfrog_steps")
    require_counts(config, "local_steps", "local_samples", "eval_samples")
    require_counts(config, "plane_steps", least=0)
    require_positive(config, "learning_rate", "local_rate")
    if config.latent % 2 and "spline" in names:
        raise ValueError(f"--latent must be even (got {config.latent}); or leave out spline")


def loss(model: Any, key: jax.Array, grey: jax.Array) -> jax.Array:
    """Minus the ELBO, on fresh bits of the grey images."""
    bits_key, draws_key = jax.random.split(key)
    x = binarise(bits_key, grey)
    objective = vi.gradients.reparam(vi.bounds.elbo)
    return -objective(draws_key, posterior(model, x), log_joint(model, x), 1).mean()


def train(
    config: Config, run: Run, images: Images, name: str, kind: str, latent: int, num_steps: int
) -> vi.training.State:
    """Of all seeds, with one posterior; encoder and decoder begin the same for every kind."""
    head = heads(config.num_layers, config.flow_hidden)[kind]
    rate = optax.cosine_decay_schedule(config.learning_rate, num_steps, 0.01)
    optimizer = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(rate))

    def init(key):
        model = build(images, config.hidden, latent, head, nnx.Rngs(key))
        return vi.training.init(model, optimizer)

    return run.fit(
        name,
        vi.training.gradient_step(loss, optimizer),
        jax.jit(jax.vmap(init))(stream(run.key, INIT)),
        images.train,
        num_steps=num_steps,
        batch_size=config.batch_size,
    ).state


def scores(config: Config, run: Run, state: vi.training.State, x: jax.Array) -> dict[str, Any]:
    """Of every seed and image ``[S, M]``: the bounds on log p(x), by what q or annealing gives."""
    climb = Climb(config.local_steps, config.local_samples, config.local_rate)
    how = Annealing(config.num_chains, config.num_temperatures, config.leapfrog_steps)
    keys = zip(*(stream(run.key, s) for s in (SCORE, ANNEAL, SIMULATE)), strict=True)
    each = []
    for i, (score_key, anneal_key, simulate_key) in enumerate(keys):
        model = model_of(state, i)
        decoder = Decoder(model)
        of_q = score(score_key, model, x, climb=climb, num_samples=config.eval_samples)
        of_x = annealed(anneal_key, decoder, x, how)
        made = bidirectional(simulate_key, decoder, len(x), how)
        each.append(jax.tree.map(np.asarray, of_q | of_x | made))
    return jax.tree.map(lambda *arrays: np.stack(arrays), *each)


def plane(config: Config, run: Run, images: Images, x: jax.Array) -> dict[str, np.ndarray]:
    """The best q of each family for the first images, where z has two dimensions."""
    state = train(config, run, images, PLANE, "diagonal", 2, config.plane_steps)
    made = heads(config.num_layers, config.flow_hidden)
    kinds = {kind: made[kind] for kind in config.posteriors if kind != "refined"}
    climb = Climb(config.local_steps, config.local_samples, config.local_rate)

    def compute():
        models = best_of_families(model_of(state, 0), images, kinds, climb)
        return _flow_plane.panels(models, x[:SEEN])

    return run.once("posteriors on the plane", compute)


def experiment(config: Config, run: Run) -> Result:
    """Train, measure and draw."""
    check(config)
    images, x_test = bits_of(config)
    run.protocol(
        **facts(images, x_test),
        optimizer="gradients clipped at norm 100, adam, cosine decay to a hundredth",
        prior="standard normal",
        estimator="reparam(elbo), K = 1",
        best_q="dreg(elbo), Adam from the encoder's q; "
        "of a flow, its base and all its weights per image",
        annealing="from the prior, sigmoidal temperatures, step sizes per image from a pilot run",
    )
    held = {}
    for kind in config.posteriors:
        state = train(config, run, images, kind, kind, config.latent, config.num_steps)

        def compute(state=state):
            return scores(config, run, state, x_test)

        held[kind] = run.once(f"scoring {kind}", compute)
    metrics = _gaps_report.table(config, held)
    panels = plane(config, run, images, x_test) if config.plane_steps else {}
    arrays = {f"{kind}/{name}": a for kind, each in held.items() for name, a in each.items()}
    figures = {"gaps": lambda: _gaps_plots.gaps(metrics, config.posteriors, panels)}
    return Result(metrics, figures, arrays | panels)


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
