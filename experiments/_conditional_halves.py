"""The lower half of an image given its upper half, by a model that is told the label or not."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

import vi
from experiments._conditional_vae import ConditionalVAE, split
from experiments._evaluate import model_of, stream
from experiments._run import Run

STEPS, RATE = 100, 0.05  # by which q is fitted to the known half
PAIRS = 8  # of opposite draws, fixed while it is fitted
DRAWS = 3  # completions of each image
BLOCK = 40  # images at once
_STREAM = 0x68616C66  # "half": of every seed's key


class Known(NamedTuple):
    """What is known of one datum, and a q fitted to that."""

    q: Any
    log_joint: vi.types.LogDensity
    observed: Bool[Array, " pixels"]


def upper(pixels: int) -> Bool[np.ndarray, " pixels"]:
    """True in the upper half."""
    return np.arange(pixels) < pixels // 2


def known_half(key: Array, model: ConditionalVAE, x: Float[Array, " datum"]) -> Known:
    """Of the upper half: q starts where the encoder, given it and blanks, points; then it climbs.

    The encoder was trained on whole images alone: refined, q is a proposal for weighted draws.
    """
    bits, label = split(x, model.pixels)
    observed = jnp.asarray(upper(model.pixels))

    def log_joint(z):
        seen = vi.likelihoods.masked(model.decode(z, label), observed)
        return seen.log_prob(bits) + model.prior().log_prob(z)

    noise = jax.random.normal(key, (PAIRS, model.latent))
    noise = jnp.concatenate([noise, -noise])

    def elbo(params):
        loc, log_scale = params
        return log_joint(loc + jnp.exp(log_scale) * noise).mean() + log_scale.sum()

    start = model.encode(jnp.where(observed, bits, 0.0), label)
    optimizer = optax.adam(RATE, eps_root=1e-8)
    loc, log_scale = vi.networks.refine(elbo, start, optimizer=optimizer, num_steps=STEPS)
    return Known(vi.families.normal(loc, log_scale=log_scale), log_joint, observed)


def complete(
    run: Run, state: vi.training.State, x: Float[Array, "M datum"], num_samples: int
) -> dict[str, np.ndarray]:
    """What each seed's model says of the upper halves, and fills in below them.

    Returns:
        ``nll``: ``-log p(upper half | y)`` by importance weighting, ``[S, M]``; ``effective``: the
        effective draws of ``num_samples``, ``[S, M]``; ``mean``: the images with the posterior mean
        in their lower half, ``[S, M, pixels]``; ``draws``: with draws, ``[S, M, DRAWS, pixels]``.
    """
    each = [
        _complete(key, model_of(state, i), x, num_samples)
        for i, key in enumerate(stream(run.key, _STREAM))
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


@functools.partial(jax.jit, static_argnames="num_samples")
def _complete(key: Array, model: ConditionalVAE, x: Float[Array, "M datum"], num_samples: int):
    def of_one(pair):
        key, datum = pair
        bits, label = split(datum, model.pixels)
        fit_key, score_key, draw_key = jax.random.split(key, 3)
        q, log_joint, observed = known_half(fit_key, model, datum)
        objective = vi.gradients.fixed(vi.bounds.iwae)
        filled = vi.predictive.impute(
            draw_key,
            q,
            log_joint,
            lambda z: model.decode(z, label),
            bits,
            observed,
            num_samples=num_samples,
            num_draws=DRAWS,
        )
        return {
            "nll": -objective(score_key, q, log_joint, num_samples),
            "effective": filled.effective_samples,
            "mean": filled.mean,
            "draws": filled.draws,
        }

    return jax.lax.map(of_one, (jax.random.split(key, len(x)), x), batch_size=BLOCK)
