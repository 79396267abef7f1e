"""Training that a held-out part ends, what test images are worth, and what draws cost."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Int

import vi
from experiments._alternatives_models import Estimator, Model
from experiments._evaluate import model_of, stream
from experiments._run import Run

KEPT_BACK = 5  # one training image of so many ends the training
DECAY = 0.999  # of the averages of the iterates, which are what is scored
HELD_SAMPLES = 8
BLOCK, CHUNK = 60, 20  # images, and samples of each, held in memory at once
ONE_SAMPLE_REPEATS = 20
TIMINGS = 15
_INIT, _SCORE, _DRAW = 0x616C74, 0x73636F72, 0x64726177  # streams of every seed's key
_HELD = 0  # the seed of the noise of the held-out bound


class Training(NamedTuple):
    """How one kind is trained; ``estimator`` and ``num_samples`` are its bound's."""

    estimator: Estimator
    num_samples: int


class Parts(NamedTuple):
    """Training images: those trained on, and those that end the training."""

    train: Int[np.ndarray, "N pixels"]
    held: Int[np.ndarray, "H pixels"]


def parts_of(levels: Int[np.ndarray, "N pixels"]) -> Parts:
    """The same for every model and seed."""
    order = np.random.default_rng(0).permutation(len(levels))
    held = order[: len(levels) // KEPT_BACK]
    return Parts(levels[np.sort(order[len(held) :])], levels[np.sort(held)])


def train(
    config: Any, run: Run, name: str, make: Callable[[nnx.Rngs], Model], how: Training, parts: Parts
) -> vi.training.FitResult:
    """Of all seeds, until the held-out bound of the averaged iterates no longer rises.

    Returns:
        The fit, its state with the averages for parameters.
    """
    optimizer = optax.chain(
        optax.clip_by_global_norm(100.0),
        optax.adam(config.learning_rate),
        vi.training.average(DECAY),
    )

    def loss(model: Any, key: Array, levels: Array) -> Array:
        return -model.bound(key, levels.astype(jnp.int32), how.num_samples, how.estimator).mean()

    held = jnp.asarray(parts.held, jnp.int32)

    @jax.jit
    @jax.vmap
    def held_bound(key, state):
        del key  # the same noise at every look, so that what differs is the model
        model: Any = vi.training.averaged(state).model
        noise = jax.random.key(_HELD)
        return {"bound": model.bound(noise, held, HELD_SAMPLES, vi.gradients.fixed).mean()}

    begin = jax.jit(jax.vmap(lambda key: vi.training.init(make(nnx.Rngs(key)), optimizer)))
    fit = run.fit(
        name,
        vi.training.gradient_step(loss, optimizer),
        begin(stream(run.key, _INIT)),
        parts.train,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        eval_every=config.eval_every,
        evaluate=held_bound,
        stop=vi.training.patience(lambda seen: seen["bound"], config.patience),
    )
    return fit._replace(state=vi.training.averaged(fit.state))


def score(
    run: Run, state: vi.training.State, levels: Int[np.ndarray, "M pixels"], num_samples: int
) -> dict[str, np.ndarray]:
    """Minus the bound at K, ``nll``, and at one sample, ``one``; each ``[S, M]``."""
    x = jnp.asarray(levels, jnp.int32)
    blocks = -(-len(x) // BLOCK)
    filled = jnp.pad(x, ((0, blocks * BLOCK - len(x)), (0, 0)), mode="edge")

    def of_seed(key, model):
        each = [
            _of_block(jax.random.fold_in(key, i), model, block, num_samples)
            for i, block in enumerate(filled.reshape(blocks, BLOCK, -1))
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(x)], *each)

    seeds = [of_seed(key, model_of(state, i)) for i, key in enumerate(stream(run.key, _SCORE))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *seeds)


@functools.partial(jax.jit, static_argnames="num_samples")
def _of_block(key: Array, model: Model, x: Array, num_samples: int) -> dict[str, Array]:
    def bounds(key, count, size):
        keys = jax.random.split(key, 1 if model.is_exact else count)
        return jax.lax.map(lambda key: model.bound(key, x, size, vi.gradients.fixed), keys)

    many_key, one_key = jax.random.split(key)
    chunk = math.gcd(num_samples, CHUNK)
    # blocks of as many samples join exactly: the log of the mean of their means
    return {
        "nll": -vi.bounds.iwae(bounds(many_key, num_samples // chunk, chunk)),
        "one": -bounds(one_key, ONE_SAMPLE_REPEATS, 1).mean(0),
    }


def sample(run: Run, state: vi.training.State, num_images: int) -> dict[str, np.ndarray]:
    """Levels that the first seed's model draws, and the seconds each time, compiled."""
    draw = jax.jit(lambda key, model: model.draw(key, num_images))
    key, model = stream(run.key, _DRAW)[0], model_of(state, 0)
    levels = draw(key, model)
    seconds = []
    for i in range(TIMINGS):
        again = jax.random.fold_in(key, i)
        begun = time.perf_counter()
        draw(again, model).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return {"levels": np.asarray(levels), "seconds": np.asarray(seconds)}


def count_parameters(state: vi.training.State) -> int:
    """Numbers that training moves, of one seed's model."""
    return sum(leaf[0].size for leaf in jax.tree.leaves(state.params))
