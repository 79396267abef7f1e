"""The images of the experiments: digits, .npz files, and bits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _data
from experiments._data import Images, binarise, fingerprint, fixed_test, load_images

GREYS = (np.arange(7 * 4 * 6) * 37 % 256).astype(np.uint8).reshape(7, 4, 6)


def save(folder, **arrays):
    path = folder / "some.npz"
    np.savez(path, **arrays)
    return str(path)


def refused(message, name, **options):
    """The line that refuses a set, which must match and be one line."""
    with pytest.raises(ValueError, match=message) as caught:
        load_images(name, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert re.fullmatch(r"--\w+ .*must .* \(got.*\); .*|--\w+ .*needs .*", line), line
    return line


def test_digits_keep_their_split_and_their_bits(tmp_path):
    images = load_images("digits", data_dir=tmp_path / "nowhere", download=True)
    assert (images.train.shape, images.test.shape, images.shape) == ((1437, 64), (360, 64), (8, 8))
    assert images.train.dtype == np.float32
    assert 0 <= images.train.min() < images.train.max() <= 1
    rows = {row.tobytes() for row in images.train}
    assert sum(row.tobytes() in rows for row in images.test) == 0
    assert images.train_labels is not None
    assert images.test_labels is not None
    assert np.bincount(images.train_labels).min() > 100
    assert np.bincount(images.test_labels).min() > 30
    assert fingerprint(fixed_test(images)) == "f416ee1397c82f09"


@pytest.mark.parametrize("names", [("train", "test"), ("x_train", "x_test")])
@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        (GREYS, (4, 6)),
        (GREYS[..., None], (4, 6)),
        (GREYS.reshape(7, 2, 4, 3), (2, 4, 3)),
        (GREYS.reshape(7, 24), (24,)),
        (GREYS.reshape(7, 24)[:, :16], (4, 4)),
        ((GREYS / 255).astype(np.float64), (4, 6)),
    ],
)
def test_npz_files_are_read(tmp_path, names, stored, shape):
    path = save(tmp_path, **{names[0]: stored, names[1]: stored[:3]})
    images = load_images(path)
    assert images.name == "some.npz"
    assert images.shape == shape
    assert images.train.dtype == (np.uint8 if stored.dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(images.train, stored.reshape(7, -1).astype(images.train.dtype))
    np.testing.assert_array_equal(images.test, images.train[:3])
    assert images.train_labels is None
    assert images.test_labels is None


def test_images_that_were_never_split_are_split_the_same_way_each_time(tmp_path):
    whole = np.arange(30 * 6, dtype=np.uint8).reshape(30, 2, 3)
    images = load_images(save(tmp_path, x=whole))
    assert (len(images.train), len(images.test)) == (27, 3)
    both = np.concatenate([images.train, images.test])
    np.testing.assert_array_equal(both[np.argsort(both[:, 0])], whole.reshape(30, 6))
    assert (np.diff(images.test[:, 0].astype(int)) != 6).any()  # not a run of neighbours
    again = load_images(save(tmp_path, x=whole))
    np.testing.assert_array_equal(again.test, images.test)
    refused("have in x .*got shape .0, 2, 3.", save(tmp_path, x=whole[:9]))


def test_bits_stored_as_0_and_1_become_black_and_white(tmp_path):
    images = load_images(save(tmp_path, train=GREYS % 2, test=GREYS[:2] % 2))
    np.testing.assert_array_equal(images.train, 255 * (GREYS.reshape(7, 24) % 2))
    bits = binarise(jax.random.key(0), images.train)
    np.testing.assert_array_equal(bits, GREYS.reshape(7, 24) % 2)
    dark = GREYS.copy() % 2
    dark[0, 0, 0] = 2  # a very dark grey, and so no bits
    images = load_images(save(tmp_path, train=GREYS[:2] % 2, test=dark))
    assert images.train.max() == 1


def test_npz_labels_are_integers_for_each_image(tmp_path):
    labels = np.arange(7, dtype=np.uint8)
    held = {"x_train": GREYS, "x_test": GREYS[:2]}
    images = load_images(save(tmp_path, **held, y_train=labels[:, None], y_test=labels[:2]))
    np.testing.assert_array_equal(images.train_labels, labels)
    np.testing.assert_array_equal(images.test_labels, labels[:2])
    refused("have in y_train 7 integers .got uint8 .6.", save(tmp_path, **held, y_train=labels[1:]))
    refused("have in y_test 2 integers .got float64", save(tmp_path, **held, y_test=np.ones(2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": None}, "must hold train and test, x_train and x_test, or x .got train.;"),
        ({"train": GREYS.astype(np.int64)}, "in train uint8 in 0..255 or floats .*got dtype int64"),
        ({"test": GREYS > 9}, "have in test uint8 .*got dtype bool"),
        ({"train": GREYS / 9}, r"have in train floats in 0..1 .got values from 0 to 28\.3"),
        ({"test": GREYS / 255 - 1}, r"have in test floats in 0..1 .got values from -1 to 0.;"),
        ({"train": np.where(GREYS > 9, np.nan, 1)}, "floats in 0..1 .got values from nan to nan"),
        ({"train": GREYS[0, 0]}, r"N, pixels. .got shape .6..; channels come last"),
        ({"train": GREYS.reshape(7, 1, 4, 6)}, r"got shape .7, 1, 4, 6..; channels come last"),
        ({"test": GREYS[:0]}, r"got shape .0, 4, 6."),
        ({"test": GREYS[:, 1:]}, r"one shape and dtype .got .4, 6. uint8 and .3, 6. uint8"),
        ({"test": GREYS / 255}, r"one shape and dtype .got .4, 6. uint8 and .4, 6. float32"),
        ({"test": np.array([{}, {}])}, "be a whole .npz file .*allow_pickle=False.*not as Python"),
    ],
)
def test_other_npz_contents_are_refused(tmp_path, change, message):
    held = {"train": GREYS, "test": GREYS} | change
    refused(message, save(tmp_path, **{k: v for k, v in held.items() if v is not None}))


def test_a_path_that_is_no_npz_file_is_refused(tmp_path):
    refused("must be a file .got none there", str(tmp_path / "absent.npz"))
    save(tmp_path, train=GREYS, test=GREYS)
    content = (tmp_path / "some.npz").read_bytes()
    middle = len(content) // 3
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged in (b"", b"text", content[:-40], flipped):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        refused("must be a whole .npz file", str(tmp_path / "damaged.npz"))


def uint8_images(train=GREYS, test=GREYS) -> Images:
    return Images("g", train.reshape(-1, 24), test.reshape(-1, 24), None, None, (4, 6))


def test_bits_are_drawn_with_the_greys_as_probabilities():
    grey = np.arange(256, dtype=np.uint8)
    draw = jax.jit(jax.vmap(binarise, in_axes=(0, None)))
    bits = draw(jax.random.split(jax.random.key(0), 2000), grey)
    assert bits.dtype == jnp.float32
    assert set(np.unique(bits)) == {0.0, 1.0}
    p = grey / 255
    stderr = np.sqrt(p * (1 - p) / len(bits))
    assert (abs(bits.mean(0) - p) <= 5 * stderr).all()
    floats = draw(jax.random.split(jax.random.key(0), 2000), np.float32(grey) / np.float32(255))
    np.testing.assert_array_equal(bits, floats)


def test_minibatches_of_uint8_are_binarised_inside_a_scan():
    data = jnp.asarray(GREYS.reshape(7, 24))

    @jax.jit
    def epoch(key):
        def step(key, row):
            return key, binarise(jax.random.fold_in(key, row), data[row])

        return jax.lax.scan(step, key, jnp.arange(7))[1]

    bits = epoch(jax.random.key(0))
    assert bits.dtype == jnp.float32
    assert bits.shape == (7, 24)
    assert (bits != epoch(jax.random.key(1))).any()


@pytest.mark.parametrize("dtype", [np.int32, bool])
def test_pixels_of_another_dtype_are_refused(dtype):
    with pytest.raises(ValueError, match=r"pixels must be uint8 in 0..255 or floats in 0..1"):
        jax.jit(binarise)(jax.random.key(0), GREYS.astype(dtype))


def test_the_first_fixed_bits_do_not_depend_on_their_number(monkeypatch):
    images = uint8_images()
    bits = fixed_test(images)
    assert fingerprint(bits) == "3c7d9cf98b9b7f3a"
    uniform = np.random.default_rng(0).random((7, 24))
    np.testing.assert_array_equal(bits, uniform < images.test.astype(np.float32) / 255)
    monkeypatch.setattr(_data, "ROWS", 2)  # the blocks do not show
    for count in (1, 3, 7):
        np.testing.assert_array_equal(fixed_test(images, count), bits[:count])
    for count in (0, 8):
        with pytest.raises(ValueError, match=rf"num_images must be from 1 to .* 7 .*got {count}"):
            fixed_test(images, count)


def test_a_fingerprint_tells_images_apart():
    images = uint8_images()
    changed = GREYS.copy()
    changed[6, 3, 5] ^= 1
    others = [
        uint8_images(train=changed),
        uint8_images(test=changed),
        uint8_images(np.concatenate([GREYS, GREYS[:1]]), GREYS[1:]),
        images._replace(shape=(6, 4)),
        images._replace(train=images.train / np.float32(255)),
    ]
    assert len({other.fingerprint for other in [images, *others]}) == 6
    assert uint8_images(GREYS.copy()).fingerprint == images.fingerprint
    assert images._replace(train=np.asfortranarray(images.train)).fingerprint == images.fingerprint
