"""The house form of a refusal, and the checks that several rooms make."""

import jax
import jax.numpy as jnp
from jax.core import Tracer


def refusal(where: str, argument: str, rule: str, got: object, remedy: str) -> ValueError:
    """The error ``where: argument must rule (got ...); remedy``, for the caller to raise."""
    return ValueError(f"{where}: {argument} must {rule} (got {got}); {remedy}")


def require_key(where: str, key) -> None:
    """Refuse anything but one typed PRNG key."""
    dtype = getattr(key, "dtype", None)
    remedy = "make one with jax.random.key(seed)"
    if dtype is None:
        raise refusal(where, "key", "be a typed PRNG key", repr(key), remedy)
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
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


def log_ratio(where: str, num_samples: int, log_p, log_q) -> jax.Array:
    """``log_p - log_q`` in at least float32, both checked to be floating ``[K, *batch]``."""
    _require_log_density(where, "log_joint", log_p, num_samples)
    _require_log_density(where, "q.log_prob", log_q, num_samples)
    if log_p.shape != log_q.shape:
        got = f"{list(log_p.shape)} against {list(log_q.shape)}"
        remedy = "sum both over their event axes, and give both the same batch"
        raise refusal(where, "log_joint", "have the shape of q.log_prob", got, remedy)
    dtype = jnp.promote_types(jnp.result_type(log_p, log_q), jnp.float32)
    return log_p.astype(dtype) - log_q.astype(dtype)


def _require_log_density(where: str, name: str, value, num_samples: int) -> None:
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        got = f"dtype {jnp.result_type(value)}"
        raise refusal(where, name, "return a floating log-density", got, "return nats as floats")
    if jnp.shape(value)[:1] != (num_samples,):
        got = f"shape {list(jnp.shape(value))} for K = {num_samples}"
        remedy = (
            "keep the sample axis first, sum over event axes only, and return one entry per"
            " sample and datum (vi.testing.describe prints the shapes)"
        )
        raise refusal(where, name, "return [K, *batch]", got, remedy)
