"""Models of whole levels, one interface: a bound on the log-mass of images, and draws of images.

``bound(key, levels, num_samples, estimator)`` is ``[*batch]`` in nats: exact, or below ``log p(x)``
in expectation and the closer the more samples. Bounds of blocks of samples join by ``iwae`` again.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float, Int

import vi
from experiments._flow_vae import heads
from experiments._likelihoods_readings import Logistic, Mixture, Reading
from experiments._likelihoods_vae import MOST_NOISE, Greys
from experiments._vae import Network

INSIDE = 0.01  # how far greys are kept from 0 and 1 before their logit
BINS, SPLINE_BOUND = 8, 5.0

Levels = Int[Array, "*batch pixels"]
Estimator = Callable[[vi.types.Bound], vi.gradients.Objective]


class Model(nnx.Module):
    """What every one has, beside its parameters."""

    is_exact: ClassVar[bool] = False
    latent: int  # dimensions of z; 0 for none

    def bound(
        self, key: Array, levels: Levels, num_samples: int, estimator: Estimator
    ) -> Float[Array, "*batch"]:
        """On ``log p(x)``, of so many samples."""
        raise NotImplementedError

    def draw(self, key: Array, num_images: int) -> Int[Array, "N pixels"]:
        """Levels."""
        raise NotImplementedError

    def passes(self, pixels: int) -> int:
        """Of the network, one after another, to draw an image."""
        del pixels
        return 1


class Latent(Model):
    """A variational autoencoder: ``p(x | z)`` of independent pixels, and any head for q."""

    def __init__(self, greys: Greys, hidden: int, latent: int, head: Any, rngs: nnx.Rngs):
        pixels = greys.train.shape[1]
        self.reading = Logistic(greys.num_levels)
        self.encoder = Network(pixels, hidden, (hidden,), rngs)
        self.decoder = Network(latent, hidden, (pixels * self.reading.width,), rngs)
        set_bias(self.decoder.heads[0].bias, self.reading, greys)
        self.head = head(hidden, latent, rngs=rngs)
        self.latent = latent

    def bound(self, key, levels, num_samples, estimator):
        """The importance-weighted bound; of one sample, the ELBO's."""
        features = jnp.tanh(self.encoder(_grey(levels, self.reading))[0])
        prior = self._prior()

        def log_joint(z):
            return self._observe(z).log_prob(levels) + prior.log_prob(z)

        head: Any = self.head
        q = head(features, log_joint)
        return estimator(vi.bounds.iwae)(key, q, log_joint, num_samples)

    def draw(self, key, num_images):
        """From the prior, and through the decoder."""
        return vi.predictive.generate(key, self._prior(), self._observe, (num_images,)).values

    def _prior(self):
        return dist.Normal(jnp.zeros(self.latent), 1.0).to_event(1)

    def _observe(self, z):
        flat = self.decoder(z)[0]
        return self.reading.observe(flat.reshape(*flat.shape[:-1], -1, self.reading.width))


class Autoregressive(Model):
    """Each pixel given those before it, by a masked network: an exact likelihood and no latent."""

    is_exact = True

    def __init__(self, greys: Greys, reading: Reading, hidden: int, rngs: nnx.Rngs):
        self.reading, self.latent = reading, 0
        pixels, width = greys.train.shape[1], self.reading.width
        self.net = vi.networks.MaskedMLP(pixels, (hidden, hidden), width, rngs=rngs)
        set_bias(self.net.layers[-1].bias, self.reading, greys)

    def bound(self, key, levels, num_samples, estimator):
        """``log p(x)`` itself, whatever the samples."""
        del key, num_samples, estimator
        return self.reading.observe(self.net(_grey(levels, self.reading))).log_prob(levels)

    def draw(self, key, num_images):
        """Pixel by pixel, each with a pass of the hidden layers."""
        weights, biases = self.net.heads()

        def add(d, levels):
            features = self.net.features(_grey(levels, self.reading))
            outputs = (features @ weights[d] + biases[d])[:, None]
            observed: Any = self.reading.observe(outputs)
            pixel = observed.sample(jax.random.fold_in(key, d))
            return levels.at[:, d].set(pixel[:, 0].astype(levels.dtype))

        blank = jnp.zeros((num_images, self.net.size), jnp.int32)
        return jax.lax.fori_loop(0, self.net.size, add, blank)

    def passes(self, pixels):
        """One for each pixel."""
        return pixels


class PixelFlow(Model):
    """A spline coupling flow of greys made continuous by uniform noise.

    With ``u`` uniform on ``[0, 1)``, ``log P(x) = log E_u p(x + u)``: the mean log-density over u
    bounds it from below (Theis, van den Oord and Bethge, 2016, equation 3), and the log of the mean
    density over K draws the closer (Burda et al., 2016, with the noise as the latent). Greys go
    through a logit and are standardised by pixel; the halves of the coupling are a chessboard's.
    """

    def __init__(self, greys: Greys, shape: tuple[int, ...], layers: int, hidden: int, rngs: Any):
        pixels = greys.train.shape[1]
        self.latent, self.num_levels = pixels, greys.num_levels
        place = np.indices(shape).reshape(len(shape), -1).sum(axis=0)
        self.order = tuple(np.argsort(place % 2, kind="stable").tolist())
        logits, _ = self._unbound(jnp.asarray(greys.train) + 0.5)
        self.loc = nnx.Variable(logits.mean(0))
        self.scale = nnx.Variable(logits.std(0) + 0.5)
        self.flow = vi.flows.coupling(
            pixels,
            num_layers=layers,
            transformer=vi.flows.spline(num_bins=BINS, bound=SPLINE_BOUND),
            hidden=(hidden,),
            rngs=rngs,
        )

    def bound(self, key, levels, num_samples, estimator):
        """Over draws of the noise."""
        del estimator
        noise = jax.random.uniform(key, (num_samples, *levels.shape), maxval=MOST_NOISE)
        return vi.bounds.iwae(self.log_density(levels + noise))

    def log_density(self, x: Float[Array, "*batch pixels"]) -> Float[Array, "*batch"]:
        """Of levels with noise, in ``[0, M)``: nats of levels."""
        y, log_slope = self._unbound(x)
        y = (y - self.loc[...]) / self.scale[...]
        log_det = log_slope.sum(-1) - jnp.log(self.scale[...]).sum()
        return self._density().log_prob(y[..., np.array(self.order)]) + log_det

    def draw(self, key, num_images):
        """One pass of the flow, back through the logit, and down to the level."""
        y: Any = self._density().sample(key, (num_images,))
        y = y[:, np.argsort(self.order)]
        inside = jax.nn.sigmoid(y * self.scale[...] + self.loc[...])
        x = self.num_levels * (inside - INSIDE) / (1 - 2 * INSIDE)
        return jnp.floor(x).clip(0, self.num_levels - 1).astype(jnp.int32)

    def _density(self):
        return self.flow(dist.Normal(jnp.zeros(self.latent), 1.0).to_event(1))

    def _unbound(self, x):
        """The logit of greys a little inside, and its log-slope in levels."""
        inside = INSIDE + (1 - 2 * INSIDE) * x / self.num_levels
        log_slope = np.log((1 - 2 * INSIDE) / self.num_levels)
        log_slope = log_slope - jnp.log(inside) - jnp.log1p(-inside)
        return jnp.log(inside) - jnp.log1p(-inside), log_slope


def set_bias(bias: Any, reading: Reading, greys: Greys) -> None:
    """Begin with the average of the training images, whatever the input."""
    bias[...] = jnp.asarray(reading.bias(greys.train).reshape(-1), jnp.float32)


def makers(
    greys: Greys,
    shape: tuple[int, ...],
    *,
    hidden: int,
    latent: int,
    masked_hidden: int,
    posterior_layers: int,
    flow_layers: int,
    flow_hidden: int,
) -> dict[str, Callable[[nnx.Rngs], Model]]:
    """``rngs -> model`` by name; the three with a decoder begin with the same one."""
    head, mixture = heads(posterior_layers, hidden), Mixture(greys.num_levels)

    def latent_model(q):
        return lambda rngs: Latent(greys, hidden, latent, head[q], rngs)

    return {
        "vae": latent_model("diagonal"),
        "iwae": latent_model("diagonal"),
        "posterior": latent_model("iaf"),
        "autoregressive": lambda rngs: Autoregressive(greys, mixture, masked_hidden, rngs),
        "flow": lambda rngs: PixelFlow(greys, shape, flow_layers, flow_hidden, rngs),
    }


def _grey(levels, reading):
    return levels / (reading.num_levels - 1)
