"""Two targets of known density, the normal q's fitted to them, and any bound's exact optima."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from scipy import optimize

import vi
from experiments._divergences_exact import Law, Mean

RHO = 0.9
VARIANCES = np.array([1 + RHO, 1 - RHO])  # of the correlated Gaussian, on its axes
SHARES, LOCS, SCALES = np.array([0.65, 0.35]), np.array([-1.5, 1.8]), np.array([0.7, 0.45])
EDGES = (-2.5, 1.5)  # of log_scale, between which optima are searched
_Z = np.linspace(-20.0, 20.0, 1001)
_ANGLES = {False: 32, True: 64}
_RADII = {False: 0.08, True: 0.02}


class Target(NamedTuple):
    """A normalised density and a normal q with parameters ``[P]``, of which log_scale is last."""

    name: str
    log_density: Callable[[Array], Array]  # [*shape, D] -> [*shape]
    make_q: Callable[[Array], vi.types.Variational]  # parameters [*batch, P]
    law: Callable[..., Law]  # of log w at parameters [P]; fine=True for many nodes
    starts: np.ndarray  # [S, P]


def _correlated(z: Float[Array, "*shape 2"]) -> Float[Array, "*shape"]:
    """N(0, [[1, rho], [rho, 1]]), on its own axes."""
    return dist.Normal(0.0, jnp.asarray(np.sqrt(VARIANCES), z.dtype)).log_prob(z).sum(-1)


def _isotropic(params: Float[Array, "*batch 1"]) -> vi.types.Variational:
    log_scale = jnp.broadcast_to(params, (*params.shape[:-1], 2))
    return vi.families.normal(jnp.zeros_like(log_scale), log_scale=log_scale)


def _correlated_law(params: Sequence[float] | np.ndarray, *, fine: bool = False) -> Law:
    """Polar nodes: half the squared radius is exponential, and log w is linear in it."""
    v = math.exp(2 * params[0])
    count = _ANGLES[fine]
    cosine = np.cos(math.pi * (np.arange(count) + 0.5) / count)  # of twice the angle
    shares = np.stack([1 + cosine, 1 - cosine]) / 2
    x = np.arange(-3.6, 6.8, _RADII[fine])
    radius = np.exp(x - np.exp(-x))  # its trapezoids are spectrally accurate
    slope = (1 - v / VARIANCES) @ shares
    log_w = math.log(v) - 0.5 * np.log(VARIANCES).sum() + slope[:, None] * radius
    log_mass = x - np.exp(-x) + np.log1p(np.exp(-x)) - radius + math.log(_RADII[fine] / count)
    return Law(np.broadcast_to(log_mass, log_w.shape).ravel(), log_w.ravel())


def _mixture(z: Float[Array, "*shape 1"]) -> Float[Array, "*shape"]:
    parts = dist.Normal(LOCS.astype(z.dtype), SCALES.astype(z.dtype)).log_prob(z)
    return vi.bounds.iwae(jnp.moveaxis(parts + np.log(2 * SHARES).astype(z.dtype), -1, 0))


def _free(params: Float[Array, "*batch 2"]) -> vi.types.Variational:
    return vi.families.normal(params[..., :1], log_scale=params[..., 1:])


def log_mixture(z: np.ndarray) -> np.ndarray:
    """The mixture's log-density in float64."""
    return np.logaddexp(*_log_normal(z, LOCS[:, None], SCALES[:, None]) + np.log(SHARES)[:, None])


def _log_normal(z, loc, scale):
    return -0.5 * ((z - loc) / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)


def _mixture_law(params: Sequence[float] | np.ndarray, *, fine: bool = False) -> Law:
    z = np.linspace(_Z[0], _Z[-1], 4 * len(_Z)) if fine else _Z
    log_q = _log_normal(z, params[0], math.exp(params[1]))
    return Law(log_q + math.log(z[1] - z[0]), log_mixture(z) - log_q)


CORRELATED = Target("correlated", _correlated, _isotropic, _correlated_law, np.array([[0.4]]))
MIXTURE = Target(
    "mixture",
    _mixture,
    _free,
    _mixture_law,
    np.array([[-2.0, -0.5], [0.0, 0.5], [2.2, -0.8]]),
)


class Optimum(NamedTuple):
    """Where a bound is best, and its mean there."""

    params: np.ndarray
    value: float


def optima(
    target: Target, mean: Mean, sense: str, starts: np.ndarray, *, fine: bool = False
) -> list[Optimum]:
    """The local optima downhill from each start, the best first, each once.

    A start from which q shrinks or widens without end gives none: at finite K an upper bound falls
    to minus infinity with the scale of q, whose draws then see none of the weights' tail.
    """
    sign = -1.0 if sense == "maximise" else 1.0

    def cost(params):
        if not EDGES[0] <= params[-1] <= EDGES[1]:
            return 1e300
        with np.errstate(over="ignore"):
            return float(np.clip(sign * mean(target.law(params, fine=fine)), -1e300, 1e300))

    found: list[Optimum] = []
    for start in starts:
        end = (_on_a_line if len(start) == 1 else _on_a_plane)(cost, start, 1e-8 if fine else 1e-5)
        ends = EDGES[0] + 0.1 < end[-1] < EDGES[1] - 0.1
        if ends and not any(np.abs(end - other.params).max() < 1e-2 for other in found):
            found.append(Optimum(end, sign * cost(end)))
    return sorted(found, key=lambda optimum: sign * optimum.value)


def _on_a_line(cost, start: np.ndarray, tolerance: float, stride: float = 0.1) -> np.ndarray:
    """Walk downhill until it rises, then refine between the last three."""
    here = cost(start)
    stride = stride if cost(start + stride) < here else -stride
    while EDGES[0] <= start[0] <= EDGES[1] and (ahead := cost(start + stride)) < here:
        start, here = start + stride, ahead
    around = tuple(sorted(float(start[0]) + step for step in (-stride, 0.0, stride)))
    if not EDGES[0] <= around[0] < around[2] <= EDGES[1]:
        return start
    x, _, _ = optimize.brent(lambda x: cost([x]), brack=around, tol=tolerance, full_output=True)[:3]
    return np.array([x])


def _on_a_plane(cost, start: np.ndarray, tolerance: float) -> np.ndarray:
    simplex = start + 0.1 * np.concatenate([np.zeros((1, len(start))), np.eye(len(start))])
    options = {"initial_simplex": simplex, "xatol": 10 * tolerance, "fatol": 1e-4 * tolerance}
    return optimize.minimize(cost, start, method="Nelder-Mead", options=options).x
