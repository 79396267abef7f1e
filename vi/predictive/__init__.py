"""What a trained model is used for: to reconstruct, generate, impute and interpolate."""

from vi.predictive._draws import Decoder, Generated, generate, mean, reconstruct
from vi.predictive._impute import Imputed, impute
from vi.predictive._interpolate import interpolate, spherical, straight

__all__ = [
    "Decoder",
    "Generated",
    "Imputed",
    "generate",
    "impute",
    "interpolate",
    "mean",
    "reconstruct",
    "spherical",
    "straight",
]
