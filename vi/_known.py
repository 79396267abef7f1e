"""Checks of values that can be looked at now: none of them is traced."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from vi._check import refusal


def is_known(*values) -> bool:
    """Whether every value can be looked at now: none is traced."""
    return not any(isinstance(value, Tracer) for value in values)


def as_used(value) -> np.ndarray:
    """A known value as JAX computes with it: float32 but where x64 is on, and 0 below its range."""
    value = np.asarray(value)
    value = value.astype(jax.dtypes.canonicalize_dtype(value.dtype))
    if jnp.issubdtype(value.dtype, jnp.floating):
        value = np.where(np.abs(value) < jnp.finfo(value.dtype).tiny, np.zeros_like(value), value)
    return value


def require_positive(where: str, name: str, value, remedy: str) -> None:
    """Refuse a known value with an entry that is not positive and finite as it is used."""
    if not is_known(value):
        return
    used = as_used(value)
    wrong = ~((used > 0) & np.isfinite(used))
    if wrong.any():
        raise refusal(where, name, "be positive and finite", f"{used[wrong].flat[0]:.3g}", remedy)
