"""A perceptron whose layers gate themselves."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vi._check import require_count
from vi.networks._mlp import LECUN, Activation, affine_layers, require_input, require_sizes


class GatedMLP(nnx.Module):
    r"""A multi-layer perceptron of gated layers.

    .. math:: h_{i+1} = (W_i h_i + b_i) \odot \sigma(V_i h_i + c_i), \qquad y = W_n h_n + b_n.

    What passes is linear in the layer's input, so that gradients reach deep layers where tanh would
    have saturated.

    Args:
        in_size: Size of the input's last axis.
        hidden: Sizes of the gated layers.
        out_size: Size of the output's last axis.
        gate: :math:`\sigma`.
        rngs: Where the initial weights come from.

    Raises:
        ValueError: A size below 1, or (when called) an input of another size.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> from flax import nnx
        >>> net = vi.networks.GatedMLP(3, (16, 16), 2, rngs=nnx.Rngs(0))
        >>> net(jnp.ones((7, 4, 3))).shape
        (7, 4, 2)

    References:
        Dauphin, Fan, Auli and Grangier (2017), equation 1; for variational autoencoders, Tomczak
        and Welling (2018).
    """

    def __init__(
        self,
        in_size: int,
        hidden: Sequence[int],
        out_size: int,
        *,
        gate: Activation = jax.nn.sigmoid,
        rngs: nnx.Rngs,
    ):
        self.in_size = require_count("GatedMLP", "in_size", in_size)
        self.gate = gate
        sizes = [in_size, *require_sizes("GatedMLP", hidden)]
        inits = [LECUN] * len(sizes)
        self.values = affine_layers(sizes, inits[1:], rngs)
        self.gates = affine_layers(sizes, inits[1:], rngs)
        out_sizes = [sizes[-1], require_count("GatedMLP", "out_size", out_size)]
        (self.last,) = affine_layers(out_sizes, inits[:1], rngs)

    def __call__(self, x: Float[Array, "*shape I"]) -> Float[Array, "*shape O"]:
        """Map ``[*shape, in_size]`` to ``[*shape, out_size]``."""
        require_input("GatedMLP", x, self.in_size, None, 0)
        h = jnp.asarray(x)
        for value, gate in zip(self.values, self.gates, strict=True):
            h = value(h) * self.gate(gate(h))
        return self.last(h)
