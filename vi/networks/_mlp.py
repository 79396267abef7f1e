"""The multi-layer perceptron, with a context beside its input."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vi._check import refusal, require_batch_of, require_context, require_count, require_rngs

Activation: TypeAlias = Callable[[Any], Any]
Initializer: TypeAlias = Callable[..., Any]
"""``(key, shape, dtype) -> array``, as in ``jax.nn.initializers``."""

LECUN = jax.nn.initializers.lecun_normal()


class MLP(nnx.Module):
    r"""A multi-layer perceptron of an input and, if asked for, of a context.

    .. math:: h_1 = a(W_1 x + V c + b_1), \quad h_{i+1} = a(W_{i+1} h_i + b_{i+1}), \quad
              y = W_n h_{n-1} + b_n.

    The context is projected once, at its own batch shape, and shared by all leading axes of the
    input: K draws per datum cost one projection per datum. Parameters have the default float
    type, float64 where x64 is enabled.

    Args:
        in_size: Size of the input's last axis.
        hidden: Sizes of the hidden layers; empty for an affine map.
        out_size: Size of the output's last axis.
        context_size: Size C of the context's last axis; 0 for none.
        activation: Between the layers.
        kernel_init: Of the weights.
        out_kernel_init: Of the weights of the last layer, ``kernel_init`` by default; with zeros
            the output starts at zero.
        rngs: Where the initial weights come from.

    Raises:
        ValueError: A size below 1, or (when called) an input or a context of another shape.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> from flax import nnx
        >>> net = vi.networks.MLP(3, (16,), 2, context_size=5, rngs=nnx.Rngs(0))
        >>> net(jnp.ones((7, 4, 3)), jnp.ones((4, 5))).shape
        (7, 4, 2)
    """

    def __init__(
        self,
        in_size: int,
        hidden: Sequence[int],
        out_size: int,
        *,
        context_size: int = 0,
        activation: Activation = jnp.tanh,
        kernel_init: Initializer = LECUN,
        out_kernel_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        self.in_size = require_count("MLP", "in_size", in_size)
        self.out_size = require_count("MLP", "out_size", out_size)
        self.context_size = require_count("MLP", "context_size", context_size, least=0)
        self.activation = activation
        self.hidden = require_sizes("MLP", hidden)
        sizes = [in_size, *self.hidden, out_size]
        inits = [kernel_init] * (len(sizes) - 2) + [out_kernel_init or kernel_init]
        self.layers = affine_layers(sizes, inits, rngs)
        self.project = projection(context_size, sizes[1], inits[0], rngs)

    def __call__(
        self, x: Float[Array, "*shape I"], context: Float[Array, "*batch C"] | None = None
    ) -> Float[Array, "*shape O"]:
        """Map ``[*shape, *batch, in_size]`` to ``[*shape, *batch, out_size]``.

        Args:
            x: The input.
            context: ``[*batch, C]``, or None where the context size is 0.
        """
        given = require_input("MLP", x, self.in_size, context, self.context_size)
        h = self.layers[0](x)
        if self.project is not None:
            h = h + self.project(given)
        for layer in self.layers[1:]:
            h = layer(self.activation(h))
        return h


def affine_layers(sizes: Sequence[int], inits: Sequence[Initializer], rngs: nnx.Rngs) -> nnx.List:
    """Affine maps from each size to the next; parameters have the default float type."""
    require_rngs("networks", rngs)
    dtype = jnp.result_type(float)
    return nnx.List(
        [
            nnx.Linear(n, m, kernel_init=init, param_dtype=dtype, rngs=rngs)
            for n, m, init in zip(sizes[:-1], sizes[1:], inits, strict=True)
        ]
    )


def projection(context_size: int, out_size: int, init: Initializer, rngs: nnx.Rngs):
    """A linear map of the context; None without one."""
    if context_size == 0:
        return None
    dtype = jnp.result_type(float)
    return nnx.Linear(
        context_size, out_size, use_bias=False, kernel_init=init, param_dtype=dtype, rngs=rngs
    )


def require_sizes(where: str, hidden: Sequence[int], least: int = 0) -> tuple[int, ...]:
    """Refuse what is not a sequence of layer sizes; return it as a tuple."""
    if not isinstance(hidden, Sequence) or len(hidden) < least:
        rule = "be a sequence of sizes" if least == 0 else "name at least one layer"
        remedy = "pass one size per hidden layer, for instance (64, 64)"
        raise refusal(where, "hidden", rule, repr(hidden), remedy)
    return tuple(require_count(where, "hidden", size) for size in hidden)


def require_input(where: str, x, in_size: int, context, context_size: int) -> Any:
    """Refuse an input or a context of another size or batch; return the context."""
    if jnp.ndim(x) == 0 or jnp.shape(x)[-1] != in_size:
        rule, remedy = f"have a last axis of {in_size}", "the network was made for that size"
        raise refusal(where, "x", rule, f"shape {list(jnp.shape(x))}", remedy)
    require_context(where, context, context_size)
    require_batch_of(where, "x", jnp.shape(x)[:-1], context)
    return context
