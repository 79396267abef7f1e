"""How a rule's coefficients become a derivative.

A rule says what to multiply; this says how: a ``custom_jvp`` (so forward and reverse mode both
work) whose value is the bound and whose tangent is contracted with the rule's coefficients.
"""

from typing import Any, NamedTuple

import jax
from jax.custom_derivatives import zero_from_primal

from vi.gradients._chunks import draw_for, linearised, push_all, scoring_draw, trace, weigh_all
from vi.gradients._devices import split_over
from vi.gradients._hoist import hoist
from vi.gradients._linearised import moving
from vi.gradients._requirements import (
    require_coefficients,
    require_independent,
    require_path,
    require_reduction,
)
from vi.types import Bound, Key, LogDensity, Rule, Variational


class Evaluation(NamedTuple):
    """What an objective computed. Only ``value`` carries a gradient.

    Attributes:
        value: The bound, ``[*batch]``, in nats.
        log_weights: ``[K, *batch]``, in nats; no gradient flows through them.
        aux: What ``log_joint`` returned beside its log-density, leaves ``[K, ...]``; no gradient.
            Where K is split over devices, those of the device's own draws.
    """

    value: Any
    log_weights: Any
    aux: Any


class _Operands(NamedTuple):
    """All that the objective depends on, so that ``custom_jvp`` sees every tangent."""

    key: Key
    parts: list[list[list[Any]]]  # by part, the constants of the draw and of each density
    bound: list[Any]
    rule: list[Any]


def evaluate(
    name: str,
    rule: Rule,
    bound: Bound,
    chunk_size: int | None,
    axis_name: str | None,
    key: Key,
    q: Variational,
    log_joint: LogDensity,
    num_samples: int,
) -> Evaluation:
    """The bound of ``num_samples`` draws, differentiated by ``rule``."""
    require_independent(name, rule, q)
    split = split_over(name, axis_name, num_samples)
    size = split.size if chunk_size is None else min(chunk_size, split.size)
    full, rest = divmod(split.size, size)
    whole = full == split.num_devices == 1 and not rest
    key = key if whole else split.spread(jax.random.split(key, 1)[0])  # consumed either way

    def chunk_key(key, index):
        if whole:
            return key
        return jax.random.fold_in(key, split.first_chunk(full + bool(rest)) + index)

    one_key = jax.eval_shape(chunk_key, key, 0)  # with what differs between devices
    scored = scoring_draw(rule, q)
    parts = [trace(name, 0, full, size, one_key, q, log_joint, scored=scored)]
    if rest:
        parts.append(trace(name, full, 1, rest, one_key, q, log_joint, scored=scored))

    def weigh(of: _Operands):
        log_w, aux = weigh_all(name, parts, lambda i: chunk_key(of.key, i), of.parts)
        return split.gather(log_w), aux

    def operands(bound_consts, rule_consts) -> _Operands:
        return _Operands(key, [part.consts for part in parts], bound_consts, rule_consts)

    log_w, _ = jax.eval_shape(weigh, operands([], []))  # with its sharding
    reduce = hoist(name, "bound", bound, log_w)
    require_reduction(name, log_w, reduce.out)
    weigh_in = hoist(name, "rule", lambda w: rule(bound, w), log_w)
    used = require_coefficients(name, rule, log_w, weigh_in.out)
    if used.path is not None and used.signal is None:
        require_path(name, q, parts[0].draw.out[0])
    parts = [draw_for(name, used, part, one_key, q) for part in parts]

    @jax.custom_jvp
    def value_of(of: _Operands) -> Evaluation:
        log_w, aux = weigh(of)
        return Evaluation(reduce.call(of.bound, log_w), log_w, aux)

    def value_and_tangent(primals, tangents):
        (of,), (along,) = primals, tangents
        if whole:
            chunk = linearised(name, used, parts[0], of.key, of.parts[0], along.parts[0])
            log_w, aux, push = chunk
            tangent = push(weigh_in.call(of.rule, log_w))
        else:
            log_w, aux = weigh(of)
            again = jax.random.clone(of.key)
            tangent = push_all(
                lambda part, index, operand, direction: linearised(
                    name, used, part, chunk_key(again, index), operand, direction
                )[2],
                parts,
                of.parts,
                along.parts,
                split.own(weigh_in.call(of.rule, log_w)),
            )
            tangent = split.total(tangent)
        own = moving(of.bound, along.bound)  # what the bound itself closes over: a learned alpha
        value, from_bound = jax.jvp(
            lambda at: reduce.call(own.insert(at), log_w), (own.at,), (own.tangents,)
        )
        tangent = tangent.astype(value.dtype) + from_bound
        held = jax.tree.map(zero_from_primal, (log_w, aux))
        return Evaluation(value, log_w, aux), Evaluation(tangent, *held)

    value_of.defjvp(value_and_tangent, symbolic_zeros=True)
    return value_of(operands(reduce.consts, weigh_in.consts))
