"""Score-function estimators: for every q that samples and scores, discrete ones too."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi._check import refusal
from vi.bounds import first_derivative, learning_signal
from vi.gradients._objective import Objective
from vi.types import Bound, Coefficients

Baseline: TypeAlias = Callable[[Bound, Float[Array, "K *batch"]], Any]
"""``baseline(bound, log_w) -> [], [*batch] or [K, *batch]``: nats to take from the signal.

Entry k may depend on everything but draw k: on the data, on parameters, on the other weights. No
gradient flows through it.
"""


def score(
    bound: Bound,
    *,
    baseline: Baseline | None = None,
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Objective:
    r"""The score-function gradient (REINFORCE), for any bound and any q that samples and scores.

    Coefficients :math:`(F_k, 0, F - b_k - F_k)`: the derivative of the law of the draws, with F as
    the signal, and that of the bound at held draws. Unbiased for every bound, kinks included, and
    for every baseline :math:`b_k` that is no function of draw k; how good the baseline is decides
    the variance. It needs independent draws inside K.

    Where the bound is ``-inf`` (and so its mean: there is no gradient to estimate) the signal is 0.

    Args:
        bound: Any bound.
        baseline: ``(bound, log_w) -> [], [*batch] or [K, *batch]``, in nats: a moving average
            (``vi.gradients.nvil``), a network of the data, ``vi.bounds.leave_one_out``. It may
            close over anything; its parameters stay yours to train, for instance on the squared
            distance to ``objective.evaluate(...).value``. None is 0.
        chunk_size: Draws held in memory at once; None for all K.
        axis_name: The mesh axis of ``jax.shard_map`` over which K is split, or None.

    Returns:
        The objective ``(key, q, log_joint, num_samples) -> [*batch]``.

    Raises:
        ValueError: At the call: a baseline of another shape, or draws coupled inside K.

    Examples:
        A coin for q, of probability s = sigmoid(logit), and a log-joint of its two sides. The exact
        gradient of the ELBO in the logit is s (1 - s) (1 - logit) = 0.1175 at 0.5:

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> log_joint = lambda z: jnp.where(z == 1, 1.0, 0.0)
        >>> def constant(bound, log_w):
        ...     return 1.3
        >>> one = vi.gradients.score(vi.bounds.elbo, baseline=constant)
        >>> objective = vi.gradients.replicated(one, 10_000)  # the mean of so many bounds
        >>> def value(logit, key):
        ...     return objective(key, dist.Bernoulli(logits=logit), log_joint, 1)
        >>> print(one, jax.grad(value)(0.5, jax.random.key(0)).round(2))
        score(elbo, baseline=constant) 0.12

    References:
        Williams (1992); Paisley, Blei and Jordan (2012); Mnih and Gregor (2014), for baselines.
    """
    return Objective(_Score(baseline), bound, chunk_size, axis_name)


def vimco(
    bound: Bound, *, chunk_size: int | None = None, axis_name: str | None = None
) -> Objective:
    r"""The score-function gradient with what the other draws say as each draw's baseline.

    Coefficients :math:`(F_k, 0, F - F_{-k} - F_k)` with
    :math:`F_{-k}` the bound with the mean of the other log-weights in the place of the k-th
    (``vi.bounds.leave_one_out``). ``vimco(elbo)`` is RLOO, ``vimco(iwae)`` the estimator of the
    paper; every other bound gets its own, kinks included. Nothing is learned. It needs K >= 2
    independent draws. The K values without a draw cost O(K) for ``elbo`` and ``iwae``; for others
    O(K^2), and the memory of 32 times the log-weights.

    Args:
        bound: Any bound.
        chunk_size: Draws held in memory at once; None for all K.
        axis_name: The mesh axis of ``jax.shard_map`` over which K is split, or None.

    Returns:
        The objective ``(key, q, log_joint, num_samples) -> [*batch]``.

    Raises:
        ValueError: At the call: K = 1, or draws coupled inside K.

    Examples:
        The coin of ``score``, with no baseline to choose:

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> log_joint = lambda z: jnp.where(z == 1, 1.0, 0.0)
        >>> def value(logit, key):
        ...     q = dist.Bernoulli(logits=logit)
        ...     return vi.gradients.vimco(vi.bounds.elbo)(key, q, log_joint, 10_000)
        >>> print(jax.grad(value)(0.5, jax.random.key(0)).round(2))
        0.12

    References:
        Mnih and Rezende (2016); Kool, van Hoof and Welling (2019), for the ELBO.
    """
    return Objective(_vimco, bound, chunk_size, axis_name)


def signal_of(where: str, bound: Bound, log_w, baseline: Baseline | None):
    """``F - b_k``, ``[K, *batch]``; 0 where a weight of zero has made it infinite."""
    value = bound(log_w)
    given = jnp.asarray(0.0 if baseline is None else baseline(bound, log_w))
    if given.shape not in ((), value.shape, log_w.shape):
        rule = f"return one number, {list(value.shape)} or {list(log_w.shape)}"
        remedy = "give nats per datum, or per sample and datum"
        raise refusal(where, "baseline", rule, f"shape {list(given.shape)}", remedy)
    signal = jnp.where(jnp.isinf(value) | jnp.isinf(given), 0.0, value - given)
    return jnp.broadcast_to(signal, log_w.shape).astype(log_w.dtype)


def left_out_signal(where: str, bound: Bound, log_w):
    """``F - F_{-k}``, refused for one sample."""
    if log_w.shape[0] < 2:
        remedy = "draw 2 or more, or give a baseline that needs no other draws"
        raise refusal(where, "num_samples", "be at least 2", 1, remedy)
    return learning_signal(bound, log_w)


@dataclass(frozen=True)
class _Score:
    """The rule, equal to another with the same baseline, so that ``jit`` knows it again."""

    baseline: Baseline | None
    __name__ = "score"

    def __call__(self, bound, log_w):
        first = first_derivative(bound, log_w)
        signal = signal_of("score", bound, log_w, self.baseline)
        return Coefficients(theta=first, score=signal - first)


def _vimco(bound, log_w):
    first = first_derivative(bound, log_w)
    return Coefficients(theta=first, score=left_out_signal("vimco", bound, log_w) - first)
