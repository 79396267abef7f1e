"""Planar layers: the classic, a flow without an inverse in closed form."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from vi._check import require_count, require_rngs
from vi._mixed import once
from vi.flows._flow import Flow


def planar(size: int, *, num_layers: int, context_size: int = 0, rngs: nnx.Rngs) -> "Planar":
    r"""Planar layers: each expands or contracts along one direction, across one hyperplane.

    .. math:: y = x + \hat u \tanh(w^\top x + b), \qquad
              \hat u = u + (m(w^\top u) - w^\top u) \, w / \|w\|^2, \qquad
              m(a) = \log(1 + (e - 1) e^a) - 1 \ge -1,

    so that every layer is invertible. The softplus of the paper is shifted such that u = 0, where
    the flow starts, is the identity. With a context, u, w and b are each a free parameter plus a
    linear map of it that starts at zero.

    There is no inverse in closed form: draws are scored as they are drawn, which is all that
    ``vi.gradients.reparam`` and ``dreg`` ask for; ``log_prob`` of a given point, which ``vimco``
    and ``score`` ask for, is refused.

    Args:
        size: D.
        num_layers: Layers; one bends space once, so that many are needed.
        context_size: Size C of the context's last axis; 0 for none.
        rngs: Where the initial weights come from.

    Returns:
        A flow; call it with a base distribution.

    Raises:
        ValueError: A size or a number of layers below 1, or (in ``log_prob``) always.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> from flax import nnx
        >>> flow = vi.flows.planar(2, num_layers=8, rngs=nnx.Rngs(0))
        >>> q = flow(dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        >>> objective = vi.gradients.reparam(vi.bounds.elbo)
        >>> objective(jax.random.key(0), q, lambda z: -0.5 * (z**2).sum(-1), 64).shape
        ()

    References:
        Rezende and Mohamed (2015), equations 10 to 13, and appendix A.1 for the constraint.
    """
    require_count("planar", "num_layers", num_layers)
    require_rngs("planar", rngs)
    return Planar(size, num_layers, context_size, rngs)


class Planar(Flow):
    """Planar layers with stacked parameters; made by ``planar``."""

    def __init__(self, size: int, num_layers: int, context_size: int, rngs: nnx.Rngs):
        super().__init__(size, context_size)
        dtype = jnp.result_type(float)
        w = jax.random.normal(rngs.params(), (num_layers, size), dtype) / math.sqrt(size)
        u, b = jnp.zeros((num_layers, size), dtype), jnp.zeros((num_layers, 1), dtype)
        self.free = nnx.Param(jnp.concatenate([u, w, b], axis=-1))
        kernel = jnp.zeros((num_layers, context_size, 2 * size + 1), dtype)
        self.kernel = nnx.Param(kernel) if context_size else None

    def _forward(self, x, context):
        def layer(carry, stacked):
            x, log_det = carry
            u, _, along, h = self._moved(x, stacked, context)
            slope = _slope(along, h)
            return (x + u * h, log_det + jnp.log(slope)[..., 0]), None

        return jax.lax.scan(layer, self._start(x), self._stacked())[0]

    def _forward_with_force(self, x, context, force):
        """The Jacobian is the identity plus ``u psi^T``: Sherman and Morrison invert it."""

        def layer(carry, stacked):
            x, log_det, force = carry
            u, w, along, h = self._moved(x, stacked, context)
            bend = 1 - h**2
            slope = _slope(along, h)
            unmoved = force + 2 * (along - 1) * h * bend / slope * w
            force_y = unmoved - bend * w * (u * unmoved).sum(-1, keepdims=True) / slope
            return (x + u * h, log_det + jnp.log(slope)[..., 0], once(force_y)), None

        return jax.lax.scan(layer, (*self._start(x), force), self._stacked())[0]

    def _moved(self, x, stacked, context):
        """Of one layer: u, w, 1 + their product and the tanh."""
        free, kernel = stacked
        params = free if kernel is None else free + context @ kernel
        u, w, b = jnp.split(params, [self.size, 2 * self.size], axis=-1)
        u, along = _constrained(u, w)
        return u, w, along, jnp.tanh((w * x).sum(-1, keepdims=True) + b)

    def _start(self, x):
        dtype = jnp.result_type(x, self.free[...])
        return x.astype(dtype), jnp.zeros_like(x[..., 0], dtype)

    def _stacked(self):
        return self.free[...], None if self.kernel is None else self.kernel[...]


def _constrained(u, w):
    """``u`` with a component along ``w`` that keeps the layer invertible, and 1 + that w^T u."""
    square = (w**2).sum(-1, keepdims=True)
    given = (w * u).sum(-1, keepdims=True)
    above = jax.nn.softplus(given + math.log(math.e - 1))
    return u + (above - 1 - given) * w / (square + jnp.finfo(w.dtype).tiny), above


def _slope(above, h):
    """``1 + w^T u (1 - h^2)`` as a sum of what is positive: its digits stay."""
    return above * (1 - h**2) + h**2
