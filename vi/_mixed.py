"""Draws and what comes with them: derivatives in some leaves, log-densities, their forces."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import zero_from_primal

from vi._check import is_reparameterised, refusal


def partial_rsample(q, key, sample_shape=()):
    """Draw with derivatives wherever ``q`` has them, and plainly elsewhere."""
    if hasattr(q, "partial_rsample"):
        return q.partial_rsample(key, sample_shape)
    if is_reparameterised(q):
        return q.rsample(key, sample_shape)
    return jax.lax.stop_gradient(q.sample(key, sample_shape))


def require_rsample(where: str, name: str, q) -> None:
    """Refuse a member of a family whose draws have no derivative."""
    if not is_reparameterised(q):
        remedy = (
            "use a reparameterised member, or vi.gradients.mixed, which holds the draws of others"
        )
        raise refusal(where, name, "be reparameterised", type(q).__name__, remedy)


def scored_rsample(where: str, name: str, q, key, sample_shape=()) -> tuple[Any, Any]:
    """Draws with derivatives and their log-probability: in one pass where ``q`` has one."""
    require_rsample(where, name, q)
    if hasattr(q, "rsample_and_log_prob"):
        return q.rsample_and_log_prob(key, sample_shape)
    z = q.rsample(key, sample_shape)
    return z, q.log_prob(z)


def forced_rsample(where: str, name: str, q, key, sample_shape=()) -> tuple[Any, Any, Any]:
    """Draws with derivatives, their log-probability, and its derivative in them.

    By one pass where ``q`` has one, else from ``log_prob``.
    """
    require_rsample(where, name, q)
    if hasattr(q, "rsample_and_force"):
        return q.rsample_and_force(key, sample_shape)
    z = q.rsample(key, sample_shape)
    log_q, pull = jax.vjp(q.log_prob, z)
    (force,) = pull(jnp.ones_like(log_q))
    return z, log_q, force


def once(values: Any) -> Any:
    """The values, constant when they are differentiated once.

    A force is the coefficient of a first derivative, and its own derivative would be work for
    nothing. A second derivative without that would be wrong in silence: it is refused, but inside
    a ``jax.lax.scan``, of layers, where it comes out whole (a test holds it to differences).
    """
    return jax.tree.map(_once, values)


@jax.custom_jvp
def _once(x):
    return x


def _once_jvp(primals, tangents):
    del tangents
    held = _refused(*primals)
    return held, zero_from_primal(held, symbolic_zeros=True)


_once.defjvp(_once_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _refused(x):
    return x


@_refused.defjvp
def _refused_jvp(primals, tangents):
    raise ValueError(
        "rsample_and_force: the derivative of log q is held at its value, and has no derivative of"
        " its own; for second derivatives use reparam"
    )


def agreeing_sum(where: str, terms: Mapping[str, jax.Array]) -> jax.Array:
    """The sum of the members' log-densities, refused where their shapes differ."""
    shapes = {name: jnp.shape(term) for name, term in terms.items()}
    if len(set(shapes.values())) > 1:
        remedy = "give every member the same batch, and sum its event axes (to_event)"
        raise refusal(where, "members", "agree in shape", shapes, remedy)
    return sum(terms.values())  # pyright: ignore[reportReturnType]


def score_log_prob(q, z):
    """The log-probability of those leaves of ``z`` through which no derivative flows."""
    if hasattr(q, "score_log_prob"):
        return q.score_log_prob(z)
    log_q = q.log_prob(z)
    return jnp.zeros_like(log_q) if is_reparameterised(q) else log_q


def has_path(q, z):
    """For each leaf of ``z``, whether a derivative flows through it: a pytree of booleans."""
    if hasattr(q, "has_path"):
        return q.has_path(z)
    known = hasattr(q, "partial_rsample") or is_reparameterised(q)
    return jax.tree.map(lambda _: known, z)
