"""An autoencoder of incomplete rows, what it is trained by, and how it fills the gaps."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

import vi

BLOCK = 50  # rows imputed at once
LOW, HIGH = 0.05, 2.0  # ends of the decoder's scale, in standard deviations of the column
LEAST_DF = 3.0  # so that a Student-t has a mean and a variance

Likelihood = Literal["student_t", "normal"]


class Rows(NamedTuple):
    """Incomplete rows; what stands where nothing was observed is not looked at."""

    values: Float[Array, "N D"]
    observed: Bool[Array, "N D"]


class Sizes(NamedTuple):
    """Of a model."""

    columns: int  # D
    hidden: int  # units in each of two hidden layers, of encoder and decoder
    latent: int  # dimensions of z


class RowVAE(nnx.Module):
    """``row - z`` and back: q sees the row with zeros in its gaps, and where they are."""

    def __init__(self, sizes: Sizes, likelihood: Likelihood, rngs: nnx.Rngs):
        columns, hidden, latent = sizes
        layers = (hidden, hidden)
        self.encoder = vi.networks.MLP(2 * columns, layers, 2 * latent, rngs=rngs)
        self.decoder = vi.networks.MLP(latent, layers, 2 * columns, rngs=rngs)
        self.raw_df = nnx.Param(jnp.zeros(columns)) if likelihood == "student_t" else None
        self.latent = latent

    def prior(self) -> dist.Distribution:
        """``p(z)``, a standard normal."""
        return dist.Normal(jnp.zeros(self.latent), 1.0).to_event(1)

    def posterior(self, rows: Rows) -> dist.Distribution:
        """``q(z | x_o)``, a mean-field normal."""
        seen = jnp.where(rows.observed, rows.values, 0.0)
        inputs = jnp.concatenate([seen, 2.0 * rows.observed - 1.0], axis=-1)
        loc, log_scale = jnp.split(self.encoder(inputs), 2, axis=-1)
        return vi.families.normal(loc, log_scale=log_scale)

    def decode(self, z: Float[Array, "*shape latent"]) -> vi.likelihoods.Observation:
        """``p(x | z)`` of whole rows, independent columns."""
        loc, raw = jnp.split(self.decoder(z), 2, axis=-1)
        scale = vi.likelihoods.clamped_scale(raw, low=LOW, high=HIGH)
        if self.raw_df is None:
            return vi.likelihoods.normal(loc, scale=scale)
        df = LEAST_DF + jax.nn.softplus(self.raw_df[...])
        return vi.likelihoods.student_t(loc, df=df, scale=scale)

    def log_joint(self, rows: Rows) -> vi.types.LogDensity:
        """``z -> log p(x_o, z)``, of what was observed alone."""

        def log_joint(z):
            seen = vi.likelihoods.masked(self.decode(z), rows.observed)
            return seen.log_prob(rows.values) + self.prior().log_prob(z)

        return log_joint


def make_loss(num_samples: int):
    """Minus the importance-weighted bound of the observed entries; at K = 1 minus the ELBO.

    The table is carried beside the model, since every seed has its own; a batch is row numbers.
    """
    objective = vi.gradients.dreg(vi.bounds.iwae)

    def loss(model: RowVAE, table: Rows, key: Array, batch: Int[Array, "N"], step):
        del step
        rows = Rows(table.values[batch], table.observed[batch])
        bound = objective(key, model.posterior(rows), model.log_joint(rows), num_samples)
        return -bound.mean(), (table, {})

    return loss


class Filled(NamedTuple):
    """A completed table.

    Attributes:
        mean: With the posterior mean in the gaps, ``[N, D]``.
        effective_samples: Of the weights, ``[N]``.
    """

    mean: Float[Array, "N D"] | np.ndarray
    effective_samples: Float[Array, "N"] | np.ndarray


def fill(key: Array, model: RowVAE, table: Rows, num_samples: int) -> Filled:
    """Complete every row by ``num_samples`` weighted draws of q."""
    count = len(table.values)
    blocks = -(-count // BLOCK)
    parts = []
    for i, block in enumerate(np.arange(blocks * BLOCK).reshape(blocks, BLOCK) % count):
        rows = Rows(table.values[block], table.observed[block])
        parts.append(_fill(jax.random.fold_in(key, i), model, rows, num_samples))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


@functools.partial(jax.jit, static_argnames=("num_samples",))
def _fill(key: Array, model: RowVAE, rows: Rows, num_samples: int) -> Any:
    filled = vi.predictive.impute(
        key,
        model.posterior(rows),
        model.log_joint(rows),
        model.decode,
        rows.values,
        rows.observed,
        num_samples=num_samples,
    )
    assert filled.mean is not None
    return Filled(filled.mean, filled.effective_samples)
