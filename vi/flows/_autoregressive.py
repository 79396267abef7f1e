"""Autoregressive layers: each dimension is transformed at parameters that those before it give."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy.linalg import solve_triangular

from vi._check import refusal, require_count, require_rngs
from vi._mixed import once
from vi.flows._flow import Flow, conditioned, root_width, stacked
from vi.flows._transformers import Transformer, require_layers, require_transformer
from vi.networks import MaskedMLP


def autoregressive(
    size: int,
    *,
    num_layers: int,
    transformer: Transformer,
    hidden: Sequence[int],
    context_size: int = 0,
    rngs: nnx.Rngs,
) -> "Autoregressive":
    r"""Autoregressive layers on masked networks, the order reversed from layer to layer.

    .. math:: y_d = T(x_d; \mathrm{net}_d(x_{<d}, c)).

    Forward, from the base to the draw, is one pass; the inverse is a loop of D passes, exact and
    differentiable, with the memory of one. So the direction follows the use:

    * as a q that is drawn from, this flow: the inverse autoregressive flow. ``reparam`` and
      ``dreg`` never invert it; ``dreg`` pays a Jacobian of D rows. ``vimco`` and ``score``, which
      score given points, pay D passes.
    * where densities of given points are asked for (a prior or a likelihood),
      ``vi.flows.inverted(autoregressive(...))``, the masked autoregressive flow: one pass for
      ``log_prob`` and D for a draw.

    Args:
        size: D.
        num_layers: Layers.
        transformer: ``vi.flows.affine()``, ``vi.flows.spline()``, or one of your own.
        hidden: Sizes of the networks' hidden layers, at least D - 1 each, and D with a context:
            with fewer units some dimensions would not see all of those before them.
        context_size: Size C of the context's last axis; 0 for none.
        rngs: Where the initial weights come from.

    Returns:
        A flow; call it with a base distribution.

    Raises:
        ValueError: A size or a number of layers below 1, hidden layers that are too narrow, or what
            is not a transformer.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> from flax import nnx
        >>> flow = vi.flows.autoregressive(
        ...     3, num_layers=2, transformer=vi.flows.affine(), hidden=(32,), context_size=5,
        ...     rngs=nnx.Rngs(0),
        ... )
        >>> base = dist.Normal(jnp.zeros((4, 3)), 1.0).to_event(1)
        >>> z, log_q = flow(base, jnp.ones((4, 5))).rsample_and_log_prob(jax.random.key(0), (7,))
        >>> z.shape, log_q.shape
        ((7, 4, 3), (7, 4))

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016), section 3;
        Papamakarios, Pavlakou and Murray (2017), section 3.
    """
    require_transformer("autoregressive", transformer)
    require_count("autoregressive", "size", size)
    require_count("autoregressive", "num_layers", num_layers)
    require_rngs("autoregressive", rngs)
    nets = [
        MaskedMLP(
            size,
            require_layers("autoregressive", hidden),
            transformer.num_params,
            context_size=context_size,
            out_kernel_init=jax.nn.initializers.zeros,
            rngs=rngs,
        )
        for _ in range(num_layers)
    ]
    least = MaskedMLP.least_width(size, context_size)
    if min(nets[0].hidden) < least:
        rule = f"be at least {least} wide"
        remedy = "with fewer units than that, some dimensions do not see all of those before them"
        raise refusal("autoregressive", "hidden", rule, nets[0].hidden, remedy)
    return Autoregressive(size, num_layers, transformer, stacked(nets), context_size)


class Autoregressive(Flow):
    """Autoregressive layers with stacked parameters; made by ``autoregressive``."""

    def __init__(self, size, num_layers, transformer, nets, context_size):
        super().__init__(size, context_size)
        self.num_layers, self.transformer, self.nets = num_layers, transformer, nets

    def _forward(self, x, context):
        def layer(carry, net):
            x, log_det = carry
            y, log_slopes = self.transformer.forward(x, conditioned(net, x, context))
            return (jnp.flip(y, -1), log_det + log_slopes.sum(-1)), None

        (y, log_det), _ = jax.lax.scan(layer, self._start(x), self.nets)
        return self._in_order(y), log_det

    def _forward_with_force(self, x, context, force):
        """The Jacobian of a layer is triangular, ``[*shape, D, D]``: its rows side by side."""

        def layer(carry, net):
            x, log_det, force = carry
            params, pull = jax.vjp(lambda x: conditioned(net, x, context), x)
            (y, log_slopes), pull_t = jax.vjp(self.transformer.forward, x, params)

            def through_params(ct_y, ct_slopes):
                of_x, of_params = pull_t((ct_y, ct_slopes))
                return of_x, pull(of_params)[0]

            def row(unit):
                return sum(through_params(unit * jnp.ones_like(y), jnp.zeros_like(y)))

            unmoved = force - sum(through_params(jnp.zeros_like(y), jnp.ones_like(y)))
            rows = jax.vmap(row, out_axes=-2)(jnp.eye(self.size, dtype=y.dtype))
            force_y = solve_triangular(rows, unmoved[..., None], lower=True, trans="T")[..., 0]
            total = log_det + log_slopes.sum(-1)
            return (jnp.flip(y, -1), total, once(jnp.flip(force_y, -1))), None

        (y, log_det, force), _ = jax.lax.scan(layer, (*self._start(x), force), self.nets)
        return self._in_order(y), log_det, self._in_order(force)

    def _inverse(self, y, context):
        def layer(carry, net):
            y, log_det = carry
            x, log_slopes = self._solve(net, jnp.flip(y, -1), context)
            return (x, log_det + log_slopes), None

        start = self._start(self._in_order(y))
        (x, log_det), _ = jax.lax.scan(layer, start, self.nets, reverse=True)
        return x, log_det

    def _solve(self, net, y, context):
        """Dimension by dimension: pass d has all that the parameters of dimension d depend on."""

        @jax.checkpoint
        def step(carry, row):
            x, log_det = carry
            d, y_d, kernel, bias = row
            params = (net.features(x, context) @ kernel + bias) / root_width(net)
            x_d, log_slope = self.transformer.inverse(y_d, params)
            x = jnp.where(jnp.arange(self.size) == d, x_d[..., None], x)
            return (x, log_det + log_slope), None

        start = jnp.zeros_like(y), jnp.zeros_like(y[..., 0])
        rows = jnp.arange(self.size), jnp.moveaxis(y, -1, 0), *net.heads()
        return jax.lax.scan(step, start, rows)[0]

    def _start(self, x):
        dtype = jnp.result_type(x, *jax.tree.leaves(self.nets))
        return x.astype(dtype), jnp.zeros_like(x[..., 0], dtype)

    def _in_order(self, y):
        return jnp.flip(y, -1) if self.num_layers % 2 else y
