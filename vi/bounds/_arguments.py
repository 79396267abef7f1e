"""What factories and combinators ask of their arguments, and the name of what they make."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from vi._check import name_of, refusal

F = TypeVar("F", bound=Callable)


def require_scalar(
    where: str, name: str, value: Any, remedy: str = "jax.vmap over several values"
) -> Any:
    """Refuse anything but one finite real number; return it as a float, or as it is if traced."""
    if np.ndim(value):
        raise refusal(where, name, "be a scalar", f"shape {list(np.shape(value))}", remedy)
    dtype = value.dtype if is_traced(value) else np.asarray(value).dtype
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise refusal(where, name, "be a number", repr(value), "pass a float")
    if is_traced(value):
        return value
    if not abs(float(value)) < float(jnp.finfo(jnp.float32).max):
        raise refusal(where, name, "be finite", value, "pass a finite number")
    return float(value)


def is_traced(value: Any) -> bool:
    """Whether a value is known only when the program runs."""
    return isinstance(value, Tracer)


def named(name: str, *arguments: Any) -> Callable[[F], F]:
    """Decorate what a factory makes with the call that made it: ``renyi(0.5)``."""

    def shown(argument):
        if is_traced(argument):
            return "traced"
        if callable(argument):
            return name_of(argument)
        return f"{argument:.6g}" if isinstance(argument, float) else f"{argument}"

    def decorate(bound: F) -> F:
        bound.__name__ = bound.__qualname__ = f"{name}({', '.join(map(shown, arguments))})"
        return bound

    return decorate


def factory(example: str) -> Callable[[F], F]:
    """Decorate a function that makes bounds, so that it is not taken for one."""

    def decorate(make: F) -> F:
        make.is_factory = example  # pyright: ignore[reportFunctionMemberAccess]
        return make

    return decorate


def require_samples(where: str, log_w, least: int):
    """Refuse fewer than ``least`` samples; return the log-weights."""
    if log_w.shape[0] < least:
        rule, remedy = f"have at least {least} samples", "draw more samples per bound"
        raise refusal(where, "log_w", rule, f"K = {log_w.shape[0]}", remedy)
    return log_w
