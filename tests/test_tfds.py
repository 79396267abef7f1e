"""Sets of TensorFlow Datasets: found, read, prepared and refused, without TensorFlow."""

import io
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import _tfds
from experiments._data import load_images

ROOT = pathlib.Path(__file__).parent.parent
PIXELS = (np.arange(9 * 28 * 28) * 37 % 256).astype(np.uint8).reshape(9, 28, 28)
COLOURS = PIXELS.reshape(9, 14, 14, 4)[..., :3]
CLASSES = np.arange(9) % 4
PREPARED = os.environ.get("TFDS_DATA_DIR", "")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("VI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


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
    """The refusal, in one line, must match."""
    with pytest.raises(ValueError, match=message) as caught:
        load_images(name, **options)
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_info.json", "["),
        ("dataset_info.json", "[]"),
        ("features.json", ""),
        ("features.json", '{"featuresDict": null}'),
        ("array_record", "not records"),
    ],
)
def test_damaged_sets_are_refused(tmp_path, name, content):
    folder = make(tmp_path, "colours")
    for file in folder.glob(f"*{name}*"):
        file.write_text(content)
    refused("must be a prepared set .got: .*; prepare it again", "colours", data_dir=tmp_path)


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


LOADED = """
import sys, time
from experiments._data import load_images
begun = time.perf_counter()
images = load_images(sys.argv[1])
print(time.perf_counter() - begun, images.fingerprint, "tensorflow_datasets" in sys.modules)
"""


def loaded(name):
    """In a fresh process: the seconds, the fingerprint, and whether the package was needed."""
    command = [sys.executable, "-c", LOADED, name]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    seconds, fingerprint, imported = run.stdout.split()
    return float(seconds), fingerprint, imported == "True"


def test_a_cached_set_needs_no_package(tmp_path, monkeypatch):
    make(tmp_path, "colours")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    first, second = loaded("colours"), loaded("colours")
    assert (first[2], second[2]) == (True, False)
    assert first[1] == second[1]
    assert second[0] < 0.5


@pytest.mark.slow
@pytest.mark.skipif(
    not (pathlib.Path(PREPARED) / "mnist").is_dir(),
    reason="TFDS_DATA_DIR names no folder with mnist",
)
def test_mnist_is_read_in_six_seconds_and_from_the_cache_in_half_a_second(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", PREPARED)
    first, second = loaded("mnist"), loaded("mnist")
    assert first[0] < 6
    assert second[0] < 0.5
    assert first[1] == second[1]
    images = load_images("mnist")
    assert (images.train.shape, images.test.shape) == ((60_000, 784), (10_000, 784))
    assert images.test_labels is not None
    assert (np.bincount(images.test_labels) > 890).all()
    begun = time.perf_counter()
    assert images.fingerprint == first[1]
    assert time.perf_counter() - begun < 0.2
