"""q(z | x) beside the true posterior p(z | x), where z has two dimensions."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from jaxtyping import Array, Float

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments._vae import log_joint, posterior

SHOWN, NODES = 6, 161
EDGE = 4.5  # the prior's standard deviations that are searched for the posterior's mass
SEEN = 0.99  # of q's mass: below it a panel says how much lies outside
CONTOURS = 0.5, 0.9, 0.99  # of the mass


def panels(models: Mapping[str, Any], x_test: Float[Array, "M pixels"]) -> dict[str, np.ndarray]:
    """For each model and a few images, log-densities on a grid around the true posterior.

    Returns:
        By ``"<model>/p"`` and ``"<model>/q"`` ``[SHOWN, NODES, NODES]``, both normalised, by
        ``"<model>/box"`` their grids' lower corners and widths ``[SHOWN, 2, 2]``, by
        ``"<model>/inside"`` the share of q's mass that lies there ``[SHOWN]``, and by
        ``"<model>/kl"`` the part of ``KL(q || p)`` from there, in nats ``[SHOWN]``.
    """

    @jax.jit
    def of(model, x):
        coarse = _grid(jnp.full(2, -EDGE), jnp.full(2, 2 * EDGE))
        log_p = log_joint(model, x)
        mass = jax.nn.softmax(log_p(coarse).ravel())
        flat = coarse.reshape(-1, 2)
        mean = mass @ flat
        # wide enough for the tails, and never finer than the grid that found them
        half = 6 * jnp.sqrt(mass @ (flat - mean) ** 2) + 4 * EDGE / NODES
        fine = _grid(mean - half, 2 * half)
        cell = jnp.prod(2 * half / (NODES - 1))
        log_post = log_p(fine)
        log_post -= jax.nn.logsumexp(log_post) + jnp.log(cell)
        log_q = posterior(model, x).log_prob(fine)
        density = jnp.exp(log_q)
        return {
            "p": log_post,
            "q": log_q,
            "box": jnp.stack([mean - half, 2 * half]),
            "inside": density.sum() * cell,
            "kl": (density * (log_q - log_post)).sum() * cell,
        }

    held = {}
    for name, model in models.items():
        each = jax.lax.map(lambda x, model=model: of(model, x), x_test[:SHOWN])
        held |= {f"{name}/{what}": np.asarray(array) for what, array in each.items()}
    return held


def draw(held: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """A row for each model: contours of q on the true posterior of its own decoder."""
    count = len(held[f"{names[0]}/kl"])
    size = (1.8 * count + 0.4, 1.95 * len(names) + 0.5)
    figure, axes = plt.subplots(len(names), count, figsize=size, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        p, q = held[f"{name}/p"], held[f"{name}/q"]
        summed = held[f"{name}/kl"], held[f"{name}/inside"]
        for axis, log_p, log_q, kl, inside in zip(row, p, q, *summed, strict=True):
            axis.imshow(np.exp(log_p).T, origin="lower", cmap="Greys", extent=(0, 1, 0, 1))
            at = np.linspace(0, 1, NODES)
            levels = sorted(_level(log_q, mass) for mass in CONTOURS)
            style = {"colors": "#cc5500", "linewidths": 1.0, "linestyles": "solid"}
            axis.contour(at, at, log_q.T, levels=levels, **style)
            outside = "" if inside > SEEN else f", {1 - inside:.0%} of q outside"
            axis.set_title(f"KL {kl:.3f}{outside}", fontsize=8.5)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=9)
    figure.suptitle(
        "Shaded: the true posterior of a held-out image. Lines: q, at 50, 90 and 99 % of its mass",
        fontsize=10,
    )
    figure.tight_layout(pad=0.4, rect=(0, 0, 1, 0.985))
    return figure


def _grid(corner, width) -> Float[Array, "NODES NODES 2"]:
    at = jnp.linspace(0.0, 1.0, NODES)
    return corner + width * jnp.stack(jnp.meshgrid(at, at, indexing="ij"), axis=-1)


def _level(log_q: np.ndarray, mass: float) -> float:
    """The log-density above which q has this share of its mass."""
    ordered = np.sort(log_q.ravel())[::-1]
    share = np.cumsum(np.exp(ordered - ordered[0]))
    return float(ordered[np.searchsorted(share, mass * share[-1])])
