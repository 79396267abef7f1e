"""A variational autoencoder with one stochastic layer, as Flax NNX modules."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

import vi


class Network(nnx.Module):
    """Two hidden tanh layers and linear heads."""

    def __init__(self, size: int, hidden: int, heads: tuple[int, ...], rngs: nnx.Rngs):
        glorot = nnx.initializers.glorot_uniform()

        def linear(inputs, outputs):
            return nnx.Linear(inputs, outputs, kernel_init=glorot, rngs=rngs)

        self.first, self.second = linear(size, hidden), linear(hidden, hidden)
        self.heads = nnx.List([linear(hidden, head) for head in heads])

    def __call__(self, inputs):
        features = jnp.tanh(self.second(jnp.tanh(self.first(inputs))))
        return tuple(head(features) for head in self.heads)


class VAE(nnx.Module):
    """Encoder to means and log-scales, decoder to logits; the prior is a standard normal."""

    def __init__(self, pixels: int, hidden: int, latent: int, rngs: nnx.Rngs):
        self.encoder = Network(pixels, hidden, (latent, latent), rngs)
        self.decoder = Network(latent, hidden, (pixels,), rngs)
        self.latent = latent


def build_vae(images: np.ndarray, hidden: int, latent: int, rngs: nnx.Rngs) -> VAE:
    """A fresh model whose output bias is the logit of the training images' mean pixel."""
    model = VAE(images.shape[1], hidden, latent, rngs)
    mean = np.clip(images.mean(0), 1e-3, 1 - 1e-3)
    bias = model.decoder.heads[0].bias
    assert bias is not None
    bias[...] = jnp.asarray(np.log(mean) - np.log1p(-mean))
    return model


def prior(model: VAE) -> dist.Distribution:
    """``p(z)``."""
    return dist.Normal(jnp.zeros(model.latent), 1.0).to_event(1)


def posterior(model: VAE, x: Float[Array, "*batch pixels"]) -> dist.Distribution:
    """``q(z | x)``, a mean-field normal."""
    loc, log_scale = model.encoder(x)
    return vi.families.normal(loc, log_scale=log_scale)


def decode(model: VAE, z: Float[Array, "*shape D"]) -> dist.Distribution:
    """``p(x | z)``, independent bits."""
    (logits,) = model.decoder(z)
    return vi.likelihoods.bernoulli(logits)


def log_joint(model: VAE, x: Float[Array, "*batch pixels"]) -> vi.types.LogDensity:
    """``z -> log p(x | z) + log p(z)``."""
    return lambda z: decode(model, z).log_prob(x) + prior(model).log_prob(z)
