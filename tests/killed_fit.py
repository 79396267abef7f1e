"""A long run with everything in its state, for another process to kill: folder, and when to die."""

import hashlib
import os
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import vi


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first, self.out = nnx.Linear(5, 16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(16, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(self.norm(self.first(x))))[:, 0]


def loss(network, key, noise_key, batch, step):
    """The extra that it carries is a typed key."""
    key, own = jax.random.split(key)
    noise = jax.random.normal(own, (8,)) + jax.random.normal(noise_key, (8,))
    error = network(batch["x"]) - batch["y"] + 0.1 * noise
    return (error**2).mean(), (key, {"worst": jnp.abs(error)})


STEPS = 800
NUM_RUNS = 2
OPTIMIZER = optax.chain(
    optax.adam(optax.cosine_decay_schedule(1e-2, STEPS)), vi.training.average(0.99)
)
STEP = vi.training.stateful_gradient_step(loss, OPTIMIZER)


def start():
    def one(key):
        own, carried = jax.random.split(key)
        return vi.training.init(Network(nnx.Rngs(own)), OPTIMIZER, extra=carried)

    return jax.vmap(one)(jax.random.split(jax.random.key(1), NUM_RUNS))


def fit(folder, report=None):
    rng = np.random.default_rng(0)
    data = {
        "x": rng.normal(size=(100, 5)).astype(np.float32),
        "y": rng.normal(size=100).astype(np.float32),
    }
    evaluate = lambda key, state: {"z": jax.random.normal(key), "t": state.step}  # noqa: E731
    return vi.training.fit(
        jax.random.split(jax.random.key(0), NUM_RUNS),
        STEP,
        start(),
        data,
        num_steps=STEPS,
        batch_size=8,
        chunk_steps=50,
        evaluate=jax.vmap(evaluate),
        eval_every=130,
        report=report,
        checkpoint=None if folder is None else vi.training.Checkpoint(folder, every_seconds=0.0),
    )


def digest(result) -> str:
    """Of every bit of state, history and evaluations."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves((result.state, result.history, result.evaluations)):
        held = (
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )
        sha.update(str(held.shape).encode() + np.asarray(held).tobytes())
    return sha.hexdigest()


def main():
    folder, when = sys.argv[1:]
    looks = []

    def report(step, metrics):
        """From the first look on it is training, evaluating or saving."""
        looks.append(step)
        if when == "look" and len(looks) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if when not in ("look", "0") and len(looks) == 1:
            timer = threading.Timer(float(when), os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        time.sleep(0.02)

    print(digest(fit(folder, report=report)))


if __name__ == "__main__":
    main()
