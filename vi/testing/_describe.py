"""The shapes that q and a log-joint exchange, in words."""

import jax
import jax.numpy as jnp

from vi._check import require_count, require_key
from vi.types import Key, LogDensity, Variational


def describe(key: Key, q: Variational, log_joint: LogDensity, num_samples: int) -> str:
    """Say which shapes q and ``log_joint`` exchange, and where they do not fit.

    The first error of anyone is a shape. Nothing is computed: shapes are evaluated abstractly.

    Args:
        key: One typed PRNG key; nothing is drawn with it.
        q: The approximate posterior.
        log_joint: ``z -> log p(x, z)``, or ``(log p(x, z), aux)``.
        num_samples: ``K``.

    Returns:
        ``"K 64 | batch [100] | event [50] | log_joint [64, 100]"``, the event leaf by leaf where z
        is a pytree; then, where something does not fit, what and how to mend it.

    Raises:
        ValueError: A key that is not one typed key, or ``num_samples`` not an integer of at least
            1.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> q = dist.Normal(jnp.zeros((100, 50)), 1.0).to_event(1)
        >>> describe(jax.random.key(0), q, lambda z: -z.sum(-1), 64)
        'K 64 | batch [100] | event [50] | log_joint [64, 100]'
        >>> print(describe(jax.random.key(0), q, lambda z: -z, 64))
        K 64 | batch [100] | event [50] | log_joint [64, 100, 50]
        log_joint must be [64, 100]: sum it over its last axes [50]
    """
    require_key("describe", key)
    K = require_count("describe", "num_samples", num_samples)
    z = jax.eval_shape(lambda key: q.sample(key, (K,)), key)
    log_q = jax.eval_shape(q.log_prob, z)
    batch = log_q.shape[1:]
    event = jax.tree.map(lambda leaf: leaf.shape[1 + len(batch) :], z)
    head = f"K {K} | batch {list(batch)} | event {_show(event)}"
    for leaf in jax.tree.leaves(z):
        if log_q.shape[:1] != (K,) or leaf.shape[: log_q.ndim] != log_q.shape:
            trouble = f"q.sample drew {list(leaf.shape)}, q.log_prob gave {list(log_q.shape)}"
            return f"{head}\n{trouble}: both must lead with [K, *batch], K = {K}"
    try:
        log_p = jax.eval_shape(log_joint, z)
    except Exception as error:  # the report is about the user's function
        first_line = str(error).strip().partition("\n")[0]
        return f"{head} | log_joint raised {type(error).__name__}\n{first_line}"
    log_p = log_p[0] if isinstance(log_p, tuple) else log_p
    head = f"{head} | log_joint {list(log_p.shape)}"
    trouble = _trouble(log_p, log_q.shape)
    return f"{head}\n{trouble}" if trouble else head


def _trouble(log_p, expected) -> str:
    got, must = log_p.shape, f"log_joint must be {list(expected)}"
    if got == expected:
        if jnp.issubdtype(log_p.dtype, jnp.floating):
            return ""
        return f"log_joint must be floating, not {log_p.dtype}: return nats"
    if got[: len(expected)] == expected:
        return f"{must}: sum it over its last axes {list(got[len(expected) :])}"
    if expected[: len(got)] == got:
        extra = list(expected[len(got) :])
        return (
            f"{must}: q.log_prob has the axes {extra} more; are they event axes, q.to_event(...)?"
        )
    if got == expected[1:]:
        return f"{must}: the sample axis is lost; sum over event axes only"
    return f"{must}, the shape of q.log_prob: keep [K, *batch] first and sum over event axes only"


def _show(shapes) -> str:
    if isinstance(shapes, dict):
        return "{" + ", ".join(f"{name}: {_show(shape)}" for name, shape in shapes.items()) + "}"
    if isinstance(shapes, tuple) and all(isinstance(size, int) for size in shapes):
        return str(list(shapes))
    leaves = jax.tree.leaves(shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    return "(" + ", ".join(map(_show, leaves)) + ")"
