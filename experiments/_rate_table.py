"""The table of a sweep over beta: its slopes against their references, and every beta."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments._rate_frontier import above_hull, slopes
from experiments._rate_linear import Optimum
from experiments._results import Metric, Reference, over_data, over_seeds

TOLERANCE = {"network": 0.25, "linear": 0.01}
WATER_FILLING = "reverse water-filling", "training images, exact expectations"


class Sweep(NamedTuple):
    """One model at every beta.

    Attributes:
        rate: On the training images, nats per image.
        distortion: Likewise.
        active_units: On the test images.
        log_p: Held-out log p(x), the mean over images less that at beta 1, in nats.
    """

    rate: Float[np.ndarray, "S betas"]
    distortion: Float[np.ndarray, "S betas"]
    active_units: Float[np.ndarray, "S betas"]
    log_p: Float[np.ndarray, "S betas"]


def log_p_over(betas: Sequence[float], nll: np.ndarray) -> np.ndarray:
    """Mean held-out log p less that at beta 1, ``[S, betas]``, of NLLs ``[betas, S, M]``."""
    return (nll[betas.index(1.0)] - nll).mean(-1).T


def measure(
    betas: tuple[float, ...], name: str, sweep: Sweep, nll: np.ndarray, optima: list[Optimum] | None
) -> dict[str, Metric]:
    """One model's column: the summary, then every slope and every beta."""
    tolerance, found = TOLERANCE[name], slopes(betas, sweep.rate, sweep.distortion)
    expected = found.expected
    source = "minus the geometric mean of the betas", "slopes of chords lie between the two betas"
    if optima is not None:
        exact = [np.array([o[i] for o in optima]) for i in (0, 1)]
        expected, source = slopes(betas, *exact).slope, WATER_FILLING
    found = found._replace(is_judged=found.is_judged & np.isfinite(expected))
    off = found.deviation(expected)
    within = (off <= tolerance).sum(-1)
    largest = 100 * np.where(found.is_judged, off, 0).max(-1)
    best = [betas[i] for i in sweep.log_p.argmax(-1)]
    pairs = zip(sweep.rate, sweep.distortion, strict=True)
    bumps = [above_hull(rate, distortion) for rate, distortion in pairs]
    rows = {
        "slopes judged": over_seeds(found.is_judged.sum(-1), unit="count"),
        f"slopes within {100 * tolerance:.0f} %": over_seeds(within, unit="count"),
        "largest deviation of a slope": (
            Metric(float(largest.max()), unit="%", better="lower", seeds=tuple(largest.tolist()))
            if found.is_judged.any()
            else Metric(None, unit="%")
        ),
        "largest rise above the convex hull": Metric(
            max(bumps), better="lower", seeds=tuple(bumps)
        ),
        "beta of the best log p": Metric(
            betas[int(sweep.log_p.mean(0).argmax())], unit="", seeds=tuple(best)
        ),
    }
    first = betas.index(1.0)
    for i, beta in enumerate(betas):
        held = [None] * 2 if optima is None else optima[i][:2]
        for row, values, value in zip(("rate", "distortion"), sweep[:2], held, strict=False):
            reference = None if value is None else _exact(value, WATER_FILLING)
            rows[f"beta {beta:g}: {row}"] = over_seeds(values[:, i], reference=reference)
        units = over_seeds(sweep.active_units[:, i], unit="count")
        rows[f"beta {beta:g}: active units"] = units
        if i != first:
            ahead = over_data(nll[first] - nll[i], better="higher")
            rows[f"beta {beta:g}: log p - that at beta 1, paired"] = ahead
        if i and found.is_judged[:, i - 1].all():
            chord = f"slope from beta {betas[i - 1]:g} to {beta:g}"
            held_to = _exact(float(expected[i - 1]), source)
            rows[chord] = over_seeds(found.slope[:, i - 1], unit="", reference=held_to)
    rows["beta 1: test NLL"] = over_data(nll[first], better="lower")
    return {f"{name}/{row}": metric for row, metric in rows.items()}


def _exact(value: float, source: tuple[str, str]) -> Reference:
    return Reference(value, source[0], "exact", source[1])
