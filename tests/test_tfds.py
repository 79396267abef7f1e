"""Sets of TensorFlow Datasets: found, read, prepared and refused, without TensorFlow."""

import contextlib
import fcntl
import functools
import gzip
import http.server
import io
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest

from experiments import _tfds, _tfds_prepare
from experiments._data import load_images

ROOT = pathlib.Path(__file__).parent.parent
PIXELS = (np.arange(9 * 28 * 28) * 37 % 256).astype(np.uint8).reshape(9, 28, 28)
COLOURS = PIXELS.reshape(9, 14, 14, 4)[..., :3]
CLASSES = np.arange(9) % 4


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("VI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("no_proxy", "*")


def make(folder, name, features=None, splits=None):
    """A set in array_record files: by default nine colour images with classes, in two splits."""
    with _tfds.quiet():
        import tensorflow_datasets as tfds
        from PIL import Image

        features = features or {
            "image": tfds.features.Image(shape=COLOURS.shape[1:]),
            "label": tfds.features.ClassLabel(num_classes=4),
        }

        def png(image):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            return io.BytesIO(file.getvalue())

        def rows(images, labels):
            for row, (image, label) in enumerate(zip(images, labels, strict=True)):
                held = {"image": png(image), "label": int(label), "size": 3}
                yield row, {name: held[name] for name in features}

        class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager):
                given = splits or {"train": (COLOURS, CLASSES), "test": (COLOURS[:3], CLASSES[:3])}
                return {split: rows(*content) for split, content in given.items()}

            def _generate_examples(self):
                raise NotImplementedError

        Made.name = name
        Made(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder / name / "1.0.0"


def refused(message, name, **options):
    """The refusal, in one line and within four seconds, must match."""
    begun = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        load_images(name, **options)
    assert time.perf_counter() - begun < 4
    line = str(caught.value)
    assert "\n" not in line
    assert "; " in line


def test_a_set_is_read_once_and_then_cached(tmp_path, monkeypatch, capfd):
    make(tmp_path, "colours")
    capfd.readouterr()
    images = load_images("colours", data_dir=tmp_path)
    np.testing.assert_array_equal(images.train, COLOURS.reshape(9, -1))
    np.testing.assert_array_equal(images.test, COLOURS[:3].reshape(3, -1))
    np.testing.assert_array_equal(images.train_labels, CLASSES)
    np.testing.assert_array_equal(images.test_labels, CLASSES[:3])
    assert (images.name, images.shape, images.train.dtype) == ("colours", (14, 14, 3), np.uint8)
    monkeypatch.setattr(_tfds, "read", lambda *_: pytest.fail("read again"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    again = load_images("colours:1.0.0")
    np.testing.assert_array_equal(again.train_labels, CLASSES)
    assert again.fingerprint == images.fingerprint
    assert capfd.readouterr() == ("", "")


def test_a_set_that_is_prepared_anew_is_read_anew(tmp_path):
    folder = make(tmp_path, "colours")
    first = load_images("colours", data_dir=tmp_path)
    shutil.rmtree(folder)
    changed = {"train": (255 - COLOURS, CLASSES), "test": (COLOURS[:3], CLASSES[:3])}
    make(tmp_path, "colours", splits=changed)
    second = load_images("colours", data_dir=tmp_path)
    np.testing.assert_array_equal(second.train, 255 - first.train)


def test_validation_stands_in_for_test_and_labels_may_lack(tmp_path):
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=(28, 28, 1)), "size": np.int64}
    splits = {"train": (PIXELS, CLASSES), "validation": (PIXELS[:2], CLASSES[:2])}
    make(tmp_path, "greys", features, splits)
    images = load_images("greys", data_dir=tmp_path)
    np.testing.assert_array_equal(images.train, PIXELS.reshape(9, -1))
    assert (images.shape, len(images.test)) == ((28, 28), 2)
    assert images.train_labels is None
    assert images.test_labels is None


def describe(folder, *, fileFormat="array_record", train=9, image=(28, 28, 1), **info):  # noqa: N803
    """The two JSON files of a set, without its images."""
    features = {"label": {"classLabel": {}}}
    if image:
        shape = {"dimensions": [str(size) for size in image]}
        features["image"] = {"image": {"dtype": info.pop("dtype", "uint8"), "shape": shape}}
    splits = {"train": train, info.pop("other", "test"): 3}
    info["splits"] = [{"name": k, "shardLengths": [str(v)]} for k, v in splits.items()]
    folder.mkdir(parents=True)
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": fileFormat} | info))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"image": None}, "must have a feature `image`, uint8 .*got label.; choose another set"),
        ({"image": (-1, -1, 3)}, r"of a fixed shape .got uint8 of shape .-1, -1, 3., -1 for any"),
        ({"dtype": "float32"}, r"uint8 and of a fixed shape .got float32 of shape .28, 28, 1."),
        ({"other": "extra"}, "images in train, and in test or validation .got 9 in train, 3 in ex"),
        ({"train": 0}, "must have images in train, and in test .*got 0 in train, 3 in test"),
        (
            {"fileFormat": "tfrecord"},
            r"as array_record .got tfrecord files, which tfds.load leaves",
        ),
        ({}, r"a prepared set .got: .*; delete that folder and prepare it again with --download"),
    ],
)
def test_sets_of_something_else_are_refused(tmp_path, held, message):
    describe(tmp_path / "some" / "1.0.0", **held)
    refused(message, "some", data_dir=tmp_path)


def test_the_newest_readable_version_is_taken(tmp_path):
    for version in ("1.9.0", "1.10.0"):
        describe(tmp_path / "some" / version)
    describe(tmp_path / "some" / "2.0.0", fileFormat="tfrecord")
    found = [_tfds.find(name, tmp_path) for name in ("some", "some:1.9.0", "some:3.0.0")]
    assert [f and f.folder.name for f in found] == ["1.10.0", "1.9.0", None]


def test_a_configuration_is_named(tmp_path):
    for config in ("letters", "digits"):
        describe(tmp_path / "emnist" / config / "3.1.0")
    found = _tfds.find("emnist/letters", tmp_path)
    assert found is not None
    assert found.folder.parts[-2:] == ("letters", "3.1.0")
    refused(
        "one of emnist's configurations .got none of digits, letters.", "emnist", data_dir=tmp_path
    )


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "array_record"])
def test_damaged_sets_are_refused(tmp_path, name):
    folder = make(tmp_path, "colours")
    for file in folder.glob(f"*{name}*"):
        file.write_text("[]" if file.suffix == ".json" else "not records")
    refused("must be a prepared set .got: .*; delete that folder", "colours", data_dir=tmp_path)


def test_missing_sets_say_where_and_what_to_do(tmp_path, monkeypatch):
    home = tmp_path / "home" / "tensorflow_datasets"
    ways = "; set --data-dir or TFDS_DATA_DIR to a folder that has it, add --download .*digits"
    refused(
        f"mnist must be prepared in {home}, used without --data-dir or .*no such.*{ways}", "mnist"
    )
    describe(tmp_path / "kmnist" / "3.0.1")
    given = f"mnist must be prepared in {tmp_path}, given by %s .got kmnist.{ways}"
    refused(given % "--data-dir", "mnist", data_dir=tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    refused(given % "TFDS_DATA_DIR", "mnist")
    close = "must be digits, an image set .*got 'mnits', did you mean mnist or .*; correct the name"
    refused(close, "mnits")
    refused("got 'digit', did you mean digits.*; correct", "digit", download=True)
    refused("got '../some/path.h5'.; correct the name", "../some/path.h5")


def test_without_the_packages_it_says_what_to_install(tmp_path, monkeypatch):
    make(tmp_path, "colours")
    monkeypatch.setitem(sys.modules, "PIL", None)
    refused("colours needs PIL, which is not installed; pip install", "colours", data_dir=tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for options in ({"data_dir": tmp_path}, {"data_dir": tmp_path / "none", "download": True}):
        name = "cifar10" if "download" in options else "colours"
        refused(f"{name} needs tensorflow_datasets, .*; pip install 'vi.exp", name, **options)
    refused("cifar10 must be prepared in", "cifar10", data_dir=tmp_path)
    refused("got 'mnits', did you mean", "mnits", data_dir=tmp_path)
