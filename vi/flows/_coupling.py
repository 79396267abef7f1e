"""Coupling layers: one half of the dimensions is transformed at parameters that the other gives."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from vi._check import refusal, require_count, require_rngs
from vi._mixed import once
from vi.flows._flow import Flow, conditioned, stacked
from vi.flows._force import through_elementwise
from vi.flows._transformers import Transformer, require_layers, require_transformer
from vi.networks import MLP


def coupling(
    size: int,
    *,
    num_layers: int,
    transformer: Transformer,
    hidden: Sequence[int],
    context_size: int = 0,
    rngs: nnx.Rngs,
) -> "Coupling":
    r"""Coupling layers: RealNVP with ``affine()``, the neural spline flow with ``spline()``.

    .. math:: y_a = x_a, \qquad y_b = T(x_b; \mathrm{net}(x_a, c)),

    with the halves a and b changing places from layer to layer. Forward and inverse cost the same.
    The identity at the start, whatever the context. Layers are one ``jax.lax.scan`` over stacked
    parameters: 16 compile as fast as one. What the networks give is divided by the root of their
    width, so that a step of the optimiser bends space as much in a wide flow as in a narrow one.

    Args:
        size: D, even.
        num_layers: Layers; each half is transformed in every second one, the second half first.
            One layer leaves the first half as the base has it, :math:`q_0(y_a) q(y_b | y_a)`:
            take two or more, or a partner in ``sequence`` that moves the first.
        transformer: ``vi.flows.affine()``, ``vi.flows.spline()``, or one of your own.
        hidden: Sizes of the networks' hidden layers.
        context_size: Size C of the context's last axis; 0 for none.
        rngs: Where the initial weights come from.

    Returns:
        A flow; call it with a base distribution.

    Raises:
        ValueError: An odd size, no layer, or what is not a transformer.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, vi
        >>> from flax import nnx
        >>> flow = vi.flows.coupling(
        ...     2, num_layers=4, transformer=vi.flows.spline(), hidden=(32,), rngs=nnx.Rngs(0)
        ... )
        >>> q = flow(dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        >>> z, log_q = q.rsample_and_log_prob(jax.random.key(0), (5,))
        >>> bool(jnp.allclose(q.log_prob(z), log_q, atol=1e-5))
        True

    References:
        Dinh, Sohl-Dickstein and Bengio (2017), section 3.2; Durkan, Bekasov, Murray and
        Papamakarios (2019), section 3.
    """
    if require_count("coupling", "size", size) % 2:
        remedy = "use vi.flows.autoregressive, or pad the latent by one dimension"
        raise refusal("coupling", "size", "be even", size, remedy)
    require_transformer("coupling", transformer)
    require_count("coupling", "num_layers", num_layers)
    require_rngs("coupling", rngs)
    half = size // 2
    nets = [
        MLP(
            half,
            require_layers("coupling", hidden),
            half * transformer.num_params,
            context_size=context_size,
            out_kernel_init=jax.nn.initializers.zeros,
            rngs=rngs,
        )
        for _ in range(num_layers)
    ]
    return Coupling(size, num_layers, transformer, stacked(nets), context_size)


class Coupling(Flow):
    """Coupling layers with stacked parameters; made by ``coupling``."""

    def __init__(self, size, num_layers, transformer, nets, context_size):
        super().__init__(size, context_size)
        self.num_layers, self.transformer, self.nets = num_layers, transformer, nets

    def _forward(self, x, context):
        def layer(carry, net):
            a, b, log_det = carry
            b, log_slope = self.transformer.forward(b, self._params(net, a, context))
            return (b, a, log_det + log_slope.sum(-1)), None

        a, b = jnp.split(x, 2, axis=-1)
        (a, b, log_det), _ = jax.lax.scan(layer, self._start(a, b), self.nets)
        return self._joined(a, b), log_det

    def _forward_with_force(self, x, context, force):
        def layer(carry, net):
            a, b, log_det, force_a, force_b = carry
            params, pull = jax.vjp(lambda a: self._params(net, a, context), a)
            y, log_slope, force_y, of_params = through_elementwise(
                self.transformer, b, params, force_b
            )
            force_a = force_a - pull(of_params)[0]
            return (y, a, log_det + log_slope.sum(-1), *once((force_y, force_a))), None

        a, b = jnp.split(x, 2, axis=-1)
        start = (*self._start(a, b), *jnp.split(force, 2, axis=-1))
        (a, b, log_det, *force), _ = jax.lax.scan(layer, start, self.nets)
        return self._joined(a, b), log_det, self._joined(*force)

    def _inverse(self, y, context):
        def layer(carry, net):
            b, a, log_det = carry
            b, log_slope = self.transformer.inverse(b, self._params(net, a, context))
            return (a, b, log_det + log_slope.sum(-1)), None

        a, b = jnp.split(y, 2, axis=-1)
        a, b = (b, a) if self.num_layers % 2 else (a, b)
        (a, b, log_det), _ = jax.lax.scan(layer, self._start(a, b), self.nets, reverse=True)
        return jnp.concatenate([a, b], -1), log_det

    def _params(self, net, a, context):
        params = conditioned(net, a, context)
        return params.reshape(*a.shape, self.transformer.num_params)

    def _start(self, a, b):
        dtype = jnp.result_type(a, *jax.tree.leaves(self.nets))
        return a.astype(dtype), b.astype(dtype), jnp.zeros_like(a[..., 0], dtype)

    def _joined(self, a, b):
        return jnp.concatenate([b, a] if self.num_layers % 2 else [a, b], -1)
