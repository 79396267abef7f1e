"""A log-density at a draw, with its derivative kept ready for any coefficients."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from vi._check import refusal
from vi.gradients._hoist import Hoisted


class Moving(NamedTuple):
    """The entries of a list that have a tangent; ``insert`` puts values back among the others."""

    insert: Callable[[Sequence[Any]], list[Any]]
    at: list[Any]
    tangents: list[Any]


def moving(values: Sequence[Any], tangents: Sequence[Any] | None) -> Moving:
    """Select what moves; ``tangents=None`` holds everything."""
    values = list(values)
    tangents = [None] * len(values) if tangents is None else tangents
    where = [i for i, t in enumerate(tangents) if _is_moving(t)]

    def insert(new: Sequence[Any]) -> list[Any]:
        merged = list(values)
        for i, value in zip(where, new, strict=True):
            merged[i] = value
        return merged

    return Moving(insert, [values[i] for i in where], [tangents[i] for i in where])


def _is_moving(tangent) -> bool:
    return not (
        tangent is None or isinstance(tangent, SymbolicZero) or tangent.dtype == jax.dtypes.float0
    )


class Linearised(NamedTuple):
    """``value``, ``aux`` and ``push(held, through) -> [*batch]``, the contracted tangent.

    ``push`` is the sum over k of ``held[k]`` times the tangent that comes from the parameters with
    z held, plus ``through[k]`` times the tangent that comes through z; one array for both is plain
    differentiation, and asks nothing of the shape of z.
    """

    value: Any
    aux: Any
    push: Callable[[Any, Any], Any]


def linearise(
    where: str,
    density: Hoisted,
    consts: Sequence[Any],
    const_tangents: Sequence[Any] | None,
    z: Any,
    z_tangents: Sequence[Any] | None,
) -> Linearised:
    """One forward pass of ``density`` (which returns a value and aux), linear in whatever moves."""
    z_leaves, z_tree = jax.tree.flatten(z)
    draws, params = moving(z_leaves, z_tangents), moving(consts, const_tangents)

    def evaluate(z_at, c_at):
        return density.call(params.insert(c_at), jax.tree.unflatten(z_tree, draws.insert(z_at)))

    value, pushforward, aux = jax.linearize(evaluate, draws.at, params.at, has_aux=True)

    def push(held, through):
        if draws.at and params.at and held is not through:
            inner, outer = _factors(held, through)
            scaled = [_scale(where, inner, t) for t in draws.tangents]
            return (outer * pushforward(scaled, params.tangents)).sum(0)
        outer = through if draws.at else held
        if not (draws.at or params.at) or outer is None:
            return jnp.zeros_like(value[0])
        return (outer * pushforward(draws.tangents, params.tangents)).sum(0)

    return Linearised(value, aux, push)


def contract(path: Any, force: Any, d_z: Sequence[Any]) -> Any:
    """The sum over k of ``path[k]`` times the tangent of what has derivative ``force`` in z."""
    total = jnp.zeros_like(path)
    for f, d in zip(jax.tree.leaves(force), d_z, strict=True):
        total = total + (f * d).sum(tuple(range(path.ndim, f.ndim))).astype(total.dtype)
    return (path * total).sum(0)


def _factors(held, through):
    """``(inner, outer)`` with ``outer = held`` and ``inner * outer = through``, to rounding.

    Entry k depends on z_k alone, so its path tangent may be scaled on the way in (inner) or on the
    way out (outer); parameters are shared by all k and can only be scaled on the way out. Scaling z
    in and everything out is one pass for both. Where ``held`` vanishes beside ``through`` the ratio
    has no value: there ``held`` is floored at rounding level. Where the two are one, as under
    ``reparam``, no quotient is taken, and where one would overflow when differentiated again it is
    held constant.
    """
    limits = jnp.finfo(held.dtype)
    floor = limits.eps * jnp.abs(through)
    outer = jnp.where(jnp.abs(held) < floor, jnp.copysign(floor, held), held)
    same, tiny = through == outer, jnp.abs(outer) < limits.tiny**0.5
    at = jax.lax.stop_gradient((through, jnp.where(outer == 0, 1.0, outer)))
    ratio = jnp.where(tiny, at[0] / at[1], through / jnp.where(tiny, 1.0, outer))
    return jnp.where(same, 1.0, ratio), outer


def _scale(where: str, factor, tangent):
    if tangent.shape[: factor.ndim] != factor.shape:
        got = f"a leaf of shape {list(tangent.shape)} for weights {list(factor.shape)}"
        remedy = "sum or vmap over axes that the log-density does not keep"
        raise refusal(where, "z", "lead with [K, *batch] in every leaf", got, remedy)
    factor = factor.reshape(factor.shape + (1,) * (tangent.ndim - factor.ndim))
    return (factor * tangent).astype(tangent.dtype)
