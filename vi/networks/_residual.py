"""A deep perceptron of residual blocks."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from vi._check import require_count
from vi.networks._mlp import LECUN, Activation, affine_layers, require_input


class ResidualMLP(nnx.Module):
    r"""Residual blocks with the activation before each layer: the input's path is the identity.

    .. math:: h_0 = W_0 x + b_0, \quad
              h_{i+1} = h_i + W''_i \, a(W'_i \, a(h_i) + b'_i) + b''_i, \quad
              y = W_n a(h_n) + b_n.

    Args:
        in_size: Size of the input's last axis.
        width: Size of every hidden layer.
        out_size: Size of the output's last axis.
        num_blocks: Blocks of two layers.
        activation: :math:`a`.
        rngs: Where the initial weights come from.

    Raises:
        ValueError: A size or count below 1, or (when called) an input of another size.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> from flax import nnx
        >>> net = vi.networks.ResidualMLP(3, 16, 2, num_blocks=4, rngs=nnx.Rngs(0))
        >>> net(jnp.ones((7, 4, 3))).shape
        (7, 4, 2)

    References:
        He, Zhang, Ren and Sun (2016), "Identity mappings in deep residual networks", equation 3.
    """

    def __init__(
        self,
        in_size: int,
        width: int,
        out_size: int,
        *,
        num_blocks: int,
        activation: Activation = jax.nn.gelu,
        rngs: nnx.Rngs,
    ):
        self.in_size = require_count("ResidualMLP", "in_size", in_size)
        width = require_count("ResidualMLP", "width", width)
        out_size = require_count("ResidualMLP", "out_size", out_size)
        num_blocks = require_count("ResidualMLP", "num_blocks", num_blocks)
        self.activation = activation
        inits = [LECUN] * 2
        (self.first,) = affine_layers([in_size, width], inits[:1], rngs)
        self.blocks = nnx.List([affine_layers([width] * 3, inits, rngs) for _ in range(num_blocks)])
        (self.last,) = affine_layers([width, out_size], inits[:1], rngs)

    def __call__(self, x: Float[Array, "*shape I"]) -> Float[Array, "*shape O"]:
        """Map ``[*shape, in_size]`` to ``[*shape, out_size]``."""
        require_input("ResidualMLP", x, self.in_size, None, 0)
        h = self.first(x)
        for inner, outer in self.blocks:
            h = h + outer(self.activation(inner(self.activation(h))))
        return self.last(self.activation(h))
