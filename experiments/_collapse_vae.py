"""A variational autoencoder whose decoder can do without its latent, and one whose cannot."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

import vi
from experiments._data import Images, set_output_bias
from experiments._vae import Network

SOFTLY = 0.1
"""The scale of the expressive decoder's first map of z, against the usual one, as training begins.

Begun at the usual scale, plain training keeps some nats of rate and ends at a lower ELBO.
"""


class PixelByPixel:
    """``p(x | z) = prod_i p(x_i | x_<i, z)`` over bits: scored in one pass, drawn in P."""

    def __init__(self, net: vi.networks.MaskedMLP, z: Float[Array, "*batch D"]):
        self.net, self.z = net, z

    def log_prob(self, x: Float[Array, "*batch P"]) -> Float[Array, "*batch"]:
        """Log-likelihood of data in nats; it may lack leading axes of z."""
        x = jnp.broadcast_to(x, (*self.z.shape[:-1], self.net.size))
        return vi.likelihoods.bernoulli(self._logits(x)).log_prob(x)

    def sample(self, key: Array) -> Float[Array, "*batch P"]:
        """One datum for each z."""
        uniforms = jax.random.uniform(key, (*self.z.shape[:-1], self.net.size))

        def draw(i, x):
            shares = jax.nn.sigmoid(self._logits(x)[..., i])
            return x.at[..., i].set((uniforms[..., i] < shares).astype(x.dtype))

        return jax.lax.fori_loop(0, self.net.size, draw, jnp.zeros_like(uniforms))

    def _logits(self, x):
        return self.net(x, self.z)[..., 0]


class CollapseVAE(nnx.Module):
    """``x - z`` and back; its encoder begins the same whatever the decoder."""

    def __init__(self, images: Images, hidden: int, latent: int, rngs: nnx.Rngs):
        self.encoder = Network(images.train.shape[1], hidden, (latent, latent), rngs)
        self.latent = latent

    def prior(self) -> dist.Independent:
        """``p(z)``."""
        return dist.Normal(jnp.zeros(self.latent), 1.0).to_event(1)

    def posterior(self, x: Float[Array, "*batch P"]) -> Any:
        """``q(z | x)``."""
        loc, log_scale = self.encoder(x)
        return vi.families.normal(loc, log_scale=log_scale)

    def means(self, key, x, num_samples) -> dict[str, Array]:
        """``E_q[z | x]``, exact."""
        del key, num_samples
        return {"z": self.posterior(x).mean}

    def observation(self, z: Float[Array, "*batch D"]) -> Any:
        """``p(x | z)``."""
        raise NotImplementedError


class Expressive(CollapseVAE):
    """Each pixel is decoded from z and the pixels before it, by a wide masked network."""

    def __init__(self, images: Images, hidden: int, latent: int, width: int, rngs: nnx.Rngs):
        super().__init__(images, hidden, latent, rngs)
        pixels = images.train.shape[1]
        self.decoder = vi.networks.MaskedMLP(
            pixels, (width,), 1, context_size=latent, activation=nnx.relu, rngs=rngs
        )
        assert self.decoder.project is not None
        self.decoder.project.kernel[...] *= SOFTLY
        set_output_bias(self.decoder.layers[-1], images.mean)

    def observation(self, z: Float[Array, "*batch D"]) -> PixelByPixel:
        """``p(x | z)``."""
        return PixelByPixel(self.decoder, z)


class Factorised(CollapseVAE):
    """All pixels are decoded from z alone, independent of each other."""

    def __init__(self, images: Images, hidden: int, latent: int, rngs: nnx.Rngs):
        super().__init__(images, hidden, latent, rngs)
        self.decoder = Network(latent, hidden, (images.train.shape[1],), rngs)
        set_output_bias(self.decoder.heads[0], images.mean)

    def observation(self, z: Float[Array, "*batch D"]) -> dist.Distribution:
        """``p(x | z)``."""
        return vi.likelihoods.bernoulli(self.decoder(z)[0])


def kl_by_dimension(model: CollapseVAE, x: Float[Array, "*batch P"]) -> Float[Array, "*batch D"]:
    """``KL(q(z_d | x) || p(z_d))`` in nats, in closed form."""
    q, prior = model.posterior(x), model.prior()
    return dist.kl_divergence(q.base_dist, prior.base_dist)


def mutual_information(key: Array, model: CollapseVAE, x: Float[Array, "N P"]) -> Float[Array, ""]:
    r"""``E_n KL(q(z|x_n) || q(z))``, ``q(z)`` the mean of q over these data: at most log N nats.

    One draw for each datum, scored under all.
    """
    q = model.posterior(x)
    z = q.sample(key)

    def gain(one):
        log_q = q.log_prob(one)
        return jax.nn.logsumexp(log_q) - jnp.log(len(x))

    return (q.log_prob(z) - jax.lax.map(gain, z)).mean()
