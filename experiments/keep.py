"""Keep what a finished run found: its numbers and one picture, beside the page of all that is kept.

Copies ``results.json``, with the command that computes it again, and one picture, made small, to
``experiments/results/<experiment>-<data>``; then writes ``README.md`` there, every kept number
against its reference.
"""

import io
import json
import pathlib
import sys

import tyro
from PIL import Image

from experiments._results import read_results, write_json, write_whole
from experiments.table import gather, to_markdown

KEPT = pathlib.Path(__file__).parent / "results"
MOST = 100_000  # bytes of a picture
COLOURS = 256, 128, 64, 32


def keep(run: pathlib.Path, picture: str, into: pathlib.Path = KEPT) -> pathlib.Path:
    """Copy one run's results and ``picture`` to a folder of its own below ``into``."""
    path = run / "results.json"
    if not path.is_file():
        raise ValueError(f"--run: {run} holds no finished run; let its command end first")
    record = read_results(path)
    if picture not in record.pictures:
        names = ", ".join(record.pictures) or "none"
        raise ValueError(f"--picture must be among {names} (got {picture}); choose one of them")
    data = pathlib.PurePath(record.protocol["data"]).name  # whoever runs it has it elsewhere
    folder = into / f"{record.experiment}-{data}".replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    small = shrunk((run / picture).read_bytes())
    for old in folder.glob("*.png"):
        old.unlink()
    write_whole(folder / picture, lambda file: file.write(small))
    held = json.loads(path.read_text()) | {"pictures": [picture]}
    held["command"] = held["command"].replace(str(record.protocol["data"]), data)
    held["protocol"]["data"] = data
    write_json(folder / "results.json", held)
    return folder


def shrunk(png: bytes, most: int = MOST) -> bytes:
    """The same picture in as many colours, then at the size, that ``most`` bytes have room for."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    while True:
        for colours in COLOURS:
            out = io.BytesIO()
            image.quantize(colours, dither=Image.Dither.NONE).save(out, "png", optimize=True)
            if out.tell() <= most:
                return out.getvalue()
        image = image.resize(
            (image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.LANCZOS
        )


def write_page(into: pathlib.Path = KEPT) -> None:
    """Write ``README.md``: all that is kept below ``into``."""
    write_whole(into / "README.md", lambda file: file.write(page(into).encode()))


def page(into: pathlib.Path) -> str:
    """All that is kept below ``into``, as Markdown."""
    entries, wrong = gather(into)
    if wrong:
        raise ValueError(f"{into} must hold what was kept whole ({wrong[0]}); keep that run again")
    return to_markdown(entries, into)


def main(run: pathlib.Path, picture: str, into: pathlib.Path = KEPT) -> None:
    """Keep a finished run's results.json and one of its pictures, and write the page of all.

    Args:
        run: Folder of the run, e.g. runs/vae/digits-cpu-0.
        picture: Name of the one to keep, e.g. curves.png.
        into: Where results are kept.
    """
    print(f"kept in {keep(run, picture, into)}")
    write_page(into)


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m experiments.keep")
    except (ValueError, OSError) as error:
        sys.exit(f"experiments.keep: {error}")
