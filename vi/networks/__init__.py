"""Networks as Flax NNX modules, small and composable; codebooks as pure functions."""

from vi.networks._codebook import Quantised, nearest_code, straight_through, vector_quantise
from vi.networks._codebook_scalar import (
    FiniteScalar,
    finite_scalar_codes,
    finite_scalar_quantise,
)
from vi.networks._codebook_update import Codebook, kmeans, restart_dead_codes, update_codebook
from vi.networks._codebook_use import CodeUse, code_use
from vi.networks._convolutional import ConvDecoder, ConvEncoder
from vi.networks._gated import GatedMLP
from vi.networks._masked import MaskedMLP
from vi.networks._mlp import MLP
from vi.networks._recurrent import BidirectionalEncoder, RecurrentDecoder, RecurrentEncoder
from vi.networks._refine import refine
from vi.networks._residual import ResidualMLP

__all__ = [  # noqa: RUF022
    "BidirectionalEncoder",
    "CodeUse",
    "Codebook",
    "ConvDecoder",
    "ConvEncoder",
    "FiniteScalar",
    "GatedMLP",
    "MLP",
    "MaskedMLP",
    "Quantised",
    "RecurrentDecoder",
    "RecurrentEncoder",
    "ResidualMLP",
    "code_use",
    "finite_scalar_codes",
    "finite_scalar_quantise",
    "kmeans",
    "nearest_code",
    "refine",
    "restart_dead_codes",
    "straight_through",
    "update_codebook",
    "vector_quantise",
]
