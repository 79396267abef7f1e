"""The IWAE paper's Table 1, filled as far as it was run, and its pictures."""

from collections.abc import Callable, Mapping

from matplotlib.figure import Figure

from experiments import _pictures, _plots
from experiments._evaluate import Evaluation, Trained, mean_and_stderr, model_of, stream
from experiments._plots import Points
from experiments._references import REPRODUCED, TABLE_1, Cell
from experiments._results import Metric, Reference, over_data, over_seeds
from experiments._run import Run

COLUMNS = {"vae": "VAE", "iwae": "IWAE", "dreg": "DReG"}
Cells = Mapping[Cell, Mapping[str, Trained]]
Tables = Mapping[str, Mapping[Cell, Mapping[str, Reference]]]


def published(data: str) -> Tables:
    """The tables of others, by who made them, that results on ``data`` stand beside."""
    return {"Burda et al. 2016": TABLE_1, "nbip/IWAE": REPRODUCED} if data == "mnist" else {}


def measure(trained: Cells, tables: Tables, training: str, scoring: str) -> dict[str, Metric]:
    """A column for each objective; rows for each published cell, and each other that was run.

    A row's name says how the cell was trained (``training``: full, shortened) and scored; what was
    not run says so. Differences are paired by image. At k = 1 the column of the IWAE repeats the
    VAE, which it is there.
    """
    metrics = {}
    for cell in _cells(trained, tables):
        single = "; IWAE = VAE" if cell.num_samples == 1 else ""
        done = f"{training}{single}; {scoring}" if cell in trained else "not run"
        for name, column in COLUMNS.items():
            scores, rows = scores_of(trained, cell, name), {}
            for who, table in tables.items() or [("", {})]:
                against = f", against {who}" if who else ""
                published = table.get(cell, {}).get(name)
                label = f"{cell}: test NLL ({done}){against}"
                rows[label] = Metric(None, reference=published, better="lower")
                if scores is not None:
                    rows[label] = over_data(scores.nll, reference=published, better="lower")
            if scores is not None:
                rows |= _details(trained, cell, name, scores)
            metrics |= {f"{column}/{row}": metric for row, metric in rows.items()}
    return metrics


def scores_of(trained: Cells, cell: Cell, name: str) -> Evaluation | None:
    """An objective's evaluation; at k = 1 the IWAE's is the VAE's."""
    name = "vae" if cell.num_samples == 1 and name == "iwae" else name
    held = trained.get(cell, {}).get(name)
    return None if held is None else held.evaluation


def _details(trained: Cells, cell: Cell, name: str, scores: Evaluation) -> dict[str, Metric]:
    rows = {}
    if cell.num_samples > 1:
        first = scores_of(trained, cell._replace(num_samples=1), "vae")
        same = scores_of(trained, cell, "vae") if name != "vae" else None
        others = {"VAE's of k = 1": first, "VAE's": same}
        rows = {
            f"{cell}: minus the {which}, paired": over_data(scores.nll - other.nll, better="lower")
            for which, other in others.items()
            if other is not None
        }
    for layer, count in scores.active_units.items():
        rows[f"{cell}: active units, {layer}"] = over_seeds(count, unit="count")
    return rows


def pictures(
    run: Run, trained: Cells, tables: Tables, shape: tuple[int, ...]
) -> dict[str, Callable[[], Figure]]:
    """Of the first seed, by file name: NLL against k, the curves, and samples of the largest k."""
    curves = {
        str(cell): {
            COLUMNS.get(k.removeprefix("held-out "), k): v if k == "step" else v[0]
            for k, v in next(iter(held.values())).fit.evaluations.items()
        }
        for cell, held in trained.items()
    }
    last = {layers: max(c for c in trained if c.layers == layers) for layers, _ in trained}
    models = {
        f"{COLUMNS[name]}, {cell}": model_of(t.fit.state, 0)[name]
        for cell in last.values()
        for name, t in trained[cell].items()
    }
    drawn = _pictures.samples(stream(run.key, _pictures.STREAM)[0], models, shape)
    panels = {f"layers: {layers}": lines(trained, tables, layers) for layers in last}
    return {
        "nll_against_k": lambda: _plots.nll_against_samples(panels, COLUMNS.values()),
        "bounds": lambda: _plots.bound_curves(curves, COLUMNS.values()),
        "samples": drawn,
    }


def lines(trained: Cells, tables: Tables, layers: int) -> dict[str, Points]:
    """A line for each objective, and for each published one: values and errors by k."""
    cells = [cell for cell in _cells(trained, tables) if cell.layers == layers]
    lines: dict[str, Points] = {}
    for name, column in COLUMNS.items():
        scores = {cell.num_samples: scores_of(trained, cell, name) for cell in cells}
        lines[column] = {k: mean_and_stderr(e.nll[0]) for k, e in scores.items() if e is not None}
        for who, table in tables.items():
            held = {cell.num_samples: table.get(cell, {}).get(name) for cell in cells}
            lines[f"{column}, {who}"] = {k: (r.value, 0.0) for k, r in held.items() if r}
    return {name: points for name, points in lines.items() if points}


def _cells(trained: Cells, tables: Tables) -> list[Cell]:
    return sorted({cell for table in (trained, *tables.values()) for cell in table})
