"""Normalising flows: bijections with parameters, which make rich families of simple ones.

``flow(base)`` is the family of images of a base distribution, ``flow(base, context)`` that of an
encoder's outputs.
"""

from vi.flows._autoregressive import autoregressive
from vi.flows._continuous import Divergence, continuous, exact_divergence
from vi.flows._coupling import coupling
from vi.flows._flow import Flow
from vi.flows._inverted import inverted
from vi.flows._planar import planar
from vi.flows._sequence import sequence
from vi.flows._spline import spline
from vi.flows._transformed import FlowTransform, Transformed
from vi.flows._transformers import Transformer, affine, composed

__all__ = [
    "Divergence",
    "Flow",
    "FlowTransform",
    "Transformed",
    "Transformer",
    "affine",
    "autoregressive",
    "composed",
    "continuous",
    "coupling",
    "exact_divergence",
    "inverted",
    "planar",
    "sequence",
    "spline",
]
