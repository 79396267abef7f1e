"""The flags every experiment has, its presets, and its life from the command line to the table."""

import contextlib
import dataclasses
import inspect
import math
import os
import pathlib
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import tyro

from experiments._hardware import announce, optimised
from experiments._results import Record, Result, plain, write_results
from experiments._run import Run, open_run
from experiments.table import print_table

NOT_PROTOCOL = ("out", "progress", "data_dir", "download")


@dataclass(frozen=True)
class Common:
    """What every experiment may be told; a field left None takes its preset's value."""

    preset: Literal["smoke", "cpu", "gpu", "paper"] = "cpu"
    """How much: smoke (seconds; compiled fast, runs slowly), cpu or gpu (minutes there), paper."""
    data: str = "digits"
    """digits, a TFDS image set (mnist, fashion_mnist, kmnist, ...) or a path to an .npz."""
    data_dir: pathlib.Path | None = None
    """Where TFDS image sets are; by default TFDS's own folder."""
    download: bool = False
    """Fetch an image set that is not there."""
    seed: int = 0
    """Fixes initialisation, minibatches, bits and noise; the test bits are always the same."""
    num_seeds: int = 1
    """Train with so many seeds at once, from --seed on."""
    out: pathlib.Path | None = None
    """Folder for the results; by default runs/<experiment>/<data>-<preset>-<seed>."""
    progress: bool | None = None
    """Show the progress bar; by default if stderr is a terminal."""


ConfigT = TypeVar("ConfigT", bound=Common)
Presets = Mapping[str, Mapping[str, Any]]
Experiment = Callable[[Any, Run], Result]


def resolve(config: ConfigT, presets: Presets) -> ConfigT:
    """Fill fields left None from ``<data>-<preset>``, else ``<preset>``; check the common ones."""
    _check_presets(type(config), presets)
    if not {config.preset, f"{config.data}-{config.preset}"} & set(presets):
        held = ", ".join(preset for preset in presets if "-" not in preset)
        raise ValueError(f"--preset must be one it has (got {config.preset}); choose among {held}")
    config = _filled(config, presets)
    if config.data.endswith(".npz"):  # the same run from wherever it is started
        config = dataclasses.replace(config, data=os.path.abspath(os.path.expanduser(config.data)))
    require_counts(config, "num_seeds")
    require_counts(config, "seed", least=0)
    if config.seed + config.num_seeds > 2**32:
        raise ValueError(f"--seed must be below 2**32 (got {config.seed}); choose a smaller one")
    if not config.data:
        raise ValueError("--data must name a set (got ''); try --data digits")
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{_flag(name)} must be finite (got {value}); choose another value")
    return config


def require_counts(config: Common, *names: str, least: int = 1) -> None:
    """Refuse fields that are not integers of at least ``least``, by their flags."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            rule = f"be an integer of at least {least}"
            raise ValueError(f"{_flag(name)} must {rule} (got {value}); pass {least} or more")


def require_positive(config: Common, *names: str) -> None:
    """Refuse fields that are not positive finite numbers, by their flags."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{_flag(name)} must be positive (got {value}); pass a number above 0")


def main(Config: type[Common], presets: Presets, experiment: Experiment) -> None:
    """Run from the command line: parse, resolve, compute or go on, write, print.

    What the user can set right ends in one line and exit code 1; an interrupt or SIGTERM in 130.
    """
    name = pathlib.Path(inspect.getfile(experiment)).stem
    with _sigterm_interrupts():
        try:
            execute(_parse(Config, presets, experiment, name), presets, experiment, name)
        except (ValueError, OSError, ImportError) as error:
            if not _is_refusal(error, experiment):
                raise
            sys.exit(f"experiments.{name}: {' '.join(str(error).split())}")
        except KeyboardInterrupt as error:
            kept = "from there" if str(error) else "with what was finished"
            said = f"{' '.join(['interrupted', *error.args])}; the same command goes on {kept}"
            print(f"experiments.{name}: {said}", file=sys.stderr)
            sys.exit(130)


def execute(config: Common, presets: Presets, experiment: Experiment, name: str) -> Record:
    """What ``main`` does once the flags are parsed; an experiment that finished is only shown."""
    config = resolve(config, presets)
    is_file = ".npz" in config.data
    data = pathlib.PurePath(config.data).name.replace(".npz", "") if is_file else config.data
    data = re.sub(r"[/:]", "-", data)
    default = pathlib.Path("runs", name, f"{data}-{config.preset}-{config.seed}")
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    settings = {k: v for k, v in fields.items() if k not in NOT_PROTOCOL}
    settings = plain({"experiment": name} | settings)
    with open_run(settings, config.out or default, config.progress) as run:
        if run.finished is not None:
            print_table(run.finished)
            print(f"finished before: {run.out} holds this run; nothing was computed")
            return run.finished
        print(f"{'beginning' if run.is_new else 'going on'} in {run.out}", file=sys.stderr)
        announce(config.preset)
        with optimised(config.preset != "smoke"):
            result = experiment(config, run)
        record = write_results(
            run.out,
            run.settings | run.facts,
            result,
            run.seconds,
            command_of(config, presets, name),
        )
        print_table(record)
        print(f"written to {run.out}: " + ", ".join(["results.json", *record.pictures]))
        return record


def command_of(config: Common, presets: Presets, name: str) -> str:
    """The command that computes ``config`` again: what its preset gives is not repeated."""
    given = resolve(type(config)(preset=config.preset, data=config.data), presets)
    words = ["python", "-m", f"experiments.{name}"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default if field.name in ("preset", "data") else getattr(given, field.name)
        if field.name not in NOT_PROTOCOL and value != default:
            words += [_flag(field.name), *_shown(value).split()]
    return shlex.join(words)


def _parse(Config: type[Common], presets: Presets, experiment: Experiment, name: str) -> Common:
    """Parse twice: the preset first, so that ``--help`` shows what it holds as the defaults."""
    flags = [flag for flag in sys.argv[1:] if flag not in ("-h", "--help")]
    chosen, _ = tyro.cli(_Chosen, args=flags, return_unknown_args=True, add_help=False)
    _check_presets(Config, presets)
    named = Config() if chosen.data is None else Config(data=chosen.data)
    if chosen.preset in get_args(get_type_hints(Config)["preset"]):
        named = dataclasses.replace(named, preset=chosen.preset)
    default = _filled(named, presets)
    about = [inspect.getdoc(inspect.getmodule(experiment)) or ""]
    about.append(
        f"The defaults below are those of --preset {named.preset} with --data {named.data}; name"
        " others before --help to see theirs."
    )
    about += [
        f"{preset}: " + ", ".join(f"{_flag(k)} {_shown(v)}" for k, v in held.items())
        for preset, held in presets.items()
    ]
    return tyro.cli(
        Config,
        prog=f"python -m experiments.{name}",
        description="\n\n".join(about),
        default=default,
        config=(tyro.conf.DisallowNone,),
    )


@dataclass(frozen=True)
class _Chosen:
    preset: str = Common.preset
    data: str | None = None


def _check_presets(Config: type[Common], presets: Presets) -> None:
    fields = {field.name: field.default for field in dataclasses.fields(Config)}
    for preset, held in presets.items():
        for name in held:
            if fields.get(name, name) is not None:
                rule = "name fields of Config whose default is None"
                remedy = "rename it, or set the field's default to None"
                raise ValueError(f"PRESETS: {preset} must {rule} (got {name}); {remedy}")


def _filled(config: ConfigT, presets: Presets) -> ConfigT:
    held = {
        **presets.get(config.preset, {}),
        **presets.get(f"{config.data}-{config.preset}", {}),
    }
    left = {name: value for name, value in held.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **left)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _is_refusal(error: Exception, experiment: Experiment) -> bool:
    """Whether we raised it on purpose, with a remedy; any other ValueError is a fault of ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    ours = where.split(".")[0] in ("vi", "experiments") or where == experiment.__module__
    return isinstance(error, OSError) or (ours and "; " in str(error))


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM, which schedulers send, do what Ctrl-C does at that moment."""

    def interrupt(number, frame):
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # a shell that starts it in the background has SIGINT ignored
            raise KeyboardInterrupt
        handler(number, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
