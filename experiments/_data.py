"""Images to train on and a test set that never changes."""

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TEST_SIZE = 360
TEST_BITS_SEED = 0


class Images(NamedTuple):
    """Grey images with values in 0..1, flattened, and their classes."""

    name: str
    train: np.ndarray  # [N, pixels]
    test: np.ndarray  # [M, pixels]
    test_labels: np.ndarray  # [M]
    side: int


def load_digits() -> Images:
    """scikit-learn's 1,797 handwritten digits, 8 x 8: a fixed stratified split, 360 held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, classes = map(np.asarray, load_digits(return_X_y=True))
    grey = (pixels / 16).astype(np.float32)
    split = train_test_split(grey, classes, test_size=TEST_SIZE, stratify=classes, random_state=0)
    train, test, _, test_labels = map(np.asarray, split)
    return Images("digits", train, test, test_labels, 8)


def binarise(key: Array, grey: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Bits with the grey values as probabilities: fresh at each call, by the key."""
    return jax.random.bernoulli(key, grey).astype(jnp.float32)


def fixed_test(images: Images) -> Float[Array, "M pixels"]:
    """The test set, binarised once: the same bits in every run, whatever its seed.

    NumPy draws them: a JAX key gives other bits under another ``jax_default_prng_impl``.
    """
    uniform = np.random.default_rng(TEST_BITS_SEED).random(images.test.shape)
    return jnp.asarray(uniform < images.test, jnp.float32)


def fingerprint(bits: Float[Array, "M pixels"]) -> str:
    """The first digits of the bits' SHA-256: two runs with one fingerprint had one test set."""
    return hashlib.sha256(np.packbits(np.asarray(bits, bool)).tobytes()).hexdigest()[:16]
