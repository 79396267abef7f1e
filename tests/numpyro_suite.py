"""``pytest --numpyro-tests=PATH``: NumPyro's own test suites, with our losses in place of theirs.

PATH is a checkout of NumPyro, best of the release that is installed, or one of its test files. The
suites run in a process of their own, in the checkout and under its own pytest settings, with the
plugin ``numpyro_swap``; the NumPyro they test is the installed one. What fails is run once more
without the plugin: what fails there too is no failure of ours, and is listed apart. Every other
argument goes to the first run: ``-x``, ``-k renyi``, ``-n 2`` (but not ``-p no:cacheprovider``: the
failures are read from pytest's cache).

pytest reads a path after a space as one to collect, and takes its settings from there: hence the
``=``, or ``pytest tests --numpyro-tests PATH``.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SUITES = (
    "test/infer/test_svi.py",
    "test/infer/test_autoguide.py",
    "test/test_handlers.py",
    "test/contrib/test_module.py",
)
OPTION = "--numpyro-tests"


def pytest_addoption(parser):
    parser.addoption(
        OPTION, metavar="PATH", help="run NumPyro's own tests on our losses, and no others"
    )


def pytest_cmdline_main(config):
    """Run the suites instead of ours; the exit status is 0 where no failure is ours."""
    path = config.getoption(OPTION)
    if path is None:
        return None
    root, files = suites(Path(path).resolve())
    with tempfile.TemporaryDirectory() as cache:
        code = run(root, cache, *others(config, path), "-p", "numpyro_swap", *files)
        ours = last_failed(cache)
        if code != pytest.ExitCode.TESTS_FAILED or not ours:
            return code
        print(f"\n{len(ours)} failed: once more, on NumPyro's own losses")
        run(root, cache, "--last-failed", "-q", "--tb=no", *files)
        theirs = last_failed(cache)
    report("not ours: these fail on NumPyro's own losses too", ours & theirs)
    report("ours: these fail on our losses alone", ours - theirs)
    return pytest.ExitCode.TESTS_FAILED if ours - theirs else pytest.ExitCode.OK


def suites(path):
    """The checkout that ``path`` lies in, and what to collect there."""
    for root in (path, *path.parents):
        if (root / "pyproject.toml").is_file() and (root / "test").is_dir():
            files = [str(path)] if path != root else [str(root / suite) for suite in SUITES]
            missing = [file for file in files if not Path(file).exists()]
            if missing:
                raise pytest.UsageError(f"{OPTION}: no such file: {', '.join(missing)}")
            return root, files
    raise pytest.UsageError(f"{OPTION}: {path} is not in a checkout of NumPyro")


def others(config, path):
    """The arguments that are neither our option nor what pytest was told to collect."""
    named = config.args if config.args_source is config.ArgsSource.ARGS else []
    known = {OPTION, f"{OPTION}={path}", path, *named}
    return [argument for argument in config.invocation_params.args if argument not in known]


def run(root, cache, *arguments):
    """The exit status of pytest in the checkout; its failures are left in ``cache``."""
    here = str(Path(__file__).parent)
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    settings = ["-c", str(root / "pyproject.toml"), "-o", f"cache_dir={cache}"]
    command = [sys.executable, "-P", "-m", "pytest", *arguments, *settings]
    command += ["--continue-on-collection-errors"]
    return subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": paths}).returncode


def last_failed(cache):
    """The tests that the last run left failing, by the record pytest keeps of them."""
    record = Path(cache) / "v" / "cache" / "lastfailed"
    return set(json.loads(record.read_text())) if record.exists() else set()


def report(title, tests):
    if tests:
        print(f"\n{title}", *sorted(tests), sep="\n  ")
