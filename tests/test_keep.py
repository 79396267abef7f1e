"""What is kept of finished runs: whole, small, on its page, and what the README says of it."""

import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from experiments import keep
from experiments._config import Common, execute
from experiments._results import Result, over_data, read_results
from experiments.keep import KEPT, MOST

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = sorted(path.parent for path in KEPT.glob("*/results.json"))


def experiment(config, run):
    """Two pictures, one of them of noise."""

    def noise():
        from experiments import _plots

        figure, axis = _plots.plt.subplots(figsize=(4, 4))
        axis.imshow(np.random.default_rng(0).random((300, 300, 3)))
        return figure

    metric = over_data(np.asarray([[1.0, 2.0], [3.0, 5.0]]))
    return Result({"a/b": metric}, {"noise": noise, "again": noise})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("keep") / "run"
    config = Common(out=out, num_seeds=2, data=str(out.parent / "set.npz"))
    execute(config, {"cpu": {}}, experiment, "toy")
    return out


def test_a_kept_run_has_its_numbers_its_command_and_one_small_picture(run, tmp_path):
    folder = keep.keep(run, "noise.png", tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["noise.png", "results.json"]
    assert (run / "noise.png").stat().st_size > MOST > (folder / "noise.png").stat().st_size
    before, after = read_results(run / "results.json"), read_results(folder / "results.json")
    assert before.metrics == after.metrics
    assert before.seconds == after.seconds
    assert after.command == "python -m experiments.toy --data set.npz --num-seeds 2"
    assert str(run.parent) not in (folder / "results.json").read_text()
    keep.write_page(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert page == keep.page(tmp_path)
    assert "![toy: set.npz, preset cpu, seeds 0 to 1](toy-set.npz/noise.png)" in page
    keep.keep(run, "again.png", tmp_path)
    assert [path.name for path in folder.glob("*.png")] == ["again.png"]


def test_a_picture_that_is_small_keeps_its_size_and_colours():
    image = Image.new("RGB", (300, 200), (10, 200, 30))
    image.paste((250, 0, 0), (10, 10, 60, 60))
    out = io.BytesIO()
    image.save(out, "png")
    again = Image.open(io.BytesIO(keep.shrunk(out.getvalue()))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(again), np.asarray(image))


def test_what_cannot_be_kept_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="holds no finished run; let its command end first"):
        keep.keep(tmp_path, "noise.png", tmp_path / "kept")
    with pytest.raises(ValueError, match=r"--picture must be among noise.png, again.png \(got x\)"):
        keep.keep(run, "x", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    folder = keep.keep(run, "noise.png", tmp_path)
    (folder / "noise.png").unlink()
    with pytest.raises(ValueError, match=r"noise.png is missing\); keep that run again"):
        keep.page(tmp_path)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_is_kept_here_is_of_three_seeds_and_names_no_place(folder):
    record = read_results(folder / "results.json")
    assert record.num_seeds >= 3
    assert record.command.startswith(f"python -m experiments.{record.experiment} ")
    assert [path.name for path in folder.glob("*.png")] == record.pictures
    assert all((folder / name).stat().st_size <= MOST for name in record.pictures)
    texts = re.findall(r'"(/[^"]*)"', (folder / "results.json").read_text())
    assert not [text for text in texts if pathlib.PurePath(text).is_absolute()]


def test_the_page_is_of_what_is_kept():
    assert keep.page(KEPT) == (KEPT / "README.md").read_text()


def test_every_number_of_the_readmes_table_is_kept():
    """Rows that begin with an experiment's name: each "a ± b" is a metric of it, as printed."""
    section = (ROOT / "README.md").read_text().partition("\n## The classic ELBO")[2]
    rows = re.findall(r"^\| `(\w+)`.*$", section.partition("\n## ")[0], re.MULTILINE)
    lines = re.findall(r"^\| `\w+`.*$", section.partition("\n## ")[0], re.MULTILINE)
    kept: dict[str, set[str]] = {}
    for folder in FOLDERS:
        record = read_results(folder / "results.json")
        kept.setdefault(record.experiment, set()).update(map(str, record.metrics.values()))
    assert set(rows) == set(kept)
    for name, line in zip(rows, lines, strict=True):
        numbers = re.findall(r"[-+]?\d[\d.]*(?: ± [\d.]*\d)", line)
        assert numbers, line
        strange = {number.lstrip("+") for number in numbers} - kept[name]
        assert not strange, f"{name}: {strange} in the README, and not among what is kept"
