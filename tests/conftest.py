"""What every test runs under: reused keys are errors, and float64 where a test asks for it."""

import signal

import jax
import pytest

jax.config.update("jax_debug_key_reuse", True)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell that starts it in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def x64():
    """Run the test in float64."""
    with jax.enable_x64(True):
        yield
