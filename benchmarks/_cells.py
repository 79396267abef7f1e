"""A benchmark of many cells: each is measured once, written at once, and found again."""

import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

Record = dict[str, Any]


def header(title: str, **facts: Any) -> Record:
    """What figures depend on beside the cell: the facts, the device and JAX."""
    device = f"{jax.devices()[0].device_kind} ({platform.machine()})"
    return {"title": title, **facts, "device": device, "jax": jax.__version__}


def fill(
    path: pathlib.Path | None,
    head: Record,
    cells: Iterable[Mapping[str, Any]],
    measure: Callable[..., Iterable[Record]],
    line: Callable[[Record], str],
) -> list[Record]:
    """The rows of all cells, those that ``path`` holds and those measured now.

    A cell is what ``measure`` is called with, by name; each row it gives has these fields and more.
    Every row is printed by ``line``, and the file is written whole after each cell or not at all.
    """
    rows = _held(path, head)
    for row in rows:
        print(line(row))
    for cell in cells:
        if any(cell.items() <= row.items() for row in rows):
            continue
        found = [{**cell, **row} for row in measure(**cell)]
        print(*map(line, found), sep="\n", flush=True)
        rows += found
        if path is not None:
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
            os.replace(draft, path)
    return rows


def _held(path: pathlib.Path | None, head: Record) -> list[Record]:
    if path is None or path.stat().st_size == 0:
        return []
    record = json.loads(path.read_text())
    rows = record.pop("rows")
    if record != head:
        raise SystemExit(f"{path} holds {record}, and this is {head}: choose another --out")
    return rows
