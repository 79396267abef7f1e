"""K draws in chunks: each drawn from its own key, weighed, and redrawn to be differentiated.

A chunk is what is in memory at once. On a mesh each device has its own run of chunks, numbered on
from those of the devices before it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vi._check import is_reparameterised, log_ratio
from vi._mixed import has_path, partial_rsample, score_log_prob
from vi.gradients._hoist import Hoisted, hoist
from vi.gradients._linearised import contract, linearise, moving
from vi.gradients._requirements import (
    is_path_derivative,
    is_plain_derivative,
    require_leading,
    require_pair,
)
from vi.types import Coefficients, Key


class Scored(NamedTuple):
    """What came with a draw: its log-probability, and perhaps the derivative of that in z."""

    log_q: Any
    force: Any = None


class Part(NamedTuple):
    """Chunks ``first, ..., first + chunks - 1``, all of one size: what each of them computes.

    A draw is ``(z, Scored)`` where q scores it in the same call, else ``(z, None)``.
    """

    first: int
    chunks: int
    size: int
    draw: Hoisted
    log_p: Hoisted
    log_q: Hoisted | None  # None where the draw comes with it
    log_held: Hoisted | None = None  # log-probability of the leaves that no derivative reaches
    paths: tuple[bool, ...] | None = None  # of the leaves of a draw, those that one reaches

    @property
    def densities(self) -> dict[str, Hoisted]:
        """All that is evaluated at a draw."""
        named = {"p": self.log_p, "q": self.log_q, "held": self.log_held}
        return {name: density for name, density in named.items() if density is not None}

    @property
    def consts(self) -> list[list[Any]]:
        """What the draw and each density closed over."""
        return [self.draw.consts, *(density.consts for density in self.densities.values())]


def trace(name: str, first: int, chunks: int, size: int, key, q, log_joint, *, scored) -> Part:
    """Trace the densities at the shapes of one chunk of draws from an abstract key.

    ``scored``: the method of q that draws and scores, or None.
    """

    def joint_and_aux(z):
        out = log_joint(z)
        return require_pair(name, out if isinstance(out, tuple) else (out, None))

    if scored is not None:

        def drawn(key):
            z, *rest = scored(key, (size,))
            return z, Scored(*rest)

        draw = hoist(name, "q", drawn, key)
        log_q, of_q = None, draw.out[1].log_q
    else:
        draw = _hoist_draw(name, lambda k, shape: partial_rsample(q, k, shape), size, key)
        log_q = hoist(name, "q.log_prob", lambda z: (q.log_prob(z), None), draw.out[0])
        of_q = log_q.out[0]
    log_p = hoist(name, "log_joint", joint_and_aux, draw.out[0])
    require_leading(name, "q", "draws", draw.out[0], size)
    require_leading(name, "log_joint", "aux", log_p.out[1], size)
    jax.eval_shape(lambda p, q: log_ratio(name, size, p, q), log_p.out[0], of_q)
    return Part(first, chunks, size, draw, log_p, log_q)


def scoring_draw(rule, q) -> Callable[..., Any] | None:
    """The method of q that draws and scores in one call, where it gives all that the rule asks."""
    if is_plain_derivative(rule):
        return getattr(q, "rsample_and_log_prob", None)
    return getattr(q, "rsample_and_force", None) if is_path_derivative(rule) else None


def draw_for(name: str, used: Coefficients, part: Part, key, q) -> Part:
    """The part with draws that carry the derivatives which the coefficients multiply."""
    if used.signal is not None:
        paths: list[bool] = []

        def score_of(z):
            paths[:] = jax.tree.leaves(has_path(q, z))
            return score_log_prob(q, z), None

        held = hoist(name, "q", score_of, part.draw.out[0])
        return part._replace(log_held=held, paths=tuple(paths))
    # the part as it was traced has draws by partial_rsample: one of these two, for many a q
    if part.log_q is None:
        return part
    if hasattr(q, "partial_rsample") or is_reparameterised(q) == (used.path is None):
        draw = q.sample if used.path is None else q.rsample
        return part._replace(draw=_hoist_draw(name, draw, part.size, key))
    return part


def _hoist_draw(name: str, draw, size: int, key) -> Hoisted:
    return hoist(name, "q", lambda k: (draw(k, (size,)), None), key)


def weigh_all(name: str, parts: list[Part], chunk_key, operands):
    """Log-weights ``[K, *batch]`` and aux of all chunks, one chunk in memory at a time."""
    weighed = []
    for part, (draw, log_p, *others) in zip(parts, operands, strict=True):

        def weigh(index, part=part, draw=draw, log_p=log_p, others=others):
            z, scored = part.draw.call(draw, chunk_key(index))
            p, aux = part.log_p.call(log_p, z)
            q = scored.log_q if part.log_q is None else part.log_q.call(others[0], z)[0]
            return log_ratio(name, part.size, p, q), aux

        if part.chunks == 1:
            weighed.append(weigh(part.first))
        else:
            stacked = jax.lax.map(weigh, part.first + jnp.arange(part.chunks))
            weighed.append(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), stacked))
    return weighed[0] if len(weighed) == 1 else jax.tree.map(_concatenate, *weighed)


def _concatenate(*arrays):
    return jnp.concatenate(arrays)


def linearised(name: str, used: Coefficients, part: Part, key: Key, operand, direction):
    """Log-weights and aux of one chunk, and ``push(coefficients) -> [*batch]``."""
    (draw, *consts), (d_draw, *d_consts) = operand, direction
    d_z: Any = None
    d_scored: Any = None
    if used.path is None and used.signal is None:
        z, scored = part.draw.call(draw, key)
    else:
        params = moving(draw, d_draw)
        (z, scored), (d_z, d_scored) = jax.jvp(
            lambda at: part.draw.call(params.insert(at), key), (params.at,), (params.tangents,)
        )
        d_z = jax.tree.leaves(d_z) if params.at else None
        if d_z is not None and part.paths is not None:
            d_z = [d if moves else None for d, moves in zip(d_z, part.paths, strict=True)]
    terms = {
        which: linearise(
            *(name, density, at, None if used.score is None and which == "q" else along, z, d_z)
        )
        for (which, density), at, along in zip(
            part.densities.items(), consts, d_consts, strict=True
        )
    }

    def push(c: Coefficients):
        if part.log_q is None and scored.force is None:
            return terms["p"].push(c.theta, c.theta) + (c.score * d_scored.log_q).sum(0)
        if part.log_q is None:
            of_q = 0.0 if d_z is None else contract(c.path, scored.force, d_z)
            return terms["p"].push(c.theta, c.path) - of_q
        minus_path = None if c.path is None else -c.path
        total = terms["p"].push(c.theta, c.path) + terms["q"].push(c.score, minus_path)
        return total + terms["held"].push(c.signal, c.signal) if "held" in terms else total

    q = terms["q"].value if "q" in terms else scored.log_q
    return log_ratio(name, part.size, terms["p"].value, q), terms["p"].aux, push


def push_all(push_of, parts: list[Part], operands, directions, coefficients: Coefficients):
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
