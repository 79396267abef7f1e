"""From tables of signal and noise by K to metrics with their references, and pictures."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments._results import Metric, Reference, over_seeds
from experiments._snr_plots import Line, against_samples, fit_slope

Arrays = dict[str, np.ndarray]
Tables = Mapping[str, np.ndarray]
"""``[S, E, G]`` by name, over seeds, estimators and blocks."""
Exact = tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]

BLOCKS = ("A", "b", "mu")  # as they lie in the tables: of the inference network, and the model's
NETWORKS = ("decoder", "encoder")
NAMES = ("reparam(iwae)", "dreg(iwae)")
MATCHED = "q matched"
LAW = "Rainforth et al. 2018 (reparam), Tucker et al. 2019 (dreg)"
SLOPES = {NAMES[0]: {"A": -0.5, "b": -0.5, "mu": 0.5}, NAMES[1]: dict.fromkeys(BLOCKS, 0.5)}
NOISE = {NAMES[0]: -0.5, NAMES[1]: -1.5}


def lines_of(tables: Mapping[int, Tables], name: str, estimator: int, block: int) -> list[Line]:
    """One table's entry against K, of each seed."""
    samples = np.array(list(tables), float)
    values, errors = (
        np.array([t[n][:, estimator, block] for t in tables.values()]).T
        for n in (name, f"{name}_stderr")
    )
    return [Line(samples, *pair) for pair in zip(values, errors, strict=True)]


def with_slope(line: Line, first: int) -> Line:
    """The line with its law fitted from that K on."""
    held = [part[first:] for part in line[:3]]
    return line._replace(slope=fit_slope(*held))


def larger_half(count: int) -> int:
    """Where the larger half of ``count`` K's begins; it has two at least."""
    return min(count // 2, count - 2)


def toy_metrics(toy: Mapping[int, Tables], exact: Sequence[Exact]) -> dict[str, Metric]:
    """Slopes against the law, and the ratios at K = 1 against their closed form."""
    metrics, tail = {}, larger_half(len(toy))
    samples = f"K from {list(toy)[tail]:,} to {list(toy)[-1]:,}"
    for i, name in enumerate(NAMES):
        for j, block in enumerate(BLOCKS):
            lines = [with_slope(line, tail) for line in lines_of(toy, "shared_snr", i, j)]
            row = f"{name}/{block}: slope of log SNR, {samples}"
            metrics[row] = _slope(lines, SLOPES[name][block])
        lines = [with_slope(line, tail) for line in lines_of(toy, "sd", i, 1)]
        metrics[f"{name}/b: slope of log sd, {samples}"] = _slope(lines, NOISE[name])
    lines = [with_slope(line, 0) for line in _matched(toy)]
    row = f"{NAMES[0]}/mu, {MATCHED}: slope of log SNR, all K"
    metrics[row] = _slope(lines, 0.5)
    if 1 in toy:
        for i, name in enumerate(NAMES):
            for j, block in enumerate(BLOCKS):
                value = float(np.mean([near[name][block] for near, _ in exact]))
                lines = lines_of(toy, "shared_snr", i, j)
                metrics[f"{name}/{block}: SNR, K = 1"] = _at(lines, 0, value)
        value = float(np.mean([matched[NAMES[0]]["mu"] for _, matched in exact]))
        metrics[f"{NAMES[0]}/mu, {MATCHED}: SNR, K = 1"] = _at(_matched(toy), 0, value)
    return metrics


def vae_metrics(vae: Mapping[str, Mapping[int, Tables]], names: Sequence[str]) -> dict[str, Metric]:
    """By estimator, the ratios of each network's gradient and what a second buys."""
    metrics, compared = {}, names.index(NAMES[0])
    for (point, by_samples), (i, name) in itertools.product(vae.items(), enumerate(names)):
        for (j, block), (at, k) in itertools.product(enumerate(NETWORKS), enumerate(by_samples)):
            lines = lines_of(by_samples, _signal(name), i, j)
            metrics[f"{name}/{point} {block}: SNR, K = {k}"] = _at(lines, at)
        for k, tables in by_samples.items() if name in NAMES[1:] else ():
            gain = tables["efficiency"][:, i, 1] / tables["efficiency"][:, compared, 1]
            row = f"{point} encoder: efficiency over {NAMES[0]}'s, K = {k}"
            metrics[f"{name}/{row}"] = over_seeds(gain, unit="")
    return metrics


def figures(
    toy: Mapping[int, Tables], vae: Mapping[str, Mapping[int, Tables]], names: Sequence[str]
) -> dict[str, Callable[[], Figure]]:
    """All of the first seed's, by file name."""
    tail = larger_half(len(toy))

    def panels(table):
        return {
            block: {
                name: with_slope(lines_of(toy, table, i, j)[0], tail)
                for i, name in enumerate(NAMES)
            }
            for j, block in enumerate(BLOCKS)
        }

    snr, sd = panels("shared_snr"), panels("sd")
    snr["mu"][f"reparam(iwae), {MATCHED}"] = with_slope(_matched(toy)[0], 0)
    on_vae = {
        f"{block}, {point}": {
            name: lines_of(by_samples, _signal(name), i, j)[0] for i, name in enumerate(names)
        }
        for point, by_samples in vae.items()
        for j, block in enumerate(NETWORKS)
    }
    efficiency = {
        f"{block}, {point}": {
            name: Line(samples, values[:, i, j], np.zeros(len(samples)))
            for i, name in enumerate(names)
        }
        for point, by_samples in vae.items()
        for samples in [np.array(list(by_samples), float)]
        for values in [np.array([t["efficiency"][0] for t in by_samples.values()])]
        for j, block in enumerate(NETWORKS)
    }
    draw = functools.partial
    return {
        "snr_against_k": draw(
            against_samples, snr, "The toy: signal to noise of the gradient, by block",
            "|E g| / sqrt(tr Var g)", columns=3,
        ),
        "sd_against_k": draw(
            against_samples, sd, "The toy: standard deviation of a gradient's entry",
            "root mean square over the block", columns=3,
        ),
        "vae_snr": draw(
            against_samples, on_vae, "The autoencoder: signal to noise of one minibatch's gradient",
            "|E g| / sqrt(tr Var g)", columns=2,
        ),
        "vae_efficiency": draw(
            against_samples, efficiency, "The autoencoder: precision per second",
            "1 / (tr Var g * seconds)", columns=2,
        ),
    }  # fmt: skip


def _signal(name: str) -> str:
    """Estimators of the importance-weighted bound share one mean."""
    return "shared_snr" if name in NAMES else "snr"


def _matched(toy: Mapping[int, Tables]) -> list[Line]:
    return lines_of(
        {
            k: {name: tables[f"{MATCHED}/{name}"] for name in ("snr", "snr_stderr")}
            for k, tables in toy.items()
        },
        "snr",
        0,
        0,
    )


def _slope(lines: Sequence[Line], law: float) -> Metric:
    slopes = [line.slope for line in lines if line.slope is not None]
    return _metric(
        [slope.value for slope in slopes],
        [slope.stderr for slope in slopes],
        Reference(law, LAW, "exact", "the limit of large K"),
    )


def _at(lines: Sequence[Line], place: int, exact: float | None = None) -> Metric:
    reference = None
    if exact is not None:
        reference = Reference(
            float(exact), "closed form", "exact", "this data and these parameters"
        )
    values = [float(line.values[place]) for line in lines]
    return _metric(values, [float(line.errors[place]) for line in lines], reference)


def _metric(values, errors, reference) -> Metric:
    value, error = np.mean(values), np.sqrt(np.square(errors).sum()) / len(errors)
    if not np.isfinite([value, error]).all():
        return Metric(None, unit="", reference=reference)
    return Metric(float(value), float(error), "", reference, seeds=tuple(map(float, values)))
