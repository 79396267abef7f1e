"""What every prior of this room asks of a value: that it has the prior's event."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._check import refusal, require_count


def require_event(where: str, value: Any, event_shape: tuple[int, ...]) -> None:
    """Refuse a value whose trailing axes are not the event: it would only fit by broadcasting."""
    shape = jnp.shape(value)
    if len(shape) < len(event_shape) or shape[len(shape) - len(event_shape) :] != event_shape:
        remedy = "draw from a q with that event, or make the prior for this one"
        rule = f"have events {list(event_shape)}"
        raise refusal(f"{where}.log_prob", "value", rule, f"{list(shape)}", remedy)


def require_event_shape(where: str, event_shape: Any) -> None:
    """Refuse what is not a tuple of sizes."""
    if not isinstance(event_shape, tuple):
        remedy = "write (3,) for three entries, () for one"
        raise refusal(where, "event_shape", "be a tuple of sizes", repr(event_shape), remedy)
    for size in event_shape:
        require_count(where, "event_shape", size)


class Event(dist.Independent):
    """Independent entries as one event; values are refused where they lack its axes."""

    pytree_aux_fields = ("where",)

    def __init__(self, where: str, base: dist.Distribution, event_ndims: int):
        self.where = where
        super().__init__(base, event_ndims)

    def log_prob(self, value: Float[Array, "*shape"], intermediates: Any = None) -> Any:
        """The log-density in nats, ``[*sample_shape, *batch]``."""
        require_event(self.where, value, self.event_shape)
        return super().log_prob(value, intermediates)

    def expand(self, batch_shape: Sequence[int]) -> "Event":
        """The same with another batch, checked as before."""
        base_shape = (*batch_shape, *self.event_shape[: self.reinterpreted_batch_ndims])
        base = self.base_dist.expand(base_shape)
        return Event(self.where, base, self.reinterpreted_batch_ndims)
