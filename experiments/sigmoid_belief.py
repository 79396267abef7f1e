"""A sigmoid belief network, whose latents are bits, trained in six ways.

All with the same K, from the same weights, on the same minibatches, bits and noise keys: the
score-function gradient, plain and with NVIL's learned baseline, which is also divided by the
signal's deviation; vimco; reweighted wake-sleep, a step of its own; vimco on the thermodynamic
bound; and a relaxed network.

The relaxed one trains *another model*: every unit, of q and of the prior, is a number in (0, 1),
``binary_concrete`` of one temperature, and what goes up is the importance-weighted bound of that
model, not of the belief network, whatever the temperature; the units do not become bits. The
weights are then read as those of the belief network. Held-out curves and test NLLs of all methods
are the discrete model's.

Which trains better is one question; how noisy the gradients are is another, asked on one network
and minibatch, before training and at vimco's weights. With --data mnist and 200-200-200 the
published figures stand beside; the schedules, that of --preset paper too, are ours.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import optax
import tyro
from flax import nnx

import vi
from experiments import _belief_meter, _evaluate
from experiments._belief import build_belief
from experiments._belief_meter import Arrays
from experiments._belief_methods import STEPS, Training, held_bound
from experiments._belief_report import Cell, figures, gradient_metrics, label, metered, nll_metrics
from experiments._config import Common, main, require_counts, require_positive
from experiments._data import Images, facts, fingerprint
from experiments._evaluate import Trained, stream
from experiments._results import Result
from experiments._run import Run
from experiments._task import bits_of

WATCHED = 1000  # held-out images in the training curves
INIT, WATCH = range(2)  # streams of each seed's key

PRESET: Any = None  # the preset fills it
Methods = Annotated[
    tuple[Literal["score", "nvil", "vimco", "wake_sleep", "relaxed", "tvo"], ...],
    tyro.conf.arg(metavar="{score,nvil,vimco,wake_sleep,relaxed,tvo} ..."),
]
Points = Annotated[
    tuple[Literal["initial", "trained"], ...], tyro.conf.arg(metavar="{initial,trained} ...")
]


@dataclass(frozen=True)
class Config(Common):
    """Train a sigmoid belief network in several ways, and measure the noise of their gradients."""

    methods: Methods = PRESET
    """How to train; differences are against vimco."""
    num_samples: int = PRESET
    """K, draws of z per image and step, of every method."""
    vimco_samples: tuple[int, ...] = PRESET
    """Train with vimco at these K too."""
    num_steps: int = PRESET
    """Optimiser steps per method; an epoch of MNIST is 600 at a batch size of 100."""
    batch_size: int = PRESET
    """Images per step."""
    learning_rate: float = PRESET
    """Adam's initial rate, of every method; it falls along a cosine."""
    final_rate: float = PRESET
    """Where it ends."""
    layers: int = PRESET
    """Stochastic layers."""
    hidden: int = PRESET
    """Bits in each."""
    temperature: float = PRESET
    """Of the relaxed network, at the first step; it falls exponentially, over half of the steps."""
    final_temperature: float = PRESET
    """Where it ends, and stays."""
    betas: tuple[float, ...] = PRESET
    """The TVO's grid, rising from 0 to 1."""
    points: Points = PRESET
    """Where to measure gradients: before training, at vimco's weights after it, or both."""
    num_replicates: int = PRESET
    """Gradients measured of each method at each point."""
    eval_samples: int = PRESET
    """k of the test NLL."""
    test_images: int | None = PRESET
    """Score on the first so many test images; by default on all, but for the presets that say."""


# fmt: off
ALL = tuple(STEPS)
CPU: dict[str, Any] = dict(
    methods=ALL, num_samples=5, vimco_samples=(), num_steps=6000, batch_size=100,
    learning_rate=1e-3, final_rate=2e-5, layers=3, hidden=200, temperature=1.0,
    final_temperature=0.5, betas=(0.0, 0.1, 0.3, 1.0), points=("initial", "trained"),
    num_replicates=100, eval_samples=1000, test_images=1000,
)
WHOLE: dict[str, Any] = dict(eval_samples=5000, test_images=None)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(
        methods=("score", "vimco"), num_samples=3, num_steps=20, layers=1, hidden=8,
        points=("initial",), num_replicates=20, eval_samples=10, test_images=40,
    ),
    "cpu": CPU,
    "digits-cpu": WHOLE | dict(
        vimco_samples=(2, 10), num_steps=5000, layers=2, hidden=100, num_replicates=400
    ),
    "gpu": CPU | WHOLE | dict(
        vimco_samples=(2, 10, 50), num_steps=300_000, num_replicates=1000
    ),
    "paper": CPU | WHOLE | dict(
        vimco_samples=(2, 10, 50), num_steps=4_000_000, batch_size=24, num_replicates=1000
    ),
}
# fmt: on


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    for name, tried in (("methods", "score vimco"), ("points", "initial trained")):
        values = getattr(config, name)
        if not values or len(set(values)) < len(values):
            got = " ".join(values)
            rule = f"name at least one of its {name}, once each"
            raise ValueError(f"--{name} must {rule} (got {got!r}); try --{name} {tried}")
    require_counts(config, "num_steps", "batch_size", "layers", "hidden", "eval_samples")
    require_counts(config, "num_samples", least=2)
    require_counts(config, "num_replicates", least=20)
    more = config.vimco_samples
    if len({*more, config.num_samples}) < len(more) + 1 or min(more, default=2) < 2:
        rule = f"be counts of at least 2 other than --num-samples {config.num_samples}, once each"
        got = " ".join(map(str, more))
        raise ValueError(f"--vimco-samples must {rule} (got {got!r}); try --vimco-samples 10 50")
    require_positive(config, "learning_rate", "temperature", "final_temperature")
    for name, most in (("final_rate", "learning_rate"), ("final_temperature", "temperature")):
        if not 0 <= getattr(config, name) <= getattr(config, most):
            flag, first = (f"--{n.replace('_', '-')}" for n in (name, most))
            rule = f"be from 0 to {first} {getattr(config, most)}"
            got, tried = getattr(config, name), getattr(config, most) / 2
            raise ValueError(f"{flag} must {rule} (got {got}); try {tried}")
    betas = config.betas
    if len(betas) < 2 or (betas[0], betas[-1]) != (0, 1) or list(betas) != sorted(set(betas)):
        got = " ".join(map(str, betas))
        raise ValueError(f"--betas must rise from 0 to 1 (got {got!r}); try --betas 0 0.1 0.3 1")


def make_training(config: Config, num_samples: int) -> Training:
    """Adam with a cosine, and the relaxed network's temperatures."""
    alpha = config.final_rate / config.learning_rate
    rate = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha)
    last = config.final_temperature
    temperature = optax.exponential_decay(
        config.temperature, max(config.num_steps // 2, 1), last / config.temperature, end_value=last
    )
    return Training(optax.adam(rate), num_samples, temperature, config.betas)


def initial_state(
    config: Config, images: Images, keys: jax.Array, optimizer: optax.GradientTransformation
) -> vi.training.State:
    """States of all seeds, the same for every method."""

    def init(key):
        models = build_belief(config, images, nnx.Rngs(key))
        return vi.training.init(models, optimizer, extra=vi.gradients.SignalMoments())

    return jax.jit(jax.vmap(init))(stream(keys, INIT))


def train(config: Config, run: Run, images: Images, x_test: jax.Array, cell: Cell) -> Trained:
    """Train with one method at one K, and score the discrete model."""
    method, num_samples = cell
    training, name = make_training(config, num_samples), label(cell, config.num_samples)
    fixed = vi.gradients.fixed(vi.bounds.iwae)

    @jax.jit
    @jax.vmap
    def watch(key, state):
        x = x_test[:WATCHED]
        bound = held_bound(fixed, config.num_samples, state.model, key, x)
        return {"held-out bound": bound.mean()}

    fit = run.fit(
        name,
        STEPS[method](training),
        initial_state(config, images, run.key, training.optimizer),
        images.train,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        # the same noise every time: the curves show training, not sampling
        evaluate=lambda _, state: watch(stream(run.key, WATCH), state),
    )
    belief, k = lambda models: models["belief"], config.eval_samples
    scores = _evaluate.evaluate_seeds(run, f"scoring {name}", fit.state, x_test, k, belief)
    return Trained(fit, scores)


def measure(
    config: Config, run: Run, images: Images, trained: dict[Cell, Trained]
) -> dict[str, Arrays]:
    """The noise of the gradients at each point; trained means vimco's weights, or the last's."""
    if not metered(config.methods):
        return {}
    training = make_training(config, config.num_samples)
    last = trained.get(("vimco", config.num_samples)) or list(trained.values())[-1]
    states = {
        "initial": initial_state(config, images, run.key, training.optimizer),
        "trained": last.fit.state,
    }
    count = config.num_replicates
    return {
        point: _belief_meter.measure(
            run, point, states[point], images, training, config.methods, count
        )
        for point in config.points
    }


def experiment(config: Config, run: Run) -> Result:
    """Train and score each method in turn, measure the gradients, and draw."""
    check(config)
    images, x_test = bits_of(config)
    sizes = [images.train.shape[1]] + [config.hidden] * config.layers
    run.protocol(
        **facts(images, x_test),
        measured_minibatch_sha256=fingerprint(_belief_meter.minibatch(run, images)),
        optimizer="adam, cosine decay, one rate for all methods",
        network="-".join(map(str, sizes)) + ", linear and logistic, Glorot uniform",
        output_bias="logit of the mean pixel",
        baseline="one hidden layer of 100, tanh; moments decay 0.8",
        relaxed="binary concrete units in q and prior; scored as the discrete model",
        trained_point="vimco's weights, else those of the last method",
    )
    cells = [(method, config.num_samples) for method in config.methods]
    cells += [("vimco", k) for k in config.vimco_samples]
    trained = {cell: train(config, run, images, x_test, cell) for cell in cells}
    tables = measure(config, run, images, trained)
    return Result(
        nll_metrics(config, trained) | gradient_metrics(config, tables),
        figures(config, run, trained, tables, images.shape),
        {f"{point}/{name}": a for point, table in tables.items() for name, a in table.items()},
    )


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
