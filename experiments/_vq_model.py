"""An autoencoder whose latent is a row of discrete codes, and the ways to have a codebook."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float, Int

import vi
from experiments._data import Images, binarise, set_output_bias
from experiments._vae import Network

KMEANS_STEPS = 20
KMEANS_IMAGES = 500


class Codes(NamedTuple):
    """What a codebook makes of vectors ``[*shape, D]``."""

    value: Float[Array, "*shape D"]  # what is decoded
    indices: Int[Array, "*shape"]
    loss: Float[Array, "*shape"]  # beside the negative log-likelihood


class Learned(nnx.Module):
    """Codes that descend the gradient of the codebook loss, from small uniform values."""

    def __init__(self, num_codes: int, size: int, commitment: float, rngs: nnx.Rngs):
        self.codes = nnx.Param(_small(num_codes, size, rngs))
        self.num_codes, self.commitment = num_codes, commitment

    def __call__(self, vectors: Float[Array, "*shape D"]) -> Codes:
        """Each vector's nearest code, and the paper's two losses."""
        made = vi.networks.vector_quantise(vectors, self.codes[...])
        loss = made.codebook_loss + self.commitment * made.commitment_loss
        return Codes(made.value, made.indices, loss)

    def points(self, indices: Int[Array, "*shape"]) -> Float[Array, "*shape D"]:
        """What indices stand for."""
        return self.codes[...][indices]

    def learn(self, key: Array, vectors: Array, indices: Array) -> None:
        """Nothing: the gradient does it."""


class Averaged(nnx.Module):
    """Codes that are running means; those that stand for under ``min_count`` vectors restart."""

    def __init__(
        self, start: vi.networks.Codebook, commitment: float, decay: float, min_count: float | None
    ):
        self.codes, self.counts = nnx.Variable(start.codes), nnx.Variable(start.counts)
        self.num_codes = len(start.codes)
        self.commitment, self.decay, self.min_count = commitment, decay, min_count

    def __call__(self, vectors: Float[Array, "*shape D"]) -> Codes:
        """Each vector's nearest code; the commitment alone is a loss."""
        made = vi.networks.vector_quantise(vectors, self.codes[...])
        return Codes(made.value, made.indices, self.commitment * made.commitment_loss)

    def points(self, indices: Int[Array, "*shape"]) -> Float[Array, "*shape D"]:
        """What indices stand for."""
        return self.codes[...][indices]

    def learn(self, key: Array, vectors: Array, indices: Array) -> None:
        """Move the codes towards a batch; without a ``min_count`` none restarts."""
        book = vi.networks.Codebook(self.codes[...], self.counts[...])
        book = vi.networks.update_codebook(book, vectors, indices, decay=self.decay)
        if self.min_count is not None:
            book = vi.networks.restart_dead_codes(key, book, vectors, min_count=self.min_count)
        self.codes[...], self.counts[...] = book


class Grid(nnx.Module):
    """Finite scalar quantisation: nothing to learn, and no loss of its own."""

    def __init__(self, levels: tuple[int, ...]):
        self.levels, self.num_codes = levels, math.prod(levels)

    def __call__(self, vectors: Float[Array, "*shape D"]) -> Codes:
        """Each number's nearest level."""
        made = vi.networks.finite_scalar_quantise(vectors, self.levels)
        return Codes(made.value, made.indices, jnp.zeros(made.indices.shape))

    def points(self, indices: Int[Array, "*shape"]) -> Float[Array, "*shape D"]:
        """What indices stand for."""
        return vi.networks.finite_scalar_codes(indices, self.levels)

    def learn(self, key: Array, vectors: Array, indices: Array) -> None:
        """Nothing."""


class CodeAutoencoder(nnx.Module):
    """``x - codes`` and back: a row of P codes, each of the one codebook."""

    def __init__(self, encoder: Network, decoder: Network, codebook: Any, length: int):
        self.encoder, self.decoder, self.codebook = encoder, decoder, codebook
        self.length = length

    def vectors(self, x: Float[Array, "*batch pixels"]) -> Float[Array, "*batch P D"]:
        """What the codebook replaces."""
        return _rows(self.encoder, x, self.length)

    def codes(self, x: Float[Array, "*batch pixels"]) -> Int[Array, "*batch P"]:
        """The row of codes on which q(c | x) has all its mass."""
        return self.codebook(self.vectors(x)).indices

    def observation(self, points: Float[Array, "*batch P D"]) -> dist.Distribution:
        """``p(x | c)``, independent bits, of what the codes stand for."""
        flat = points.reshape(*points.shape[:-2], -1)
        return vi.likelihoods.bernoulli(self.decoder(flat)[0])

    def given(self, codes: Int[Array, "*batch P"]) -> dist.Distribution:
        """``p(x | c)`` of codes."""
        return self.observation(self.codebook.points(codes))


def codebooks(config: Any) -> Mapping[str, Callable[[Array, nnx.Rngs], Any]]:
    """``(vectors, rngs) -> codebook`` by method, for vectors ``[n, P, D]`` of training images.

    Each of the first five adds one thing to the method before it.
    """
    num_codes, size = config.num_codes, len(config.levels)

    def averaged(start, fair, restarts=False):
        min_count = config.least_use * fair if restarts else None
        return Averaged(start, config.commitment, config.decay, min_count)

    def fair_count(vectors):  # vectors of a batch for each code, if all are used alike
        return config.batch_size * vectors.shape[1] / num_codes

    def clusters(vectors, rngs):
        found = vi.networks.kmeans(rngs.params(), vectors, num_codes, num_steps=KMEANS_STEPS)
        counts = found.counts * (fair_count(vectors) / found.counts.mean())
        return found._replace(counts=counts)

    def ema(vectors, rngs):
        start = vi.networks.Codebook(_small(num_codes, size, rngs), jnp.zeros(num_codes))
        return averaged(start, fair_count(vectors))

    return {
        "naive": lambda vectors, rngs: Learned(num_codes, size, 0.0, rngs),
        "commitment": lambda vectors, rngs: Learned(num_codes, size, config.commitment, rngs),
        "ema": ema,
        "kmeans": lambda vectors, rngs: averaged(clusters(vectors, rngs), fair_count(vectors)),
        "recipe": lambda vectors, rngs: averaged(
            clusters(vectors, rngs), fair_count(vectors), restarts=True
        ),
        "fsq": lambda vectors, rngs: Grid(config.levels),
    }


def build(
    images: Images,
    hidden: int,
    length: int,
    size: int,
    make_codebook: Callable[[Array, nnx.Rngs], Any],
    rngs: nnx.Rngs,
) -> CodeAutoencoder:
    """A fresh model; encoders and decoders begin the same for every codebook."""
    pixels = images.train.shape[1]
    encoder = Network(pixels, hidden, (length * size,), rngs)
    decoder = Network(length * size, hidden, (pixels,), rngs)
    set_output_bias(decoder.heads[0], images.mean)
    x = binarise(rngs.params(), images.train[:KMEANS_IMAGES])
    codebook = make_codebook(_rows(encoder, x, length), rngs)
    return CodeAutoencoder(encoder, decoder, codebook, length)


def loss(model: CodeAutoencoder, extra: None, key: Array, grey: Array, step: Array):
    """``-log p(x | c)`` and the codebook's loss, of fresh bits; the codebook learns in passing."""
    bits_key, restart_key = jax.random.split(key)
    x = binarise(bits_key, grey)
    vectors = model.vectors(x)
    made = model.codebook(vectors)
    distortion = -jnp.asarray(model.observation(made.value).log_prob(x))
    model.codebook.learn(restart_key, vectors, made.indices)
    use = vi.networks.code_use(made.indices, model.codebook.num_codes)
    metrics = {"distortion": distortion.mean(), "perplexity": use.perplexity}
    return (distortion + made.loss.sum(-1)).mean(), (extra, metrics)


def _small(num_codes: int, size: int, rngs: nnx.Rngs) -> Array:
    """Uniform within 1 / M of 0, as is usual."""
    return jax.random.uniform(rngs.params(), (num_codes, size), minval=-1.0) / num_codes


def _rows(encoder: Network, x: Array, length: int) -> Array:
    return encoder(x)[0].reshape(*jnp.shape(x)[:-1], length, -1)
