"""What factories and combinators ask of their arguments, and the name of what they make."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
from jax.core import Tracer

from vi._check import refusal
from vi.types import Bound

B = TypeVar("B", bound=Callable)


def require_scalar(where: str, name: str, value: Any) -> float | None:
    """Refuse anything but one finite number; return it as a float, or None if it is traced."""
    if jnp.shape(value) != ():
        remedy, got = "jax.vmap over several values", f"shape {list(jnp.shape(value))}"
        raise refusal(where, name, "be a scalar", got, remedy)
    if isinstance(value, str) or not jnp.issubdtype(jnp.result_type(value), jnp.number):
        raise refusal(where, name, "be a number", repr(value), "pass a float")
    if isinstance(value, Tracer):
        return None
    if not math.isfinite(value):
        raise refusal(where, name, "be finite", value, "pass a finite number")
    return float(value)


def require_bound(where: str, bound: Any, name: str = "bound") -> Bound:
    """Refuse what is not a function of log-weights."""
    if not callable(bound) or hasattr(bound, "evaluate"):
        remedy = "pass a function of log-weights, for instance vi.bounds.iwae"
        raise refusal(where, name, "be a function of log_w", repr(bound), remedy)
    return bound  # pyright: ignore[reportReturnType]


def name_of(function: Callable) -> str:
    """A function's name, as ``repr`` of an objective shows it."""
    wrapped = getattr(function, "func", function)  # of a functools.partial
    return getattr(wrapped, "__name__", type(function).__name__)


def named(name: str, *arguments: Any) -> Callable[[B], B]:
    """Decorate what a factory makes with the call that made it: ``renyi(0.5)``."""

    def shown(argument):
        if isinstance(argument, Tracer):
            return "traced"
        return name_of(argument) if callable(argument) else f"{argument}"

    def decorate(bound: B) -> B:
        bound.__name__ = bound.__qualname__ = f"{name}({', '.join(map(shown, arguments))})"
        return bound

    return decorate


def require_samples(where: str, log_w, least: int):
    """Refuse fewer than ``least`` samples; return the log-weights."""
    if log_w.shape[0] < least:
        rule, remedy = f"have at least {least} samples", "draw more samples per bound"
        raise refusal(where, "log_w", rule, f"K = {log_w.shape[0]}", remedy)
    return log_w
