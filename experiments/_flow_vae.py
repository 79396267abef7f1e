"""A variational autoencoder whose posterior is one of five: normals, flows, or refined."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from flax import nnx
from jaxtyping import Array, Float

import vi
from experiments._data import Images, set_output_bias
from experiments._vae import Network

SPLINE_BOUND = 4.0
REFINING_DRAWS = 2  # opposite and fixed, on which the parameters of each datum are refined
REFINING_STEPS, REFINING_RATE, REFINING_CLIP = 4, 0.1, 5.0


class FlowVAE(nnx.Module):
    """``x - z`` and back, with any posterior; a latent is an array ``[..., latent]``.

    ``head`` maps the encoder's features to q: ``head(features, log_joint) -> q``.
    """

    def __init__(self, pixels: int, hidden: int, latent: int, head: nnx.Module, rngs: nnx.Rngs):
        self.encoder = Network(pixels, hidden, (hidden,), rngs)
        self.decoder = Network(latent, hidden, (pixels,), rngs)
        self.head = head
        self.latent = latent

    def prior(self) -> dist.Distribution:
        """``p(z)``, a standard normal."""
        return dist.Normal(jnp.zeros(self.latent), 1.0).to_event(1)

    def observation(self, z) -> dist.Distribution:
        """``p(x | z)``, independent bits."""
        return vi.likelihoods.bernoulli(self.decoder(z)[0])

    def posterior(self, x: Float[Array, "*batch pixels"]) -> Any:
        """``q(z | x)``."""
        features = jnp.tanh(self.encoder(x)[0])
        head: Any = self.head
        return head(features, lambda z: self.observation(z).log_prob(x))

    def means(self, key, x, num_samples) -> dict[str, Array]:
        """``E_q[z | x]``, over draws."""
        q = self.posterior(x)

        def add(i, total):
            return total + q.sample(jax.random.fold_in(key, i))

        zero = jnp.zeros((*jnp.shape(x)[:-1], self.latent))
        return {"z": jax.lax.fori_loop(0, num_samples, add, zero) / num_samples}


class Diagonal(nnx.Module):
    """A mean-field normal."""

    def __init__(self, features: int, latent: int, rngs: nnx.Rngs):
        self.heads = _linear(features, 2 * latent, rngs)

    def __call__(self, features, log_likelihood):
        """``q(z | x)``."""
        del log_likelihood
        return _normal(self.heads(features))


class FullRank(nnx.Module):
    """A normal of full covariance, by its Cholesky factor."""

    def __init__(self, features: int, latent: int, rngs: nnx.Rngs):
        self.heads = _linear(features, 2 * latent, rngs)
        self.below = _linear(features, latent * (latent - 1) // 2, rngs, scale=0.1)
        self.latent = latent

    def __call__(self, features, log_likelihood):
        """``q(z | x)``."""
        del log_likelihood
        loc, log_scale = jnp.split(self.heads(features), 2, axis=-1)
        rows, columns = np.tril_indices(self.latent, -1)
        shape = (*loc.shape, self.latent)
        below = jnp.zeros(shape, loc.dtype).at[..., rows, columns].set(self.below(features))
        # rows in units of their own diagonal, so that a row of zeros is the mean-field normal
        scale_tril = jnp.exp(log_scale)[..., None] * (below + jnp.eye(self.latent))
        return vi.families.full_rank(loc, scale_tril=scale_tril)


class Flowing(nnx.Module):
    """A flow from a mean-field normal, given the features; ``flow(size, **options)`` makes it."""

    def __init__(self, features: int, latent: int, flow: Callable[..., nnx.Module], rngs: nnx.Rngs):
        self.heads = _linear(features, 2 * latent, rngs)
        self.flow = flow(latent, context_size=features, rngs=rngs)

    def __call__(self, features, log_likelihood):
        """``q(z | x)``."""
        del log_likelihood
        flow: Any = self.flow
        return flow(_normal(self.heads(features)), features)


class Refined(nnx.Module):
    """A mean-field normal that a few steps up the ELBO of its own datum have improved."""

    def __init__(self, features: int, latent: int, rngs: nnx.Rngs):
        self.heads = _linear(features, 2 * latent, rngs)
        noise = jax.random.normal(rngs.params(), (REFINING_DRAWS // 2, 1, latent))
        self.noise = nnx.Variable(jnp.concatenate([noise, -noise]))

    def __call__(self, features, log_likelihood):
        """``q(z | x)``, differentiable through its steps."""

        def elbo(params):
            loc, log_scale = jnp.split(params, 2, axis=-1)
            z = loc + jnp.exp(log_scale) * self.noise[...]
            rate = 0.5 * (loc**2 + jnp.exp(2 * log_scale) - 1).sum(-1) - log_scale.sum(-1)
            return log_likelihood(z).mean(0) - rate

        start = self.heads(features)
        # entry by entry, so that no image's steps depend on another's
        optimizer = optax.chain(optax.clip(REFINING_CLIP), optax.sgd(REFINING_RATE))
        return _normal(
            vi.networks.refine(elbo, start, num_steps=REFINING_STEPS, optimizer=optimizer)
        )


def heads(num_layers: int, flow_hidden: int) -> dict[str, Callable[..., nnx.Module]]:
    """``(features, latent, rngs) -> head`` by the posterior's name."""
    layers = {"num_layers": num_layers, "hidden": (flow_hidden,)}
    iaf = partial(vi.flows.autoregressive, transformer=vi.flows.affine(), **layers)
    bins = vi.flows.spline(num_bins=8, bound=SPLINE_BOUND)
    spline = partial(vi.flows.coupling, transformer=bins, **layers)
    return {
        "diagonal": Diagonal,
        "full": FullRank,
        "iaf": partial(Flowing, flow=iaf),
        "spline": partial(Flowing, flow=spline),
        "refined": Refined,
    }


def build(
    images: Images, hidden: int, latent: int, head: Callable[..., nnx.Module], rngs: nnx.Rngs
) -> FlowVAE:
    """A fresh model whose output bias is the logit of the training images' mean pixel.

    Encoders, decoders and the means and scales of q begin the same for every head: theirs are
    drawn first.
    """
    model = FlowVAE(images.train.shape[1], hidden, latent, nnx.Module(), rngs)
    model.head = head(hidden, latent, rngs=rngs)
    set_output_bias(model.decoder.heads[0], images.mean)
    return model


def _normal(heads: Array) -> dist.Distribution:
    loc, log_scale = jnp.split(heads, 2, axis=-1)
    return vi.families.normal(loc, log_scale=log_scale)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs, scale: float = 1.0) -> nnx.Linear:
    init = nnx.initializers.variance_scaling(scale, "fan_avg", "uniform")
    return nnx.Linear(inputs, outputs, kernel_init=init, rngs=rngs)
