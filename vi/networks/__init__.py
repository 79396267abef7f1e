"""Networks as Flax NNX modules, small and composable: encoders, decoders, conditioners."""

from vi.networks._convolutional import ConvDecoder, ConvEncoder
from vi.networks._gated import GatedMLP
from vi.networks._masked import MaskedMLP
from vi.networks._mlp import MLP
from vi.networks._recurrent import BidirectionalEncoder, RecurrentDecoder, RecurrentEncoder
from vi.networks._refine import refine
from vi.networks._residual import ResidualMLP

__all__ = [  # noqa: RUF022
    "BidirectionalEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "GatedMLP",
    "MLP",
    "MaskedMLP",
    "RecurrentDecoder",
    "RecurrentEncoder",
    "ResidualMLP",
    "refine",
]
