"""What a preset asks of the machine: how its programs are compiled, and what if it is too slow."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import vi

ACCELERATED = "gpu", "paper"
PROBE = 5  # steps that are timed


@contextlib.contextmanager
def optimised(wanted: bool) -> Iterator[None]:
    """Programs that run fast, or that compile fast: a smoke run is nearly all compilation."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", before or not wanted)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def is_lacking(preset: str | None) -> bool:
    """Whether ``preset`` is meant for an accelerator and there is none."""
    return preset in ACCELERATED and jax.default_backend() == "cpu"


def announce(preset: str) -> None:
    """Say on stderr that the run goes on without the hardware of its preset."""
    if is_lacking(preset):
        said = "is meant for an accelerator, and JAX finds none: it goes on here"
        print(f"--preset {preset} {said}; --preset cpu is the short one", file=sys.stderr)


def say_how_long(
    name: str,
    keys: jax.Array,
    step: vi.training.Step,
    state: vi.training.State,
    data: Any,
    *,
    num_steps: int,
    batch_size: int,
) -> None:
    """Time a few steps of all seeds, whose results are thrown away, and say what all will take."""

    @jax.jit
    def probe(keys, state, data):
        def some(key, state):
            sizes = {"num_steps": PROBE, "batch_size": batch_size}
            return vi.training.run(key, step, state, data, **sizes)

        return jax.vmap(some)(keys, state)[1]

    data = jax.tree.map(jnp.asarray, data)
    jax.block_until_ready(probe(keys, state, data))
    begun = time.perf_counter()
    jax.block_until_ready(probe(keys, state, data))
    seconds = (time.perf_counter() - begun) / PROBE * num_steps
    print(f"training {name}: about {_readable(seconds)} here, from step 0", file=sys.stderr)


def _readable(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
