"""Paired timing: two sides in turn, the ratio pair by pair, and the table that says so."""

import argparse
import json
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks._cells import header


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


class Row(NamedTuple):
    """One comparison: its name, times, the largest relative difference of what both return."""

    name: str
    times: Paired
    difference: float
    compile_ours: float
    compile_theirs: float


def command_line(description: str | None, *, num_steps: int, **options: Any) -> argparse.Namespace:
    """The flags that every paired benchmark has, and more by name."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, option in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **option)
    parser.add_argument("--num-steps", type=count, default=num_steps, help="steps per timed scan")
    parser.add_argument("--num-pairs", type=count, default=30, help="interleaved pairs")
    parser.add_argument("--out", type=pathlib.Path, help="write the figures here, as JSON")
    args = parser.parse_args()
    if args.out:
        try:
            args.out.touch()
        except OSError as error:
            parser.error(f"argument --out: cannot write to {args.out} ({error.strerror})")
    return args


def count(text: str) -> int:
    """A flag that is an integer of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1 (got {text})")
    return int(text)


def report(title: str, rows: Iterable[Row], args: argparse.Namespace) -> None:
    """Print each row as it comes, and write all of them to ``args.out``."""
    print(f"{title}; medians of {args.num_pairs} pairs of {args.num_steps} steps")
    print(f"{'':>13} {'ours ms':>9} {'hand ms':>9} {'ratio':>7}  95 % interval   compile s")
    records = []
    for row in rows:
        records.append({**row._asdict(), "times": row.times._asdict()})
        print(
            f"{row.name:>13} {1e3 * row.times.ours:>9.3f} {1e3 * row.times.theirs:>9.3f}"
            f" {row.times.ratio:>7.3f}  [{row.times.low:.3f}, {row.times.high:.3f}]"
            f"  {row.compile_ours:.1f} / {row.compile_theirs:.1f}",
            flush=True,
        )
    if args.out:
        flags = {k: v for k, v in vars(args).items() if k != "out"}
        record = header(title) | flags
        args.out.write_text(json.dumps({**record, "rows": records}, indent=1) + "\n")
