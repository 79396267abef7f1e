"""Which log-weights a bound computes in."""

import jax.numpy as jnp

from vi._check import refusal


def at_least_float32(where: str, log_w, name: str = "log_w"):
    """``log_w`` in float32 or wider; half precision loses nats, integers are refused."""
    log_w = jnp.asarray(log_w)
    if not jnp.issubdtype(log_w.dtype, jnp.floating):
        remedy = "these are nats: pass floats"
        raise refusal(where, name, "be floating", f"dtype {log_w.dtype}", remedy)
    if log_w.ndim == 0 or log_w.shape[0] == 0:
        remedy = "give the sample axis first, with at least one sample"
        raise refusal(where, name, "be [K, *batch]", f"shape {list(log_w.shape)}", remedy)
    return log_w.astype(jnp.promote_types(log_w.dtype, jnp.float32))
