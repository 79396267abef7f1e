"""Flows one after the other."""

import jax.numpy as jnp
from flax import nnx

from vi._check import refusal
from vi.flows._flow import Flow
from vi.flows._inverted import require_flow


def sequence(*flows: Flow) -> "Sequence":
    r"""The composition of flows, the first to act first, :math:`y = f_n(\dots f_1(x))`.

    Args:
        flows: At least one; of one size, and of one context size where they take a context.

    Returns:
        A flow, whose context is handed to every member that takes one.

    Raises:
        ValueError: No flow, or flows of different sizes or contexts.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> from flax import nnx
        >>> rngs = nnx.Rngs(0)
        >>> flow = vi.flows.sequence(
        ...     vi.flows.planar(2, num_layers=2, rngs=rngs),
        ...     vi.flows.coupling(
        ...         2, num_layers=2, transformer=vi.flows.affine(), hidden=(8,), rngs=rngs
        ...     ),
        ... )
        >>> y, log_det = flow.forward(jnp.ones((5, 2)))
        >>> y.shape, log_det.shape
        ((5, 2), (5,))
    """
    if not flows:
        raise refusal("sequence", "flows", "be at least one", "none", "pass the flows one by one")
    for flow in flows:
        require_flow("sequence", "flows", flow)
    sizes = [flow.size for flow in flows]
    if len(set(sizes)) > 1:
        raise refusal("sequence", "flows", "have one size", sizes, "make them all of D dimensions")
    contexts = [flow.context_size for flow in flows]
    if len({size for size in contexts if size}) > 1:
        remedy = "give those that take a context the same context_size"
        raise refusal("sequence", "flows", "have one context size, or 0", contexts, remedy)
    return Sequence(flows)


class Sequence(Flow):
    """Flows one after the other; made by ``sequence``."""

    def __init__(self, flows: tuple[Flow, ...]):
        super().__init__(flows[0].size, max(flow.context_size for flow in flows))
        self.flows = nnx.List(flows)

    def _forward(self, x, context):
        return _through([(flow.forward, flow) for flow in self.flows], x, context)

    @property
    def has_force(self) -> bool:
        """Whether every member carries one."""
        return all(flow.has_force for flow in self.flows)

    def _forward_with_force(self, x, context, force):
        total = jnp.zeros_like(x[..., 0])
        for flow in self.flows:
            own = context if flow.context_size else None
            x, log_det, force = flow.forward_with_force(x, own, force)
            total = total + log_det
        return x, total, force

    def _inverse(self, y, context):
        return _through([(flow.inverse, flow) for flow in reversed(self.flows)], y, context)


def _through(steps, x, context):
    total = jnp.zeros_like(x[..., 0])
    for step, flow in steps:
        x, log_det = step(x, context if flow.context_size else None)
        total = total + log_det
    return x, total
