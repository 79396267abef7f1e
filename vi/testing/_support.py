"""The outcomes of one draw: every value a discrete q can take, or the nodes of a grid."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer

from vi._check import refusal
from vi.types import Key, Latent, Variational


class Support(NamedTuple):
    """``size`` outcomes; ``make`` builds them, once it is known that they are not too many.

    ``is_grid``: they are nodes of an integral, which may converge or not.

    ``make() -> (z, log_volume)``: leaves ``[M, *batch, *event]`` and, ``[M]`` or a scalar, the log
    of the volume that each outcome stands for, 0 where z is discrete.
    """

    size: int
    make: Callable[[], tuple[Latent, Any]]
    is_grid: bool = False


def given(key: Key, q: Variational, values: Latent) -> Support:
    """Outcomes that the user lists, of the shapes that q draws."""
    sizes = {leaf.shape[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(values)}
    if len(sizes) != 1 or sizes == {0}:
        got = f"leaves with {sorted(sizes)} outcomes" if sizes else "no leaves"
        remedy = "give every leaf one entry per outcome on axis 0"
        raise refusal("enumerated", "support", "list the same outcomes in every leaf", got, remedy)
    (size,) = sizes
    drawn, listed = _draws(key, q, size), jax.tree.map(jnp.asarray, values)
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (drawn, listed)]
    if shapes[0] != shapes[1]:
        remedy = "give one value per outcome and datum, jnp.broadcast_to over the batch if need be"
        got = f"{shapes[1]} against {shapes[0]}"
        raise refusal("enumerated", "support", "have the shapes of q.sample", got, remedy)
    for drawn_leaf, leaf in zip(*map(jax.tree.leaves, (drawn, listed)), strict=True):
        if _kind(drawn_leaf.dtype) != _kind(leaf.dtype):
            got, remedy = (
                f"{leaf.dtype} for {drawn_leaf.dtype}",
                "list it in the dtype that q draws",
            )
            raise refusal("enumerated", "support", "have the dtypes of q.sample", got, remedy)
    batch = jax.eval_shape(q.log_prob, drawn).shape[1:]
    if _repeats(jax.tree.leaves(values), size, math.prod(batch)):
        remedy = "list each once"
        raise refusal("enumerated", "support", "have no outcome twice", "a repeated one", remedy)
    return Support(size, lambda: (listed, 0.0))


def finite(q: Variational) -> Support:
    """Every outcome of a NumPyro distribution, jointly over the axes that are its event.

    NumPyro enumerates event axes that were batch axes (``to_event``) one by one at most; here it
    is their product: 3 bits have 8 outcomes.
    """
    base: Any = q
    while isinstance(base, dist.Independent | dist.ExpandedDistribution):
        base = base.base_dist
    if not getattr(base, "has_enumerate_support", False):
        raise _not_enumerable(q)
    try:
        values = base.enumerate_support(expand=False)
    except (NotImplementedError, jax.errors.ConcretizationTypeError) as error:
        raise _not_enumerable(q) from error
    batch, event = q.batch_shape, q.event_shape  # pyright: ignore
    values = values.reshape(len(values), *base.event_shape)
    axes = event[: len(event) - len(base.event_shape)]  # those that to_event made
    coordinates = math.prod(axes)
    size = len(values) ** coordinates

    def make():
        digits = jnp.arange(size)[:, None] // len(values) ** jnp.arange(coordinates) % len(values)
        every = values[digits].reshape(size, *(1 for _ in batch), *event)
        return jnp.broadcast_to(every, (size, *batch, *event)), 0.0

    return Support(size, make)


def grid(key: Key, q: Variational, lower: float, upper: float, num_nodes: int) -> Support:
    """The nodes of the trapezoid rule, the same for every datum and whatever q's parameters."""
    drawn = _draws(key, q, num_nodes)
    log_q = jax.eval_shape(q.log_prob, drawn)
    shape, dtype = log_q.shape, jax.tree.leaves(drawn)[0].dtype
    if getattr(drawn, "shape", None) != shape or not jnp.issubdtype(dtype, jnp.floating):
        leaves = [
            f"{leaf.dtype} {list(leaf.shape[len(shape) :])}" for leaf in jax.tree.leaves(drawn)
        ]
        remedy = "index a single event axis away (z[..., None] in log_joint), or draw instead"
        rule = "be over one real number, event shape ()"
        raise refusal("quadrature", "q", rule, f"events {', '.join(leaves)}", remedy)

    def make():
        log_step = np.full(num_nodes, math.log((upper - lower) / (num_nodes - 1)))
        log_step[[0, -1]] -= math.log(2)
        column = (num_nodes, *(1 for _ in shape[1:]))
        nodes = np.broadcast_to(np.linspace(lower, upper, num_nodes).reshape(column), shape)
        return jnp.asarray(nodes, dtype), jnp.asarray(log_step.reshape(column), log_q.dtype)

    return Support(num_nodes, make, is_grid=True)


def _kind(dtype):
    kinds = jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating
    return next((kind for kind in kinds if jnp.issubdtype(dtype, kind)), None)


def _repeats(leaves, size: int, batch_size: int) -> bool:
    """Whether some datum has an outcome twice; False where the values are not known yet."""
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return False
    rows = [np.asarray(leaf).reshape(size, batch_size, -1) for leaf in leaves]
    every = np.concatenate(rows, axis=-1)
    return any(len(np.unique(every[:, i], axis=0)) < size for i in range(batch_size))


def _draws(key, q, size):
    """The shapes of ``size`` draws; nothing is drawn."""
    return jax.eval_shape(lambda k: q.sample(k, (size,)), jax.ShapeDtypeStruct((), key.dtype))


def _not_enumerable(q) -> ValueError:
    name, base = type(q).__name__, getattr(q, "base_dist", None)
    got = name if base is None else f"{name}({type(base).__name__})"
    remedy = "pass support=, every outcome along axis 0, or integrate with vi.testing.quadrature"
    return refusal("enumerated", "q", "have a finite support that NumPyro can list", got, remedy)
