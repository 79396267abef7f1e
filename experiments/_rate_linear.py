r"""A linear beta-VAE whose frontier is known: Shannon's reverse water-filling.

With noise of variance ``v`` held fixed, distortion and rate are

    D = E |x - W z - mean|^2 / 2v + P/2 log(2 pi v),    R = KL(q(z|x) || N(0, I)),

so that ``D + beta R`` is ``beta`` times minus the ELBO of the same model with noise ``s = beta v``,
up to a constant. That ELBO is largest where q is the posterior and W is that of probabilistic PCA
for a noise of ``s`` (Tipping and Bishop 1999; Lucas et al. 2019): along each principal axis, of
variance ``l``, W has length ``sqrt(l - s)`` if ``l > s``, and 0 otherwise. Put in, such an axis has
a rate of ``log(l / s) / 2`` and a squared error of ``s``; any other a rate of 0 and an error of
``l``. With k axes in use ``dD = k d(beta) / 2`` and ``dR = -k d(beta) / (2 beta)``: the slope of
the frontier is ``-beta``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi.testing import LinearGaussian


class Spectrum(NamedTuple):
    """The first principal axes of data ``[N, P]``; ``rest`` is the variance along the others."""

    mean: Float[np.ndarray, "P"]
    axes: Float[np.ndarray, "P D"]
    variances: Float[np.ndarray, "D"]
    rest: float

    def constant(self, noise: float) -> float:
        """The part of every distortion that no map can change, for noise of that variance."""
        return 0.5 * len(self.mean) * float(np.log(2 * np.pi * noise)) + self.rest / (2 * noise)

    def standardise(self, x: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "N D"]:
        """Coordinates along the axes, of variance 1 each."""
        return ((x - self.mean) @ self.axes / np.sqrt(self.variances)).astype(np.float32)


def spectrum(x: Float[np.ndarray, "N P"], num_axes: int) -> Spectrum:
    """Of the data's covariance, divided by N: so many axes, fewer where the others do not vary."""
    data = np.asarray(x, np.float64)
    mean = data.mean(0)
    variances, axes = np.linalg.eigh(np.cov(data.T, bias=True))
    kept = min(num_axes, int((variances > 1e-5 * variances[-1]).sum()))
    variances, axes = variances[::-1], axes[:, ::-1]
    return Spectrum(mean, axes[:, :kept], variances[:kept], float(variances[kept:].sum()))


def noise_variance(variances: Float[np.ndarray, "D"], betas, num_latents: int) -> float:
    """The noise at which the least beta has just use for all latents, if there are axes enough."""
    return float(variances[min(num_latents, len(variances) - 1)] / min(betas))


class Optimum(NamedTuple):
    """What a linear VAE reaches at one beta: nats per datum."""

    rate: float
    distortion: float
    active_units: int


def optimum(
    variances: Float[np.ndarray, "D"], beta: float, noise: float, num_latents: int, constant: float
) -> Optimum:
    """The closed form, for noise of variance ``noise``."""
    level = beta * noise
    kept = variances[:num_latents][variances[:num_latents] > level]
    error = len(kept) * level + variances.sum() - kept.sum()
    rate = 0.5 * np.log(kept / level).sum()
    distortion = error / (2 * noise) + constant
    return Optimum(float(rate), float(distortion), len(kept))


class LinearVAE(NamedTuple):
    """``q(z|x) = N(encoder^T u, diag(scale^2))``, ``u = decoder z`` on average; u standardised.

    In these coordinates the axes of little variance are learned as fast as the others; the optimum
    is the same as in pixels.
    """

    decoder: Float[Array, "D C"]
    encoder: Float[Array, "D C"]
    log_scale: Float[Array, "C"]

    def model(self, data: Spectrum, noise: float) -> LinearGaussian:
        """The decoder with its prior, in pixels."""
        weights = jnp.asarray(data.axes * np.sqrt(data.variances), jnp.float32) @ self.decoder
        mean = jnp.asarray(data.mean, jnp.float32)
        return LinearGaussian(weights, mean, jnp.sqrt(jnp.asarray(noise, jnp.float32)))


def start(key: Array, num_axes: int, num_latents: int) -> LinearVAE:
    """Small random maps."""
    decoder_key, encoder_key = jax.random.split(key)
    shape = (num_axes, num_latents)
    return LinearVAE(
        decoder=0.1 * jax.random.normal(decoder_key, shape),
        encoder=0.1 * jax.random.normal(encoder_key, shape),
        log_scale=jnp.zeros(num_latents),
    )


def terms(
    vae: LinearVAE, u: Float[Array, "N D"], variances: Array, noise: float, constant: float
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """Rate and distortion per datum, exact: no draws."""
    loc, log_scale = u @ vae.encoder, vae.log_scale
    rate = 0.5 * (loc**2 + jnp.exp(2 * log_scale) - 1 - 2 * log_scale).sum(-1)
    missed = (variances * (u - loc @ vae.decoder.T) ** 2).sum(-1)
    spread = (variances[:, None] * (vae.decoder * jnp.exp(log_scale)) ** 2).sum()
    return rate, (missed + spread) / (2 * noise) + constant


def make_loss(variances: Float[np.ndarray, "D"], noise: float, constant: float):
    """``D + beta R``, for ``_rate_sweep.of_all``."""
    held = jnp.asarray(variances, jnp.float32)

    def loss(vae, beta, key, u):
        del key
        rate, distortion = terms(vae, u, held, noise, constant)
        return (distortion + beta * rate).mean()

    return loss


def moment_points(num_axes: int) -> Float[np.ndarray, "D D"]:
    """Points that stand for all data: the loss is quadratic in u, and their E[u u^T] is I too."""
    return np.sqrt(num_axes) * np.eye(num_axes, dtype=np.float32)
