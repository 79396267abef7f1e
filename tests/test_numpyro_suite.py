"""The runner of NumPyro's own tests: whose losses they see, what it skips, who is to blame."""

import subprocess
import sys
from pathlib import Path

import numpyro_suite
import numpyro_swap
import pytest

TESTS = """
import jax
import pytest
from numpyro import infer
from numpyro.contrib.stochastic_support import sdvi
from numpyro.infer import autoguide, elbo

OURS = {name: getattr(infer, name) for name in %s}


def test_every_module_holds_ours():
    for name, loss in OURS.items():
        assert loss.__module__ == "numpyro_swap" and loss.__name__ == name
        assert getattr(elbo, name) is loss and issubclass(loss, infer.ELBO)
    assert autoguide.Trace_ELBO is infer.Trace_ELBO
    assert infer.Trace_ELBO in sdvi.VALID_ELBOS


def test_fails_anyway():
    raise AssertionError


def test_fails_on_ours():
    assert infer.Trace_ELBO.__module__ == "numpyro.infer.elbo"


def test_of_no_site():
    key = jax.random.key(0)
    assert infer.Trace_ELBO().loss(key, {}, lambda: None, lambda: None) == 0.0


def test_multi_sample_guide():
    raise AssertionError
"""


@pytest.fixture
def checkout(tmp_path):
    """What a checkout of NumPyro holds, with a suite of five tests."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\nfilterwarnings = "error"\n'
    )
    (tmp_path / "numpyro").mkdir()
    (tmp_path / "numpyro" / "version.py").write_text('__version__ = "9.9"\n')
    for suite in numpyro_suite.SUITES:
        (tmp_path / suite).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / suite).write_text("")
    (tmp_path / numpyro_suite.SUITES[0]).write_text(TESTS % list(numpyro_swap.LOSSES))
    return tmp_path


def runner(*arguments):
    """The exit status and the output of pytest, in this repository."""
    command = [sys.executable, "-m", "pytest", "--color=no", *map(str, arguments)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_failures_are_ours_only_where_their_losses_pass(checkout):
    code, output = runner("-v", f"--numpyro-tests={checkout}")
    suite = numpyro_suite.SUITES[0] + "::test_"
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "2 failed, 2 passed, 1 skipped" in output
    assert "the tests are of 9.9" in output
    assert "tests on our losses: 1 Trace_ELBO, 0 TraceMeanField_ELBO, 0 RenyiELBO" in output
    assert output.endswith(
        f"not ours: these fail on NumPyro's own losses too\n  {suite}fails_anyway\n\n"
        f"ours: these fail on our losses alone\n  {suite}fails_on_ours\n"
    )


@pytest.mark.slow
def test_what_fails_on_their_losses_too_does_not_fail_the_run(checkout):
    code, output = runner("-k", "anyway or every", f"--numpyro-tests={checkout}")
    assert code == pytest.ExitCode.OK
    assert "1 failed, 1 passed" in output


def test_a_path_without_tests_is_refused(checkout):
    assert numpyro_suite.suites(checkout / "test" / "infer")[0] == checkout
    (checkout / numpyro_suite.SUITES[1]).unlink()
    with pytest.raises(pytest.UsageError, match=r"no such file: .*test_autoguide\.py"):
        numpyro_suite.suites(checkout)
    with pytest.raises(pytest.UsageError, match="not in a checkout of NumPyro"):
        numpyro_suite.suites(checkout.parent)


def test_at_most_ten_tests_are_skipped_each_for_a_reason():
    assert len(numpyro_swap.SKIPS) <= 10
    for test, reason in numpyro_swap.SKIPS.items():
        assert any(suite.endswith("/" + test.partition("::")[0]) for suite in numpyro_suite.SUITES)
        assert len(reason.split()) > 3
