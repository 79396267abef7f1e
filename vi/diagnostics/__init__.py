"""Diagnostics: what a fitted model is worth, and how far to trust the number that says so."""

from vi.diagnostics._active_units import ActiveUnits, active_units
from vi.diagnostics._annealed import (
    Annealed,
    annealed_importance_sampling,
    reverse_annealed_importance_sampling,
)
from vi.diagnostics._annealed_moves import StepSizes, hamiltonian, tuned_step_sizes
from vi.diagnostics._annealed_path import sigmoidal_temperatures
from vi.diagnostics._disentanglement import MutualInformationGap, mutual_information_gap
from vi.diagnostics._gradient_meter import gradient_meter
from vi.diagnostics._gradient_table import GradientMeter
from vi.diagnostics._log_evidence import LogEvidence, log_evidence
from vi.diagnostics._pareto import ParetoSmoothed, pareto_k, pareto_smoothed
from vi.diagnostics._rate_distortion import RateDistortion, rate_distortion
from vi.diagnostics._sandwich import Sandwich, sandwich
from vi.diagnostics._weights import effective_sample_size

__all__ = [
    "ActiveUnits",
    "Annealed",
    "GradientMeter",
    "LogEvidence",
    "MutualInformationGap",
    "ParetoSmoothed",
    "RateDistortion",
    "Sandwich",
    "StepSizes",
    "active_units",
    "annealed_importance_sampling",
    "effective_sample_size",
    "gradient_meter",
    "hamiltonian",
    "log_evidence",
    "mutual_information_gap",
    "pareto_k",
    "pareto_smoothed",
    "rate_distortion",
    "reverse_annealed_importance_sampling",
    "sandwich",
    "sigmoidal_temperatures",
    "tuned_step_sizes",
]
