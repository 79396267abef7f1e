"""Every family and every flow with K split over devices: what one device gives."""

import os
import pathlib
import subprocess
import sys

import pytest
from families import FAMILIES
from flows import FLOWS

HERE = pathlib.Path(__file__).parent
NUM_DEVICES = 2
SOME = ("von_mises", "flow planar", "flow continuous")
ALL = (*FAMILIES, *(f"flow {name}" for name in FLOWS))
LOOPS = {  # of other libraries, which do not start from the types that they come back with
    "numpyro_von_mises": "while_loop body function carry",
    "flow continuous": "continuous: the draws must be the same on all devices of a jax.shard_map"
    " (got what differs along k); use chunk_size in place of axis_name",
}


@pytest.mark.parametrize(
    "names", [SOME, pytest.param(ALL, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_split_of_k_equals_one_device(names):
    count = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    done = subprocess.run(
        [sys.executable, HERE / "split_rows.py", *names],
        capture_output=True,
        text=True,
        env={"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name, line in zip(names, done.stdout.splitlines(), strict=True):
        if name in LOOPS:
            assert line.startswith(f"{name}: {LOOPS[name]}")
        else:
            assert line == name
