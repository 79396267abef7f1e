"""``python -m experiments``: the experiments there are, from their own docstrings."""

import ast
import pathlib
import sys


def describe(path: pathlib.Path) -> tuple[bool, str, list[str]]:
    """Whether it is an experiment, its docstring's first line, and the presets it names."""
    tree = ast.parse(path.read_text())
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    presets, is_experiment = [], False
    for node in tree.body:
        is_experiment |= isinstance(node, ast.FunctionDef) and node.name == "experiment"
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if "PRESETS" in names and isinstance(value := getattr(node, "value", None), ast.Dict):
            presets = [key.value for key in value.keys if isinstance(key, ast.Constant)]
    return is_experiment, first, [str(preset) for preset in presets if "-" not in str(preset)]


def main() -> None:
    """List them; this imports none of them."""
    if sys.argv[1:] not in ([], ["-h"], ["--help"]):
        name = sys.argv[1]
        sys.exit(f"experiments: takes no arguments (got {name}); python -m experiments lists them")
    files = sorted(pathlib.Path(__file__).parent.glob("[!_]*.py"))
    described = {path.stem: describe(path) for path in files}
    width = max(map(len, described))
    tools = []
    print("Experiments:")
    for name, (is_experiment, first, presets) in described.items():
        if not is_experiment:
            tools.append(f"  {name:{width}}  {first}")
            continue
        print(f"  {name:{width}}  {first}")
        if presets:
            print(f"  {'':{width}}  presets: {', '.join(presets)}")
    if tools:
        print("Tools:", *tools, sep="\n")
    print("Run one: python -m experiments.NAME [--preset smoke]; its flags: --help")


if __name__ == "__main__":
    main()
