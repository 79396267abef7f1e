"""Bounds by thermodynamic integration: the path of tempered posteriors from q to p(z | x)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vi._check import at_least_float32, refusal
from vi.bounds._arguments import factory, is_traced, named
from vi.bounds._declare import declare
from vi.bounds._self_normalised import softmax, top_of, without_zeros
from vi.types import Bound

_AT_ONE = np.ones(1)


def _eubo_derivatives(log_w):
    first, second = _mean_derivatives(_AT_ONE, at_least_float32("eubo", log_w))
    return first[0], second[0]


@declare(direction="upper_limit", sense="minimise", derivatives=_eubo_derivatives)
def eubo(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
    r"""The evidence upper bound, with self-normalised weights: the forward KL's objective.

    .. math:: \sum_k \bar w_k \log w_k, \quad \bar w_k = \frac{w_k}{\sum_j w_j}
              \;\xrightarrow{K \to \infty}\;
              \mathbb{E}_{p(z|x)} \log w = \log p(x) + \mathrm{KL}(p(z|x) \,\|\, q(z|x)).

    An upper bound on log p(x) only as K grows without limit; at K = 1 it is the ELBO's one draw. On
    every draw it is at least ``iwae``. To be minimised, over q alone.

    Args:
        log_w: Log-weights ``[K, *batch]``.

    Returns:
        ``[*batch]`` in nats, at least float32; ``-inf`` where every weight is zero.

    References:
        Ji and Shen (2019).
    """
    return _means(_AT_ONE, at_least_float32("eubo", log_w))[0]


@factory("tvo_lower(jnp.linspace(0, 1, 11))")
def tvo_lower(betas: ArrayLike | Sequence[float]) -> Bound:
    r"""The thermodynamic variational objective: the left Riemann sum, a lower bound.

    .. math:: \sum_t (\beta_{t+1} - \beta_t) \, \mathbb{E}_{\pi_{\beta_t}} \log w
              \le \log p(x) = \int_0^1 \mathbb{E}_{\pi_\beta} \log w \, d\beta, \qquad
              \pi_\beta \propto q \, w^\beta,

    each mean with weights :math:`w_k^\beta / \sum_j w_j^\beta`. On every draw it is at most
    ``iwae`` (the integrand rises with beta, and its integral over 0..1 is ``iwae``), so its mean is
    below log p(x) at every K; with one step, and at K = 1, it is the ELBO. As both K and the grid
    grow it tends to log p(x).

    Args:
        betas: The grid, rising from 0 to 1, both included. A traced one is taken as it is.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats.

    Raises:
        ValueError: The grid does not rise strictly from 0 to 1.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> grid, log_w = jnp.linspace(0.0, 1.0, 11), jnp.array([0.0, -2.0, 1.0])
        >>> bounds = vi.bounds.tvo_lower(grid), vi.bounds.iwae, vi.bounds.tvo_upper(grid)
        >>> print(*(f"{bound(log_w):.3f}" for bound in bounds))
        0.201 0.250 0.298

    References:
        Masrani, Le and Wood (2019).
    """
    grid = _require_grid("tvo_lower", betas)
    return _riemann("tvo_lower", grid, grid[:-1], direction="lower", sense="maximise")


@factory("tvo_upper(jnp.linspace(0, 1, 11))")
def tvo_upper(betas: ArrayLike | Sequence[float]) -> Bound:
    r"""The right Riemann sum of the thermodynamic integral: an upper bound in the limit.

    .. math:: \sum_t (\beta_{t+1} - \beta_t) \, \mathbb{E}_{\pi_{\beta_{t+1}}} \log w.

    On every draw at least ``iwae``; above log p(x) only as K grows without limit, and the ELBO's
    one draw at K = 1. With one step it is ``eubo``. To be minimised, over q alone.

    Args:
        betas: The grid, rising from 0 to 1, both included. A traced one is taken as it is.

    Returns:
        The bound ``log_w [K, *batch] -> [*batch]`` in nats.

    Raises:
        ValueError: The grid does not rise strictly from 0 to 1.

    References:
        Masrani, Le and Wood (2019).
    """
    grid = _require_grid("tvo_upper", betas)
    return _riemann("tvo_upper", grid, grid[1:], direction="upper_limit", sense="minimise")


def _riemann(name, grid, at, **declared):
    widths = grid[1:] - grid[:-1]
    shown = "traced" if is_traced(grid) else f"{len(widths)} steps"

    def derivatives(log_w):
        first, second = _mean_derivatives(at, at_least_float32(name, log_w))
        return _over_grid(widths, first), _over_grid(widths, second)

    @named(name, shown)
    @declare(**declared, derivatives=derivatives)
    def bound(log_w: Float[Array, "K *batch"]) -> Float[Array, "*batch"]:
        return _over_grid(widths, _means(at, at_least_float32(name, log_w)))

    return bound


def _over_grid(widths, values):
    return jnp.tensordot(jnp.asarray(widths, values.dtype), values, 1)


def _tempered(beta, log_w):
    """At each beta the weights, all ``[T, K, *batch]``, and their mean of log w."""
    is_zero, finite = without_zeros(log_w)
    beta = jnp.asarray(beta, log_w.dtype).reshape(-1, *[1] * log_w.ndim)
    is_zero, finite = is_zero[None], finite[None]
    shut_out = is_zero & (beta > 0)
    weight = jax.vmap(softmax)(jnp.where(shut_out, -jnp.inf, beta * finite))
    top = top_of(log_w)[None]
    below = finite - top
    mean_below = (weight * jnp.where(is_zero, 0.0, below)).sum(1, keepdims=True)
    return beta, weight, below - mean_below, (top + mean_below)[:, 0]


def _means(beta, log_w):
    """The mean of log w under each tempered distribution, ``[T, *batch]``."""
    _, weight, _, mean = _tempered(beta, log_w)
    has_zero = ((log_w == -jnp.inf)[None] & (weight > 0)).any(1)
    none_left = (log_w == -jnp.inf).all(0, keepdims=True)
    return jnp.where(has_zero | none_left, -jnp.inf, mean)


def _mean_derivatives(beta, log_w):
    """With v the weights and a = log w - E: v (1 + beta a), beta v (1 + (1 - 2v)(1 + beta a))."""
    beta, weight, centred, _ = _tempered(beta, log_w)
    slope = 1 + beta * centred
    return weight * slope, beta * weight * (1 + (1 - 2 * weight) * slope)


def _require_grid(where, betas) -> Any:
    if is_traced(betas):
        if betas.ndim != 1 or betas.shape[0] < 2:
            raise refusal(where, "betas", "be [T], T >= 2", f"shape {betas.shape}", "give a grid")
        return betas
    grid = np.asarray(betas, float)
    remedy = "pass for instance jnp.linspace(0.0, 1.0, 11)"
    if grid.ndim != 1 or grid.size < 2:
        raise refusal(where, "betas", "be [T], T >= 2", f"shape {list(grid.shape)}", remedy)
    if grid[0] != 0 or grid[-1] != 1 or not (np.diff(grid) > 0).all():
        got = np.array2string(grid, threshold=8, edgeitems=3)
        raise refusal(where, "betas", "rise strictly from 0 to 1", got, remedy)
    return grid
