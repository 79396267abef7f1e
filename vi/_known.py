"""Checks of values that can be looked at now: none of them is traced."""

import numpy as np
from jax.core import Tracer

from vi._check import refusal


def is_known(*values) -> bool:
    """Whether every value can be looked at now: none is traced."""
    return not any(isinstance(value, Tracer) for value in values)


def require_positive(where: str, name: str, value, remedy: str) -> None:
    """Refuse a known value with an entry at or below 0, or one that is not a number."""
    if is_known(value) and not (np.asarray(value) > 0).all():
        smallest = f"{np.asarray(value).min():.3g} as its least entry"
        raise refusal(where, name, "be positive", smallest, remedy)
