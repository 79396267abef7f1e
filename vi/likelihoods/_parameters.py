"""What parameters must be: floats, of the data's trailing axes, in their range where known."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vi._check import refusal
from vi._known import is_known

LEARN_IT = "learn it through jnp.exp, jax.nn.softplus or vi.likelihoods.clamped_scale"


def require_trailing(where: str, name: str, value, of: str, full: tuple[int, ...]) -> None:
    """Refuse a parameter whose axes are not the trailing axes of another's; a scalar's are."""
    shape = jnp.shape(value)
    if len(shape) > len(full) or shape != full[len(full) - len(shape) :]:
        got = f"{list(shape)} against {list(full)}"
        remedy = f"give it one entry per trailing axis of {of}, or a scalar"
        raise refusal(where, name, f"fit the trailing axes of {of}", got, remedy)


def in_float(value) -> Array:
    """A parameter in a dtype that can hold counts and their masses.

    Integers become JAX's default float, half precision float32; the rest keeps its dtype.
    """
    dtype = jnp.result_type(value)
    is_float = jnp.issubdtype(dtype, jnp.floating)
    return jnp.asarray(value, jnp.promote_types(dtype, jnp.float32) if is_float else float)


def beside(loc, value):
    """A parameter as an array of the dtype of ``loc``, or of its own where that is wider."""
    return jnp.asarray(value, jnp.result_type(loc, value))


def require_some(where: str, name: str, value, last: str, remedy: str) -> None:
    """Refuse a parameter whose last axis is missing or empty."""
    if jnp.ndim(value) == 0 or jnp.shape(value)[-1] == 0:
        rule = f"be [..., {last}] with {last} at least 1"
        raise refusal(where, name, rule, f"shape {list(jnp.shape(value))}", remedy)


def require_interval(where: str, low: float, high: float) -> None:
    """Refuse ends that are not two known, finite numbers in order."""
    if not is_known(low, high):
        remedy = "they are the data's own: pass Python numbers"
        raise refusal(where, "low and high", "be known", "a traced value", remedy)
    if not (np.ndim(low) == np.ndim(high) == 0 and np.isfinite([low, high]).all() and low < high):
        remedy = "pass the two ends of the interval, the lower one first"
        raise refusal(where, "low and high", "be finite and low < high", f"{low}, {high}", remedy)
