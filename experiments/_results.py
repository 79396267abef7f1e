"""What a run leaves behind: numbers with their errors and references, arrays and pictures."""

import functools
import importlib.metadata
import json
import math
import pathlib
import platform
import sys
import urllib.parse
import zipfile
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, get_origin

import numpy as np
from jaxtyping import Array, Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = ("vi", "jax", "flax", "optax", "numpyro", "numpy", "scikit-learn")
Seconds = dict[str, dict[str, float]]  # by stage: "wall", and of training "compile" and "run"


class Reference(NamedTuple):
    """A number to hold a metric against."""

    value: float  # in the metric's unit
    source: str  # e.g. "Burda et al. 2016, Table 1"
    how: Literal["read", "recalled", "measured", "exact"]
    protocol: str  # what it was measured on, so that unlike is not compared unawares


class Metric(NamedTuple):
    """A measured number, of seeds their mean, its standard error over data; None if not run."""

    value: float | None
    stderr: float | None = None
    unit: str = "nats"  # "s" and "count" print with fewer digits
    reference: Reference | None = None
    better: Literal["lower", "higher"] | None = None
    seeds: tuple[float, ...] = ()  # the value for each seed

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds (ddof 1), of two or more."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None

    @property
    def difference(self) -> float | None:
        """The value minus the reference's."""
        if self.reference is None or self.value is None:
            return None
        return self.value - self.reference.value

    def show(self, number: float | None, sign: str = "") -> str:
        """``number`` with this metric's digits; nothing for None."""
        if number is None:
            return ""
        if self.unit in ("count", "s"):
            digits = 0 if self.unit == "count" and float(self.value or 0).is_integer() else 1
            return f"{number:{sign}.{digits}f}"
        finest = self.stderr or self.spread or abs(self.value or 0) / 100
        if 0 < finest < 1e-6:
            return f"{number:{sign}.2e}"
        digits = max(2, -math.floor(math.log10(finest))) if finest else 2
        return f"{number:{sign}.{digits}f}"

    def __str__(self) -> str:
        error = "" if self.stderr is None else f" ± {self.show(self.stderr)}"
        return "not run" if self.value is None else f"{self.show(self.value)}{error}"


class Result(NamedTuple):
    """What an experiment returns; figures are functions, each called once and saved by its name."""

    metrics: Mapping[str, Metric]  # by "<column>/<row>", e.g. "iwae/test NLL"
    figures: "Mapping[str, Callable[[], Figure]]" = MappingProxyType({})
    arrays: Mapping[str, Array | np.ndarray] = MappingProxyType({})


class Record(NamedTuple):
    """What ``results.json`` holds."""

    experiment: str
    protocol: dict[str, Any]
    metrics: dict[str, Metric]
    seconds: Seconds
    seed: int
    num_seeds: int
    device: str
    platform: str
    python: str
    versions: dict[str, str]
    pictures: list[str]
    command: str = ""


def over_seeds(values: Float[Array, "S"] | np.ndarray, **fields: Any) -> Metric:
    """The mean over seeds of one number each; ``fields`` are the ``Metric``'s others."""
    each = _axes("over_seeds: values must be [S]", values, 1)
    return Metric(float(each.mean()), seeds=tuple(each.tolist()), **fields)


def over_data(values: Float[Array, "S M"] | np.ndarray, **fields: Any) -> Metric:
    """The mean over seeds and data; the standard error is over data, of the mean over seeds."""
    each = _axes("over_data: values must be [S, M]", values, 2)
    data = each.mean(0)
    stderr = float(data.std(ddof=1) / math.sqrt(data.size)) if data.size > 1 else None
    return Metric(float(data.mean()), stderr, seeds=tuple(each.mean(1).tolist()), **fields)


def write_results(
    out: pathlib.Path, protocol: dict[str, Any], result: Result, seconds: Seconds, command: str
) -> Record:
    """Write pictures, arrays and, as the last, ``results.json``: a folder with it is finished."""
    import jax  # here, since reading results needs no JAX

    fields = plain({name: _fields(metric) for name, metric in result.metrics.items()})
    metrics = {name: _metric(name, held) for name, held in fields.items()}
    pictures = _save_figures(out, result.figures)
    if result.arrays:
        write_arrays(out / "arrays.npz", result.arrays)
    machine: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    named = {name: protocol[name] for name in ("experiment", "seed", "num_seeds")}
    held = {"protocol": protocol, "metrics": metrics, "pictures": pictures, "command": command}
    record = Record(**held, seconds=seconds, **named, **machine)
    write_json(out / "results.json", record._asdict() | {"metrics": fields})
    return record


def read_results(path: pathlib.Path) -> Record:
    """Read ``results.json``; what is not one of ours is refused in one line."""
    try:
        record = Record(**plain(json.loads(path.read_text())))
        for name, kind in Record.__annotations__.items():
            if not isinstance(getattr(record, name), get_origin(kind) or kind):
                raise ValueError(f"{name} is not of {kind}")
        held: dict[str, Any] = dict(record.metrics)
        return record._replace(
            metrics={name: _metric(name, fields) for name, fields in held.items()}
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        what = " ".join(str(error).split())
        raise ValueError(f"{path} is not a results file ({what}); move it away") from None


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``facts`` as JSON gives them back; what JSON cannot hold is refused by name."""
    kept = {}
    for name, value in facts.items():
        try:
            kept[name] = json.loads(json.dumps(value, default=_simple, allow_nan=False))
        except (TypeError, ValueError) as error:
            rule = "be finite numbers, texts, or lists or dicts of them"
            raise ValueError(f"{name} must {rule} (got {value!r}): {error}") from None
    return kept


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def write_whole(path: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in its place."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        write(file)
    partial.replace(path)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Write a ``.npz``, whole or not at all; returns the arrays as NumPy's."""
    held = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in held.items():
        if array.dtype.kind not in "biufcUS":
            rule, remedy = "be of a type that NumPy stores", "convert it, e.g. to float32"
            raise ValueError(f"{path.name}: {name} must {rule} (got {array.dtype}); {remedy}")

    def write(file):
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in held.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    write_whole(path, write)
    return held


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read a ``.npz``; a damaged one is refused in one line."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to compute it again") from None


def file_name(name: str) -> str:
    """A safe file name for any ``name``; different names have different ones."""
    if not name:
        raise ValueError("a stage or picture must have a name (got ''); pass one")
    return urllib.parse.quote_plus(name).replace(".", "%2E")


def _axes(rule: str, values: Any, axes: int) -> np.ndarray:
    each = np.asarray(values, np.float64)
    if each.ndim != axes or not each.size:
        raise ValueError(f"{rule} (got shape {list(each.shape)}); stack them so")
    return each


def _simple(value):
    return str(value) if isinstance(value, pathlib.PurePath) else np.asarray(value).tolist()


def _fields(metric: Metric) -> dict[str, Any]:
    return metric._asdict() | {"reference": metric.reference and metric.reference._asdict()}


def _metric(name: str, fields: dict[str, Any]) -> Metric:
    if "/" not in name:
        raise ValueError(f"metric {name} must be named <column>/<row>; name the model first")
    reference = fields["reference"] and Reference(**fields["reference"])
    metric = Metric(**{**fields, "reference": reference, "seeds": tuple(fields["seeds"])})
    numbers = metric.value, metric.stderr, reference and reference.value, *metric.seeds
    if not all(isinstance(number, int | float | None) for number in numbers):
        raise ValueError(f"metric {name} must be a number (got {fields}); reduce it to one")
    return metric


def _save_figures(out: pathlib.Path, figures: "Mapping[str, Callable[[], Figure]]") -> list[str]:
    import matplotlib.pyplot as plt

    pictures = [f"{file_name(name)}.png" for name in figures]
    for picture, draw in zip(pictures, figures.values(), strict=True):
        figure = draw()
        save = functools.partial(figure.savefig, format="png", dpi=110)
        write_whole(out / picture, save)
        plt.close(figure)
    return pictures
