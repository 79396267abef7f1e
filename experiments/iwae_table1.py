"""Table 1 of the IWAE paper: NLL of VAE, IWAE and DReG by layers and samples.

The architecture, output bias, Adam, eight-stage schedule, gradients summed over batches of 20 and
fresh bits every step are those of Burda, Grosse and Salakhutdinov (2016) and their code. Left as
ours: all 60,000 training images (they hold out 400), shuffled every epoch; Adam's second moment
from zero and its eps after the bias correction; active units over the test images. The objectives
of one cell train in one program, from the same weights, on the same bits and with the same noise.
At k = 1 the IWAE is the VAE and is not trained again; DReG is sticking the landing there. With
--data mnist the published figures stand beside.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx

import vi
from experiments import _evaluate, _table1
from experiments._config import Common, main, require_counts
from experiments._data import Images, binarise, facts, load_images
from experiments._evaluate import Trained, stream
from experiments._references import Cell
from experiments._results import Result
from experiments._run import Run
from experiments._vae import Architecture, build_vae, log_joint, posterior

OBJECTIVES = {
    "vae": vi.gradients.reparam(vi.bounds.elbo),
    "iwae": vi.gradients.reparam(vi.bounds.iwae),
    "dreg": vi.gradients.dreg(vi.bounds.iwae),
}
STAGES, BATCH = 8, 20
WATCHED = 1000  # held-out images in the training curves
INIT, WATCH = range(2)  # streams of each seed's key

PRESET: Any = None  # the preset fills it
Objectives = Annotated[
    tuple[Literal["vae", "iwae", "dreg"], ...], tyro.conf.arg(metavar="{vae,iwae,dreg} ...")
]


@dataclass(frozen=True)
class Config(Common):
    """Fill cells of the IWAE paper's Table 1."""

    layers: tuple[int, ...] = PRESET
    """Stochastic layers, of 1 and 2."""
    num_samples: tuple[int, ...] = PRESET
    """k, draws per image and step; a cell of the table is one of these with one of --layers."""
    objectives: Objectives = PRESET
    """What to train in each cell."""
    num_epochs: int = PRESET
    """The first so many of the schedule's 3,280 epochs."""
    eval_samples: int = PRESET
    """k of the test NLL; the paper's is 5,000."""
    test_images: int | None = PRESET
    """Score on the first so many test images; by default on all, but for the presets that say."""
    beta1: float = 0.9
    """Adam's; 0.9 in the paper, 0.99 in the authors' code."""


# fmt: off
ALL = ("vae", "iwae", "dreg")
WHOLE: dict[str, Any] = dict(eval_samples=5000, test_images=None)
CPU: dict[str, Any] = dict(
    layers=(1,), num_samples=(1, 5), objectives=ALL, num_epochs=8, eval_samples=1000,
    test_images=1000,
)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": CPU | dict(num_samples=(3,), num_epochs=1, eval_samples=20, test_images=100),
    "cpu": CPU,
    "digits-cpu": WHOLE | dict(num_epochs=121),
    "gpu": CPU | WHOLE | dict(num_samples=(50,), num_epochs=364),
    "paper": CPU | WHOLE | dict(layers=(1, 2), num_samples=(1, 5, 50), num_epochs=3280),
}
# fmt: on


def stage_rates() -> list[float]:
    """The rate of stage i, ``1e-3 * 10^(-i/7)``."""
    return [1e-3 * 10 ** (-i / (STAGES - 1)) for i in range(STAGES)]


def stage_epochs() -> list[int]:
    """The epochs of stage i, ``3^i``: 3,280 in all."""
    return [3**i for i in range(STAGES)]


def rate_schedule(steps_per_epoch: int) -> optax.Schedule:
    """The rate by step; after the last stage it stays."""
    ends = jnp.cumsum(jnp.array(stage_epochs()[:-1])) * steps_per_epoch
    rates = jnp.array(stage_rates(), jnp.float32)
    return lambda step: rates[jnp.searchsorted(ends, step, side="right")]


def bounds_of(
    objectives: Sequence[str], num_samples: int, models: Any, key: jax.Array, x: jax.Array
) -> dict[str, jax.Array]:
    """The mean over ``x`` of each objective, of its own model, with the same noise."""

    def bound(name):
        noise, q = jax.random.clone(key), posterior(models[name], x)
        return OBJECTIVES[name](noise, q, log_joint(models[name], x), num_samples).mean()

    return {name: bound(name) for name in objectives}


def make_loss(objectives: Sequence[str], num_samples: int) -> Callable[..., Any]:
    """Minus the sum of the objectives, on the same fresh bits.

    Of each the sum over the batch, as in the authors' code: Adam's eps of 1e-4 is not small beside
    gradients of the mean.
    """

    def loss(models, key, grey):
        bits_key, draws_key = jax.random.split(key)
        values = bounds_of(objectives, num_samples, models, draws_key, binarise(bits_key, grey))
        return -BATCH * sum(values.values()), values

    return loss


def make_optimizer(beta1: float, steps_per_epoch: int) -> optax.GradientTransformation:
    """The paper's Adam."""
    return optax.adam(rate_schedule(steps_per_epoch), b1=beta1, b2=0.999, eps=1e-4)


def initial_state(
    cell: Cell,
    objectives: Sequence[str],
    images: Images,
    keys: jax.Array,
    optimizer: optax.GradientTransformation,
) -> vi.training.State:
    """States of all seeds: one model an objective, all of the same weights."""

    def init(key):
        model = build_vae(Architecture(200, 50, cell.layers), images, nnx.Rngs(key))
        return vi.training.init({name: nnx.clone(model) for name in objectives}, optimizer)

    return jax.jit(jax.vmap(init))(stream(keys, INIT))


def check(config: Config) -> None:
    """Refuse what would fail late, by the name of its flag."""
    most = sum(stage_epochs())
    rules = {
        "layers": ("name 1, 2 or both, once each", set(config.layers) <= {1, 2}),
        "num_samples": (
            "name counts of at least 1, once each",
            min(config.num_samples, default=0) > 0,
        ),
        "objectives": ("name objectives, once each", True),
    }
    for name, (rule, kept) in rules.items():
        values = getattr(config, name)
        if not values or len(set(values)) < len(values) or not kept:
            flag, got = f"--{name.replace('_', '-')}", " ".join(map(str, values))
            tried = " ".join(map(str, PRESETS["paper"][name]))
            raise ValueError(f"{flag} must {rule} (got {got!r}); try {flag} {tried}")
    require_counts(config, "num_epochs", "eval_samples")
    if config.num_epochs > most:
        rule = f"be at most the schedule's {most}"
        raise ValueError(f"--num-epochs must {rule} (got {config.num_epochs}); try {most}")
    if not 0 <= config.beta1 < 1:
        raise ValueError(f"--beta1 must be from 0 to below 1 (got {config.beta1}); try 0.9")


def network(images: Images, layers: Sequence[int]) -> str:
    """The units of each layer from the pixels up, stochastic ones in brackets."""
    pixels = images.train.shape[1]
    kinds = {1: f"{pixels}-200-200-[50]", 2: f"{pixels}-200-200-[100]-100-100-[50]"}
    return ", and ".join(kinds[n] for n in layers)


def trained_in(cell: Cell, objectives: Sequence[str]) -> list[str]:
    """The objectives that a cell trains: at k = 1 the VAE in the IWAE's place."""
    wanted = ["vae" if cell.num_samples == 1 and o == "iwae" else o for o in objectives]
    return list(dict.fromkeys(wanted))


def train(
    config: Config, run: Run, cell: Cell, images: Images, x_test: jax.Array
) -> dict[str, Trained]:
    """Train and score the objectives of one cell."""
    objectives = trained_in(cell, config.objectives)
    steps_per_epoch = len(images.train) // BATCH
    optimizer = make_optimizer(config.beta1, steps_per_epoch)

    @jax.jit
    @jax.vmap
    def watch(key, state):
        values = bounds_of(objectives, cell.num_samples, state.model, key, x_test[:WATCHED])
        return {f"held-out {name}": value for name, value in values.items()}

    fit = run.fit(
        str(cell),
        vi.training.gradient_step(make_loss(objectives, cell.num_samples), optimizer),
        initial_state(cell, objectives, images, run.key, optimizer),
        images.train,
        num_steps=config.num_epochs * steps_per_epoch,
        batch_size=BATCH,
        # the same noise every time: the curves show training, not sampling
        evaluate=lambda _, state: watch(stream(run.key, WATCH), state),
    )

    def score(name):
        stage = f"scoring {cell}, {name}"
        part = lambda models: models[name]  # noqa: E731
        return _evaluate.evaluate_seeds(run, stage, fit.state, x_test, config.eval_samples, part)

    return {name: Trained(fit, score(name)) for name in objectives}


def experiment(config: Config, run: Run) -> Result:
    """Train and score the cells in turn, each a stage of its own."""
    check(config)
    images = load_images(config.data, data_dir=config.data_dir, download=config.download)
    x_test = _evaluate.held_out_bits(images, config.test_images)
    if len(images.train) < BATCH:
        rule = f"hold at least {BATCH} training images, a batch"
        raise ValueError(f"--data must {rule} (got {len(images.train)}); choose a larger set")
    run.protocol(
        **facts(images, x_test),
        batch_size=BATCH,
        optimizer="adam, b2 0.999, eps 1e-4; rate 1e-3 * 10^(-i/7) for 3^i epochs, i = 0..7",
        network=network(images, config.layers),
    )
    cells = [Cell(*pair) for pair in itertools.product(config.layers, config.num_samples)]
    trained = {cell: train(config, run, cell, images, x_test) for cell in cells}
    tables = _table1.published(config.data)
    full = config.num_epochs == sum(stage_epochs())
    training = "full" if full else f"shortened at epoch {config.num_epochs}"
    scoring = f"k = {config.eval_samples:,}, {len(x_test):,} images"
    return Result(
        _table1.measure(trained, tables, training, scoring),
        _table1.pictures(run, trained, tables, images.shape),
    )


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
