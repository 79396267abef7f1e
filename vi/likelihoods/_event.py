"""Scoring data under an observation model, with nothing broadcast or out of range unseen."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._check import refusal, require_count
from vi._known import is_known


class Observation(dist.Independent):
    """Independent observations whose last axes are one datum.

    A NumPyro ``Independent`` that refuses data which would only fit by broadcasting: data have the
    trailing axes of the parameters, and may lack leading (sample) axes only. Data outside of the
    support are refused where they are known; traced ones score minus infinity, by NumPyro's own
    validation, unless that is off.
    """

    def log_prob(self, value: Float[Array, "*batch_and_event"]) -> Float[Array, "*batch"]:
        """Log-likelihood of data in nats, summed over the event axes.

        Args:
            value: Data ``[*event]`` with none, some or all of the parameters' batch axes before it.

        Returns:
            ``[*batch]``, the parameters' batch shape.

        Raises:
            ValueError: The data's axes are not the parameters' trailing axes, or known data lie
                outside of the support.
        """
        shape, full = jnp.shape(value), self.batch_shape + self.event_shape
        mass = self.base_dist
        mass = mass.base_dist if isinstance(mass, dist.ExpandedDistribution) else mass
        where = f"{type(mass).__name__}.log_prob"
        if len(shape) < self.event_dim or shape != full[len(full) - len(shape) :]:
            got = f"{list(shape)} against {list(full)}"
            remedy = "give data the batch and event axes of the parameters"
            raise refusal(where, "value", "fit the parameters", got, remedy)
        _require_support(where, mass, value)
        return jnp.asarray(super().log_prob(value))

    def expand(self, batch_shape: Sequence[int]) -> "Observation":
        """With more batch axes, as a NumPyro plate asks for: data are checked all the same.

        Args:
            batch_shape: The batch shape to broadcast to.
        """
        own = self.event_shape[: self.reinterpreted_batch_ndims]
        base = self.base_dist.expand((*batch_shape, *own))
        return type(self)(base, self.reinterpreted_batch_ndims)


def observation(where: str, base: dist.Distribution, event_ndims: int) -> Observation:
    """``base`` with its last ``event_ndims`` axes as one datum, checked."""
    require_count(where, "event_ndims", event_ndims)
    own = len(base.event_shape)
    axes = len(base.batch_shape) + own
    if event_ndims > axes:
        rule = f"be at most the parameters' {axes} axes"
        remedy = "count the axes that make up one datum"
        raise refusal(where, "event_ndims", rule, event_ndims, remedy)
    return Observation(base, event_ndims - own)


def require_observation(where: str, likelihood) -> None:
    """Refuse what is no likelihood of this room."""
    if not isinstance(likelihood, Observation):
        got, remedy = (
            type(likelihood).__name__,
            "pass for instance vi.likelihoods.poisson(log_rate)",
        )
        raise refusal(where, "likelihood", "be one of vi.likelihoods", got, remedy)


def _require_support(where: str, base: Any, value) -> None:
    """Refuse known data outside of the support, naming the first such value.

    A mass says what its data are, ``data_rule``, and what else to do, ``data_remedy``.
    """
    if not is_known(value):
        return
    known, support = np.asarray(value), base.support
    support = getattr(support, "base_constraint", support)  # entry by entry, in a joint event too
    with np.errstate(invalid="ignore"):
        inside = support(known)
    if not is_known(inside) or np.all(inside):
        return
    outside = known[~np.broadcast_to(inside, known.shape)]
    remedy = getattr(base, "data_remedy", "look at the data: a real number is asked for")
    if np.isnan(outside).any():
        remedy = "mark what is missing: vi.likelihoods.masked(likelihood, ~jnp.isnan(x))"
        outside = outside[np.isnan(outside)]
    got = f"{outside.flat[0]:.6g}, one of {outside.size} such of {known.size}"
    raise refusal(where, "value", getattr(base, "data_rule", "be finite"), got, remedy)
