"""The whole life of an experiment in its folder, on a quadratic; ``-m`` runs it as a user would."""

import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vi
from experiments import _results, table
from experiments._config import Common, execute, main, require_counts, require_positive, resolve
from experiments._results import Metric, Reference, Result, over_data, over_seeds
from experiments._run import open_run

ROOT = pathlib.Path(__file__).parent.parent
DATA = np.random.default_rng(0).normal(3, 1, (40, 2)).astype(np.float32)
EXACT = Reference(3.0, "the <generator>", "exact", "its mean, not the sample's | nor its median")
NOTHING: Any = None
PAUSE = os.environ.get("PAUSE_AT")  # of a subprocess that waits there to be killed


@dataclass(frozen=True)
class Config(Common):
    num_steps: int | None = None
    """Steps of gradient descent."""
    learning_rate: float | None = None
    """Its rate."""
    unset: float | None = None
    """No preset gives it."""


PRESETS = {
    "smoke": {"num_steps": 40, "learning_rate": 0.1},
    "cpu": {"num_steps": 400, "learning_rate": 0.2},
    "mnist-cpu": {"num_steps": 7},
}


def look(name, step):
    if f"{name} {step}" == PAUSE:
        print("paused", flush=True)
        time.sleep(60)


def experiment(config, run):
    """Find the mean of the data, twice."""
    require_counts(config, "num_steps")
    run.protocol(data=None) if config.data == "taken" else run.protocol(mean=DATA.mean(0))
    metrics = {}
    optimizer = optax.sgd(config.learning_rate)
    for name in ("a", "b c"):

        def loss(w, key, x):
            return ((w - x) ** 2).mean() + 0.1 * (w * jax.random.normal(key, (2,))).sum()

        def evaluate(keys, state, name=name):
            look(name, int(state.step[0]))
            return {"error": jnp.abs(state.params - 3).max(1), "odd": jnp.full(len(keys), jnp.inf)}

        keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(run.key)
        state = jax.vmap(lambda k: vi.training.init(jax.random.normal(k, (2,)), optimizer))(keys)
        step = vi.training.gradient_step(loss, optimizer)
        sizes = {"num_steps": config.num_steps, "batch_size": 10}
        fit = run.fit(name, step, state, DATA, evaluate=evaluate, eval_every=10, **sizes)
        w = fit.state.params
        judged = run.once(f"judge/{name}", lambda w=w: {"off/x": (w[:, :1] - DATA[:, 0]) ** 2})
        metrics[f"{name}/mean"] = over_seeds(w.mean(1), reference=EXACT)
        metrics[f"{name}/distance"] = over_data(judged["off/x"], unit="", better="lower")
    return Result(metrics, {"the curve": draw}, {"w": w})


def draw():
    from experiments import _plots

    figure, axis = _plots.plt.subplots()
    axis.plot(DATA)
    return figure


def play(out, experiment=experiment, **fields):
    fields = {"preset": "smoke", "num_seeds": 2, "progress": False, "out": out} | fields
    return execute(Config(**fields), PRESETS, experiment, "test_frame")


def rows(out):
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same(out, whole):
    assert rows(out) == rows(whole)
    metrics = [json.loads((o / "results.json").read_text())["metrics"] for o in (out, whole)]
    assert metrics[0] == metrics[1]
    arrays = [_results.read_arrays(o / "arrays.npz") for o in (out, whole)]
    np.testing.assert_array_equal(arrays[0]["w"], arrays[1]["w"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    play(out)
    return out


def command(*flags, **environment):
    return subprocess.Popen(
        # as a scheduler or a background shell starts it, with SIGINT ignored
        ["sh", "-c", "trap '' INT; exec $0 -m tests.test_frame $*", sys.executable, *flags],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def never(config, run):
    raise AssertionError("computed again")


def test_what_a_run_leaves(whole):
    record = json.loads((whole / "results.json").read_text())
    assert record["protocol"]["num_steps"] == 40
    assert record["protocol"]["mean"] == DATA.mean(0).tolist()
    assert (record["experiment"], record["seed"], record["num_seeds"]) == ("test_frame", 0, 2)
    assert set(record["versions"]) >= {"vi", "jax", "numpyro"}
    assert set(record["seconds"]["a"]) == {"wall", "compile", "run"}
    assert record["metrics"]["a/mean"]["reference"]["how"] == "exact"
    assert len(record["metrics"]["a/mean"]["seeds"]) == 2
    assert [(r["stage"], r["step"]) for r in rows(whole)] == [
        (name, step) for name in ("a", "b c") for step in (10, 20, 30, 40)
    ]
    assert len(rows(whole)[0]["loss"]) == len(rows(whole)[0]["error"]) == 2
    assert rows(whole)[0]["odd"] == [None, None]
    assert (whole / "the+curve.png").read_bytes().startswith(b"\x89PNG")
    assert not list(whole.glob("*.partial"))


def test_names_share_their_minibatches_and_noise(whole):
    metrics = json.loads((whole / "results.json").read_text())["metrics"]
    assert metrics["a/mean"] == metrics["b c/mean"]
    assert len(set(metrics["a/mean"]["seeds"])) == 2


def test_a_finished_run_is_shown_and_not_computed(whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*.*")}
    record = play(whole, never, progress=True)
    shown = capsys.readouterr().out
    assert "nothing was computed" in shown
    assert re.search(r"test_frame: digits, preset smoke, seeds 0 to 1", shown)
    mean = record.metrics["a/mean"]
    assert f"[1] 3.00, {mean.value - 3:+.2f}" in shown
    assert "[1] exact: the <generator> (its mean, not the sample's | nor its median)" in shown
    assert f"sd {np.std(mean.seeds, ddof=1):.2f}" in shown
    assert f"± {record.metrics['a/distance'].stderr:.2f}" in shown
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_protocol_is_refused_with_what_differs(whole):
    with pytest.raises(ValueError, match=r"\(seed: 0 there, 5 now; num_steps: 40 there, 41 now\)"):
        play(whole, never, num_steps=41, seed=5)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    for name, step in (("a", 20), ("b c", 10)):

        def interrupt(*place, at=(name, step)):
            if place == at:
                raise KeyboardInterrupt

        monkeypatch.setattr(sys.modules[__name__], "look", interrupt)
        with pytest.raises(KeyboardInterrupt, match=f"while training {name}, at step {step}"):
            play(out)
        with pytest.raises(ValueError, match="num_seeds: 2 there, 3 now"):
            play(out, never, num_seeds=3)
    monkeypatch.undo()
    play(out)
    assert_same(out, whole)


@pytest.mark.slow
def test_a_killed_process_goes_on_as_if_it_had_not_been(whole, tmp_path):
    flags = ("--preset", "smoke", "--num-seeds", "2", "--out", str(tmp_path))
    for place, sent, code in (("a 20", signal.SIGTERM, 130), ("b c 30", signal.SIGKILL, -9)):
        with command(*flags, PAUSE_AT=place) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "paused\n"
            with pytest.raises(ValueError, match=r"another process works in .*; let it end"):
                play(tmp_path, never)
            process.send_signal(sent)
            _, told = process.communicate()
        assert process.returncode == code
        if sent == signal.SIGTERM:
            said = "interrupted while training a, at step 20; the same command goes on from there"
            assert told.splitlines()[-1] == f"experiments.test_frame: {said}"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "b c", "st')
    play(tmp_path)
    assert_same(tmp_path, whole)


def test_facts_of_a_run_that_goes_on_must_be_the_same(tmp_path):
    def begin(config, run):
        run.protocol(images="one")
        with run.stage("look"), pytest.raises(ValueError, match="is a field of Config"):
            run.protocol(seed=1)
        run.once("held", lambda: {"x": np.zeros(2)})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, begin)
    with pytest.raises(ValueError, match="images: one there, other now"):
        play(tmp_path, lambda config, run: run.protocol(more=1, images="other"))


def test_a_call_refused_before_any_work_does_not_take_the_folder(tmp_path):
    with pytest.raises(ValueError, match="--num-steps must be an integer of at least 1"):
        play(tmp_path, num_steps=0)
    with pytest.raises(ValueError, match=r"run\.protocol: data is a field"):
        play(tmp_path, data="taken")
    done = Result({"a/b": Metric(1.0)})
    assert play(tmp_path, lambda config, run: done).metrics == done.metrics


@pytest.mark.parametrize("name", ["protocol.json", "results.json", "seconds.json"])
@pytest.mark.parametrize("text", ["[]", "{", "1", "\xff", '[{"settings": {}}]'])
def test_damaged_files_are_named_and_refused(tmp_path, name, text):
    with open_run({"seed": 0, "num_seeds": 1}, tmp_path, None) as run:
        run.once("x", lambda: {"x": 1})
    (tmp_path / name).write_text(text, "latin-1")
    with (
        pytest.raises(ValueError, match=f"^{tmp_path / name} is .*; [^\n]*$"),
        open_run({"seed": 0, "num_seeds": 1}, tmp_path, None),
    ):
        pass


def test_a_damaged_log_or_stage_is_refused(tmp_path):
    with open_run({"seed": 0, "num_seeds": 1}, tmp_path, None) as run:
        run.once("x y", lambda: {"x": np.arange(9.0)})
        with pytest.raises(ValueError, match="x y was used before in this run"):
            run.once("x y", dict)
    path = tmp_path / "stages" / "x+y.npz"
    path.write_bytes(path.read_bytes()[:-30])
    with (
        open_run({"seed": 0, "num_seeds": 1}, tmp_path, None) as run,
        pytest.raises(ValueError, match=r"x\+y.npz is damaged .*; delete it to compute it again"),
    ):
        run.once("x y", dict)
    (tmp_path / "metrics.jsonl").write_text('{"stage": "a", "step": 1, "seconds": 0}\n{]\n{}\n')
    with (
        pytest.raises(ValueError, match=r"metrics.jsonl, line 2 is not a report; move the file"),
        open_run({"seed": 0, "num_seeds": 1}, tmp_path, None),
    ):
        pass


def test_folders_of_something_else_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    for out, message in [
        (tmp_path, r"holds something else \(thesis.tex\)"),
        (tmp_path / "thesis.tex", "cannot write to .*File exists"),
        (tmp_path / "thesis.tex" / "below", "cannot write to .*Not a directory"),
    ]:
        with pytest.raises(ValueError, match=f"--out: .*{message}.*; choose another --out"):
            play(out, never)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_diverges_is_no_result(tmp_path):
    failed = ", ".join(rf"seed {i} stopped at step \d+: the next has [^,;]+" for i in range(2))
    with pytest.raises(ValueError, match=rf"training a: {failed}; lower --learning-rate"):
        play(tmp_path, learning_rate=1e38)
    assert not (tmp_path / "results.json").exists()


def test_presets_fill_what_is_left_none():
    assert resolve(Config(), PRESETS) == Config(num_steps=400, learning_rate=0.2)
    mnist = resolve(Config(data="mnist", learning_rate=0.5), PRESETS)
    assert mnist == Config(data="mnist", num_steps=7, learning_rate=0.5)


@pytest.mark.parametrize(
    ("fields", "presets", "message"),
    [
        ({}, {"cpu": {"num_step": 1}}, r"PRESETS: cpu must name fields .*\(got num_step\)"),
        ({}, {"cpu": {"seed": 1}}, r"PRESETS: cpu must .* whose default is None \(got seed\)"),
        ({"preset": "gpu"}, PRESETS, r"--preset .*\(got gpu\); choose among smoke, cpu$"),
        ({"num_seeds": 0}, PRESETS, "--num-seeds must be an integer of at least 1"),
        ({"seed": -1}, PRESETS, "--seed must be an integer of at least 0"),
        ({"seed": 2**32 - 1, "num_seeds": 2}, PRESETS, "--seed must be below"),
        ({"data": ""}, PRESETS, "--data must name a set"),
        ({"unset": math.nan}, PRESETS, r"--unset must be finite \(got nan\)"),
    ],
)
def test_what_cannot_be_resolved_is_refused(fields, presets, message):
    with pytest.raises(ValueError, match=message):
        resolve(Config(**fields), presets)
    with pytest.raises(ValueError, match="--unset must be positive"):
        require_positive(Config(unset=0.0), "unset")


def test_help_shows_every_flag_and_what_the_presets_hold(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["test_frame", "--preset", "smoke", "--help"])
    with pytest.raises(SystemExit) as ended:
        main(Config, PRESETS, experiment)
    shown = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert ended.value.code == 0
    assert "usage: python -m experiments.test_frame" in shown
    assert "The whole life of an experiment" in shown
    assert "--num-steps INT Steps of gradient descent. (default: 40)" in shown
    assert "cpu: --num-steps 400, --learning-rate 0.2" in shown
    assert all(f"--{flag}" in shown for flag in ("data-dir", "num-seeds", "out", "progress"))


def from_numpy(config, run):
    return np.zeros(2) + np.zeros(3)


def from_vi(config, run):
    return vi.training.fit(run.key, NOTHING, NOTHING, NOTHING, num_steps=0, batch_size=1)


def interrupted(config, run):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("experiment", "raised", "code"),
    [(from_vi, SystemExit, "must be an integer"), (from_numpy, ValueError, None)],
)
def test_refusals_are_one_line_and_faults_are_not(monkeypatch, tmp_path, experiment, raised, code):
    monkeypatch.setattr("sys.argv", ["x", "--out", str(tmp_path)])
    with pytest.raises(raised) as ended:
        main(Config, PRESETS, experiment)
    if code is not None:
        assert re.fullmatch(f"experiments.test_frame: fit: .*{code}.*", ended.value.code)


def test_an_interrupt_anywhere_ends_in_130(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["x", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main(Config, PRESETS, interrupted)
    assert ended.value.code == 130
    assert "interrupted; the same command goes on with what was fin" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"a/b": Metric(math.nan)}, "a/b must be finite numbers"),
        ({"a/b": Metric(1.0, math.inf)}, "a/b must be finite numbers"),
        ({"a/b": Metric(1.0, reference=EXACT._replace(value=math.nan))}, "a/b must be finite"),
        ({"a": Metric(1.0)}, "metric a must be named <column>/<row>"),
        ({"a/b": Metric(cast("float", np.ones(2)))}, "metric a/b must be a number"),
    ],
)
def test_no_result_holds_what_is_not_a_number(tmp_path, metrics, message):
    with pytest.raises(ValueError, match=message):
        play(tmp_path, lambda config, run: Result(metrics))
    assert not (tmp_path / "results.json").exists()


def test_metrics_over_seeds_and_data():
    values = np.random.default_rng(0).normal(size=(3, 50))
    metric = over_data(jnp.asarray(values), unit="")
    assert metric.value == pytest.approx(values.mean(), rel=1e-5)
    assert metric.stderr == pytest.approx(values.mean(0).std(ddof=1) / 50**0.5, rel=1e-5)
    assert metric.spread == pytest.approx(values.mean(1).std(ddof=1), rel=1e-5)
    assert over_seeds(values.mean(1)).seeds == tuple(values.mean(1))
    assert over_data(values[:1]).spread is over_data(values[:, :1]).stderr is None
    for over, wrong in ((over_seeds, values), (over_data, values[0]), (over_seeds, np.ones(0))):
        with pytest.raises(ValueError, match=r"values must be \[S.*got shape"):
            over(wrong)


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        (Metric(-1.234, 0.056), "-1.23 ± 0.06"),
        (Metric(-1.23456, 0.0004), "-1.2346 ± 0.0004"),
        (Metric(0.01234), "0.0123"),
        (Metric(2e-9), "2.00e-09"),
        (Metric(0.0), "0.00"),
        (Metric(3, unit="count"), "3"),
        (Metric(3.25, unit="count"), "3.2"),
        (Metric(1.26, unit="s"), "1.3"),
    ],
)
def test_metrics_print_with_their_error(metric, shown):
    assert str(metric) == shown


def test_columns_may_have_rows_of_their_own(capsys, tmp_path):
    metrics = {name: Metric(1.0) for name in ("a/first", "a/last", "b/first", "b/own", "b/last")}
    play(tmp_path, lambda config, run: Result(metrics))
    shown = capsys.readouterr().out
    assert re.search(
        r"first .*1.00.*1.00.*\n.*own \(nats\) +│ +│ 1.00.*\n.*last .*1.00.*1.00", shown
    )


def test_names_make_safe_files_without_collisions(tmp_path):
    names = ["a/b", "a b", "a+b", "a_b", "a%2Fb", "..", ".", "ä", "a.b"]
    files = [_results.file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert all(re.fullmatch(r"[\w+%-]+", file, re.ASCII) for file in files)
    with pytest.raises(ValueError, match="must have a name"):
        _results.file_name("")
    for array in (np.array([None]), jnp.ones(2, jnp.bfloat16)):
        with pytest.raises(ValueError, match=r"x.npz: y must be of a type that NumPy stores"):
            _results.write_arrays(tmp_path / "x.npz", {"y": array})
    assert list(tmp_path.iterdir()) == []


def tables(runs, out):
    with pytest.raises(SystemExit) as ended:
        table.main(runs, out)
    return ended.value.code


def test_the_table_holds_every_number_and_picture(whole, tmp_path):
    assert tables(whole.parent, tmp_path) == 0
    page, text = ((tmp_path / f"table.{kind}").read_text() for kind in ("html", "md"))
    metrics = _results.read_results(whole / "results.json").metrics
    for metric in metrics.values():
        for number in map(metric.show, (metric.value, metric.stderr, metric.spread)):
            assert f"<td class=number>{number}</td>" in page
            assert f"| {number} |" in text
    assert "exact: the &lt;generator&gt; (its mean, not the sample&#x27;s | nor" in page
    assert r"exact: the &lt;generator&gt; (its mean, not the sample's \| nor" in text
    assert "src='data:image/png;base64,iVBOR" in page
    assert "<generator>" not in page + text
    assert not re.search(r"<script|https?://|src='(?!data:)", page)


def test_the_table_says_what_it_could_not_read(whole, tmp_path, capsys):
    runs, out = tmp_path / "runs", tmp_path / "out"
    for name in ("good", "bad"):
        (runs / name).mkdir(parents=True)
    (runs / "good" / "results.json").write_text((whole / "results.json").read_text())
    (runs / "bad" / "results.json").write_text('{"metrics": 1}')
    assert tables(runs, out) == 1
    assert "seeds 0 to 1" in (out / "table.md").read_text()
    told = capsys.readouterr().err
    assert f"experiments.table: {runs}/bad/results.json is not a results file" in told
    assert f"experiments.table: {runs}/good/the+curve.png is missing" in told
    assert tables(tmp_path / "out", out) == 1
    assert "--runs: no finished run below" in capsys.readouterr().err


def test_the_experiments_are_listed_without_importing_them():
    code = (
        "import runpy, sys; sys.argv[1:] = []; runpy.run_module('experiments', run_name='__main__')"
        "; assert not {'jax', 'numpy'} & set(sys.modules)"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"Experiments:\n(.*\n)* +vae +\S+.*\n.* presets: smoke", listed)
    assert re.search(r"Tools:\n(.*\n)* +table +\S+", listed)
    assert "--help" in listed


if __name__ == "__main__":
    main(Config, PRESETS, experiment)
