"""Sets of TensorFlow Datasets are downloaded and prepared, those like MNIST without TensorFlow."""

import fcntl
import functools
import gzip
import http.server
import importlib
import os
import pathlib
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest

from experiments._data import load_images

ROOT = pathlib.Path(__file__).parent.parent
PIXELS = (np.arange(9 * 28 * 28) * 37 % 256).astype(np.uint8).reshape(9, 28, 28)
CLASSES = (np.arange(9) % 4).astype(np.uint8)
PARTS = {"train": (PIXELS, CLASSES), "test": (PIXELS[:4], CLASSES[:4])}
IN_A_FRESH_PROCESS = """
import sys
from tensorflow_datasets.image_classification import mnist
from experiments._data import load_images
mnist.MNIST.URL = sys.argv[1]
images = load_images("mnist", data_dir=sys.argv[2], download=True)
print(len(images.train), "images, tensorflow imported:", "tensorflow" in sys.modules)
"""


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def idx_files(prefix="", names=("train", "t10k")):
    held = {}
    for name, (pixels, classes) in zip(names, PARTS.values(), strict=True):
        held[f"{prefix}{name}-images-idx3-ubyte.gz"] = idx(pixels)
        held[f"{prefix}{name}-labels-idx1-ubyte.gz"] = idx(classes)
    return held


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder with the files of MNIST, its address, and what was asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()
    for name, content in idx_files().items():
        (folder / name).write_bytes(content)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("VI_CACHE_DIR", str(tmp_path / "cache"))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()
        thread.join()


def from_address(monkeypatch, name, url):
    module = importlib.import_module("tensorflow_datasets.image_classification.mnist")
    monkeypatch.setattr(getattr(module, name), "URL", url)


def assert_same(images):
    """What was prepared is what was served; the order is that of TensorFlow Datasets."""
    assert images.shape == (28, 28)
    parts = {
        "train": (images.train, images.train_labels),
        "test": (images.test, images.test_labels),
    }
    for part, (pixels, classes) in parts.items():
        served = {row.tobytes(): label for row, label in zip(*PARTS[part], strict=True)}
        assert {p.tobytes(): c for p, c in zip(pixels, classes, strict=True)} == served
        assert len(pixels) == len(served)


@pytest.mark.parametrize(
    ("name", "builder"), [("kmnist", "KMNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_the_family_of_mnist_is_prepared(tmp_path, served, monkeypatch, capfd, name, builder):
    _, url, asked = served
    from_address(monkeypatch, builder, url)
    images = load_images(name, data_dir=tmp_path / "sets", download=True)
    assert_same(images)
    shown, told = capfd.readouterr()
    assert shown == ""
    assert told == f"preparing {name} in {tmp_path / 'sets'}, once ...\n"
    again = load_images(name, data_dir=tmp_path / "sets", download=True)
    assert again.fingerprint == images.fingerprint
    assert len(asked) == 4


def test_emnist_is_prepared_from_its_zip_file(tmp_path, served, monkeypatch):
    folder, url, _ = served
    with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
        for name, content in idx_files("gzip/emnist-letters-", ("train", "test")).items():
            archive.writestr(name, content)
    from_address(monkeypatch, "EMNIST", url + "gzip.zip")
    assert_same(load_images("emnist/letters", data_dir=tmp_path, download=True))


def test_processes_at_once_prepare_once_and_without_tensorflow(tmp_path, served):
    _, url, asked = served
    fake = tmp_path / "fake" / "tensorflow"
    fake.mkdir(parents=True)
    used = tmp_path / "used"
    (fake / "__init__.py").write_text(f"open({str(used)!r}, 'w').close(); raise ImportError")
    folder = tmp_path / "sets" / "mnist"
    folder.mkdir(parents=True)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(fake.parent), str(ROOT)])}
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, url, str(folder.parent)]
    told = [tmp_path / f"told-{i}" for i in range(2)]
    with (folder / ".preparing.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = []
        for file in told:
            with file.open("w") as stream:
                runs.append(subprocess.Popen(command, env=env, stdout=stream, stderr=stream))
        until = time.monotonic() + 30
        while not all("waiting" in file.read_text() for file in told):
            assert time.monotonic() < until, [file.read_text() for file in told]
            time.sleep(0.02)
    ended = [run.wait(timeout=30) for run in runs]
    lines = sorted("".join(file.read_text() for file in told).splitlines())
    assert ended == [0, 0], lines
    assert len(lines) == 5, lines
    assert lines[0] == lines[1] == "9 images, tensorflow imported: False"
    assert lines[2] == f"preparing mnist in {folder.parent}, once ..."
    assert lines[3] == lines[4] == "waiting for another process that prepares mnist ..."
    assert len(asked) == 4
    assert not used.exists()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def refused(message, name, folder):
    """The refusal, in one line and within four seconds, must match."""
    begun = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        load_images(name, data_dir=folder, download=True)
    assert time.perf_counter() - begun < 4
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda file: file.unlink(), "Failed to get url .* HTTP code: 404"),
        (lambda file: file.write_bytes(b"text"), "Not a gzipped file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "Compressed file ended before"),
        (
            lambda file: file.write_bytes(idx(PIXELS[:2])),
            r"9 images have labels of shape .2, 28, 28.",
        ),
        (lambda file: file.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc")), "a whole IDX"),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(
    tmp_path, served, monkeypatch, change, why
):
    folder, url, _ = served
    from_address(monkeypatch, "MNIST", url)
    change(folder / "train-labels-idx1-ubyte.gz")
    refused(
        f"--download of mnist must succeed in .*got: .*{why}.*; run it again", "mnist", tmp_path
    )
    assert [file.name for file in (tmp_path / "mnist").iterdir()] == [".preparing.lock"]


def test_where_nothing_can_be_written_it_says_so(tmp_path, served, monkeypatch):
    from_address(monkeypatch, "MNIST", served[1])
    (tmp_path / "file").write_text("")
    refused("--download of mnist must succeed in .*got: .*file.*; ", "mnist", tmp_path / "file")
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    refused("got one there already, without a dataset_info.json.; move it", "mnist", tmp_path)
