"""The one place that knows closures, chunks and side outputs.

A rule says what to multiply; this says how: a ``custom_jvp`` (so forward and reverse mode both work)
whose value is the bound and whose tangent is contracted with the rule's coefficients.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import zero_from_primal

from vi._check import log_ratio, refusal
from vi.gradients._hoist import Hoisted, hoist
from vi.gradients._linearised import linearise, moving
from vi.types import Bound, Coefficients, Key, Latent, LogDensity, Rule, Variational


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
    """Chunks of one size: what each computes, as functions of ``Operands``."""

    size: int
    draw: Hoisted
    log_p: Hoisted
    log_q: Hoisted


class _Operands(NamedTuple):
    """All that a part depends on, so that ``custom_jvp`` sees every tangent: one key per chunk."""

    keys: Any
    draw: list[Any]
    log_p: list[Any]
    log_q: list[Any]


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
    used = _structure(name, rule, bound, num_samples)
    draw = _sampler(name, q, used)
    chunks = _chunk_sizes(num_samples, chunk_size)
    keys = [key[None]] if len(chunks) == 1 else _split(key, chunks)
    parts, operands = [], []
    for size, part_keys in zip(sorted(set(chunks), reverse=True), keys, strict=True):
        part = _trace(name, size, key, draw, q.log_prob, log_joint)
        parts.append(part)
        consts = (part.draw.consts, part.log_p.consts, part.log_q.consts)
        operands.append(_Operands(part_keys, *consts))
    _require_reduction(name, bound, parts[0], num_samples)

    @jax.custom_jvp
    def value_of(operands: list[_Operands]) -> Evaluation:
        log_w, aux = _weigh_all(name, parts, operands)
        return Evaluation(bound(log_w), log_w, aux)

    def value_and_tangent(primals, tangents):
        (operands,), (directions,) = primals, tangents
        if len(chunks) == 1:
            key = operands[0].keys[0]
            log_w, aux, push = _linearised(name, used, parts[0], operands[0], directions[0], key)
            out = Evaluation(bound(log_w), log_w, aux)
            tangent = push(rule(bound, log_w))
        else:
            log_w, aux = _weigh_all(name, parts, operands)
            out = Evaluation(bound(log_w), log_w, aux)
            coefficients = rule(bound, log_w)
            tangent = _push_all(name, used, parts, operands, directions, coefficients)
        zero = jax.tree.map(zero_from_primal, (log_w, aux))
        return out, Evaluation(tangent.astype(out.value.dtype), *zero)

    value_of.defjvp(value_and_tangent, symbolic_zeros=True)
    return value_of(operands)


def _structure(name: str, rule: Rule, bound: Bound, num_samples: int) -> Coefficients:
    """Which coefficients the rule gives, found without computing."""
    log_w = jax.ShapeDtypeStruct((num_samples,), jnp.float32)
    used = jax.eval_shape(lambda w: rule(bound, w), log_w)
    if not isinstance(used, Coefficients) or used.theta is None:
        remedy = "return vi.types.Coefficients(theta=..., path=..., score=...), theta always given"
        raise refusal(name, "rule", "return Coefficients", type(used).__name__, remedy)
    return used


def _sampler(name: str, q: Variational, used: Coefficients) -> Callable[..., Latent]:
    if used.path is None:
        return q.sample
    rsample = getattr(q, "rsample", None)
    if rsample is None or not getattr(q, "has_rsample", True):
        remedy = (
            "use a reparameterised family such as vi.families.normal, or a rule without a path"
            " term (vi.gradients.estimator)"
        )
        raise refusal(name, "q", "be reparameterised", type(q).__name__, remedy)
    return rsample


def _chunk_sizes(num_samples: int, chunk_size: int | None) -> list[int]:
    size = num_samples if chunk_size is None else min(chunk_size, num_samples)
    rest = num_samples % size
    return [size] * (num_samples // size) + [rest] * (rest > 0)


def _split(key: Key, chunks: list[int]) -> list[Any]:
    """One key per chunk, the chunks of one size together."""
    keys = jax.random.split(key, len(chunks))
    full = chunks.count(chunks[0])
    return [keys[:full]] if full == len(chunks) else [keys[:full], keys[full:]]


def _trace(name, size, key, draw, log_q, log_joint) -> _Part:
    def joint_and_aux(z):
        out = log_joint(z)
        return out if isinstance(out, tuple) else (out, None)

    abstract_key = jax.ShapeDtypeStruct((), key.dtype)
    sample = hoist(name, "q.rsample", lambda k: draw(k, (size,)), abstract_key)
    log_p = hoist(name, "log_joint", joint_and_aux, sample.out)
    scored = hoist(name, "q.log_prob", lambda z: (log_q(z), None), sample.out)
    _require_leading(name, "q", "draws", sample.out, size)
    _require_leading(name, "log_joint", "aux", log_p.out[1], size)
    jax.eval_shape(lambda p, q: log_ratio(name, size, p, q), log_p.out[0], scored.out[0])
    return _Part(size, sample, log_p, scored)


def _require_leading(name: str, argument: str, what: str, tree, size: int) -> None:
    for path, leaf in jax.tree.leaves_with_path(tree):
        if leaf.shape[:1] != (size,):
            got = f"{what}{jax.tree_util.keystr(path)} of shape {list(leaf.shape)} for K = {size}"
            remedy = "give every leaf one entry per sample on axis 0"
            raise refusal(name, argument, f"return {what} that lead with the K axis", got, remedy)


def _require_reduction(name: str, bound: Bound, part: _Part, num_samples: int) -> None:
    """Refuse a bound that keeps the K axis or drops a batch axis, before anything is computed."""
    batch = part.log_p.out[0].shape[1:]
    log_w = jax.ShapeDtypeStruct((num_samples, *batch), jnp.float32)
    out = jax.eval_shape(bound, log_w)
    if getattr(out, "shape", None) != batch:
        got = f"{list(log_w.shape)} to {list(getattr(out, 'shape', [type(out).__name__]))}"
        remedy = "reduce axis 0 and no other, for instance log_w.mean(0)"
        raise refusal(name, "bound", "map [K, *batch] to [*batch]", got, remedy)


def _weigh_all(name: str, parts: list[_Part], operands: list[_Operands]):
    """Log-weights ``[K, *batch]`` and aux of all chunks, one chunk in memory at a time."""
    weighed = []
    for part, operand in zip(parts, operands, strict=True):

        def weigh(key, part=part, operand=operand):
            z = part.draw.call(operand.draw, key)
            log_p, aux = part.log_p.call(operand.log_p, z)
            log_q, _ = part.log_q.call(operand.log_q, z)
            return log_ratio(name, part.size, log_p, log_q), aux

        if operand.keys.shape[0] == 1:
            weighed.append(weigh(operand.keys[0]))
        else:
            stacked = jax.lax.map(weigh, operand.keys)
            weighed.append(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), stacked))
    return weighed[0] if len(weighed) == 1 else jax.tree.map(_concatenate, *weighed)


def _concatenate(*arrays):
    return jnp.concatenate(arrays)


def _linearised(name, used: Coefficients, part: _Part, operand, direction, key):
    """Log-weights and aux of one chunk, and ``push(coefficients) -> [*batch]``."""
    if used.path is None:
        z, z_tangents = part.draw.call(operand.draw, key), None
    else:
        params = moving(operand.draw, direction.draw)
        z, tangents = jax.jvp(
            lambda at: part.draw.call(params.insert(at), key), (params.at,), (params.tangents,)
        )
        z_tangents = jax.tree.leaves(tangents) if params.at else None
    held_q = None if used.score is None else direction.log_q
    p = linearise(name, part.log_p, operand.log_p, direction.log_p, z, z_tangents)
    q = linearise(name, part.log_q, operand.log_q, held_q, z, z_tangents)

    def push(c: Coefficients):
        minus_path = None if c.path is None else -c.path
        return p.push(c.theta, c.path) + q.push(c.score, minus_path)

    return log_ratio(name, part.size, p.value, q.value), p.aux, push


def _push_all(name, used, parts, operands, directions, coefficients: Coefficients):
    """The second pass: redraw each chunk from its own key and contract, rematerialised."""
    total, start = 0.0, 0
    for part, operand, direction in zip(parts, operands, directions, strict=True):
        count = operand.keys.shape[0]
        stop = start + count * part.size
        mine = jax.tree.map(
            lambda c, n=count, size=part.size, lo=start, hi=stop: (
                c[lo:hi].reshape(n, size, *c.shape[1:])
            ),
            coefficients,
        )
        keys = jax.random.clone(operand.keys)

        @jax.checkpoint
        def push(key, c, part=part, operand=operand, direction=direction):
            return _linearised(name, used, part, operand, direction, key)[2](c)

        def step(acc, chunk, push=push):
            return acc + push(*chunk), None

        batch = coefficients.theta.shape[1:]
        zero = jnp.zeros(batch, coefficients.theta.dtype)
        total = total + jax.lax.scan(step, zero, (keys, mine))[0]
        start = stop
    return total
