"""What every test runs under: reused keys are errors, and float64 where a test asks for it.

The suite is nearly all compilation, so XLA compiles it fast, for code that runs slowly; set
``XLA_FLAGS`` yourself, to nothing even, to run what is run outside of the tests.
"""

import gc
import os
import signal

os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false",
)

import jax
import pytest
from neighbours import NEIGHBOURS
from numpyro_suite import pytest_addoption, pytest_cmdline_main  # noqa: F401

jax.config.update("jax_debug_key_reuse", True)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell that starts it in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


SLOW_PAGES = (
    "classic_elbo.md",
    "families.md",
    "numpyro_eight_schools.md",
    "numpyro_mixed.md",
    "numpyro_vae.md",
    "priors.md",
)
QUICK_EXAMPLES = "vi/bounds", "vi/gradients", "vi/training"  # other rooms' tests do the same
SLOW_RUNS = {  # experiments of over 10 s at toy size, by the fixture that runs them
    "test_sigmoid_belief.py": "toy",
    "test_elbo_identities.py": "run",
    "test_gradient_snr.py": "run",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """NumPyro uses keys twice itself: guides when they are set up, subsampled plates, modules."""
    for item in items:
        is_example = isinstance(item, pytest.DoctestItem)
        in_a_room = is_example and item.nodeid.startswith("vi/")
        slow_room = in_a_room and not item.nodeid.startswith(QUICK_EXAMPLES)
        slow_run = SLOW_RUNS.get(item.path.name) in getattr(item, "fixturenames", ())
        covered = item.nodeid.startswith(NEIGHBOURS)
        if slow_room or slow_run or covered or item.path.name in SLOW_PAGES:
            item.add_marker(pytest.mark.slow)
        if "numpyro" in item.path.name or "numpyro" in item.path.parts or item.path.suffix == ".md":
            item.runtest = _with_numpyros_keys(item.runtest)


def _with_numpyros_keys(run):
    def wrapped():
        with jax.debug_key_reuse(False):
            run()

    return wrapped


@pytest.fixture(autouse=True, scope="module")
def _settled_heap():
    """Keep the collector from walking again over every program compiled so far."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def x64():
    """Run the test in float64."""
    with jax.enable_x64(True):
        yield
