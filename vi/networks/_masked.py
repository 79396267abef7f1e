"""The masked autoencoder for distribution estimation: autoregressive in one pass."""

import functools
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vi._check import require_count
from vi.networks._mlp import (
    LECUN,
    Activation,
    Initializer,
    affine_layers,
    projection,
    require_input,
    require_sizes,
)


class MaskedMLP(nnx.Module):
    r"""P outputs for each of D dimensions, those of dimension d a function of :math:`x_{<d}` alone.

    .. math:: h_1 = a((M_1 \odot W_1) x + V c + b_1), \quad
              h_{i+1} = a((M_{i+1} \odot W_{i+1}) h_i + b_{i+1}), \quad
              y = (M_n \odot W_n) h_{n-1} + b_n.

    The masks are constants: a unit of degree m sees dimensions up to m, and the outputs of
    dimension d see units of degree below d. Degrees are spread evenly over the units, from 0 where
    there is a context, so that the first dimension depends on it too; with ``least_width`` units
    per layer or more, D - 1 or D with a context, every output sees all that it may.

    Args:
        size: D.
        hidden: Sizes of the hidden layers, at least one.
        num_params: P.
        context_size: Size C of the context's last axis; 0 for none.
        activation: Between the layers.
        kernel_init: Of the weights.
        out_kernel_init: Of the weights of the last layer, ``kernel_init`` by default.
        rngs: Where the initial weights come from.

    Raises:
        ValueError: A size below 1, or (when called) an input or a context of another shape.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> from flax import nnx
        >>> net = vi.networks.MaskedMLP(3, (16,), 2, rngs=nnx.Rngs(0))
        >>> net(jnp.ones((7, 3))).shape
        (7, 3, 2)
        >>> print((jax.jacobian(net)(jnp.ones(3))[:, 0] != 0).astype(int))
        [[0 0 0]
         [1 0 0]
         [1 1 0]]

    References:
        Germain, Gregor, Murray and Larochelle (2015), equations 10 to 13.
    """

    def __init__(
        self,
        size: int,
        hidden: Sequence[int],
        num_params: int,
        *,
        context_size: int = 0,
        activation: Activation = jnp.tanh,
        kernel_init: Initializer = LECUN,
        out_kernel_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        self.size = require_count("MaskedMLP", "size", size)
        self.num_params = require_count("MaskedMLP", "num_params", num_params)
        self.context_size = require_count("MaskedMLP", "context_size", context_size, least=0)
        self.hidden = require_sizes("MaskedMLP", hidden, least=1)
        self.activation = activation
        sizes = [size, *self.hidden, size * num_params]
        inits = [kernel_init] * len(self.hidden) + [out_kernel_init or kernel_init]
        self.layers = affine_layers(sizes, inits, rngs)
        self.project = projection(context_size, sizes[1], inits[0], rngs)

    def __call__(
        self, x: Float[Array, "*shape D"], context: Float[Array, "*batch C"] | None = None
    ) -> Float[Array, "*shape D P"]:
        """Map ``[*shape, *batch, D]`` to ``[*shape, *batch, D, P]``.

        Args:
            x: The input.
            context: ``[*batch, C]``, or None where the context size is 0.
        """
        h = self.features(x, context)
        y = h @ self._kernel(-1) + self.layers[-1].bias[...]
        return y.reshape(*y.shape[:-1], self.size, self.num_params)

    @staticmethod
    def least_width(size: int, context_size: int) -> int:
        """Units that each hidden layer needs for every output to see all dimensions before it."""
        return size - _least_degree(size, context_size > 0)

    def features(
        self, x: Float[Array, "*shape D"], context: Float[Array, "*batch C"] | None = None
    ) -> Float[Array, "*shape H"]:
        """The units of the last hidden layer, ``[*shape, *batch, H]``.

        Args:
            x: The input.
            context: ``[*batch, C]``, or None where the context size is 0.
        """
        given = require_input("MaskedMLP", x, self.size, context, self.context_size)
        h = x @ self._kernel(0) + self.layers[0].bias[...]
        if self.project is not None:
            h = h + self.project(given)
        for i in range(1, len(self.hidden)):
            h = self.activation(h) @ self._kernel(i) + self.layers[i].bias[...]
        return self.activation(h)

    def heads(self) -> tuple[Float[Array, "D H P"], Float[Array, "D P"]]:
        """What maps ``features`` to the outputs of each dimension: weights and biases.

        ``features(x) @ weights[d] + biases[d]`` is ``self(x)[..., d, :]``, without the others.
        """
        bias = self.layers[-1].bias[...].reshape(self.size, self.num_params)
        kernel = self._kernel(-1).reshape(-1, self.size, self.num_params)
        return jnp.moveaxis(kernel, 1, 0), bias

    def _kernel(self, i):
        masks = _masks(self.size, self.hidden, self.num_params, self.context_size > 0)
        return self.layers[i].kernel[...] * masks[i]


@functools.lru_cache
def _masks(
    size: int, hidden: tuple[int, ...], num_params: int, has_context: bool
) -> list[np.ndarray]:
    """One boolean mask ``[inputs, outputs]`` per layer."""
    least = _least_degree(size, has_context)
    inputs = np.arange(1, size + 1)
    degrees = [inputs, *(np.round(np.linspace(least, size - 1, n)) for n in hidden)]
    within = [before[:, None] <= after for before, after in itertools.pairwise(degrees)]
    return [*within, degrees[-1][:, None] < np.repeat(inputs, num_params)]


def _least_degree(size: int, has_context: bool) -> int:
    return 0 if has_context else min(1, size - 1)
