"""What a run leaves behind: ``results.json``, ``metrics.jsonl`` and the table that is printed."""

import importlib.metadata
import json
import pathlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

PACKAGES = ("vi", "jax", "flax", "optax", "numpyro", "numpy", "scikit-learn")


class Metric(NamedTuple):
    """A measured number, its standard error where it has one, and what to hold it against."""

    value: float
    stderr: float | None = None
    unit: str = "nats"
    reference: str | None = None

    def __str__(self) -> str:
        if self.unit == "count":
            return f"{self.value:.0f}"
        digits = 1 if self.unit == "s" else 2
        spread = "" if self.stderr is None else f" ± {self.stderr:.{digits}f}"
        return f"{self.value:.{digits}f}{spread}"


def prepare(out: pathlib.Path, protocol: Mapping[str, Any]) -> None:
    """Make ``out`` ready to write to; refuse a folder that holds results of another protocol."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.jsonl").touch()
    except OSError as error:
        raise ValueError(
            f"--out: cannot write to {out} ({error.strerror}); choose another"
        ) from None
    previous = out / "results.json"
    if not previous.exists():
        return
    try:
        before = dict(json.loads(previous.read_text())["protocol"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        raise ValueError(f"--out: {previous} is not a results file; choose another --out") from None
    now = json.loads(json.dumps(protocol, allow_nan=False))
    differing = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    if differing:
        raise ValueError(
            f"--out: {out} holds results of another protocol ({', '.join(sorted(differing))}"
            " differ); choose another --out"
        )


def write_results(
    out: pathlib.Path,
    experiment: str,
    protocol: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Metric]],
    *,
    seed: int,
    seconds: float,
) -> pathlib.Path:
    """Write ``results.json``: enough to repeat the run and to hold it against another."""
    record = {
        "experiment": experiment,
        "protocol": protocol,
        "metrics": {
            row: {name: m._asdict() for name, m in named.items()} for row, named in metrics.items()
        },
        "seconds": round(seconds, 2),
        "device": jax.devices()[0].device_kind,
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "seed": seed,
    }
    path = out / "results.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    partial.replace(path)
    return path


def write_metrics(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON line per row; arrays of one number become numbers."""
    plain = ({k: v.item() if isinstance(v, np.generic) else v for k, v in r.items()} for r in rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in plain))


def print_table(title: str, metrics: Mapping[str, Mapping[str, Metric]], note: str) -> None:
    """Print one column per model, a row per metric."""
    table = Table(title=title, caption=note, title_justify="left", caption_justify="left")
    table.add_column("")
    for model in metrics:
        table.add_column(model, justify="right")
    fullest = max(metrics.values(), key=len)
    for name in fullest:
        unit = fullest[name].unit
        label = name if unit == "count" else f"{name} [dim]({unit})[/dim]"
        table.add_row(label, *(str(named.get(name, "")) for named in metrics.values()))
    Console().print(table)
