"""From exact optima and fits to metrics with their references, and pictures."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments import _divergences_plots as plots
from experiments._divergences_fits import Fits, Optima
from experiments._divergences_targets import CORRELATED, Optimum, Target
from experiments._results import Metric, Reference

SOURCE = "quadrature in float64"


def packed(solved: Mapping[str, Optima]) -> dict[str, np.ndarray]:
    """Optima as arrays ``[n, P + 1]``, the values last; those that are not known are left out."""
    return {
        f"{name}/{which}": np.array([[*optimum.params, optimum.value] for optimum in found])
        for name, optima in solved.items()
        for which, found in optima._asdict().items()
        if found is not None
    }


def unpacked(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Optima]:
    """The optima that ``packed`` made arrays of."""

    def of(name):
        rows = arrays.get(name)
        return None if rows is None else [Optimum(row[:-1], float(row[-1])) for row in rows]

    return {name: Optima(of(f"{name}/limit"), of(f"{name}/at_k")) for name in names}


def gather(
    solutions: Mapping[str, Optima],
    params: Mapping[str, np.ndarray],
    values: Mapping[str, np.ndarray],
) -> dict[str, Fits]:
    """The fits by bound, from the most mode-seeking to the most mass-covering."""
    fits = {name: Fits(solutions[name], params[name], values[name]) for name in solutions}
    return dict(sorted(fits.items(), key=lambda item: _scale(item[1])))


def _scale(fits: Fits) -> float:
    return float(fits.params[fits.shown][:, -1].mean())


def metrics(target: Target, fits: Mapping[str, Fits], num_samples: int) -> dict[str, Metric]:
    """The fits at the best optimum against that optimum, at this K and in the limit."""
    of = _correlated if target is CORRELATED else _mixture
    return {
        f"{column}/{name}": metric
        for name, fit in fits.items()
        for column, metric in of(fit, f"at K = {num_samples:,}")
    }


def _correlated(fits: Fits, at_k: str) -> Iterator[tuple[str, Metric]]:
    ended = fits.nearest == 0
    yield "fits there", Metric(float(ended.mean()), unit="")
    if fits.optima.at_k is None:  # whether there is one at this K is not known: show where they are
        ended = np.ones_like(ended)
    v, values = np.exp(2 * fits.params[ended][:, 0]), fits.values[:, ended]
    pairs = ("", fits.optima.at_k, at_k), (" (limit)", fits.optima.limit, "K to infinity")
    for suffix, found, protocol in pairs:
        if found:
            yield f"v{suffix}", _mean(v, np.exp(2 * found[0].params[0]), protocol, unit="")
            yield f"value{suffix}", _mean(values, found[0].value, protocol)


def _mixture(fits: Fits, at_k: str) -> Iterator[tuple[str, Metric]]:
    ended, best = fits.nearest == 0, fits.known[0]
    protocol = at_k if fits.optima.at_k else "K to infinity"
    loc, log_scale = fits.params[ended].T
    yield "m (mixture)", _mean(loc, best.params[0], protocol, unit="")
    yield "s", _mean(np.exp(log_scale), np.exp(best.params[1]), protocol, unit="")
    yield "value (mixture)", _mean(fits.values[:, ended], best.value, protocol)
    yield "fits there (mixture)", Metric(float(ended.mean()), unit="")


def _mean(values: np.ndarray, exact: float, protocol: str, unit: str = "nats") -> Metric:
    reference = Reference(float(exact), SOURCE, "exact", protocol)
    if values.size < 2:
        return Metric(None, unit=unit, reference=reference)
    stderr = values.std(ddof=1, dtype=float) / np.sqrt(values.size)
    return Metric(float(values.mean(dtype=float)), float(stderr), unit, reference)


def figures(
    target: Target, fits: Mapping[str, Fits], num_samples: int
) -> dict[str, Callable[[], Figure]]:
    """By file name."""
    draw = functools.partial
    if target is not CORRELATED:
        return {"mixture": draw(plots.mixture, fits, num_samples)}
    drawn = {"correlated": draw(plots.correlated, fits, num_samples)}
    if any(name.startswith("renyi") for name in fits):
        drawn["alpha"] = draw(plots.against_alpha, fits, num_samples)
    return drawn
