"""The Gaussian toy of the signal-to-noise law, with what is exact about it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

import vi

D, N = 20, 1024
Q_VARIANCE = 2 / 3  # the posterior's is 1/2: q is too wide, so that its weights have a variance
OFFSET = 0.01  # the standard deviation of every parameter's distance from its optimum
PROTOCOL = f"D {D}, N {N:,}, q variance 2/3, every parameter off its optimum by N(0, {OFFSET}^2)"
Params = dict[str, Array]


class Toy(NamedTuple):
    """``p(z) = N(mu, I)``, ``p(x | z) = N(z, I)``, ``q(z | x) = N(A x + b, 2/3 I)``, and data."""

    x: Float[Array, "N D"]
    params: Params  # A, b of the inference network and mu of the model, near the optimum
    matched: Params  # the same mu, and the A and b that give the posterior mean for it


def make_toy(key: Array) -> Toy:
    """Data from the model with a random mu, and parameters near their optimum on these data."""
    keys = iter(jax.random.split(key, 5))
    mu = jax.random.normal(next(keys), (D,))
    x = mu + jnp.sqrt(2.0) * jax.random.normal(next(keys), (N, D))
    best = {"A": jnp.eye(D) / 2, "b": x.mean(0) / 2, "mu": x.mean(0)}
    params = {
        name: value + OFFSET * jax.random.normal(next(keys), value.shape)
        for name, value in best.items()
    }
    return Toy(x, params, {"A": best["A"], "b": params["mu"] / 2, "mu": params["mu"]})


def make_loss(
    objective: vi.gradients.Objective, num_samples: int, x: Array, held: Params | None = None
) -> Callable[[Any, Array], Array]:
    """Minus the mean over all data of the bound; ``held`` parameters are constants."""

    def loss(params, key):
        params = {**(held or {}), **params}
        loc = x @ params["A"].T + params["b"]
        q = vi.families.normal(loc, scale=jnp.full(loc.shape, np.sqrt(Q_VARIANCE)))

        def log_joint(z):
            prior, likelihood = (dist.Normal(m, 1.0).to_event(1) for m in (params["mu"], z))
            return prior.log_prob(z) + likelihood.log_prob(x)

        return -objective(key, q, log_joint, num_samples).mean()

    return loss


def exact_snr(x: Array, params: Params) -> dict[str, dict[str, float]]:
    """The signal-to-noise ratio of each block's gradient at K = 1, by estimator.

    There, with z = m + s e and m = A x + b, the gradients of one datum are x + mu - 2 z in b under
    reparam, the same + (z - m) / s^2 under dreg, in A either times x, and z - mu in mu.
    """
    data, A, b, mu = (np.asarray(v, np.float64) for v in (x, *map(params.get, ("A", "b", "mu"))))
    m = data @ A.T + b
    pull = data + mu - 2 * m
    signal = {
        "A": np.linalg.norm(pull.T @ data / len(data)),
        "b": np.linalg.norm(pull.mean(0)),
        "mu": np.linalg.norm(m.mean(0) - mu),
    }
    spread = np.sqrt(Q_VARIANCE * data.shape[1] / len(data))  # of the mean over data of s e
    size = {"A": np.sqrt(np.square(data).sum(1).mean()), "b": 1.0, "mu": 1.0}
    noise = {"reparam(iwae)": 2.0, "dreg(iwae)": 1 / Q_VARIANCE - 2}
    return {
        name: {
            block: float(signal[block] / (spread * size[block]))
            / (abs(factor) if block != "mu" else 1.0)
            for block in signal
        }
        for name, factor in noise.items()
    }
