"""Scoring data under an observation model, with nothing broadcast unseen."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._check import refusal, require_count


class Observation(dist.Independent):
    """Independent observations whose last axes are one datum.

    A NumPyro ``Independent`` that refuses data which would only fit by broadcasting: data have the
    trailing axes of the parameters, and may lack leading (sample) axes only.
    """

    def log_prob(self, value: Float[Array, "*batch_and_event"]) -> Float[Array, "*batch"]:
        """Log-likelihood of data in nats, summed over the event axes.

        Args:
            value: Data ``[*event]`` with none, some or all of the parameters' batch axes before it.

        Returns:
            ``[*batch]``, the parameters' batch shape.

        Raises:
            ValueError: The data's axes are not the parameters' trailing axes.
        """
        shape, full = jnp.shape(value), self.batch_shape + self.event_shape
        if len(shape) < self.event_dim or shape != full[len(full) - len(shape) :]:
            where = f"{type(self.base_dist).__name__}.log_prob"
            got = f"{list(shape)} against {list(full)}"
            remedy = "give data the batch and event axes of the parameters"
            raise refusal(where, "value", "fit the parameters", got, remedy)
        return jnp.asarray(super().log_prob(value))


def observation(where: str, base: dist.Distribution, event_ndims: int) -> Observation:
    """``base`` with its last ``event_ndims`` axes as one datum, checked."""
    require_count(where, "event_ndims", event_ndims)
    if event_ndims > len(base.batch_shape):
        rule = f"be at most the parameters' {len(base.batch_shape)} axes"
        remedy = "count the axes that make up one datum"
        raise refusal(where, "event_ndims", rule, event_ndims, remedy)
    return Observation(base, event_ndims)
