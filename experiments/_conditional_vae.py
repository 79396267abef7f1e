"""An autoencoder that is told each image's label, and the same one that is not."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float, Int

import vi
from experiments._data import Images, binarise, set_output_bias
from experiments._vae import Network, log_joint, posterior


class ConditionalVAE(nnx.Module):
    """``q(z | x, y)``, ``p(x | z, y)`` and ``p(z)``; not told y, it sees zeros in its place.

    A datum is a row of bits and the one-hot label behind them, so that the model is scored like
    any other. ``told`` is 1 or 0. A normal ``p(z | y)`` would add nothing but the scale of each
    class: the decoder's first layer moves z by the label already.
    """

    def __init__(
        self, pixels: int, classes: int, hidden: int, latent: int, told: Array, rngs: nnx.Rngs
    ):
        self.encoder = Network(pixels + classes, hidden, (latent, latent), rngs)
        self.decoder = Network(latent + classes, hidden, (pixels,), rngs)
        self.told = nnx.Variable(jnp.asarray(told, jnp.float32))  # so that one program serves both
        self.pixels, self.latent = pixels, latent

    def prior(self) -> dist.Distribution:
        """``p(z)``, a standard normal: what is left to z is style."""
        return dist.Normal(jnp.zeros(self.latent), 1.0).to_event(1)

    def posterior(self, x: Float[Array, "*batch datum"]) -> Any:
        """``q(z | x, y)``."""
        loc, log_scale = self.encode(*split(x, self.pixels))
        return vi.families.normal(loc, log_scale=log_scale)

    def decode(self, z: Float[Array, "*shape D"], label: Float[Array, "*batch classes"]) -> Any:
        """``p(x | z, y)``, independent bits; ``label`` is one-hot."""
        label = jnp.broadcast_to(label, (*z.shape[:-1], label.shape[-1]))
        return vi.likelihoods.bernoulli(self.decoder(self._with(z, label))[0])

    def observation(self, z: Float[Array, "*shape D"]) -> "Likelihood":
        """``p(x | z, y)``, of bits with their label."""
        return Likelihood(self, z)

    def means(self, key, x, num_samples) -> dict[str, Array]:
        """``E_q[z | x, y]``, exact."""
        del key, num_samples
        return {"z": self.encode(*split(x, self.pixels))[0]}

    def encode(
        self, bits: Float[Array, "*batch pixels"], label: Float[Array, "*batch classes"]
    ) -> tuple[Array, Array]:
        """Mean and log-scale of ``q(z | x, y)``."""
        loc, log_scale = self.encoder(self._with(bits, label))
        return loc, log_scale

    def _with(self, values, label):
        return jnp.concatenate([values, label * self.told[...]], axis=-1)


class Likelihood(NamedTuple):
    """Bits given z and the label that stands behind them."""

    model: ConditionalVAE
    z: Float[Array, "*shape D"]

    def log_prob(self, x: Float[Array, "*batch datum"]) -> Float[Array, "*shape"]:
        """``log p(x | z, y)``, in nats."""
        bits, label = split(x, self.model.pixels)
        return self.model.decode(self.z, label).log_prob(bits)


def labelled(
    bits: Float[Array, "*batch pixels"], labels: Int[Array, "*batch"], classes: int
) -> Float[Array, "*batch datum"]:
    """Bits with the one-hot label behind them."""
    return jnp.concatenate([bits, jax.nn.one_hot(labels, classes)], axis=-1)


def split(x: Float[Array, "*batch datum"], pixels: int) -> tuple[Array, Array]:
    """Bits, and the one-hot label."""
    return x[..., :pixels], x[..., pixels:]


class Labelled(NamedTuple):
    """Training images and their labels, from 0 to ``classes - 1``."""

    grey: np.ndarray  # [N, pixels]
    labels: Int[np.ndarray, " N"]


def make_loss(classes: int):
    """Minus the ELBO of a minibatch, on fresh bits."""
    objective = vi.gradients.reparam(vi.bounds.elbo)

    def loss(model: Any, key: Array, batch: Labelled) -> Array:
        bits_key, draws_key = jax.random.split(key)
        x = labelled(binarise(bits_key, batch.grey), jnp.asarray(batch.labels), classes)
        return -objective(draws_key, posterior(model, x), log_joint(model, x), 1).mean()

    return loss


def build(
    images: Images, classes: int, hidden: int, latent: int, told: Array, rngs: nnx.Rngs
) -> ConditionalVAE:
    """A fresh model; told or not, it begins with the same weights."""
    model = ConditionalVAE(images.train.shape[1], classes, hidden, latent, told, rngs)
    set_output_bias(model.decoder.heads[0], images.mean)
    return model
