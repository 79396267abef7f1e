"""What the codes of a whole grid of sprites are: their three KL terms, their discrepancy, MIG."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int

import vi
from experiments._distances_methods import POINTS, discrepancy
from experiments._evaluate import stream
from experiments._run import Run

CODES = 1  # of every seed's key
BLOCK = 100  # draws scored under all posteriors at once
STEPS = 8  # of a traversal, from -2 to 2 of the prior's standard deviations


def read_codes(
    run: Run,
    name: str,
    state: vi.training.State,
    grid: Float[Array, "N pixels"],
    factors: Int[Array, "N F"],
    num_draws: int,
) -> dict[str, np.ndarray]:
    """By name ``[S, ...]``: the KL terms ``[S, M]`` of M draws against the mixture of all data.

    The draws are of M data spread evenly over the grid; ``mmd`` ``[S]`` is of those draws and as
    many of the prior; ``mig`` ``[S]``, ``gap`` ``[S, F]`` and ``share`` ``[S, D, F]`` (information
    over entropy) are of the posterior means; ``traversal`` ``[D, steps, pixels]`` is the first
    seed's, about the code of the middle sprite.
    """

    def compute():
        keys = stream(run.key, CODES)
        found = read(keys, state.model, grid, factors, num_draws, name in POINTS)
        first = jax.tree.map(lambda leaf: leaf[0], state).model
        middle = (factors == factors.max(0) // 2).all(1).argmax()
        return found | {"traversal": traverse(first, grid[middle])}

    return run.once(f"codes of {name}", compute)


@functools.partial(jax.jit, static_argnames=("num_draws", "is_point"))
def read(
    keys: Array,
    models: Any,
    grid: Float[Array, "N pixels"],
    factors: Int[Array, "N F"],
    num_draws: int,
    is_point: bool,
) -> dict[str, Array]:
    """What ``read_codes`` keeps, of models ``[S]``; a point has no terms."""
    chosen = jnp.linspace(0, len(grid) - 1, num_draws).round().astype(int)

    def of_one(each):
        key, model = each
        draw_key, prior_key = jax.random.split(key)
        loc, log_scale = model.encoder(grid)
        scale = jnp.zeros_like(loc) if is_point else jnp.exp(log_scale)
        z = loc[chosen] + scale[chosen] * jax.random.normal(draw_key, loc[chosen].shape)
        gap = vi.diagnostics.mutual_information_gap(loc, factors)
        found = {
            "mmd": discrepancy(z, jax.random.normal(prior_key, z.shape)),
            "mig": gap.mean,
            "gap": gap.gap,
            "share": gap.mutual_information / gap.entropy,
        }
        if is_point:
            return found
        rates = dist.kl_divergence(dist.Normal(loc, scale), dist.Normal(0.0, 1.0)).mean(0)
        return found | terms(loc, scale, z, chosen)._asdict() | {"rates": rates}

    return jax.lax.map(of_one, (keys, models))


def terms(
    loc: Float[Array, "N D"],
    scale: Float[Array, "N D"],
    z: Float[Array, "M D"],
    own: Int[Array, " M"],
) -> vi.bounds.KLTerms:
    """The KL terms of draws of some data's posteriors, the aggregate that of all: exact weights."""
    q = dist.Normal(loc, scale)
    weights = jnp.full(len(loc), -np.log(len(loc)))

    def of_one(drawn):
        at, i = drawn
        log_q = dist.Normal(loc[i], scale[i]).log_prob(at)
        return vi.bounds.kl_terms(
            log_q, q.log_prob(at), dist.Normal(0.0, 1.0).log_prob(at), weights
        )

    return jax.lax.map(of_one, (z, own), batch_size=min(BLOCK, len(z)))


@jax.jit
def traverse(model: Any, x: Float[Array, " pixels"]) -> Float[Array, "D steps pixels"]:
    """Mean pixels as one dimension after another of the code of ``x`` goes from -2 to 2."""
    code = model.encoder(x)[0]
    along = jnp.linspace(-2.0, 2.0, STEPS)
    codes = jax.vmap(lambda d: jax.vmap(lambda value: code.at[d].set(value))(along))(
        jnp.arange(len(code))
    )
    return model.observation(codes).mean


def to_bits(grid: np.ndarray) -> Float[Array, "N pixels"]:
    """Sprites as bits."""
    return jnp.asarray(grid > 0, jnp.float32)
