"""Turn a closure into a function of everything it closed over."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from vi._check import refusal


class Hoisted(NamedTuple):
    """``call(consts, *args)`` computes what the closure did; ``out`` has the shapes it returns."""

    call: Callable[..., Any]
    consts: list[Any]
    out: Any


def hoist(where: str, name: str, fun: Callable[..., Any], *args: Any) -> Hoisted:
    """Trace ``fun`` at the shapes of ``args`` and make every constant it uses an argument.

    Every constant: integers, booleans and PRNG keys as well as floats, since a tracer left behind
    in a ``custom_jvp`` crashes under ``grad(jit)``, ``checkpoint`` and ``scan``. ``fun`` is traced
    anew at each call through a fresh function: a cache keyed on ``fun`` would hand an updated
    closure its old values.
    """
    try:
        closed, out = jax.make_jaxpr(lambda *a: fun(*a), return_shape=True)(*args)
    except Exception as error:
        if type(error).__name__ != "TraceContextError":
            raise
        remedy = (
            "nnx.split the module outside and nnx.merge(..., copy=True) inside, with deterministic"
            " layers or statistics passed as arguments"
        )
        got = f"a mutation inside it: {error}"
        raise refusal(where, name, "be pure", got, remedy) from error
    out_tree = jax.tree.structure(out)

    def call(consts: Sequence[Any], *args: Any):
        flat = core.jaxpr_as_fun(core.ClosedJaxpr(closed.jaxpr, consts))(*jax.tree.leaves(args))
        return jax.tree.unflatten(out_tree, flat)

    return Hoisted(call, list(closed.consts), out)
