"""The one place that knows closures, chunks and side outputs.

A rule says what to multiply; this says how: a ``custom_jvp`` (so forward and reverse mode both
work) whose value is the bound and whose tangent is contracted with the rule's coefficients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import zero_from_primal

from vi._check import is_reparameterised, log_ratio
from vi.gradients._hoist import Hoisted, hoist
from vi.gradients._linearised import linearise, moving
from vi.gradients._requirements import (
    require_coefficients,
    require_leading,
    require_pair,
    require_path,
    require_reduction,
)
from vi.types import Bound, Coefficients, Key, LogDensity, Rule, Variational


class Evaluation(NamedTuple):
    """What an objective computed. Only ``value`` carries a gradient.

    Attributes:
        value: The bound, ``[*batch]``, in nats.
        log_weights: ``[K, *batch]``, in nats; no gradient flows through them.
        aux: What ``log_joint`` returned beside its log-density, leaves ``[K, ...]``; no gradient.
    """

    value: Any
    log_weights: Any
    aux: Any


class _Part(NamedTuple):
    """Chunks ``first, ..., first + chunks - 1``, all of one size: what each of them computes."""

    first: int
    chunks: int
    size: int
    draw: Hoisted
    log_p: Hoisted
    log_q: Hoisted


class _Operands(NamedTuple):
    """All that the objective depends on, so that ``custom_jvp`` sees every tangent."""

    key: Key
    parts: list[tuple[list[Any], list[Any], list[Any]]]  # constants of draw, log_p, log_q
    bound: list[Any]
    rule: list[Any]


def evaluate(
    name: str,
    rule: Rule,
    bound: Bound,
    chunk_size: int | None,
    key: Key,
    q: Variational,
    log_joint: LogDensity,
    num_samples: int,
) -> Evaluation:
    """The bound of ``num_samples`` draws, differentiated by ``rule``."""
    draw = q.rsample if is_reparameterised(q) else q.sample  # pyright: ignore
    size = num_samples if chunk_size is None else min(chunk_size, num_samples)
    full, rest = divmod(num_samples, size)
    parts = [_trace(name, 0, full, size, key, draw, q.log_prob, log_joint)]
    if rest:
        parts.append(_trace(name, full, 1, rest, key, draw, q.log_prob, log_joint))
    whole = full == 1 and not rest
    chunk_key = (lambda key, _: key) if whole else jax.random.fold_in
    key = key if whole else jax.random.split(key, 1)[0]  # consumed either way

    def weigh(of: _Operands):
        return _weigh_all(name, parts, lambda i: chunk_key(of.key, i), of.parts)

    def operands(bound_consts, rule_consts) -> _Operands:
        consts = [(part.draw.consts, part.log_p.consts, part.log_q.consts) for part in parts]
        return _Operands(key, consts, bound_consts, rule_consts)

    log_w, _ = jax.eval_shape(weigh, operands([], []))  # with its sharding
    reduce = hoist(name, "bound", bound, log_w)
    require_reduction(name, log_w, reduce.out)
    weigh_in = hoist(name, "rule", lambda w: rule(bound, w), log_w)
    used = require_coefficients(name, log_w, weigh_in.out)
    if used.path is not None:
        require_path(name, q, parts[0].draw.out)
    elif draw != q.sample:
        draws = [_hoist_draw(name, q.sample, part.size, key) for part in parts]
        parts = [p._replace(draw=drawn) for p, drawn in zip(parts, draws, strict=True)]

    @jax.custom_jvp
    def value_of(of: _Operands) -> Evaluation:
        log_w, aux = weigh(of)
        return Evaluation(reduce.call(of.bound, log_w), log_w, aux)

    def value_and_tangent(primals, tangents):
        (of,), (along,) = primals, tangents
        if whole:
            chunk = _linearised(name, used, parts[0], of.key, of.parts[0], along.parts[0])
            log_w, aux, push = chunk
            tangent = push(weigh_in.call(of.rule, log_w))
        else:
            log_w, aux = weigh(of)
            again = jax.random.clone(of.key)
            tangent = _push_all(
                lambda part, index, operand, direction: _linearised(
                    name, used, part, chunk_key(again, index), operand, direction
                )[2],
                parts,
                of.parts,
                along.parts,
                weigh_in.call(of.rule, log_w),
            )
        own = moving(of.bound, along.bound)  # what the bound itself closes over: a learned alpha
        value, from_bound = jax.jvp(
            lambda at: reduce.call(own.insert(at), log_w), (own.at,), (own.tangents,)
        )
        tangent = tangent.astype(value.dtype) + from_bound
        held = jax.tree.map(zero_from_primal, (log_w, aux))
        return Evaluation(value, log_w, aux), Evaluation(tangent, *held)

    value_of.defjvp(value_and_tangent, symbolic_zeros=True)
    return value_of(operands(reduce.consts, weigh_in.consts))


def _trace(name, first, chunks, size, key, draw, log_q, log_joint) -> _Part:
    def joint_and_aux(z):
        out = log_joint(z)
        return require_pair(name, out if isinstance(out, tuple) else (out, None))

    sample = _hoist_draw(name, draw, size, key)
    log_p = hoist(name, "log_joint", joint_and_aux, sample.out)
    scored = hoist(name, "q.log_prob", lambda z: (log_q(z), None), sample.out)
    require_leading(name, "q", "draws", sample.out, size)
    require_leading(name, "log_joint", "aux", log_p.out[1], size)
    jax.eval_shape(lambda p, q: log_ratio(name, size, p, q), log_p.out[0], scored.out[0])
    return _Part(first, chunks, size, sample, log_p, scored)


def _hoist_draw(name: str, draw, size: int, key: Key) -> Hoisted:
    return hoist(name, "q", lambda k: draw(k, (size,)), jax.ShapeDtypeStruct((), key.dtype))


def _weigh_all(name: str, parts: list[_Part], chunk_key, operands):
    """Log-weights ``[K, *batch]`` and aux of all chunks, one chunk in memory at a time."""
    weighed = []
    for part, (draw, log_p, log_q) in zip(parts, operands, strict=True):

        def weigh(index, part=part, draw=draw, log_p=log_p, log_q=log_q):
            z = part.draw.call(draw, chunk_key(index))
            p, aux = part.log_p.call(log_p, z)
            q, _ = part.log_q.call(log_q, z)
            return log_ratio(name, part.size, p, q), aux

        if part.chunks == 1:
            weighed.append(weigh(part.first))
        else:
            stacked = jax.lax.map(weigh, part.first + jnp.arange(part.chunks))
            weighed.append(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), stacked))
    return weighed[0] if len(weighed) == 1 else jax.tree.map(_concatenate, *weighed)


def _concatenate(*arrays):
    return jnp.concatenate(arrays)


def _linearised(name: str, used: Coefficients, part: _Part, key: Key, operand, direction):
    """Log-weights and aux of one chunk, and ``push(coefficients) -> [*batch]``."""
    (draw, log_p, log_q), (d_draw, d_log_p, d_log_q) = operand, direction
    if used.path is None:
        z, d_z = part.draw.call(draw, key), None
    else:
        params = moving(draw, d_draw)
        z, d_z = jax.jvp(
            lambda at: part.draw.call(params.insert(at), key), (params.at,), (params.tangents,)
        )
        d_z = jax.tree.leaves(d_z) if params.at else None
    p = linearise(name, part.log_p, log_p, d_log_p, z, d_z)
    q = linearise(name, part.log_q, log_q, None if used.score is None else d_log_q, z, d_z)

    def push(c: Coefficients):
        minus_path = None if c.path is None else -c.path
        return p.push(c.theta, c.path) + q.push(c.score, minus_path)

    return log_ratio(name, part.size, p.value, q.value), p.aux, push


def _push_all(push_of, parts: list[_Part], operands, directions, coefficients: Coefficients):
    """The second pass: redraw each chunk from its own key and contract, rematerialised."""
    total, start = 0.0 * coefficients.theta[0], 0  # zeros, sharded as the sum will be
    for part, operand, direction in zip(parts, operands, directions, strict=True):

        @jax.checkpoint
        def push(index, c, part=part, operand=operand, direction=direction):
            return push_of(part, index, operand, direction)(c)

        def step(acc, chunk, push=push):
            return acc + push(*chunk), None

        stop = start + part.size * part.chunks
        mine = jax.tree.map(
            lambda c, part=part, lo=start, hi=stop: c[lo:hi].reshape(
                part.chunks, part.size, *c.shape[1:]
            ),
            coefficients,
        )
        indices = part.first + jnp.arange(part.chunks)
        total, _ = jax.lax.scan(step, total, (indices, mine))
        start = stop
    return total
