"""Draws of which some leaves carry derivatives: what families offer and the engine asks for."""

import jax
import jax.numpy as jnp

from vi._check import is_reparameterised


def partial_rsample(q, key, sample_shape=()):
    """Draw with derivatives wherever ``q`` has them, and plainly elsewhere."""
    if hasattr(q, "partial_rsample"):
        return q.partial_rsample(key, sample_shape)
    if is_reparameterised(q):
        return q.rsample(key, sample_shape)
    return jax.lax.stop_gradient(q.sample(key, sample_shape))


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
