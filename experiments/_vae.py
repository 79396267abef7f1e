"""Variational autoencoders with one or two stochastic layers, as Flax NNX modules."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

import vi
from experiments._data import Images, set_output_bias


class Architecture(NamedTuple):
    """What ``build_vae`` reads of a configuration."""

    hidden: int  # units in each hidden layer next to the pixels
    latent: int  # dimensions of the last stochastic layer
    layers: int  # stochastic layers, 1 or 2


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


class OneLayer(nnx.Module):
    """``x - z`` and back; a latent is an array ``[..., latent]``."""

    def __init__(self, pixels: int, hidden: int, latent: int, rngs: nnx.Rngs):
        self.encoder = Network(pixels, hidden, (latent, latent), rngs)
        self.decoder = Network(latent, hidden, (pixels,), rngs)
        self.latent = latent

    def prior(self) -> vi.types.Variational:
        """``p(z)``."""
        return _standard_normal(self.latent)

    def posterior(self, x) -> vi.types.Variational:
        """``q(z | x)``."""
        return _gaussian(self.encoder, x)

    def observation(self, z) -> dist.Distribution:
        """``p(x | z)``, independent bits."""
        return vi.likelihoods.bernoulli(self.decoder(z)[0])

    def means(self, key, x, num_samples) -> dict[str, Array]:
        """``E_q[z | x]``, exact."""
        del key, num_samples
        return {"z": code(self, x)}


class TwoLayers(nnx.Module):
    """``x - z1 - z2`` and back: z1 has twice the dimensions of z2, z2's networks half the units.

    A latent is ``{"z1": [..., 2 latent], "z2": [..., latent]}``.
    """

    def __init__(self, pixels: int, hidden: int, latent: int, rngs: nnx.Rngs):
        lower, upper = 2 * latent, (hidden + 1) // 2
        self.encoder = Network(pixels, hidden, (lower, lower), rngs)
        self.upper_encoder = Network(lower, upper, (latent, latent), rngs)
        self.upper_decoder = Network(latent, upper, (lower, lower), rngs)
        self.decoder = Network(lower, hidden, (pixels,), rngs)
        self.latent = latent

    def prior(self) -> vi.types.Variational:
        """``p(z2) p(z1 | z2)``."""
        top = _standard_normal(self.latent)
        return vi.families.chain({"z2": top, "z1": lambda z2: _gaussian(self.upper_decoder, z2)})

    def posterior(self, x) -> vi.types.Variational:
        """``q(z1 | x) q(z2 | z1)``."""
        first = _gaussian(self.encoder, x)
        return vi.families.chain({"z1": first, "z2": lambda z1: _gaussian(self.upper_encoder, z1)})

    def observation(self, z) -> dist.Distribution:
        """``p(x | z1)``, independent bits."""
        return vi.likelihoods.bernoulli(self.decoder(z["z1"])[0])

    def means(self, key, x, num_samples) -> dict[str, Array]:
        """``E_q[z1 | x]``, exact, and ``E_q[z2 | x]`` over draws of z1."""
        lower = _gaussian(self.encoder, x)

        def add(i, total):
            z1 = lower.sample(jax.random.fold_in(key, i))
            return total + _gaussian(self.upper_encoder, z1).mean

        zero = jnp.zeros((*jnp.shape(x)[:-1], self.latent))
        total = jax.lax.fori_loop(0, num_samples, add, zero)
        return {"z1": code(self, x), "z2": total / num_samples}


VAE = OneLayer | TwoLayers


def build_vae(config: Any, images: Images, rngs: nnx.Rngs) -> VAE:
    """A fresh model whose output bias is the logit of the training images' mean pixel.

    ``config`` is an ``Architecture`` or has its fields.
    """
    if config.layers not in (1, 2):
        raise ValueError(f"--layers must be 1 or 2 (got {config.layers}); try --layers 1")
    build = OneLayer if config.layers == 1 else TwoLayers
    model = build(images.train.shape[1], config.hidden, config.latent, rngs)
    set_output_bias(model.decoder.heads[0], images.mean)
    return model


def prior(model: VAE) -> Any:
    """``p(z)`` over all stochastic layers; the last one's is a standard normal."""
    return model.prior()


def posterior(model: VAE, x: Float[Array, "*batch pixels"]) -> Any:
    """``q(z | x)``: mean-field normals, each layer given the one below."""
    return model.posterior(x)


def decode(model: VAE, z: vi.types.Latent) -> dist.Distribution:
    """``p(x | z)``."""
    return model.observation(z)


def log_joint(model: VAE, x: Float[Array, "*batch pixels"]) -> vi.types.LogDensity:
    """``z -> log p(x | z) + log p(z)``, the prior over all stochastic layers."""
    return lambda z: decode(model, z).log_prob(x) + prior(model).log_prob(z)


def code(model: VAE, x: Float[Array, "*batch pixels"]) -> Float[Array, "*batch D"]:
    """The posterior mean of the layer that the pixels are decoded from."""
    return model.encoder(x)[0]


def decode_code(model: VAE, code: Float[Array, "*shape D"]) -> Float[Array, "*shape pixels"]:
    """Mean pixels given the layer that they are decoded from."""
    return jax.nn.sigmoid(model.decoder(code)[0])


def _gaussian(network: Network, inputs: Any) -> dist.Distribution:
    loc, log_scale = network(inputs)
    return vi.families.normal(loc, log_scale=log_scale)


def _standard_normal(size: int) -> dist.Distribution:
    return dist.Normal(jnp.zeros(size), 1.0).to_event(1)
