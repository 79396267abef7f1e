"""Paired timing: two sides in turn, the ratio pair by pair."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Paired(NamedTuple):
    """Seconds per step of both sides (medians), and their ratio with its 95 % interval."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    pairs: int


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], float]:
    """``function`` compiled for ``args``, and the seconds that took."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*args).compile()
    return program, time.perf_counter() - start


def paired(
    ours: Callable[[], Any], theirs: Callable[[], Any], *, num_pairs: int, num_steps: int
) -> Paired:
    """Time both sides in interleaved pairs, the order swapped at every other pair.

    The interval is that of the median: order statistics of the pairs' ratios at the ranks that
    cover it with 95 % probability, whatever their distribution.
    """
    for side in (ours, theirs):
        jax.block_until_ready(side())
    times = np.empty((num_pairs, 2))
    for pair in range(num_pairs):
        for column in (0, 1) if pair % 2 == 0 else (1, 0):
            start = time.perf_counter()
            jax.block_until_ready((ours, theirs)[column]())
            times[pair, column] = (time.perf_counter() - start) / num_steps
    ratios = np.sort(times[:, 0] / times[:, 1])
    reach = 0.98 * np.sqrt(num_pairs)
    low = int(max(np.floor(num_pairs / 2 - reach), 0))
    high = int(min(np.ceil(num_pairs / 2 + reach), num_pairs - 1))
    medians = np.median(times, axis=0)
    return Paired(
        float(medians[0]),
        float(medians[1]),
        float(np.median(ratios)),
        float(ratios[low]),
        float(ratios[high]),
        num_pairs,
    )
