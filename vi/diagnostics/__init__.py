"""Diagnostics: what a fitted model is worth, and how far to trust the number that says so."""

from vi.diagnostics._active_units import ActiveUnits, active_units
from vi.diagnostics._log_evidence import LogEvidence, log_evidence
from vi.diagnostics._rate_distortion import RateDistortion, rate_distortion
from vi.diagnostics._weights import effective_sample_size

__all__ = [
    "ActiveUnits",
    "LogEvidence",
    "RateDistortion",
    "active_units",
    "effective_sample_size",
    "log_evidence",
    "rate_distortion",
]
