"""Experiments: short compositions of ``vi``'s parts, each a module to run."""

import importlib.util

_missing = [
    name for name in ("matplotlib", "sklearn", "tyro") if importlib.util.find_spec(name) is None
]
if _missing:
    raise SystemExit(
        f"experiments: {', '.join(_missing)} not installed; pip install -e '.[experiments]'"
    )
