"""The cache of arrays: used until its source changes, and never trusted when damaged."""

import re

import numpy as np
import pytest

from experiments import _cache


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("VI_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "1.0.0").mkdir()
    (tmp_path / "1.0.0" / "data").write_text("first")
    return tmp_path / "1.0.0"


def length(source):
    """The cached length of the file in ``source``, and whether it was measured afresh."""
    made = []

    def make():
        made.append(1)
        return {"length": np.array(len((source / "data").read_text()))}

    return int(_cache.cached("a/set", source, make)["length"]), bool(made)


def test_the_cache_is_used_until_its_source_changes(source, capsys):
    assert [length(source), length(source)] == [(5, True), (5, False)]
    (source / "data").write_text("second")
    assert [length(source), length(source)] == [(6, True), (6, False)]
    assert len(list(_cache.cache_folder().iterdir())) == 1
    assert capsys.readouterr() == ("", "")


def test_a_cache_that_ignores_its_source_would_be_stale(source, monkeypatch):
    monkeypatch.setattr(_cache, "_state", lambda source: "always the same")
    assert length(source) == (5, True)
    (source / "data").write_text("second")
    assert length(source) == (5, False)  # what the test above would see


@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "text", "array", "other"])
def test_a_damaged_cache_is_made_again(source, capsys, damage):
    length(source)
    (file,) = _cache.cache_folder().iterdir()
    content = file.read_bytes()
    spot = content.index(b"length.npy") + 100
    flipped = content[:spot] + bytes([content[spot] ^ 1]) + content[spot + 1 :]
    damaged = {"empty": b"", "half": content[: len(content) // 2], "flipped": flipped}
    file.write_bytes(damaged.get(damage, b"text"))
    if damage == "array":
        with file.open("wb") as stream:
            np.save(stream, np.arange(3))
    if damage == "other":
        np.savez(file, length=np.array(9))
    assert [length(source), length(source)] == [(5, True), (5, False)]
    told = capsys.readouterr().err
    assert re.fullmatch(r"cache: \S+-1.0.0-\w+.npz is damaged \(.*\); it is made again\n", told)


def test_a_cache_that_cannot_be_written_costs_only_time(source, monkeypatch, capsys):
    monkeypatch.setenv("VI_CACHE_DIR", str(source / "data" / "below-a-file"))
    assert [length(source), length(source)] == [(5, True), (5, True)]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all("cannot be written" in line and "VI_CACHE_DIR" in line for line in told)


def test_a_full_disk_leaves_no_half_file(source, monkeypatch, capsys):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert length(source) == (5, True)
    assert "No space left on device" in capsys.readouterr().err
    assert list(_cache.cache_folder().iterdir()) == []


def test_the_cache_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("VI_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert str(_cache.cache_folder()) == "/home/someone/.cache/vi"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(_cache.cache_folder()) == "/caches/vi"
    monkeypatch.setenv("VI_CACHE_DIR", "~/mine")
    assert str(_cache.cache_folder()) == "/home/someone/mine"
