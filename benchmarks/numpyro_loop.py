"""``vi.training.fit`` of an ``svi_step`` against ``SVI.run``, as users call them.

2,000 steps of eight schools, first call and second, each side in a process of its own, in turn.
``SVI.run`` traces and compiles at each call; ``fit`` compiles once for each step object. The first
call counts everything from the model to fitted parameters, but no import.

    python -m benchmarks.numpyro_loop --help
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import numpyro
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import vi
from benchmarks._cells import header
from benchmarks._paired import count
from benchmarks.numpyro_step import eight_schools, programs

RATE = 1e-2


def svi_run(loss, progress_bar):
    """Two calls of ``SVI.run``: seconds of each, and the last loss."""
    _, _, data, _ = programs()["eight schools"]

    def call(num_steps):
        svi = SVI(eight_schools, AutoNormal(eight_schools), optax.adam(RATE), loss)
        run = lambda key: svi.run(key, num_steps, *data, progress_bar=progress_bar)  # noqa: E731
        return lambda key: np.asarray(run(key).losses)[-1]

    return call


def fit_step(loss, _):
    """Two calls of ``fit`` with one step."""
    _, _, data, _ = programs()["eight schools"]
    batch = vi.numpyro.whole(*data)

    def call(num_steps):
        step = vi.numpyro.svi_step(eight_schools, AutoNormal(eight_schools), optax.adam(RATE), loss)

        def run(key):
            of_init, of_fit = jax.random.split(key)
            state = step.init(of_init, batch)
            result = vi.training.fit(
                of_fit, step, state, batch, num_steps=num_steps, batch_size=1, progress=False
            )
            return np.asarray(result.history["loss"])[-1]

        return run

    return call


SIDES = {
    "SVI.run, Trace_ELBO": (svi_run, Trace_ELBO, False),
    "SVI.run, Trace_ELBO, with its bar": (svi_run, Trace_ELBO, True),
    "SVI.run, ELBO": (svi_run, vi.numpyro.ELBO, False),
    "fit, ELBO": (fit_step, vi.numpyro.ELBO, False),
    "fit, IWAE(10)": (fit_step, lambda: vi.numpyro.IWAE(10, plates=()), False),
}


def measure(side, num_steps):
    """Seconds of the first call and of the second, in this process."""
    make, loss, bar = SIDES[side]
    call = make(loss(), bar)(num_steps)
    seconds = []
    for seed in (0, 1):
        start = time.perf_counter()
        last = call(jax.random.key(seed))
        seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "second": seconds[1], "loss": float(last)}


def fresh(side, num_steps):
    """The same in a new process."""
    command = [sys.executable, "-m", "benchmarks.numpyro_loop", "--side", side]
    command += ["--num-steps", str(num_steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num-steps", type=count, default=2000)
    parser.add_argument("--num-rounds", type=count, default=7, help="processes for each side")
    parser.add_argument("--side", choices=list(SIDES), help="measure one side, in this process")
    parser.add_argument("--out", type=pathlib.Path, help="write the figures here, as JSON")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.num_steps)))
        return
    rounds = [{side: fresh(side, args.num_steps) for side in SIDES} for _ in range(args.num_rounds)]
    rows = []
    for side in SIDES:
        first, second = (np.median([r[side][name] for r in rounds]) for name in ("first", "second"))
        ratio = np.median([r[side]["first"] / r["SVI.run, Trace_ELBO"]["first"] for r in rounds])
        faster = np.median([r["SVI.run, Trace_ELBO"]["second"] / r[side]["second"] for r in rounds])
        rows.append(
            {"side": side, "first": first, "second": second, "first_ratio": ratio, "faster": faster}
        )
        print(
            f"{side:>34}: first {first:6.2f} s ({ratio:.2f} of SVI.run's), second {second:7.3f} s"
            f" ({faster:.1f} times as fast)",
            flush=True,
        )
    if args.out:
        title = "fit(svi_step) and SVI.run, first and second call, eight schools"
        facts = {"num_steps": args.num_steps, "num_rounds": args.num_rounds}
        record = header(title, numpyro=numpyro.__version__, **facts)
        args.out.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
