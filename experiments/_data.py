"""Images to train on and a test set that never changes."""

import hashlib
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from experiments import _cache, _npz, _tfds

TEST_SIZE = 360
TEST_BITS_SEED = 0
ROWS = 10_000


class Images(NamedTuple):
    """Images, flattened, and their classes; pixels are uint8 0..255 as stored, or float32 0..1."""

    name: str
    train: np.ndarray  # [N, pixels]
    test: np.ndarray  # [M, pixels]
    train_labels: np.ndarray | None  # [N]
    test_labels: np.ndarray | None  # [M]
    shape: tuple[int, ...]  # (28, 28), (32, 32, 3), or (pixels,) where they form no square

    @property
    def fingerprint(self) -> str:
        """The first digits of the pixels' SHA-256: one fingerprint, one set of images."""
        sizes = (self.shape, str(self.train.dtype), len(self.train), len(self.test))
        digest = hashlib.sha256(repr(sizes).encode())
        digest.update(np.ascontiguousarray(self.train).data)
        digest.update(np.ascontiguousarray(self.test).data)
        return digest.hexdigest()[:16]

    @property
    def mean(self) -> np.ndarray:
        """The mean training image, from 0 to 1."""
        return self.train.mean(0) / (255 if self.train.dtype == np.uint8 else 1)


def set_output_bias(layer: nnx.Linear, mean: np.ndarray) -> None:
    """Begin with the logits of the mean pixels, those of 0 and 1 a thousandth inside."""
    inner = np.clip(mean, 1e-3, 1 - 1e-3)
    assert layer.bias is not None
    layer.bias[...] = jnp.asarray(np.log(inner) - np.log1p(-inner), jnp.float32)


def load_images(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Images:
    """A set of images, split into train and test.

    Args:
        name: ``digits``; an image set of TensorFlow Datasets, as in ``mnist``, ``emnist/letters``
            or ``mnist:3.0.1``; or a path that ends in ``.npz``.
        data_dir: where TensorFlow Datasets keeps its prepared sets; by default the environment
            variable ``TFDS_DATA_DIR``, else ``~/tensorflow_datasets``.
        download: prepare the set there if it is not there yet.

    Returns:
        The images. ``validation`` is the test set of a set without ``test``. Bits that are stored
        as uint8 0 and 1 (``binarized_mnist``) become 0 and 255. Sets of TensorFlow Datasets are
        decoded once and then come from a cache (``_cache``).

    Raises:
        ValueError: in one line, what is wrong and what to do.
    """
    name = os.fspath(name)
    if name == "digits":
        return load_digits()
    if name.endswith(".npz"):
        path = pathlib.Path(os.path.expanduser(name))
        return _bits_as_greys(Images(path.name, *_npz.read(path)))
    folder, by = _tfds.place(data_dir)
    found = _tfds.find(name, folder)
    if found is None and download:
        from experiments import _tfds_prepare

        found = _tfds_prepare.prepare(name, folder)
    if found is None:
        _tfds.refuse_missing(name, folder, by)
    test = "test" if found.splits.get("test") else "validation"
    parts = _cache.cached(name.partition(":")[0], found.folder, lambda: _read(found, test))
    shape = found.shape[:2] if found.shape[2] == 1 else found.shape
    labels = (parts.get("train_labels"), parts.get("test_labels"))
    return _bits_as_greys(Images(name, parts["train"], parts["test"], *labels, shape))


def _read(found: _tfds.Prepared, test: str) -> dict[str, np.ndarray]:
    parts = {}
    for part, split in (("train", "train"), ("test", test)):
        parts[part], labels = _tfds.read(found, split)
        if labels is not None:
            parts[f"{part}_labels"] = labels
    return parts


def _bits_as_greys(images: Images) -> Images:
    """Images of nothing but 0 and 1 with 255 for 1: otherwise all would be nearly black."""
    if images.train.dtype != np.uint8 or max(images.train.max(), images.test.max()) > 1:
        return images
    return images._replace(train=images.train * 255, test=images.test * 255)


def load_digits() -> Images:
    """scikit-learn's 1,797 handwritten digits, 8 x 8: a fixed stratified split, 360 held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, classes = map(np.asarray, load_digits(return_X_y=True))
    grey = (pixels / 16).astype(np.float32)
    split = train_test_split(grey, classes, test_size=TEST_SIZE, stratify=classes, random_state=0)
    train, test, train_labels, test_labels = map(np.asarray, split)
    return Images("digits", train, test, train_labels, test_labels, (8, 8))


def probabilities(pixels):
    """Pixels as probabilities of a white dot: uint8 is divided by 255, floats are kept."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / 255
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise ValueError(
            f"probabilities: pixels must be uint8 in 0..255 or floats in 0..1 (got {pixels.dtype});"
            " pass the images as load_images returns them"
        )
    return pixels


def binarise(key: Array, grey) -> Float[Array, "*shape"]:
    """Bits with the grey values as probabilities: fresh at each call, by the key.

    ``grey`` is uint8 0..255 or floats in 0..1, traced or not.
    """
    return jax.random.bernoulli(key, probabilities(grey)).astype(jnp.float32)


def fixed_test(images: Images, num_images: int | None = None) -> Float[Array, "M pixels"]:
    """The test set, binarised once: the same bits in every run, whatever its seed.

    The bits of an image depend on its place alone: those of the first ``num_images`` do not
    change with their number. NumPy draws them: a JAX key gives other bits under another
    ``jax_default_prng_impl``.
    """
    count = len(images.test) if num_images is None else num_images
    if not 1 <= count <= len(images.test):
        raise ValueError(
            f"fixed_test: num_images must be from 1 to the {len(images.test)} test images of"
            f" {images.name} (got {count}); ask for fewer"
        )
    random = np.random.default_rng(TEST_BITS_SEED)
    blocks = np.array_split(images.test[:count], -(-count // ROWS))
    bits = [random.random(block.shape) < probabilities(block) for block in blocks]
    return jnp.asarray(np.concatenate(bits), jnp.float32)


def facts(images: Images, x_test: Float[Array, "M pixels"]) -> dict[str, str | int]:
    """What a protocol says of the data: two runs with the same facts saw the same."""
    return {
        "images": images.fingerprint,
        "train_images": len(images.train),
        "scored_images": len(x_test),
        "binarisation": "train: fresh every step; test: once, the same bits in every run",
        "test_bits_sha256": fingerprint(x_test),
    }


def fingerprint(bits: Float[Array, "M pixels"]) -> str:
    """The first digits of the bits' SHA-256: two runs with one fingerprint had one test set."""
    return hashlib.sha256(np.packbits(np.asarray(bits, bool)).tobytes()).hexdigest()[:16]
