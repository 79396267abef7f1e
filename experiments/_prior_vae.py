"""A variational autoencoder with a prior that is learned, on bits or on grey levels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

import vi
from experiments._data import Images, binarise, set_output_bias
from experiments._vae import Network

LEVELS = 256
NOISE = 0.05  # of the logits of the pixels that pseudo-inputs begin at
INSIDE = 0.02  # how far those pixels are kept from 0 and 1


class Bits(nnx.Module):
    """Pixels as bits, drawn afresh each time with the grey value as probability."""

    def data(self, key: Array, grey: Array) -> Array:
        """A minibatch as data."""
        return binarise(key, grey)

    def inputs(self, x: Array) -> Array:
        """What the encoder sees of data, in [0, 1]."""
        return x

    def observation(self, outputs: Array) -> dist.Distribution:
        """``p(x | z)``, of the decoder's outputs."""
        return vi.likelihoods.bernoulli(outputs)


class Levels(nnx.Module):
    """Pixels as their 256 levels, a discretised logistic with a learned scale for each."""

    def __init__(self, pixels: int):
        self.raw_scale = nnx.Param(jnp.zeros(pixels))

    def data(self, key: Array, grey: Array) -> Array:
        """A minibatch as data."""
        del key
        return grey.astype(jnp.float32)

    def inputs(self, x: Array) -> Array:
        """What the encoder sees of data, in [0, 1]."""
        return x / (LEVELS - 1)

    def observation(self, outputs: Array) -> dist.Distribution:
        """``p(x | z)``, of the decoder's outputs."""
        scale = vi.likelihoods.clamped_scale(self.raw_scale[...], low=1e-3, high=1.0)
        return vi.likelihoods.discretised_logistic(
            jax.nn.sigmoid(outputs), scale=scale, low=0.0, high=1.0, num_levels=LEVELS
        )


class PriorVAE(nnx.Module):
    """``x - z`` and back; ``learned(infer) -> p(z)``, for the encoder ``infer``."""

    def __init__(self, images: Images, hidden: int, latent: int, pixels: Any, rngs: nnx.Rngs):
        size = images.train.shape[1]
        self.encoder = Network(size, hidden, (latent, latent), rngs)
        self.decoder = Network(latent, hidden, (size,), rngs)
        self.pixels, self.latent = pixels, latent
        self.learned: nnx.Module = Standard(latent)

    def infer(self, inputs: Float[Array, "*batch pixels"]) -> Any:
        """``q(z | x)``, of what the encoder sees."""
        loc, log_scale = self.encoder(inputs)
        return vi.families.normal(loc, log_scale=log_scale)

    def posterior(self, x: Float[Array, "*batch pixels"]) -> Any:
        """``q(z | x)``."""
        return self.infer(self.pixels.inputs(x))

    def prior(self) -> Any:
        """``p(z)``."""
        learned: Any = self.learned
        return learned(self.infer)

    def observation(self, z: Float[Array, "*shape D"]) -> Any:
        """``p(x | z)``."""
        return self.pixels.observation(self.decoder(z)[0])

    def means(self, key, x, num_samples) -> dict[str, Array]:
        """``E_q[z | x]``, exact."""
        del key, num_samples
        return {"z": self.posterior(x).mean}


class Standard(nnx.Module):
    """A standard normal."""

    def __init__(self, latent: int):
        self.latent = latent

    def __call__(self, infer) -> dist.Distribution:
        """``p(z)``."""
        del infer
        return dist.Normal(jnp.zeros(self.latent), 1.0).to_event(1)


class Mixture(nnx.Module):
    """Free normals."""

    def __init__(self, latent: int, num_components: int, rngs: nnx.Rngs):
        self.mixture = vi.priors.MixturePrior(latent, num_components=num_components, rngs=rngs)

    def __call__(self, infer) -> dist.Distribution:
        """``p(z)``."""
        del infer
        return self.mixture()


class Flowing(nnx.Module):
    """A spline coupling flow from a standard normal."""

    def __init__(self, latent: int, num_layers: int, hidden: int, rngs: nnx.Rngs):
        self.latent = latent
        self.flow = vi.flows.coupling(
            latent,
            num_layers=num_layers,
            transformer=vi.flows.spline(num_bins=8, bound=5.0),
            hidden=(hidden,),
            rngs=rngs,
        )

    def __call__(self, infer) -> Any:
        """``p(z)``."""
        del infer
        return self.flow(dist.Normal(jnp.zeros(self.latent), 1.0).to_event(1))


def priors(
    images: Images, num_components: int, num_layers: int, flow_hidden: int
) -> dict[str, Callable[[int, nnx.Rngs], nnx.Module]]:
    """``(latent, rngs) -> prior`` by its name."""

    def vamp(latent, rngs):
        del latent
        picks = jax.random.choice(rngs.params(), len(images.train), (num_components,), False)
        grey = jnp.asarray(images.train)[picks]
        shares = grey / 255 if images.train.dtype == np.uint8 else grey
        inside = INSIDE + (1 - 2 * INSIDE) * shares
        raw = jnp.log(inside) - jnp.log1p(-inside)
        noise = NOISE * jax.random.normal(rngs.params(), raw.shape)
        return vi.priors.VampPrior(raw + noise, squash=jax.nn.sigmoid)

    return {
        "standard": lambda latent, rngs: Standard(latent),
        "mixture": lambda latent, rngs: Mixture(latent, num_components, rngs),
        "vamp": vamp,
        "flow": lambda latent, rngs: Flowing(latent, num_layers, flow_hidden, rngs),
    }


def build(
    images: Images,
    hidden: int,
    latent: int,
    make_pixels: Callable[[], nnx.Module],
    make_prior: Callable[[int, nnx.Rngs], nnx.Module],
    rngs: nnx.Rngs,
) -> PriorVAE:
    """A fresh model; encoders and decoders begin the same for every prior."""
    model = PriorVAE(images, hidden, latent, make_pixels(), rngs)
    set_output_bias(model.decoder.heads[0], images.mean)
    model.learned = make_prior(latent, rngs)
    return model
