"""What the figures of a benchmark stand on: cells found again, and two sides that agree."""

import json

import pytest

import vi
from benchmarks import large_k
from benchmarks._cells import fill, header


def test_cells_are_measured_once(tmp_path, capsys):
    path, measured = tmp_path / "figures.json", []
    path.touch()

    def measure(name, num_samples):
        measured.append((name, num_samples))
        yield {"seconds": 2.0 * num_samples}
        if name == "second":
            raise KeyboardInterrupt

    cells = [{"name": "first", "num_samples": 3}, {"name": "second", "num_samples": 1}]
    head = header("a title", steps=4)
    with pytest.raises(KeyboardInterrupt):
        fill(path, head, cells, measure, str)
    again = fill(path, head, cells[:1], measure, str)
    assert measured == [("first", 3), ("second", 1)]
    assert again == [{"name": "first", "num_samples": 3, "seconds": 6.0}]
    assert json.loads(path.read_text()) == {**head, "rows": again}
    assert capsys.readouterr().out.count("first") == 2
    with pytest.raises(SystemExit, match=r"holds .*'steps': 4.*choose another --out"):
        fill(path, header("a title", steps=5), cells, measure, str)


def test_chunks_are_checked_against_the_same_draws(monkeypatch):
    """The check that precedes timing passes, and a chunk of another key fails it."""
    monkeypatch.setattr(large_k.train_step, "PIXELS", 6)
    monkeypatch.setattr(large_k.train_step, "HIDDEN", 5)
    monkeypatch.setattr(large_k.train_step, "LATENT", 2)
    assert large_k.difference(vi.gradients.dreg, 8, 4) < 1e-4
    monkeypatch.setattr(large_k.AsChunks, "rsample", lambda self, *args: self.q.rsample(*args))
    assert large_k.difference(vi.gradients.dreg, 8, 4) > 1e-2
