"""Download and prepare a set of TensorFlow Datasets, the MNIST family without TensorFlow."""

import contextlib
import gzip
import io
import os
import pathlib
import queue
import socket
import sys
import threading
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments import _tfds
from experiments._tfds import OTHERWISE, WITHOUT_TENSORFLOW, Prepared

PROBE_SECONDS = 2
IDX_UINT8 = b"\x00\x00\x08"


def prepare(name: str, data_dir: pathlib.Path) -> Prepared:
    """Prepare a set in ``data_dir``, as array_record, unless it is there already."""
    parts = _tfds.require_known(name)
    with _tfds.needed(name), _failures(name, data_dir):
        make = _without_tensorflow(parts["set"]) or _ordinary(parts["set"])
        configs = list(make.builder_configs)
    if parts["config"] not in (configs or [None]):
        raise _tfds.choose(name, configs)
    url = make.URL if parts["set"] in WITHOUT_TENSORFLOW else next(iter(make.url_infos or ()), None)
    if url is not None:
        require_network(name, url)
    with _alone(name, data_dir):
        found = _tfds.find(name, data_dir)
        if found is not None:
            return found
        print(f"preparing {name} in {data_dir}, once ...", file=sys.stderr)
        options = {"config": parts["config"], "version": parts["version"]}
        with _failures(name, data_dir):
            builder = make(data_dir=data_dir, file_format="array_record", **options)
            instead = _instead_of_images(builder.info.features)
            if instead is None:
                builder.download_and_prepare()
    if instead is not None:
        raise _tfds.imageless(name, instead)
    found = _tfds.find(name, data_dir)
    if found is None:
        raise ValueError(
            f"--download of {name} must make the folder {builder.data_dir} (got one there already,"
            f" without a dataset_info.json); move it away and run again, {OTHERWISE}"
        )
    return found


def _ordinary(name: str) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder_cls(name)


def _without_tensorflow(name: str) -> Any:
    """The builder of a set of the MNIST family, with gzip, zip and PNG done by Python."""
    from PIL import Image

    if name not in WITHOUT_TENSORFLOW:
        return None
    base = _ordinary(name)

    class Builder(base, skip_registration=True):  # pyright: ignore
        __module__ = base.__module__  # so that its checksums are found
        name = base.name

        def _split_generators(self, dl_manager):
            return super()._split_generators(_Archives(dl_manager))

        def _generate_examples(self, num_examples, data_path, label_path):
            images, labels = (read_idx(path)[:num_examples] for path in (data_path, label_path))
            if labels.shape != (len(images),):
                raise ValueError(f"{len(images)} images have labels of shape {list(labels.shape)}")
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                png.seek(0)
                yield index, {"image": png, "label": int(label)}

    return Builder


class _Archives:
    """A download manager that leaves archives packed."""

    def __init__(self, manager: Any):
        self.download_and_extract = manager.download

    def extract(self, paths: dict[str, str]) -> dict[str, str]:
        return paths


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """A gzipped IDX file of bytes, which may lie inside a zip file: ``a.zip/folder/b.gz``."""
    file = pathlib.Path(path)
    archive = next((parent for parent in file.parents if parent.is_file()), None)
    if archive is None:
        packed = file.read_bytes()
    else:
        with zipfile.ZipFile(archive) as members:
            packed = members.read(file.relative_to(archive).as_posix())
    held = gzip.decompress(packed)
    start = 4 + 4 * held[3] if held[:3] == IDX_UINT8 else len(held) + 1
    shape = np.frombuffer(held[4:start], ">i4")
    if len(held) != start + shape.prod(dtype=np.int64):
        raise ValueError(f"{file.name} is not a whole IDX file of bytes")
    return np.frombuffer(held, np.uint8, offset=start).reshape(shape)


def _instead_of_images(features: Any) -> str | None:
    """What a set holds instead of images of one size, or None if it holds those."""
    import tensorflow_datasets as tfds

    if not isinstance(features, tfds.features.FeaturesDict) or "image" not in features:
        return ", ".join(features or ()) or "no features"
    shape = getattr(features["image"], "shape", None)
    return None if isinstance(shape, tuple) and None not in shape else f"shape {shape}"


@contextlib.contextmanager
def _failures(name: str, data_dir: pathlib.Path) -> Iterator[None]:
    """Nothing printed, and one line for whatever a builder raises."""
    with _tfds.quiet():
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.utils import tqdm_utils

        bars = tqdm_utils._active
        tfds.display_progress_bar(False)
        try:
            yield
        except Exception as error:
            raise _failed(name, data_dir, error) from error
        finally:
            tfds.display_progress_bar(bars)


def _failed(name: str, data_dir: pathlib.Path, error: Exception) -> ValueError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ImportError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        package = (cause.name or _tfds.first_line(cause)).partition(".")[0]
        remedy = f"pip install 'vi[experiments]' {package}"
        if package == "tensorflow":
            remedy = (
                f"install it (only {', '.join(WITHOUT_TENSORFLOW)} do without), or prepare the set"
                f" elsewhere by tfds.builder({name!r}, file_format='array_record')"
                ".download_and_prepare() and pass its --data-dir"
            )
        return ValueError(
            f"--download of {name} needs {package}, which is not installed; {remedy}, {OTHERWISE}"
        )
    return ValueError(
        f"--download of {name} must succeed in {data_dir} (got: {_tfds.first_line(error)}); run it"
        f" again, name another --data-dir, {OTHERWISE}"
    )


def require_network(name: str, url: str) -> None:
    """Refuse at once where the host of ``url``, or the proxy to it, cannot be reached."""
    target = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urllib.parse.urlsplit(proxy)
    port = target.port or (443 if target.scheme == "https" else 80)
    outcome: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection((target.hostname, port), timeout=PROBE_SECONDS).close()
        except OSError as error:
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=connect, daemon=True).start()  # a name look-up knows no timeout
    try:
        error = outcome.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        error = f"no answer in {PROBE_SECONDS} s"
    if error is not None:
        raise ValueError(
            f"--download of {name} needs a network (got {error} from {target.hostname}); prepare"
            f" it where there is one and pass its --data-dir, {OTHERWISE}"
        )


@contextlib.contextmanager
def _alone(name: str, data_dir: pathlib.Path) -> Iterator[None]:
    """One process at a time prepares a set; another waits until it is done."""
    import fcntl  # POSIX only, as array_record is

    folder = data_dir / name.partition("/")[0].partition(":")[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".preparing.lock").open("w")
    except OSError as error:
        raise _failed(name, data_dir, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that prepares {name} ...", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
