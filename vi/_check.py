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


def require_q(where: str, q: Any) -> None:
    """Refuse what neither draws nor scores: a flow, or a class, that has not been called."""
    draws = ("sample", "rsample", "partial_rsample", "rsample_and_log_prob")
    scores = ("log_prob", "rsample_and_log_prob")
    if any(all(not hasattr(q, name) for name in names) for names in (draws, scores)):
        got = q.__name__ if isinstance(q, type) else type(q).__name__
        remedy = "pass a distribution, or an object like one; a flow is called first: flow(base)"
        raise refusal(where, "q", "have sample and log_prob", got, remedy)


def require_rngs(where: str, rngs: Any) -> None:
    """Refuse anything but ``flax.nnx.Rngs``."""
    from flax import nnx  # which only rooms of modules import

    if not isinstance(rngs, nnx.Rngs):
        remedy = "pass flax.nnx.Rngs(seed)"
        raise refusal(where, "rngs", "be where initial weights come from", repr(rngs), remedy)


def require_context(where: str, context: Any, size: int) -> None:
    """Refuse a context that is missing, unasked for, or of another size."""
    if context is None and size == 0:
        return
    if context is None:
        rule, remedy = f"be given, with a last axis of {size}", "pass context=[*batch, C]"
        raise refusal(where, "context", rule, "None", remedy)
    got = f"shape {list(jnp.shape(context))}"
    if size == 0:
        raise refusal(where, "context", "be None", got, "make it with context_size=C to take one")
    if jnp.shape(context)[-1:] != (size,):
        remedy = "it was made with that context_size"
        raise refusal(where, "context", f"have a last axis of {size}", got, remedy)


def require_batch_of(where: str, argument: str, lead: tuple[int, ...], context: Any) -> None:
    """Refuse a context whose batch is not the last of the axes ``lead`` of what it conditions."""
    batch = () if context is None else jnp.shape(context)[:-1]
    if batch != lead[len(lead) - len(batch) :]:
        got, remedy = f"{list(batch)} against {list(lead)}", "jnp.broadcast_to either, if meant"
        raise refusal(where, "context", f"have the batch of {argument}", got, remedy)


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
