"""A base distribution under a flow, and the flow as a NumPyro transform."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import sum_rightmost

from vi._mixed import forced_rsample, once, scored_rsample
from vi.types import Key


class FlowTransform(Transform):
    """A flow at a context; a pytree of both. Made by ``flow.transform(context)``."""

    domain: Any = constraints.real_vector
    codomain: Any = constraints.real_vector

    def __init__(self, flow: Any, context: Float[Array, "*batch C"] | None = None):
        self.flow, self.context = flow, context

    def __call__(self, x):
        """The image of ``x``."""
        return self.flow.forward(x, self.context)[0]

    def call_with_intermediates(self, x):
        """The image, and the log-determinant that came with it."""
        return self.flow.forward(x, self.context)

    def _inverse(self, y):
        return self.flow.inverse(y, self.context)[0]

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """The log-determinant: the one kept, or that of another pass."""
        return self.flow.forward(x, self.context)[1] if intermediates is None else intermediates

    def inverse_with_log_det(self, y):
        """The point whose image is ``y`` and the log-determinant of the inverse, in one pass."""
        return self.flow.inverse(y, self.context)

    def expand(self, batch_shape: tuple[int, ...]) -> "FlowTransform":
        """The same with the context broadcast to a larger batch."""
        if self.context is None:
            return self
        shape = (*batch_shape, self.context.shape[-1])
        return FlowTransform(self.flow, jnp.broadcast_to(self.context, shape))

    def tree_flatten(self):
        """Both are data."""
        return (self.flow, self.context), (("flow", "context"), {})


class Transformed(dist.TransformedDistribution):
    """The images of a base under a flow, made by calling the flow.

    A NumPyro distribution in every respect. ``rsample_and_log_prob`` is one forward pass, and all
    that ``vi.gradients.reparam`` asks for; ``rsample_and_force``, where the flow carries a force,
    all that ``dreg`` does. ``log_prob`` is one inverse pass, which ``vimco`` and ``score`` ask for.
    """

    def rsample_and_log_prob(
        self, key: Key, sample_shape: tuple[int, ...] = ()
    ) -> tuple[Float[Array, "*shape D"], Float[Array, "*shape"]]:
        """Draws with derivatives, and their log-density: one pass of the flow.

        Returns:
            ``[*sample_shape, *batch, D]`` and ``[*sample_shape, *batch]`` in nats.
        """
        return self._push(*scored_rsample("flow", "base", self.base_dist, key, sample_shape))

    @property
    def rsample_and_force(self):
        """``(key, sample_shape) -> (z, log_q, force)``, in one pass: all that ``dreg`` asks for.

        ``force`` is the derivative of ``log_q`` in z, ``[*sample_shape, *batch, D]``. It
        carries no derivative. Not there (an ``AttributeError``) where a flow does not carry a
        force; ``dreg`` then scores with ``log_prob``.

        References:
            Vaitl, Nicoli, Nakajima and Kessel (2022); Vaitl, Winkler, Richter and Kessel (2024).
        """
        if not all(isinstance(t, FlowTransform) and t.flow.has_force for t in self.transforms):
            raise AttributeError("a transform carries no force; draws are scored by log_prob")
        return self._draw_with_force

    def _draw_with_force(self, key, sample_shape=()):
        x, log_q, force = forced_rsample("flow", "base", self.base_dist, key, sample_shape)
        force = once(force)
        transforms: Any = self.transforms
        for transform in transforms:
            x, log_det, force = transform.flow.forward_with_force(x, transform.context, force)
            log_q = log_q - self._summed(log_det, 1)
        return x, log_q, force

    def sample_and_log_prob(
        self, key: Key, sample_shape: tuple[int, ...] = ()
    ) -> tuple[Float[Array, "*shape D"], Float[Array, "*shape"]]:
        """Draws and their log-density in one pass of the flow, both as constants."""
        x: Any = self.base_dist.sample(key, sample_shape)
        return jax.lax.stop_gradient(self._push(x, self.base_dist.log_prob(x)))

    def log_prob(self, value, intermediates=None):
        """The log-density in nats, ``[*sample_shape, *batch]``: one inverse pass.

        Args:
            value: ``[*sample_shape, *batch, D]``.
            intermediates: What ``sample_with_intermediates`` kept; then no pass is needed.

        Raises:
            ValueError: The flow has no inverse in closed form.
        """
        if intermediates is not None:
            return super().log_prob(value, intermediates)
        total = 0.0
        for transform in reversed(self.transforms):
            if isinstance(transform, FlowTransform):
                value, log_det = transform.inverse_with_log_det(value)
                total = total + self._summed(log_det, 1)
            else:
                before = transform.inv(value)
                total = total - self._log_det(transform, before, value, None)
                value = before
        return total + self.base_dist.log_prob(value)

    def expand(self, batch_shape: tuple[int, ...]) -> "Transformed":
        """The same flow of an expanded base, at a context broadcast to it."""
        batch_shape = tuple(batch_shape)
        of_flow = (*batch_shape, *self.event_shape[:-1])
        transforms = [
            t.expand(of_flow) if isinstance(t, FlowTransform) else t for t in self.transforms
        ]
        return Transformed(self.base_dist.expand(batch_shape), transforms)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> "Transformed":
        """The same flow with the last batch axes made events: ``[*batch, *axes, D]``."""
        return Transformed(self.base_dist.to_event(reinterpreted_batch_ndims), self.transforms)

    def _push(self, x: Any, log_q: Any) -> tuple[Any, Any]:
        for transform in self.transforms:
            y, kept = transform.call_with_intermediates(x)
            log_q = log_q - self._log_det(transform, x, y, kept)
            x = y
        return x, log_q

    def _log_det(self, transform, x, y, kept):
        log_det = transform.log_abs_det_jacobian(x, y, kept)
        return self._summed(log_det, transform.codomain.event_dim)

    def _summed(self, log_det, event_dim: int):
        """Over the axes of an event that a transform of ``event_dim`` axes takes one by one."""
        return sum_rightmost(log_det, self.event_dim - event_dim)
