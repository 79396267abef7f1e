"""One autoencoder of grey images, whose decoder's last layer is read as any likelihood."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

import vi
from experiments._data import Images
from experiments._likelihoods_readings import Outputs, Reading
from experiments._vae import Network

TEST_NOISE_SEED = 0
MOST_NOISE = 1 - 2**-12  # 255 and more of it would be 256 in float32


class Greys(NamedTuple):
    """Images as whole levels ``[N, pixels]``, from 0 to ``num_levels - 1``."""

    train: Int[np.ndarray, "N pixels"]
    test: Int[np.ndarray, "M pixels"]
    num_levels: int


def levels_of(images: Images) -> Greys:
    """The levels of bytes (256), or of floats in 0..1 that are sixteenths (17) or bytes."""
    both = images.train, images.test
    if images.train.dtype == np.uint8:
        return Greys(*both, 256)
    for num_levels in (17, 256):
        scaled = [pixels * (num_levels - 1) for pixels in both]
        if all(np.allclose(s, np.round(s), rtol=0, atol=1e-3) for s in scaled):
            train, test = (np.round(s).astype(np.uint8) for s in scaled)
            return Greys(train, test, num_levels)
    rule = "have pixels of 17 or 256 even levels"
    raise ValueError(f"--data must {rule} (got {images.name}); store its pixels as uint8")


def dequantise(key: Array, levels: Int[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
    """Levels with uniform noise, ``[0, M)``."""
    return levels + jax.random.uniform(key, jnp.shape(levels), maxval=MOST_NOISE)


def held_out(greys: Greys, num_images: int) -> Float[Array, "M pixels"]:
    """The first test images with noise: the same in every run, whatever its seed."""
    levels = greys.test[:num_images]
    noise = np.random.default_rng(TEST_NOISE_SEED).random(levels.shape, np.float32)
    return jnp.asarray(levels + np.minimum(noise, np.float32(MOST_NOISE)), jnp.float32)


class GreyVAE(nnx.Module):
    """``x - z`` and back, x being levels with noise; the encoder sees the levels alone."""

    def __init__(self, pixels: int, hidden: int, latent: int, reading: Reading, rngs: nnx.Rngs):
        self.encoder = Network(pixels, hidden, (latent, latent), rngs)
        self.decoder = Network(latent, hidden, (pixels * reading.width,), rngs)
        self.latent, self.reading = latent, reading

    def prior(self) -> Any:
        """``p(z)``, a standard normal."""
        zeros = jnp.zeros(self.latent)
        return vi.families.normal(zeros, log_scale=zeros)

    def posterior(self, x: Float[Array, "*batch pixels"]) -> Any:
        """``q(z | x)``."""
        loc, log_scale = self._encoded(x)
        return vi.families.normal(loc, log_scale=log_scale)

    def means(self, key, x, num_samples) -> dict[str, Array]:
        """``E_q[z | x]``, exact."""
        del key, num_samples
        return {"z": self._encoded(x)[0]}

    def outputs(self, z: Float[Array, "*batch D"]) -> Outputs:
        """Of the decoder."""
        flat = self.decoder(z)[0]
        return flat.reshape(*flat.shape[:-1], -1, self.reading.width)

    def observation(self, z: Float[Array, "*batch D"]) -> "Likelihood":
        """``p(x | z)``, of levels with noise."""
        return Likelihood(self.reading, self.outputs(z))

    def draw(self, z: Float[Array, "*batch D"]) -> vi.likelihoods.Observation:
        """``p(x | z)`` in the units of its likelihood."""
        return self.reading.observe(self.outputs(z))

    def read_as(self, reading: Reading) -> "GreyVAE":
        """The same networks, their outputs read as another likelihood of as many."""
        model = nnx.merge(*nnx.split(self))
        model.reading = reading
        return model

    def _encoded(self, x):
        return self.encoder(jnp.floor(x) / (self.reading.num_levels - 1))


class Likelihood(NamedTuple):
    """A reading of outputs ``[*batch, pixels, width]``."""

    reading: Reading
    outputs: Outputs

    def log_prob(self, x: Float[Array, "*data pixels"]) -> Float[Array, "*batch"]:
        """Of levels with noise, in nats of levels."""
        return self.reading.log_prob(self.outputs, x)


def build(greys: Greys, hidden: int, latent: int, reading: Reading, rngs: nnx.Rngs) -> GreyVAE:
    """A fresh model; all but the decoder's last layer begins the same for every reading."""
    model = GreyVAE(greys.train.shape[1], hidden, latent, reading, rngs)
    bias = model.decoder.heads[0].bias
    assert bias is not None
    bias[...] = jnp.asarray(reading.bias(greys.train).reshape(-1), jnp.float32)
    return model
