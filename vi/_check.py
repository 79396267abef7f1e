"""The house form of a refusal, and the checks that several rooms make."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer


def refusal(where: str, argument: str, rule: str, got: object, remedy: str) -> ValueError:
    """The error ``where: argument must rule (got ...); remedy``, for the caller to raise."""
    return ValueError(f"{where}: {argument} must {rule} (got {got}); {remedy}")


def is_key(leaf) -> bool:
    """Whether a leaf is an array of typed PRNG keys."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def require_key(where: str, key) -> None:
    """Refuse anything but one typed PRNG key."""
    dtype = getattr(key, "dtype", None)
    remedy = "make one with jax.random.key(seed)"
    if dtype is None:
        raise refusal(where, "key", "be a typed PRNG key", repr(key), remedy)
    if not is_key(key):
        got = f"a {dtype} array of shape {jnp.shape(key)}"
        raise refusal(where, "key", "be a typed PRNG key", got, remedy)
    if key.shape != ():
        remedy = "use one key, or jax.vmap over several"
        raise refusal(where, "key", "be a single key", f"keys of shape {key.shape}", remedy)


def require_count(where: str, argument: str, value, least: int = 1) -> int:
    """Refuse anything but a concrete integer of at least ``least``; return it as an int."""
    rule, remedy = f"be an integer of at least {least}", f"pass {argument}={least} or more"
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise refusal(where, argument, rule, repr(value), remedy)
    if isinstance(value, Tracer):
        remedy = (
            "it sets array shapes: keep it out of jit's arguments, or name it in static_argnames"
        )
        raise refusal(where, argument, rule, "a traced value", remedy)
    count = int(value)
    if count < least:
        raise refusal(where, argument, rule, count, remedy)
    return count


def name_of(function: Any) -> str:
    """What a bound or a rule goes by: its name, that of what a partial wraps, or its type's."""
    wrapped = getattr(function, "func", function)
    return getattr(wrapped, "__name__", type(function).__name__).strip("_")


def require_bound(where: str, bound: Any, name: str = "bound") -> None:
    """Refuse what is not a function of log-weights: a factory of them is called first."""
    if getattr(bound, "is_factory", False):
        got, remedy = f"the factory {bound.__name__}", f"call it: vi.bounds.{bound.is_factory}"
        raise refusal(where, name, "be a function of log_w", got, remedy)
    if not callable(bound) or hasattr(bound, "bound"):
        remedy = "pass a function of log-weights, for instance vi.bounds.iwae"
        raise refusal(where, name, "be a function of log_w", repr(bound), remedy)


def is_reparameterised(q) -> bool:
    """Whether derivatives flow through the draws of ``q``, by what it says of itself."""
    return callable(getattr(q, "rsample", None)) and getattr(q, "has_rsample", True)


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


def log_ratio(where: str, num_samples: int, log_p, log_q) -> jax.Array:
    """``log_p - log_q`` in at least float32, both checked to be floating ``[K, *batch]``."""
    require_log_densities(where, num_samples, {"log_joint": log_p, "q.log_prob": log_q})
    dtype = jnp.promote_types(jnp.result_type(log_p, log_q), jnp.float32)
    return log_p.astype(dtype) - log_q.astype(dtype)


def require_log_densities(where: str, num_samples: int, densities: Mapping[str, Any]) -> None:
    """Refuse what is not a floating ``[K, *batch]``, of one batch with ``q.log_prob``."""
    for name, value in densities.items():
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            rule, got = "return a floating log-density", f"dtype {jnp.result_type(value)}"
            raise refusal(where, name, rule, got, "return nats as floats")
        if jnp.shape(value)[:1] != (num_samples,):
            got = f"shape {list(jnp.shape(value))} for K = {num_samples}"
            remedy = (
                "keep the sample axis first, sum over event axes only, and return one entry per"
                " sample and datum (vi.testing.describe prints the shapes)"
            )
            raise refusal(where, name, "return [K, *batch]", got, remedy)
    shape = jnp.shape(densities["q.log_prob"])
    for name, value in densities.items():
        if jnp.shape(value) != shape:
            got = f"{list(jnp.shape(value))} against {list(shape)}"
            remedy = "sum both over their event axes, and give both the same batch"
            raise refusal(where, name, "have the shape of q.log_prob", got, remedy)
