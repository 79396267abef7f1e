"""Images from a ``.npz`` file."""

import math
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

NAMES = {  # ours, then those of Keras
    "train": ("train", "x_train"),
    "test": ("test", "x_test"),
    "train_labels": ("train_labels", "y_train"),
    "test_labels": ("test_labels", "y_test"),
}
WHOLE = "x"  # images that were never split
HELD_OUT = 10  # one in so many of those, at random but always the same
MOST_CHANNELS = 4


class Arrays(NamedTuple):
    """What a file holds, in the order of ``Images``."""

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None
    shape: tuple[int, ...]


def read(path: pathlib.Path) -> Arrays:
    """Train and test images ``[N, pixels]``, their classes or None, and the shape of an image.

    The file holds ``train`` and ``test``, optionally ``train_labels`` and ``test_labels``, or the
    names of Keras: ``x_train``, ``y_train``, ...  Images are ``[N, H, W]``, ``[N, H, W, C]`` or
    ``[N, pixels]``, uint8 in 0..255 or floats in 0..1. Of a file with ``x`` alone a tenth is held
    out, at random and the same each time.
    """
    held = _arrays(path)
    train, shape = _images(path, *held["train"])
    test, test_shape = _images(path, *held["test"])
    if (shape, train.dtype) != (test_shape, test.dtype):
        got = f"{list(shape)} {train.dtype} and {list(test_shape)} {test.dtype}"
        raise _refusal(path, "have images of one shape and dtype", got, "save both alike")
    train_labels = _labels(path, held.get("train_labels"), len(train))
    test_labels = _labels(path, held.get("test_labels"), len(test))
    return Arrays(train, test, train_labels, test_labels, shape)


def _arrays(path: pathlib.Path) -> dict[str, tuple[str, np.ndarray]]:
    """The arrays by what they are, each with its name in the file."""
    if not path.is_file():
        raise _refusal(path, "be a file", "none there", "correct the path, or use --data digits")
    held = {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = list(file.files)
            for part, choices in NAMES.items():
                for name in choices:
                    if name in names and part not in held:
                        held[part] = name, file[name]
            if WHOLE in names and not held:
                return _split(file[WHOLE])
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        remedy = "save it again with np.savez, as numbers and not as Python objects"
        raise _refusal(path, "be a whole .npz file", f"the error: {error}", remedy) from error
    if not {"train", "test"} <= set(held):
        rule, got = "hold train and test, x_train and x_test, or x", ", ".join(names) or "no arrays"
        raise _refusal(path, rule, got, "save it with np.savez(path, train=..., test=...)")
    return held


def _split(images: np.ndarray) -> dict[str, tuple[str, np.ndarray]]:
    order = np.random.default_rng(0).permutation(len(images))
    count = len(images) // HELD_OUT
    test, train = np.sort(order[:count]), np.sort(order[count:])
    return {"train": (WHOLE, images[train]), "test": (WHOLE, images[test])}


def _images(
    path: pathlib.Path, name: str, images: np.ndarray
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The images as ``[N, pixels]``, checked, and the shape of one."""
    whose = f"have in {name} "
    if images.ndim not in (2, 3, 4) or 0 in images.shape or images.shape[3:] > (MOST_CHANNELS,):
        rule, remedy = "[N, H, W], [N, H, W, C] or [N, pixels]", "channels come last, at most 4"
        raise _refusal(path, whose + rule, f"shape {list(images.shape)}", remedy)
    is_float = np.issubdtype(images.dtype, np.floating)
    if images.dtype != np.uint8 and not is_float:
        rule, remedy = "uint8 in 0..255 or floats in 0..1", "convert before saving"
        raise _refusal(path, whose + rule, f"dtype {images.dtype}", remedy)
    low, high = images.min(), images.max()
    if is_float and not (low >= 0 and high <= 1):
        remedy = "divide by the largest grey value, and mend what is not a number"
        raise _refusal(
            path, whose + "floats in 0..1", f"values from {low:.3g} to {high:.3g}", remedy
        )
    shape = images.shape[1:3] if images.shape[3:] == (1,) else images.shape[1:]
    if len(shape) == 1 and math.isqrt(shape[0]) ** 2 == shape[0]:
        shape = (math.isqrt(shape[0]),) * 2
    flat = images.reshape(len(images), -1)
    return (flat.astype(np.float32) if is_float else flat), shape


def _labels(
    path: pathlib.Path, held: tuple[str, np.ndarray] | None, count: int
) -> np.ndarray | None:
    if held is None:
        return None
    name, labels = held
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape not in ((count,), (count, 1)):
        rule, got = f"have in {name} {count} integers", f"{labels.dtype} {list(labels.shape)}"
        raise _refusal(path, rule, got, "save one class for each image")
    return labels.reshape(count).astype(np.int64)


def _refusal(path: pathlib.Path, rule: str, got: str, remedy: str) -> ValueError:
    line = " ".join(f"--data {path} must {rule} (got {got}); {remedy}".split())
    return ValueError(line)
