"""Diagnostics: what a fitted model is worth, and how far to trust the number that says so."""

from vi.diagnostics._active_units import ActiveUnits, active_units
from vi.diagnostics._gradient_meter import gradient_meter
from vi.diagnostics._gradient_table import GradientMeter
from vi.diagnostics._log_evidence import LogEvidence, log_evidence
from vi.diagnostics._pareto import ParetoSmoothed, pareto_k, pareto_smoothed
from vi.diagnostics._rate_distortion import RateDistortion, rate_distortion
from vi.diagnostics._sandwich import Sandwich, sandwich
from vi.diagnostics._weights import effective_sample_size

__all__ = [
    "ActiveUnits",
    "GradientMeter",
    "LogEvidence",
    "ParetoSmoothed",
    "RateDistortion",
    "Sandwich",
    "active_units",
    "effective_sample_size",
    "gradient_meter",
    "log_evidence",
    "pareto_k",
    "pareto_smoothed",
    "rate_distortion",
    "sandwich",
]
