"""Image sets of TensorFlow Datasets, found and read without TensorFlow.

A set lies in ``<data_dir>/<name>[/<configuration>]/<version>``. Two JSON files there say what it
holds, so that only reading the images imports ``tensorflow_datasets``.
"""

import contextlib
import difflib
import io
import json
import math
import os
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import numpy as np

NAME = re.compile(r"(?P<set>\w+)(/(?P<config>[^/:]+))?(:(?P<version>\d+\.\d+\.\d+))?")
VERSION = re.compile(r"\d+\.\d+\.\d+")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # pillow's, by the number of channels
WITHOUT_TENSORFLOW = ("emnist", "fashion_mnist", "kmnist", "mnist")
OTHERWISE = "or use --data digits"
AT_ONCE = 10_000


class Prepared(NamedTuple):
    """A prepared image set, as its JSON files describe it."""

    name: str
    folder: pathlib.Path
    shape: tuple[int, ...]  # (height, width, channels)
    labelled: bool
    splits: dict[str, int]  # the number of images in each


def place(data_dir: str | os.PathLike[str] | None) -> tuple[pathlib.Path, str]:
    """The folder of prepared sets, and what named it."""
    if data_dir is not None:
        named, by = os.fspath(data_dir), "given by --data-dir"
    else:
        named, by = os.environ.get("TFDS_DATA_DIR", ""), "given by TFDS_DATA_DIR"
    if not named:
        named, by = "~/tensorflow_datasets", "used without --data-dir or TFDS_DATA_DIR"
    return pathlib.Path(os.path.expanduser(named)), by


def find(name: str, data_dir: pathlib.Path) -> Prepared | None:
    """The newest prepared version of a set, of array_record files if there is one."""
    parts = NAME.fullmatch(name)
    if parts is None:
        return None
    root = data_dir / parts["set"]
    found = [
        file.parent
        for file in (root / (parts["config"] or "")).glob("*/dataset_info.json")
        if VERSION.fullmatch(file.parent.name) and parts["version"] in (None, file.parent.name)
    ]
    if not found:
        configs = sorted({file.parts[-3] for file in root.glob("*/*/dataset_info.json")})
        if configs and parts["config"] is None:
            raise choose(name, configs)
        return None
    infos = {folder: _read_json(name, folder / "dataset_info.json") for folder in found}
    readable = [folder for folder in found if infos[folder].get("fileFormat") == "array_record"]
    folder = max(readable or found, key=lambda folder: [int(n) for n in folder.name.split(".")])
    if not readable:
        kind = infos[folder].get("fileFormat", "tfrecord")
        raise ValueError(
            f"--data {name} must be prepared as array_record (got {kind} files, which tfds.load"
            f" leaves, in {folder}); prepare it again with --download and another --data-dir,"
            f" {OTHERWISE}"
        )
    try:
        return _describe(name, folder, infos[folder])
    except (AttributeError, KeyError, TypeError) as error:
        raise _unreadable(name, folder, f"JSON of another form, {error!r}") from error


def choose(name: str, configs: list[str]) -> ValueError:
    """The error for a configuration that is left out or does not exist."""
    given = name.partition(":")[0].partition("/")[0]
    if not configs:
        return ValueError(
            f"--data {name} must not name a configuration (got one, and {given} has none); write"
            f" --data {given}"
        )
    some = ", ".join(configs[:8]) + (", ..." if len(configs) > 8 else "")
    return ValueError(
        f"--data {name} must name one of {given}'s configurations (got none of {some}); write,"
        f" say, --data {given}/{configs[0]}"
    )


def imageless(name: str, got: str) -> ValueError:
    """The error for a set of something else than images of one size."""
    return ValueError(
        f"--data {name} must have a feature `image`, uint8 and of a fixed shape (got {got});"
        f" choose another set, {OTHERWISE}"
    )


def _describe(name: str, folder: pathlib.Path, info: dict[str, Any]) -> Prepared:
    root = _read_json(name, folder / "features.json")
    features = root.get("featuresDict", {}).get("features", {})
    image = features.get("image", {}).get("image", {})
    shape = tuple(int(size) for size in image.get("shape", {}).get("dimensions", ()))
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in MODES or image.get("dtype") != "uint8":
        got = ", ".join(features) or "no features"
        if image:
            got = f"{image.get('dtype')} of shape {list(shape)}, -1 for any size"
        raise imageless(name, got)
    splits = {
        split["name"]: sum(int(count) for count in split.get("shardLengths", ()))
        for split in info.get("splits", ())
    }
    if not splits.get("train") or not (splits.get("test") or splits.get("validation")):
        got = ", ".join(f"{count} in {split}" for split, count in splits.items()) or "none"
        raise ValueError(
            f"--data {name} must have images in train, and in test or validation (got {got});"
            f" choose another set, {OTHERWISE}"
        )
    return Prepared(name, folder, shape, "classLabel" in features.get("label", {}), splits)


def _read_json(name: str, file: pathlib.Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(name, file.parent, error) from error
    if not isinstance(held, dict):
        raise _unreadable(name, file.parent, f"{file.name} holds no dictionary")
    return held


def _unreadable(name: str, folder: pathlib.Path, why: object) -> ValueError:
    return ValueError(
        f"--data {name}: {folder} must be a prepared set (got: {first_line(why)}); prepare"
        f" it again with --download and another --data-dir, {OTHERWISE}"
    )


def read(prepared: Prepared, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The images ``[N, pixels]`` of a split, in stored order, and their classes ``[N]``."""
    count, pixels = prepared.splits[split], math.prod(prepared.shape)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if count * pixels > memory:
        raise ValueError(
            f"--data {prepared.name} must fit into memory (got {count * pixels / 2**30:.0f} GiB of"
            f" images in {split}, and {memory / 2**30:.0f} GiB); choose a smaller set, {OTHERWISE}"
        )
    images = np.empty((count, pixels), np.uint8)
    labels = np.empty(count, np.int64)
    with quiet(), needed(prepared.name):
        import tensorflow_datasets as tfds
        from PIL import Image
        from tensorflow_datasets.proto import tf_example_pb2

        mode, size = MODES[prepared.shape[2]], prepared.shape[1::-1]
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]
        try:
            builder: Any = tfds.builder_from_directory(prepared.folder)
            source = builder.as_data_source(split, deserialize_method=raw)
            for start in range(0, count, AT_ONCE):
                rows = range(start, min(start + AT_ONCE, count))
                for row, record in zip(rows, source.__getitems__(rows), strict=True):
                    held = parse(record).features.feature
                    image = Image.open(io.BytesIO(held["image"].bytes_list.value[0]))
                    if image.size != size:
                        raise ValueError(f"image {row} is {image.size}, not {size}")
                    image = image if image.mode == mode else image.convert(mode)
                    images[row] = np.frombuffer(image.tobytes(), np.uint8)
                    if prepared.labelled:
                        labels[row] = held["label"].int64_list.value[0]
        except ImportError:
            raise
        except Exception as error:  # array_record, protobuf and pillow raise their own kinds
            raise _unreadable(prepared.name, prepared.folder, error) from error
    return images, labels if prepared.labelled else None


def refuse_missing(name: str, data_dir: pathlib.Path, by: str) -> NoReturn:
    """Say that a set does not exist, or that it is not prepared and what to do."""
    require_known(name)
    raise ValueError(
        f"--data {name} must be prepared in {data_dir}, {by} (got {_held(data_dir)}); set"
        f" --data-dir or TFDS_DATA_DIR to a folder that has it, add --download to prepare it"
        f" there, {OTHERWISE}"
    )


def _held(data_dir: pathlib.Path) -> str:
    if not data_dir.is_dir():
        return "no such folder"
    files = [*data_dir.glob("*/*/dataset_info.json"), *data_dir.glob("*/.config/metadata.json")]
    return ", ".join(sorted({file.parts[-3] for file in files})[:8]) or "no set"


def require_known(name: str) -> re.Match[str]:
    """The parts of a name; refuse one that no set has, as far as what is installed can tell."""
    parts = NAME.fullmatch(name)
    known, all_known = set(WITHOUT_TENSORFLOW), False
    with contextlib.suppress(ImportError), quiet():
        import tensorflow_datasets as tfds

        known, all_known = known | set(tfds.list_builders(with_community_datasets=False)), True
    close = difflib.get_close_matches(parts["set"] if parts else name, ["digits", *sorted(known)])
    if parts and (parts["set"] in known or not (all_known or close)):
        return parts
    hint = f", did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(
        "--data must be digits, an image set of TensorFlow Datasets such as mnist, or a path that"
        f" ends in .npz (got {name!r}{hint}); correct the name, {OTHERWISE}"
    )


def first_line(error: object) -> str:
    """The first line of an error that has many."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without absl's log, prints and warnings, for as long as it lasts."""
    from absl import logging

    verbosity = logging.get_verbosity()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.ERROR)
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)


@contextlib.contextmanager
def needed(name: str) -> Iterator[None]:
    """Turn a missing package into one line."""
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"--data {name} needs {error.name or first_line(error)}, which is not installed;"
            f" pip install 'vi[experiments]', {OTHERWISE}"
        ) from error
