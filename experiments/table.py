"""Gather the finished runs below a folder into one table, obtained against reference.

Writes ``table.md`` and ``table.html``, a page that holds its pictures and needs no network.
"""

import base64
import html
import itertools
import json
import os
import pathlib
import re
import sys
import urllib.parse
from typing import NamedTuple

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments._results import Metric, Record, read_results, write_whole

_HEAD = ("model", "metric", "obtained", "±", "sd", "reference", "difference", "source")
_NUMBERS = range(2, 7)  # the columns of numbers
_ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}
_LEGEND = {
    "↓ ↑": "which way is better",
    "±": "standard error over data",
    "sd": "standard deviation over seeds",
    "reference": "read in its source, recalled (unverified), measured by us, or exact",
    "difference": "obtained minus reference; mind the reference's protocol, after its source",
}
_e = html.escape
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; font-size: 0.9rem; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid var(--line); text-align: left; }
th { color: var(--dim); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.dim, summary { color: var(--dim); font-size: 0.85rem; }
figure { display: inline-block; margin: 1rem 1rem 0 0; max-width: 100%; }
img { max-width: 100%; background: white; border: 1px solid var(--line); }
"""


class Entry(NamedTuple):
    """A finished run and where it lies."""

    folder: pathlib.Path
    record: Record


def gather(runs: pathlib.Path) -> tuple[list[Entry], list[str]]:
    """Every finished run below ``runs``, and what was wrong with those that cannot be read."""
    entries, wrong = [], []
    for path in sorted(runs.rglob("results.json")):
        try:
            record = read_results(path)
            entry = Entry(path.parent, record)
            missing = [name for name in record.pictures if not _picture(entry, name).is_file()]
            wrong += [f"{_picture(entry, name)} is missing" for name in missing]
            held = [name for name in record.pictures if name not in missing]
            entries.append(Entry(path.parent, record._replace(pictures=held)))
        except (ValueError, OSError) as error:
            wrong.append(str(error))
    return entries, wrong


def to_markdown(entries: list[Entry], page: pathlib.Path) -> str:
    """The table as Markdown, its pictures linked from the folder ``page``."""
    rule = "| " + " | ".join("--:" if i in _NUMBERS else "---" for i in range(len(_HEAD))) + " |"
    lines = ["# Obtained against reference", ""]
    lines += [f"- {sign}: {meaning}" for sign, meaning in _LEGEND.items()]
    for entry in entries:
        folder = os.path.relpath(entry.folder, page)
        facts = {"folder": folder} | _facts(entry.record) | _protocol(entry.record)
        lines += ["", f"## {_marked(title(entry.record))}", ""]
        lines += [f"- {_marked(f'{k}: {v}')}" for k, v in facts.items()]
        lines += ["", f"| {' | '.join(_HEAD)} |", rule]
        lines += [f"| {' | '.join(map(_marked, row))} |" for row in _rows(entry.record)]
        for name in entry.record.pictures:
            link = urllib.parse.quote(f"{folder}/{name}")
            lines += ["", f"![{title(entry.record)}]({link})"]
    return "\n".join(lines) + "\n"


def to_html(entries: list[Entry]) -> str:
    """The table as one page, with the pictures inside."""
    body = ["<h1>Obtained against reference</h1>"]
    body += [f"<p class=dim>{_lines([f'{k}: {v}' for k, v in _LEGEND.items()])}</p><ul>"]
    body += [f"<li><a href='#{i}'>{_e(title(e.record))}</a>" for i, e in enumerate(entries)]
    body += ["</ul>"]
    for i, entry in enumerate(entries):
        facts = [f"{k}: {v}" for k, v in _facts(entry.record).items()]
        body += [f"<h2 id='{i}'>{_e(title(entry.record))}</h2><p class=dim>{_e(str(entry.folder))}"]
        body += [f"<br>{_lines(facts)}</p>", _html_table(_HEAD, _rows(entry.record))]
        protocol = [(k, v) for k, v in _protocol(entry.record).items()]
        body += [f"<details><summary>protocol</summary>{_html_table((), protocol)}</details>"]
        for name in entry.record.pictures:
            data = base64.b64encode(_picture(entry, name).read_bytes()).decode()
            body += [f"<figure><img alt='{_e(name)}' src='data:image/png;base64,{data}'></figure>"]
    meta = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head = f"{meta}<title>Obtained against reference</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en>{head}\n" + "\n".join(body) + "\n</html>\n"


def print_table(record: Record) -> None:
    """Print a column per model and a row per metric, each with its reference, then the sources."""
    columns: dict[str, list[str]] = {}
    for name in record.metrics:
        column, row = name.split("/", 1)
        columns.setdefault(column, []).append(row)
    fullest_first = sorted(columns.values(), key=len, reverse=True)
    rows = dict.fromkeys(itertools.chain(*fullest_first))
    sources: list[str] = []
    table = Table(title=Text(title(record)), title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(Text(column), justify="right")
    for row in rows:
        metrics = [record.metrics.get(f"{column}/{row}") for column in columns]
        label = next(_label(row, m) for m in metrics if m is not None)
        cells = ["" if m is None else _cell(m, sources) for m in metrics]
        table.add_row(Text(label), *map(Text, cells))
    shown = "".join(
        filter(None, (_cell(m, []) + _ARROWS[m.better] for m in record.metrics.values()))
    )
    signs = [f"{s}: {_LEGEND[s]}" for s in ("±", "sd") if s in shown]
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # what goes to a file does not wrap
    console.print(table)
    seconds = f"seconds on {record.device}: {_facts(record)['seconds']}"
    for line in filter(None, ["; ".join(signs), *sources, seconds]):
        console.print(Text(line))


def title(record: Record) -> str:
    """What was run, in one line."""
    held, last = record.protocol.get, record.seed + record.num_seeds - 1
    seeds = f"seed {record.seed}" if record.num_seeds == 1 else f"seeds {record.seed} to {last}"
    return f"{record.experiment}: {held('data')}, preset {held('preset')}, {seeds}"


def main(
    runs: pathlib.Path = pathlib.Path("runs"), out: pathlib.Path = pathlib.Path("runs/table")
) -> None:
    """Gather the finished runs below a folder into one table, obtained against reference.

    Args:
        runs: Folder to look in, at any depth.
        out: Folder for table.md and table.html.
    """
    entries, wrong = gather(runs)
    if not entries:
        wrong.append(f"--runs: no finished run below {runs}; run an experiment first")
    else:
        out.mkdir(parents=True, exist_ok=True)
        pages = {"table.md": to_markdown(entries, out), "table.html": to_html(entries)}
        for name, text in pages.items():
            write_whole(out / name, lambda file, text=text: file.write(text.encode()))
        print(f"runs gathered: {len(entries)}; written to {out}: table.md, table.html")
    for line in wrong:
        print(f"experiments.table: {line}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def _rows(record: Record) -> list[tuple[str, ...]]:
    rows = []
    for name, m in record.metrics.items():
        column, row = name.split("/", 1)
        obtained = "not run" if m.value is None else m.show(m.value)
        numbers = [obtained, *(m.show(n) for n in (m.stderr, m.spread))]
        ref = m.reference
        numbers += [m.show(ref and ref.value), m.show(m.difference, "+")]
        source = "" if ref is None else f"{ref.how}: {ref.source} ({ref.protocol})"
        rows.append((column, _label(row, m), *numbers, source))
    return rows


def _facts(record: Record) -> dict[str, str]:
    seconds = [
        f"{stage} {held.get('wall', 0.0):.1f}"
        + (f" (compiling {held['compile']:.1f}, steps {held['run']:.1f})" if "run" in held else "")
        for stage, held in record.seconds.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    machine = f"{record.device}, {record.platform}"
    software = f"Python {record.python}, {versions}"
    facts = {"seconds": ", ".join(seconds), "device": machine, "software": software}
    return {"command": record.command} | facts if record.command else facts


def _protocol(record: Record) -> dict[str, str]:
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in record.protocol.items()}


def _label(row: str, metric: Metric) -> str:
    unit = "" if metric.unit in ("count", "") else f" ({metric.unit})"
    return row + unit + _ARROWS[metric.better]


def _cell(metric: Metric, sources: list[str]) -> str:
    lines = [str(metric)]
    if metric.spread is not None:
        lines.append(f"sd {metric.show(metric.spread)}")
    if metric.reference is not None:
        ref = metric.reference
        source = f"{ref.how}: {ref.source} ({ref.protocol})"
        known = [line.split("] ", 1)[1] for line in sources]
        if source not in known:
            known.append(source)
            sources.append(f"[{len(known)}] {source}")
        mark = known.index(source) + 1
        shown = [metric.show(ref.value), metric.show(metric.difference, "+")]
        lines.append(f"[{mark}] {', '.join(filter(None, shown))}")
    return "\n".join(lines)


def _picture(entry: Entry, name: str) -> pathlib.Path:
    return entry.folder / pathlib.PurePath(name).name


def _marked(text: str) -> str:
    """``text`` as Markdown shows it."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _lines(texts: list[str]) -> str:
    return "<br>".join(map(_e, texts))


def _html_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def line(tag, cells):
        kinds = [" class=number" if head and i in _NUMBERS else "" for i in range(len(cells))]
        inner = (f"<{tag}{k}>{_e(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    lines = [line("th", head)] if head else []
    return "\n".join(["<table>", *lines, *(line("td", row) for row in rows), "</table>"])


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m experiments.table")
    except OSError as error:
        sys.exit(f"experiments.table: {error}")
