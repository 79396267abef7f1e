"""The best q of a family for each image on its own: its parameters, and how they are found."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

import vi
from experiments._vae import log_joint, posterior

CHUNK = 500  # draws of each image held at once


class Climb(NamedTuple):
    """How q is optimised for one image: Adam, its rate falling along a cosine."""

    num_steps: int
    num_samples: int
    learning_rate: float


def local_family(
    model: Any, x: Float[Array, " pixels"]
) -> tuple[Any, Callable[[Any], vi.types.Variational]]:
    """The encoder's parameters of q for one image, and the q of the family at any others.

    Of a normal they are the mean and the factor; of a flow those of its base *and the weights of
    its layers*, which all images shared until now. What the encoder tells the layers stays.
    """
    q: Any = posterior(model, x)
    if not hasattr(model.head, "flow"):
        return _of_normal(q), normal
    parts: Any = nnx.split(model.head.flow, nnx.Param, ...)
    graph, weights, rest = parts
    context = q.transforms[0].context

    def make_q(params):
        flow: Any = nnx.merge(graph, params["flow"], rest, copy=True)
        return flow(normal(params["base"]), context)

    return {"base": _of_normal(q.base_dist), "flow": weights}, make_q


def optimise(
    key: Array,
    start: Any,
    make_q: Callable[[Any], vi.types.Variational],
    log_p: vi.types.LogDensity,
    climb: Climb,
) -> Any:
    """The parameters, from ``start`` on, that maximise the ELBO of one image.

    Each step has noise of its own, so that q does not fit itself to a few draws, and the gradient
    is the path's alone (sticking the landing), whose noise vanishes as q nears the posterior: with
    the whole one the best flows were found 0.05 to 0.1 nats lower.
    """
    rate = optax.cosine_decay_schedule(climb.learning_rate, climb.num_steps, 0.01)
    optimizer = optax.adam(rate)
    objective = vi.gradients.dreg(vi.bounds.elbo)

    def loss(params, key):
        return -objective(key, make_q(params), log_p, climb.num_samples)

    def step(carry, i):
        params, state = carry
        gradient = jax.grad(loss)(params, jax.random.fold_in(key, i))
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    steps = jnp.arange(climb.num_steps)
    (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), steps)
    return params


@functools.partial(jax.jit, static_argnames=("climb", "num_samples"))
def score(
    key: Array, model: Any, x: Float[Array, "B pixels"], *, climb: Climb, num_samples: int
) -> dict[str, Array]:
    """The ELBO of the encoder's q and of the best one for each image, on fresh and equal draws.

    Returns:
        ``elbo``, ``optimal`` (the ELBO of the best q) and ``iwae`` (of the encoder's q, with all
        ``num_samples``), each ``[B]`` nats.
    """

    def one(key, x):
        climb_key, draws_key = jax.random.split(key)
        start, make_q = local_family(model, x)
        log_p = log_joint(model, x)

        def weigh(key, params):
            objective = vi.gradients.reparam(vi.bounds.iwae, chunk_size=CHUNK)
            value, log_w, _ = objective.evaluate(key, make_q(params), log_p, num_samples)
            return value, log_w.mean(0)

        best = optimise(climb_key, start, make_q, log_p, climb)
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), start, best)
        iwae, elbo = jax.vmap(weigh, in_axes=(None, 0))(draws_key, both)
        return {"elbo": elbo[0], "optimal": elbo[1], "iwae": iwae[0]}

    # a CPU multiplies by one image's own weights faster than by those of all at once
    together = 1 if jax.default_backend() == "cpu" else len(x)
    keys = jax.random.split(key, len(x))
    return jax.lax.map(lambda args: one(*args), (keys, x), batch_size=together)


def _of_normal(q: Any) -> dict[str, Array]:
    """Mean and log-scales, and what stands below the factor's diagonal, in units of its row's."""
    if not hasattr(q, "scale_tril"):
        return {"loc": q.base_dist.loc, "log_scale": jnp.log(q.base_dist.scale)}
    scale = jnp.diagonal(q.scale_tril, axis1=-2, axis2=-1)
    below = jnp.tril(q.scale_tril / scale[..., None], -1)
    return {"loc": q.loc, "log_scale": jnp.log(scale), "below": below}


def normal(params: dict[str, Array]) -> Any:
    if "below" not in params:
        return vi.families.normal(params["loc"], log_scale=params["log_scale"])
    rows = jnp.tril(params["below"], -1) + jnp.eye(params["loc"].shape[-1])
    scale_tril = jnp.exp(params["log_scale"])[..., None] * rows
    return vi.families.full_rank(params["loc"], scale_tril=scale_tril)
