"""The figures of ``elbo_identities``, each beside what it must be."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import _em
from experiments._identities_exact import DATA, LADDER, relative_variance
from experiments._results import Metric, Reference, over_seeds

EMS = {"ppca": "pPCA by EM", "mixture": "mixture by EM"}
FLOAT64 = "float64, to rounding"


def of_identities(held: Mapping[str, np.ndarray], num_q: int) -> dict[str, Metric]:
    """What holds for every q, and where q is the posterior."""
    each = f"{num_q:,} q's for each of {DATA} data"

    def zero(name, source, protocol):
        reference = Reference(0.0, source, "exact", f"{FLOAT64}; {protocol}")
        return over_seeds(held[name], reference=reference, better="lower")

    rows = {
        "max |log p(x) - ELBO - KL(q || posterior)|": zero("evidence", "Jordan et al. 1999", each),
        "max |difference of the two decompositions|": zero(
            "decompositions", "Hoffman and Johnson 2016", each
        ),
        "max |log p(x) - ELBO| at the posterior": zero("tight", "Jordan et al. 1999", "q = p(z|x)"),
        "least KL(q || posterior) among these q": over_seeds(held["kl"][:, 0]),
        "largest KL(q || posterior) among these q": over_seeds(held["kl"][:, 1]),
        "max |z| of rate_distortion's five terms": over_seeds(
            np.abs(held["monte_carlo"]).max(1), unit="standard errors", better="lower"
        ),
    }
    for rung in (0, len(LADDER) - 1):
        K = LADDER[rung]
        limit = relative_variance() / (2 * K)
        reference = Reference(
            limit, "Domke and Sheldon 2018, theorem 3", "exact", "Var(w / p(x)) / 2K, for large K"
        )
        if K == 1:
            kl = float(held["ladder_kl"].mean())
            reference = Reference(kl, "KL(q || posterior)", "exact", "the closed form")
        rows[f"log p(x) - E L_K, K = {K}"] = replicated(held["ladder"][:, rung], reference)
    return {f"linear-Gaussian/{row}": metric for row, metric in rows.items()}


def replicated(values: np.ndarray, reference: Reference) -> Metric:
    """The mean of ``[S, R]`` replicates, each seed's with noise of its own."""
    stderr = float(np.sqrt(values.var(1, ddof=1).mean() / values.size))
    each = tuple(values.mean(1).tolist())
    return Metric(float(values.mean()), stderr, reference=reference, better="lower", seeds=each)


def of_vaes(fits: Mapping[str, Any], climbs: Mapping[str, np.ndarray]) -> dict[str, Metric]:
    """Each linear VAE against probabilistic PCA, on the images it was trained on."""
    evidence = float(climbs["closed/log_evidence"][0])
    same = "the same images, maximum likelihood"
    best = Reference(evidence, "Tipping and Bishop 1999, pPCA", "exact", same)
    none = Reference(0.0, "Lucas et al. 2019", "exact", "its optimum; the target is below 0.1")
    noise = Reference(float(climbs["closed/noise_scale"][0]), best.source, "exact", same)
    metrics = {}
    for name, fit in fits.items():
        at_end = {what: values[:, -1] for what, values in fit.evaluations.items() if what != "step"}
        gap = evidence - at_end["elbo"]
        angles = [
            largest_angle(w, climbs["closed/weights"][0])
            for w in np.asarray(fit.state.params.weights)
        ]
        rows = {
            "ELBO": over_seeds(at_end["elbo"], reference=best, better="higher"),
            "pPCA's log p(x) - ELBO": over_seeds(gap, reference=none, better="lower"),
            "of that, KL(q || posterior)": over_seeds(at_end["kl"], reference=none, better="lower"),
            "noise scale": over_seeds(
                np.exp(np.asarray(fit.state.params.log_noise)), unit="", reference=noise
            ),
            "largest angle between the subspaces": over_seeds(
                np.array(angles), unit="degrees", better="lower"
            ),
        }
        metrics |= {f"linear VAE, {name}/{row}": metric for row, metric in rows.items()}
    return metrics


def largest_angle(one: np.ndarray, other: np.ndarray) -> float:
    """The largest principal angle between the spans of two sets of columns, in degrees."""
    bases = [np.linalg.qr(np.asarray(columns, np.float64))[0] for columns in (one, other)]
    cosines = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    return math.degrees(math.acos(min(1.0, float(cosines.min()))))


def of_climbs(climbs: Mapping[str, np.ndarray], em_steps: int) -> dict[str, Metric]:
    """EM: it touches log p(x), never falls, and ends where the closed form is."""
    source = "Neal and Hinton 1998"
    touch = Reference(0.0, source, "exact", f"{FLOAT64}; every iteration")
    rise = Reference(0.0, source, "exact", f"at least 0, {FLOAT64}; ELBO and log p(x)")
    best = Reference(
        float(climbs["closed/log_evidence"][0]),
        "Tipping and Bishop 1999, pPCA",
        "exact",
        "the same images",
    )
    metrics = {}
    for em, column in EMS.items():
        stairs = staircase(climbs, em)
        end = over_seeds(
            stairs.log_likelihood[:, -1],
            reference=best if em == "ppca" else None,
            better="higher",
        )
        rows = {
            "max |log p(x) - ELBO| after an E step": over_seeds(
                _em.largest_gap_after_e(stairs), reference=touch, better="lower"
            ),
            "least rise over a half step, relative": over_seeds(
                _em.least_rise(stairs), unit="", reference=rise, better="higher"
            ),
            f"log p(x) after {em_steps:,} iterations": end,
        }
        if em == "ppca":
            gap = best.value - stairs.log_likelihood[:, -1]
            none = Reference(0.0, best.source, "exact", "in the limit of many iterations")
            rows["the closed form's log p(x) - EM's"] = over_seeds(
                gap, reference=none, better="lower"
            )
        metrics |= {f"{column}/{row}": metric for row, metric in rows.items()}
    return metrics


def staircase(climbs: Mapping[str, np.ndarray], em: str) -> _em.Staircase:
    """One EM's climb, ``[S, 2 T]``, of the stage's arrays."""
    return _em.Staircase(climbs[f"{em}/elbo"], climbs[f"{em}/log_likelihood"])
