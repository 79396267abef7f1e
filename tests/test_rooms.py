"""The house: who may import whom, what each room exports, and what importing costs."""

import ast
import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest
from neighbours import NEIGHBOURS

ROOT = pathlib.Path(__file__).parents[1]
FLOORS = {
    "_check": -3, "_known": -2, "_mixed": -1, "_bernoulli": -1, "types": 0,
    "bounds": 1,
    "gradients": 2,
    "diagnostics": 3, "testing": 3,
    "families": 1, "likelihoods": 1, "networks": 1, "predictive": 1, "priors": 1, "training": 1,
    "flows": 2,
    "numpyro": 4,
}  # fmt: skip
MAY_NOT = {  # beside the tower: on types alone
    "families": {"bounds", "gradients"},
    "flows": {"bounds", "gradients"},
    "likelihoods": {"bounds", "gradients"},
    "networks": {"bounds", "gradients"},
    "predictive": {"bounds", "gradients"},
    "priors": {"bounds", "gradients"},
    "training": {"bounds", "gradients"},
}
CELLAR = ("_check", "_known", "_mixed", "_bernoulli")
ROOMS = [name for name in FLOORS if name not in (*CELLAR, "types")]
WITHOUT_NUMPYRO = ["types", "bounds", "gradients", "training"]
LINES = 250


def imported_names(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {n for n in names if n.startswith("vi.")}


def imported_rooms(path: pathlib.Path) -> set[str]:
    return {name.split(".")[1] for name in imported_names(path)}


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("vi/**/*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_room_imports_lower_floors_only(path):
    room = path.relative_to(ROOT / "vi").parts[0].removesuffix(".py")
    if room == "__init__":
        return  # the lazy front door names every room
    for other in imported_rooms(path) - {room}:
        assert FLOORS[other] < FLOORS[room], f"{room} imports {other}"
        assert other not in MAY_NOT.get(room, ()), f"{room} imports {other}"


def test_a_room_is_entered_by_its_front_door():
    for path in ROOT.glob("vi/**/*.py"):
        for name in imported_names(path):
            room, *inside = name.split(".")[1:]
            if path.relative_to(ROOT / "vi").parts[0] != room and room not in CELLAR:
                assert not any(part.startswith("_") for part in inside), f"{path} imports {name}"


def test_nothing_in_vi_imports_what_stands_on_it():
    for path in ROOT.glob("vi/**/*.py"):
        tops = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [node.module or ""] if isinstance(node, ast.ImportFrom)
                else [a.name for a in node.names] if isinstance(node, ast.Import) else []
            )
        }  # fmt: skip
        assert not tops & {"experiments", "benchmarks", "tests"}, path


@pytest.mark.parametrize("room", ROOMS)
def test_exports_are_sorted_and_documented(room):
    module = importlib.import_module(f"vi.{room}")
    assert module.__doc__
    assert list(module.__all__) == sorted(module.__all__)
    for name in module.__all__:
        exported = getattr(module, name)
        if inspect.isclass(exported) or inspect.isfunction(exported):  # the rest are type aliases
            assert inspect.getdoc(exported), f"vi.{room}.{name} has no docstring"
            assert exported.__module__.startswith(f"vi.{room}."), f"{name} has another home"


@pytest.mark.parametrize("folder", ["vi", "experiments", "benchmarks"])
def test_files_stay_small(folder):
    long = {
        p.name: n
        for p in ROOT.glob(f"{folder}/**/*.py")
        if (n := len(p.read_text().splitlines())) > LINES
    }
    assert not long


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout


def test_importing_vi_imports_no_room():
    loaded = "[m for m in sys.modules if m.startswith('vi.')]"
    assert python(f"import sys, vi; print({loaded})").strip() == "[]"


def test_the_core_imports_no_numpyro():
    rooms = ", ".join(f"vi.{name}" for name in WITHOUT_NUMPYRO)
    assert python(f"import sys, {rooms}; print('numpyro' in sys.modules)").strip() == "False"


def test_an_unknown_room_is_named():
    import vi

    with pytest.raises(AttributeError, match="no attribute 'elbo'; its rooms are"):
        _ = vi.elbo
    assert {"bounds", "gradients"} <= set(dir(vi))


def test_signatures_are_pinned():
    import vi

    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(vi.gradients.dreg) == ["bound", "chunk_size", "axis_name"]
    assert names(vi.gradients.Objective.__call__)[1:] == ["key", "q", "log_joint", "num_samples"]
    assert names(vi.families.normal) == ["loc", "log_scale", "log_var", "scale"]
    assert names(vi.bounds.beta_elbo) == ["log_lik", "kl", "beta"]
    assert names(vi.training.init) == ["params", "optimizer", "extra"]
    fit = ["key", "step", "state", "data", "num_steps", "batch_size", "chunk_steps", "evaluate"]
    fit += ["eval_every", "stop", "report", "checkpoint", "progress"]
    assert names(vi.training.fit) == fit
    assert names(vi.training.load) == ["folder", "like"]
    assert names(vi.training.run) == ["key", "step", "state", "data", "num_steps", "batch_size"]


def test_what_a_neighbour_covers_is_there():
    for place in NEIGHBOURS:
        path, name = place.partition("[")[0].split("::")
        assert f"def {name}(" in (ROOT / path).read_text(), place
