"""The table of likelihoods: a new one adds a row here and inherits every property.

A row is one entry of the data (a whole vector for a joint likelihood), under a few settings of its
parameters; tests repeat it over batches and events.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from scipy.special import expit, gammaln, log_expit, log_softmax, logsumexp

from vi import likelihoods as lik


class Row(NamedTuple):
    """How to make a likelihood, what is true of it, and where it is hard.

    ``make(params, **options)`` takes parameters ``[*batch, *event, *tail]``; ``params`` holds ``P``
    settings of each, ``[P, *tail]``. ``truth(params, x)`` is the log-probability of each entry, by
    SciPy and NumPy in float64. ``nodes`` are all values ``[n]`` (``[n, V]`` of a joint one), or the
    nodes of a midpoint rule, with their log-weights. ``extremes`` holds hard values of each
    parameter, to be combined with each other and with ``data``, some values of the support.
    ``outside`` is refused, each in words of its own.
    """

    make: Callable[..., lik.Observation]
    params: dict[str, np.ndarray]
    truth: Callable[[dict, np.ndarray], np.ndarray]
    nodes: np.ndarray
    extremes: dict[str, list]
    data: list
    outside: dict[Any, str]
    log_weights: Any = 0.0
    continuous: bool = False
    joint: bool = False
    draws: bool = True

    def tiled(self, *shape: int) -> dict[str, np.ndarray]:
        """Parameters of that shape, the settings in turn (a joint one's last axis is its own)."""

        def tile(value):
            tail = value.shape[1:]
            lead = shape[:-1] if self.joint else shape
            return np.resize(value, (*lead, *tail)).astype(np.float32)

        return {name: tile(value) for name, value in self.params.items()}

    def values(self, *shape: int) -> np.ndarray:
        """Data of that shape, in the support."""
        lead = shape[:-1] if self.joint else shape
        data = np.asarray(self.data, np.float32)
        return np.resize(data, (*lead, *data.shape[1:]))


def real_line(num_nodes=20_000):
    """A midpoint rule over all real numbers, by the tangent."""
    x = np.tan(np.pi * ((np.arange(num_nodes) + 0.5) / num_nodes - 0.5))
    return x, np.log1p(x**2) + np.log(np.pi / num_nodes)


def logistic_levels(loc, scale, edges, x):
    """The log-probability of a rounded logistic by differences, on the side where they are good."""
    ends = np.pad(edges, [(0, 0)] * (edges.ndim - 1) + [(1, 1)], constant_values=np.inf)
    ends[..., 0] = -np.inf
    shape = np.broadcast_shapes(x.shape, ends.shape[:-1])
    ends = np.broadcast_to(ends, (*shape, ends.shape[-1]))
    index = np.broadcast_to(x, shape).astype(int)[..., None]
    below, above = (np.take_along_axis(ends, i, -1)[..., 0] for i in (index, index + 1))
    flip = np.sign(loc - (below + above) / 2)
    flip = np.where(np.isfinite(flip) & (flip != 0), flip, 1.0)
    low, high = flip * (below - loc) / scale, flip * (above - loc) / scale
    return np.log(np.abs(expit(high) - expit(low)))


LOGITS = [-1e4, -100.0, -3.0, -1e-3, 0.0, 0.1, 10.0, 1e4]
LOCS = [0.0, 3.0, -1e4]
SCALES = [1e-6, 1e-3, 0.7, 1e3, 1e6]
REAL = [0.0, 0.1, -10.0, 1e4]
COUNTS = [0, 1, 3, 8, 30, 1000, 100_000]
GRID = {"low": -1.0, "high": 1.0, "num_levels": 16}
EDGES = -1 + 2 / 15 * (np.arange(15) + 0.5)
NOT_COUNTS = {
    -1: "whole numbers of at least 0 (got -1,",
    0.5: "whole numbers of at least 0 (got 0.5,",
    np.inf: "whole numbers of at least 0 (got inf,",
}
NOT_REAL = {np.inf: "be finite (got inf"}


def poisson(p, x):
    return scipy.stats.poisson(np.exp(p["log_rate"])).logpmf(x)


def negative_binomial(p, x):
    r = p["r"]
    return scipy.stats.nbinom(r, r / (r + np.exp(p["log_mean"]))).logpmf(x)


def inflated(counts, p, x):
    through = log_expit(-p["gate"]) + counts(p, x)
    return np.where(x == 0, np.logaddexp(log_expit(p["gate"]), through), through)


def mixture(p, x):
    each = logistic_levels(p["loc"], p["scale"], EDGES, x[..., None])
    return logsumexp(log_softmax(p["logits"], -1) + each, axis=-1)


def coefficient(x):
    return gammaln(x.sum(-1) + 1) - gammaln(x + 1).sum(-1)


def of_tokens(p, x):
    return (x * log_softmax(p["logits"], -1)).sum(-1)


VECTORS = np.array([x for x in itertools.product(range(5), repeat=3) if sum(x) == 4])
WORDS = {
    "params": {"logits": np.array([[0.0, 0.0, 0.0], [0.5, -1.0, 2.0], [-3.0, 0.2, 0.1]])},
    "nodes": VECTORS,
    "extremes": {"logits": [[0.0, 0.0, 0.0], [1e4, 0.0, -1e4], [1e4, 1e4 + 1, 1e4 - 2]]},
    "data": [[0, 0, 0], [1, 2, 1], [0, 1, 0], [7, 100, 900], [30_000, 60_000, 10_000]],
    "outside": NOT_COUNTS,
    "joint": True,
    "draws": False,
}
LINE = dict(zip(("nodes", "log_weights"), real_line(), strict=True)) | {"continuous": True}
UNIT = (np.arange(20_000) + 0.5) / 20_000

LIKELIHOODS = {
    "bernoulli": Row(
        lambda p, **o: lik.bernoulli(p["logits"], **o),
        {"logits": np.array([0.0, 0.3, -2.0, 1.5])},
        lambda p, x: scipy.stats.bernoulli(expit(p["logits"])).logpmf(x),
        np.arange(2), {"logits": LOGITS}, [0, 1],
        {0.5: "be 0 or 1 (got 0.5,", -1: "(got -1,", 2: "continuous_bernoulli"},
    ),
    "continuous_bernoulli": Row(
        lambda p, **o: lik.continuous_bernoulli(p["logits"], **o),
        {"logits": np.array([1e-3, 0.3, -2.0, 30.0])},
        lambda p, x: scipy.stats.truncexpon(abs(p["logits"]), scale=1 / abs(p["logits"])).logpdf(
            np.where(p["logits"] > 0, 1 - x, x)
        ),
        UNIT, {"logits": LOGITS}, [0.0, 1.0, 0.1, 0.5, 0.99],
        {1.5: "lie in [0, 1] (got 1.5,", -0.1: "(got -0.1,"},
        log_weights=-np.log(20_000), continuous=True,
    ),
    "normal": Row(
        lambda p, **o: lik.normal(p["loc"], scale=p["scale"], **o),
        {"loc": np.array([0.0, 0.3, -2.0, 1.5]), "scale": np.array([1.0, 0.2, 3.0, 0.7])},
        lambda p, x: scipy.stats.norm(p["loc"], p["scale"]).logpdf(x),
        extremes={"loc": LOCS, "scale": SCALES}, data=REAL, outside=NOT_REAL, **LINE,
    ),
    "laplace": Row(
        lambda p, **o: lik.laplace(p["loc"], scale=p["scale"], **o),
        {"loc": np.array([0.0, 0.3, -2.0, 1.5]), "scale": np.array([1.0, 0.2, 3.0, 0.7])},
        lambda p, x: scipy.stats.laplace(p["loc"], p["scale"]).logpdf(x),
        extremes={"loc": LOCS, "scale": SCALES}, data=REAL, outside=NOT_REAL, **LINE,
    ),
    "student_t": Row(
        lambda p, **o: lik.student_t(p["loc"], df=p["df"], scale=p["scale"], **o),
        {
            "loc": np.array([0.0, 0.3, -2.0]),
            "scale": np.array([1.0, 0.2, 3.0]),
            "df": np.array([1.5, 4.0, 50.0]),
        },
        lambda p, x: scipy.stats.t(p["df"], p["loc"], p["scale"]).logpdf(x),
        extremes={"loc": LOCS, "scale": SCALES, "df": [1e-6, 0.5, 2.0, 30.0, 1e3, 1e6]},
        data=REAL, outside=NOT_REAL, **LINE,
    ),
    "discretised_logistic": Row(
        lambda p, **o: lik.discretised_logistic(p["loc"], scale=p["scale"], **GRID, **o),
        {"loc": np.array([0.0, 0.3, -1.2, 0.9]), "scale": np.array([0.5, 0.05, 0.1, 4.0])},
        lambda p, x: logistic_levels(p["loc"], p["scale"], EDGES, x),
        np.arange(16), {"loc": [0.0, 0.3, -1.0, 50.0, -1e4], "scale": SCALES}, [0, 15, 1, 7, 9],
        {16: "whole levels from 0 to 15 (got 16,", 0.5: "(got 0.5,", -1: "(got -1,"},
    ),
    "discretised_logistic_mixture": Row(
        lambda p, **o: lik.discretised_logistic_mixture(
            p["logits"], p["loc"], scale=p["scale"], **GRID, **o
        ),
        {
            "logits": np.array([[0.0, 0.0], [1.0, -1.0], [0.3, 2.0]]),
            "loc": np.array([[0.5, -0.5], [0.9, -1.2], [0.1, 0.0]]),
            "scale": np.array([[0.5, 0.05], [0.1, 0.1], [4.0, 0.2]]),
        },
        mixture,
        np.arange(16),
        {
            "logits": [[0.0, 0.0], [1e4, -1e4], [-1e4, 3.0]],
            "loc": [[0.3, -1.0], [50.0, -1e4]],
            "scale": [[1e-6, 1e6], [0.7, 1e-3]],
        },
        [0, 15, 1, 7, 9],
        {16: "whole levels from 0 to 15 (got 16,", 0.5: "(got 0.5,", -1: "(got -1,"},
    ),
    "categorical": Row(
        lambda p, **o: lik.categorical(p["logits"], **o),
        WORDS["params"],
        lambda p, x: (log_softmax(p["logits"], -1) * (x[..., None] == np.arange(3))).sum(-1),
        np.arange(3), WORDS["extremes"], [0, 2, 1],
        {3: "whole levels from 0 to 2 (got 3,", 0.5: "(got 0.5,", -1: "(got -1,"},
    ),
    "ordinal": Row(
        lambda p, **o: lik.ordinal(p["predictor"], cutpoints=p["cutpoints"], **o),
        {
            "predictor": np.array([0.0, 0.3, -2.0, 3.5]),
            "cutpoints": np.array([[-1.0, 0.25, 4.0], [-3.0, 0.0, 0.2]] * 2),
        },
        lambda p, x: logistic_levels(p["predictor"], 1.0, p["cutpoints"], x),
        np.arange(4),
        {
            "predictor": LOGITS,
            "cutpoints": [[-1.0, 0.25, 4.0], [-1e4, 0.0, 1e4], [0.0, 1e-6, 2e-6]],
        },
        [0, 3, 1, 2],
        {4: "whole levels from 0 to 3 (got 4,", 0.5: "(got 0.5,", -1: "(got -1,"},
    ),
    "poisson": Row(
        lambda p, **o: lik.poisson(p["log_rate"], **o),
        {"log_rate": np.array([0.0, -2.0, 2.0, 4.0])},
        poisson,
        np.arange(300), {"log_rate": [-1e4, -13.8, 0.0, 3.0, 6.9, 13.8, 80.0]}, COUNTS, NOT_COUNTS,
    ),
    "negative_binomial": Row(
        lambda p, **o: lik.negative_binomial(p["log_mean"], concentration=p["r"], **o),
        {"log_mean": np.array([0.0, -2.0, 1.0, 2.0]), "r": np.array([1.0, 0.3, 2.0, 30.0])},
        negative_binomial,
        np.arange(600),
        {"log_mean": [-1e4, -13.8, 0.0, 3.0, 6.9, 13.8, 1e4], "r": SCALES}, COUNTS, NOT_COUNTS,
    ),
    "zero_inflated_poisson": Row(
        lambda p, **o: lik.zero_inflated(lik.poisson(p["log_rate"], **o), gate_logits=p["gate"]),
        {"log_rate": np.array([0.0, -2.0, 2.0]), "gate": np.array([0.0, 1.0, -2.0])},
        lambda p, x: inflated(poisson, p, x),
        np.arange(200), {"log_rate": [-1e4, 0.0, 6.9, 13.8], "gate": LOGITS}, COUNTS, NOT_COUNTS,
    ),
    "zero_inflated_negative_binomial": Row(
        lambda p, **o: lik.zero_inflated(
            lik.negative_binomial(p["log_mean"], concentration=p["r"], **o), gate_logits=p["gate"]
        ),
        {
            "log_mean": np.array([0.0, 1.0]),
            "r": np.array([1.0, 2.0]),
            "gate": np.array([0.0, -2.0]),
        },
        lambda p, x: inflated(negative_binomial, p, x),
        np.arange(600),
        {"log_mean": [-1e4, 0.0, 1e4], "r": [1e-6, 1e6], "gate": [-1e4, 0.0, 1e4]},
        COUNTS, NOT_COUNTS,
    ),
    "multinomial": Row(
        lambda p, **o: lik.multinomial(p["logits"], **o),
        truth=lambda p, x: coefficient(x) + of_tokens(p, x), **WORDS,
    ),
    "bag_of_words": Row(
        lambda p, **o: lik.bag_of_words(p["logits"], **o),
        truth=of_tokens, log_weights=coefficient(VECTORS), **WORDS,
    ),
}  # fmt: skip

ELEMENTWISE = [name for name, row in LIKELIHOODS.items() if not row.joint]
DRAWN = [name for name, row in LIKELIHOODS.items() if row.draws]
