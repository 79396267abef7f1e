"""What is refused of TensorFlow Datasets, each in one line that says what to do."""

import importlib
import json
import pathlib
import re
import socket
import subprocess
import sys
import time

import pytest

from experiments import _tfds, _tfds_prepare
from experiments._data import load_images

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("VI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def refused(message, name, **options):
    """The refusal, in one line and within four seconds, must match."""
    begun = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        load_images(name, **options)
    assert time.perf_counter() - begun < 4
    line = str(caught.value)
    assert "\n" not in line
    assert "; " in line


def describe(folder, *, fileFormat="array_record", train=9, image=(28, 28, 1), **info):
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
        ({}, r"a prepared set .got: .*; prepare it again with --download and another"),
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


def test_a_set_larger_than_memory_is_refused(tmp_path):
    describe(tmp_path / "some" / "1.0.0", image=(2048, 2048, 3), train=10**9)
    message = r"must fit into memory .got \d{8} GiB of images in train, and \d+ GiB.; choose"
    refused(message, "some", data_dir=tmp_path)


def test_a_configuration_is_named(tmp_path):
    for config in ("letters", "digits"):
        describe(tmp_path / "emnist" / config / "3.1.0")
    found = _tfds.find("emnist/letters", tmp_path)
    assert found is not None
    assert found.folder.parts[-2:] == ("letters", "3.1.0")
    refused(
        "one of emnist's configurations .got none of digits, letters.", "emnist", data_dir=tmp_path
    )


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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "emnist",
            "must name one of emnist's configurations .got none of byclass, .*mnist/byclass",
        ),
        ("emnist/some", "must name one of emnist's configurations"),
        ("mnist/some", "must not name a configuration .*; write --data mnist$"),
        ("mnist:1.2.3", "must succeed in .*got: .*cannot be loaded at version 1.2.3, only: 3.0.1"),
        (
            "tf_flowers",
            "feature `image`, .* fixed shape .got shape .None, None, 3..; choose another",
        ),
        (
            "ag_news_subset",
            "must have a feature `image`, .*got label, title, description.; choose another",
        ),
    ],
)
def test_what_cannot_be_prepared_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(_tfds_prepare, "require_network", lambda *_: None)
    refused(message, name, data_dir=tmp_path, download=True)


def test_other_sets_are_prepared_where_tensorflow_is(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(_tfds_prepare, "require_network", lambda *_: None)
    manager = importlib.import_module("tensorflow_datasets").download.DownloadManager
    extractor = importlib.import_module("tensorflow_datasets.core.download.extractor")
    monkeypatch.setattr(manager, "download_and_extract", lambda *_: extractor.tf.io)
    message = (
        "--download of cifar10 needs tensorflow, which is not installed; install it .only emnist"
    )
    refused(message, "cifar10", data_dir=tmp_path, download=True)


def from_address(monkeypatch, url):
    module = importlib.import_module("tensorflow_datasets.image_classification.mnist")
    monkeypatch.setattr(module.MNIST, "URL", url)


def test_no_network_is_told_from_the_host_or_its_proxy(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}/"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    from_address(monkeypatch, closed)
    message = "--download of mnist needs a network .got .*refused from %s.; prepare it where"
    refused(message % "127.0.0.1", "mnist", data_dir=tmp_path / "none", download=True)
    from_address(monkeypatch, "http://somewhere.invalid/")
    monkeypatch.setenv("http_proxy", closed.replace("127.0.0.1", "localhost"))
    refused(message % "localhost", "mnist", data_dir=tmp_path / "none", download=True)
    assert not (tmp_path / "none").exists()


def test_a_network_that_never_answers_is_told_within_four_seconds(tmp_path):
    script = """
import socket, sys, time
socket.create_connection = lambda *_, **__: time.sleep(60)
from experiments._data import load_images
begun = time.perf_counter()
try:
    load_images("mnist", data_dir=sys.argv[1], download=True)
except ValueError as error:
    print(time.perf_counter() - begun, "s:", error)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "none")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    message = (
        r"(?P<seconds>\d\.\d+) s: --download of mnist needs a network .got no answer in 2 s from"
    )
    told = re.match(message, run.stdout)
    assert told, run.stdout + run.stderr
    assert float(told["seconds"]) < 4
    assert not (tmp_path / "none").exists()
