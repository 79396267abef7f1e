"""A flow run the other way."""

from vi._check import refusal
from vi.flows._flow import Flow


def inverted(flow: Flow) -> "Inverted":
    """The same bijection with forward and inverse exchanged.

    ``inverted(autoregressive(...))`` is the masked autoregressive flow: a density in one pass, a
    draw in D. What costs one pass costs one still, and what has no inverse has no forward.

    Args:
        flow: Any flow.

    Returns:
        A flow of the same size and context.

    Raises:
        ValueError: What is not a flow.

    Examples:
        >>> import jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> from flax import nnx
        >>> flow = vi.flows.autoregressive(
        ...     3, num_layers=2, transformer=vi.flows.affine(), hidden=(32,), rngs=nnx.Rngs(0)
        ... )
        >>> prior = vi.flows.inverted(flow)(dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        >>> prior.log_prob(jnp.zeros((7, 3))).shape
        (7,)

    References:
        Papamakarios, Pavlakou and Murray (2017).
    """
    require_flow("inverted", "flow", flow)
    return Inverted(flow)


class Inverted(Flow):
    """A flow run the other way; made by ``inverted``."""

    def __init__(self, flow: Flow):
        super().__init__(flow.size, flow.context_size)
        self.flow = flow

    def _forward(self, x, context):
        return self.flow.inverse(x, context)

    def _inverse(self, y, context):
        return self.flow.forward(y, context)


def require_flow(where: str, argument: str, flow) -> None:
    """Refuse what is not a flow."""
    if not isinstance(flow, Flow):
        remedy = "pass what vi.flows.coupling(...) returns, or another flow"
        raise refusal(where, argument, "be a flow", type(flow).__name__, remedy)
