"""The axis S: independent bounds, averaged."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
from jaxtyping import Array, Float

from vi._check import name_of, refusal, require_count
from vi._mixed import has_path, partial_rsample, score_log_prob
from vi.gradients._engine import Evaluation
from vi.gradients._objective import Objective
from vi.gradients._requirements import is_path_derivative, is_plain_derivative
from vi.types import Key, LogDensity, Variational


def replicated(objective: Objective, num_replicates: int) -> "Replicated":
    r"""The mean of S independent bounds of K draws each: less noise, the same bound.

    .. math:: \frac{1}{S} \sum_{s=1}^{S} F(\log w_{1,s}, \dots, \log w_{K,s})

    S and K are never the same argument: more draws in K make the bound tighter and, under
    ``reparam``, q's gradient noisier; S replicates divide the variance by S and move no mean. Draws
    coupled across replicates (``vi.families.antithetic``, ``stratified``, ``quasi``) leave the
    draws of each bound independent, so that every estimator stays unbiased. All S replicates of a
    draw are in memory at once; ``chunk_size`` divides K.

    Args:
        objective: What an estimator made of a bound.
        num_replicates: S.

    Returns:
        ``(key, q, log_joint, num_samples) -> [*batch]``, as every objective. Draws are asked of
        ``q`` with ``sample_shape`` ``(K, S)``, and ``log_joint`` is called with those leading axes.

    Raises:
        ValueError: ``objective`` is not an ``Objective``, or S below 1.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> q = vi.families.normal(jnp.zeros(2), scale=jnp.ones(2))
        >>> objective = vi.gradients.replicated(vi.gradients.dreg(vi.bounds.iwae), 16)
        >>> evaluation = objective.evaluate(jax.random.key(0), q, lambda z: -(z**2).sum(-1), 5)
        >>> print(objective, evaluation.value.shape, evaluation.log_weights.shape)
        replicated(dreg(iwae), 16) () (5, 16)
    """
    if not isinstance(objective, Objective):
        remedy = "pass what an estimator returns, for instance vi.gradients.dreg(vi.bounds.iwae)"
        raise refusal("replicated", "objective", "be an Objective", repr(objective), remedy)
    return Replicated(objective, require_count("replicated", "num_replicates", num_replicates))


@dataclass(frozen=True, repr=False)
class Replicated:
    """S independent bounds, averaged; made by ``replicated``.

    Attributes:
        objective: That of one replicate.
        num_replicates: S.
    """

    objective: Objective
    num_replicates: int

    def __call__(
        self, key: Key, q: Variational, log_joint: LogDensity, num_samples: int
    ) -> Float[Array, "*batch"]:
        """The mean of the S bounds; see ``evaluate``."""
        return self.evaluate(key, q, log_joint, num_samples).value

    def evaluate(
        self, key: Key, q: Variational, log_joint: LogDensity, num_samples: int
    ) -> Evaluation:
        """The mean of the S bounds ``[*batch]``, all log-weights ``[K, S, *batch]``, and aux."""
        across: Any = _Across(q, self.num_replicates)
        one = self.objective
        each = replace(one, rule=_rule_of_each(one), bound=_bound_of_each(one.bound))
        evaluation = each.evaluate(key, across, log_joint, num_samples)
        return evaluation._replace(value=evaluation.value.mean(0))

    def __repr__(self) -> str:
        return f"replicated({self.objective}, {self.num_replicates})"


def _bound_of_each(bound):
    """The bound of each replicate: log-weights ``[K, S, *batch]`` to ``[S, *batch]``."""

    @functools.wraps(bound)
    def each(log_w):
        return jax.vmap(bound, in_axes=1)(log_w)

    return each


def _rule_of_each(objective: Objective):
    """The rule as one replicate has it: what it closes over has the shape of ``[*batch]``."""

    def each(_, log_w):
        rule = functools.partial(objective.rule, objective.bound)
        return jax.vmap(rule, in_axes=1, out_axes=1)(log_w)

    each.__name__ = name_of(objective.rule)
    each.is_plain_derivative = is_plain_derivative(objective.rule)  # pyright: ignore[reportFunctionMemberAccess]
    each.is_path_derivative = is_path_derivative(objective.rule)  # pyright: ignore[reportFunctionMemberAccess]
    return each


class _Across:
    """A q with S draws where there was one; those of different k are independent."""

    def __init__(self, q: Variational, num_replicates: int):
        self.q, self.num_replicates = q, num_replicates
        self.base_dist = q  # what a refusal names
        self.has_rsample = getattr(q, "has_rsample", hasattr(q, "rsample"))
        for name in ("rsample_and_log_prob", "rsample_and_force"):
            if (draw := getattr(q, name, None)) is not None:
                setattr(self, name, functools.partial(self._scored, draw))

    def _scored(self, draw, key, sample_shape=()):
        return draw(key, (*sample_shape, self.num_replicates))

    def sample(self, key, sample_shape=()):
        return self.q.sample(key, (*sample_shape, self.num_replicates))

    def rsample(self, key, sample_shape=()):
        return self.q.rsample(key, (*sample_shape, self.num_replicates))  # pyright: ignore

    def partial_rsample(self, key, sample_shape=()):
        return partial_rsample(self.q, key, (*sample_shape, self.num_replicates))

    def log_prob(self, z):
        return self.q.log_prob(z)

    def has_path(self, z):
        return has_path(self.q, z)

    def score_log_prob(self, z):
        return score_log_prob(self.q, z)
