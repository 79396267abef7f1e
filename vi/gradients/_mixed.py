"""The estimator for draws of which some leaves are reparameterised and others are not."""

from dataclasses import dataclass

from vi.bounds import first_derivative
from vi.gradients._objective import Objective
from vi.gradients._score import Baseline, left_out_signal, signal_of
from vi.types import Bound, Coefficients


def mixed(
    bound: Bound,
    *,
    baseline: Baseline | None = None,
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Objective:
    r"""Reparameterisation where there is a path, a score with a baseline where there is none.

    Coefficients :math:`(F_k, F_k, -F_k)` with the leaves without a path held, and the signal
    :math:`F - F_{-k}` times the *total* derivative of their log-probability: through its own
    parameters and through every reparameterised leaf that it depends on. Each leaf's kind decides:
    ``vi.families.chain`` takes members of both, in any order of dependence. On a q with paths
    throughout it is ``reparam``, on one without any it is ``vimco``. It needs independent draws
    inside K.

    Args:
        bound: Any bound, kinks included.
        baseline: As for ``score``; None is ``vi.bounds.leave_one_out``, which needs K >= 2.
        chunk_size: Draws held in memory at once; None for all K.
        axis_name: The mesh axis of ``jax.shard_map`` over which K is split, or None.

    Returns:
        The objective ``(key, q, log_joint, num_samples) -> [*batch]``.

    Raises:
        ValueError: At the call: K = 1 without a baseline, or draws coupled inside K.

    Examples:
        A mixture: which component, then where in it.

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> def make_q(params):
        ...     means = params["means"]
        ...     return vi.families.chain({
        ...         "c": dist.Bernoulli(logits=params["logit"]),
        ...         "z": lambda c: dist.Normal(jnp.where(c == 1, means[1], means[0]), 1.0)})
        >>> log_joint = lambda z: dist.Normal(2.0 * z["c"], 1.0).log_prob(z["z"])
        >>> def value(params, key):
        ...     objective = vi.gradients.mixed(vi.bounds.elbo)
        ...     return objective(key, make_q(params), log_joint, 1000)
        >>> params = {"logit": jnp.array(0.0), "means": jnp.array([0.0, 2.0])}
        >>> gradient = jax.grad(value)(params, jax.random.key(0))  # the components are right:
        >>> print(abs(gradient["means"]).max() < 0.1)  # and nothing moves them
        True

    References:
        Schulman, Heess, Weber and Abbeel (2015), for the total derivative in such a graph; Mnih and
        Rezende (2016), for the signal.
    """
    return Objective(_Mixed(baseline), bound, chunk_size, axis_name)


@dataclass(frozen=True)
class _Mixed:
    """The rule, equal to another with the same baseline, so that ``jit`` knows it again."""

    baseline: Baseline | None
    __name__ = "mixed"

    def __call__(self, bound, log_w):
        first = first_derivative(bound, log_w)
        if self.baseline is None:
            signal = left_out_signal("mixed", bound, log_w)
        else:
            signal = signal_of("mixed", bound, log_w, self.baseline)
        return Coefficients(theta=first, path=first, score=-first, signal=signal)
