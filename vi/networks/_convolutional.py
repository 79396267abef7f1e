"""Convolutional encoders and decoders of images."""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vi._check import refusal, require_count, require_rngs
from vi.networks._mlp import LECUN, Activation, affine_layers, require_input, require_sizes


class ConvEncoder(nnx.Module):
    """Images to vectors: strided convolutions, each halving the picture, then an affine layer.

    Args:
        image_shape: ``(H, W, C)``; sides need not be even, they are rounded up.
        channels: Of each convolution's output.
        out_size: Size of the output's last axis.
        kernel_size: Side of the square kernels, at least 2, so that every pixel is seen.
        activation: After each convolution.
        rngs: Where the initial weights come from.

    Raises:
        ValueError: A size below 1, or (when called) an image of another shape.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> from flax import nnx
        >>> net = vi.networks.ConvEncoder((28, 28, 1), (8, 16), 20, rngs=nnx.Rngs(0))
        >>> net(jnp.ones((7, 28, 28, 1))).shape
        (7, 20)
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int],
        out_size: int,
        *,
        kernel_size: int = 3,
        activation: Activation = jax.nn.gelu,
        rngs: nnx.Rngs,
    ):
        self.image_shape = _require_image_shape("ConvEncoder", image_shape)
        out_size = require_count("ConvEncoder", "out_size", out_size)
        channels = require_sizes("ConvEncoder", channels)
        kernel_size = require_count("ConvEncoder", "kernel_size", kernel_size, least=2)
        self.activation = activation
        all_channels = [self.image_shape[-1], *channels]
        self.convs = _convolutions(all_channels, kernel_size, 2, rngs)
        flat = math.prod(_sides(self.image_shape, len(channels))[-1]) * all_channels[-1]
        (self.last,) = affine_layers([flat, out_size], [LECUN], rngs)

    def __call__(self, x: Float[Array, "*shape H W C"]) -> Float[Array, "*shape O"]:
        """Map ``[*shape, H, W, C]`` to ``[*shape, out_size]``."""
        shape = jnp.shape(x)
        if len(shape) < 3 or shape[-3:] != self.image_shape:
            rule = f"have last axes {list(self.image_shape)}"
            remedy = "images are [*shape, H, W, C], with an axis for a single channel"
            raise refusal("ConvEncoder", "x", rule, f"shape {list(shape)}", remedy)
        h = jnp.reshape(x, (-1, *self.image_shape))
        for conv in self.convs:
            h = self.activation(conv(h))
        return self.last(h.reshape(*shape[:-3], -1))


class ConvDecoder(nnx.Module):
    """Vectors to images: an affine layer to a small picture, then doubling and convolving.

    Each step repeats every pixel and convolves, which leaves no checkerboard as transposed
    convolutions do. The outputs are the last convolution's: logits, means, whatever the likelihood
    takes.

    Args:
        in_size: Size of the input's last axis.
        channels: Of the small picture and of each step's input; as many doublings.
        image_shape: ``(H, W, C)`` of the output; sides need not be even.
        kernel_size: Side of the square kernels, at least 2.
        activation: Before each convolution.
        rngs: Where the initial weights come from.

    Raises:
        ValueError: A size below 1, no channels, or (when called) an input of another size.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> from flax import nnx
        >>> net = vi.networks.ConvDecoder(20, (16, 8), (28, 28, 1), rngs=nnx.Rngs(0))
        >>> net(jnp.ones((5, 7, 20))).shape
        (5, 7, 28, 28, 1)

    References:
        Odena, Dumoulin and Olah (2016), for the checkerboard.
    """

    def __init__(
        self,
        in_size: int,
        channels: Sequence[int],
        image_shape: Sequence[int],
        *,
        kernel_size: int = 3,
        activation: Activation = jax.nn.gelu,
        rngs: nnx.Rngs,
    ):
        self.in_size = require_count("ConvDecoder", "in_size", in_size)
        channels = require_sizes("ConvDecoder", channels)
        if not channels:
            remedy = "pass one number per doubling, for instance (64, 32)"
            raise refusal("ConvDecoder", "channels", "have at least one entry", "none", remedy)
        image_shape = _require_image_shape("ConvDecoder", image_shape)
        kernel_size = require_count("ConvDecoder", "kernel_size", kernel_size, least=2)
        self.activation = activation
        self.sides = _sides(image_shape, len(channels))[::-1]
        self.small = (*self.sides[0], channels[0])
        (self.first,) = affine_layers([in_size, math.prod(self.small)], [LECUN], rngs)
        self.convs = _convolutions([*channels, image_shape[-1]], kernel_size, 1, rngs)

    def __call__(self, x: Float[Array, "*shape I"]) -> Float[Array, "*shape H W C"]:
        """Map ``[*shape, in_size]`` to ``[*shape, H, W, C]``."""
        require_input("ConvDecoder", x, self.in_size, None, 0)
        h = self.first(x).reshape(-1, *self.small)
        for conv, (height, width) in zip(self.convs, self.sides[1:], strict=True):
            doubled = self.activation(h).repeat(2, axis=1).repeat(2, axis=2)
            h = conv(doubled[:, :height, :width])
        return h.reshape(*jnp.shape(x)[:-1], *h.shape[1:])


def _convolutions(channels, kernel_size: int, stride: int, rngs: nnx.Rngs) -> nnx.List:
    """Convolutions from each number of channels to the next, over pictures padded with zeros."""
    kernel, strides, dtype = (kernel_size,) * 2, (stride,) * 2, jnp.result_type(float)
    require_rngs("networks", rngs)
    return nnx.List(
        [
            nnx.Conv(n, m, kernel, strides=strides, param_dtype=dtype, rngs=rngs)
            for n, m in itertools.pairwise(channels)
        ]
    )


def _sides(image_shape, num_halvings: int) -> tuple[tuple[int, int], ...]:
    """Height and width of the picture, and of each halving."""
    height, width, _ = image_shape
    return tuple((-(-height // 2**i), -(-width // 2**i)) for i in range(num_halvings + 1))


def _require_image_shape(where: str, image_shape: Sequence[int]) -> tuple[int, ...]:
    sizes = require_sizes(where, image_shape)
    if len(sizes) != 3:
        remedy = "a picture of one channel is (H, W, 1)"
        raise refusal(where, "image_shape", "be (H, W, C)", tuple(image_shape), remedy)
    return sizes
