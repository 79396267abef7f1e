"""What sites a model and a guide have, in which plates: all that is known before a number is."""

import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
from numpyro import handlers
from numpyro.distributions import Delta, Distribution
from numpyro.util import _validate_model, check_model_guide_match

from vi._check import refusal
from vi.numpyro._program import Program, Trace, mutable_state


class Plate(NamedTuple):
    """A plate: its axis, counted from the right, how many are in this run, and how many in all."""

    dim: int
    size: int
    full_size: int

    @property
    def scale(self) -> float:
        """What a subsample counts for."""
        return self.full_size / self.size


class Site(NamedTuple):
    """A sample site, without its numbers.

    Attributes:
        name: Its name.
        plates: The names of the plates around it.
        family: The name of the distribution's class.
        batch_dim: How many axes of its law are independent.
        event_dim: How many axes of its value are one event.
        observed: Whether it is observed, as factors are.
        fixed: Whether its value follows from the others, by a ``Delta``.
        has_path: Whether its draws carry derivatives.
        leaks: Whether they have none of their own and let others through all the same: floating
            draws inside a scan, which no handler reaches.
        enumerated: Whether it is marked to be summed out.
        infer: The entries of its ``infer`` that are no arrays.
    """

    name: str
    plates: tuple[str, ...]
    family: str
    batch_dim: int
    event_dim: int
    observed: bool
    fixed: bool
    has_path: bool
    leaks: bool
    enumerated: bool
    infer: Mapping[str, Any]

    @property
    def free(self) -> bool:
        """Whether a guide draws it."""
        return not (self.observed or self.fixed)


class Structure(NamedTuple):
    """The sites of a model and its guide.

    Attributes:
        guide: The guide's sample sites, by name.
        model: The model's.
        plates: The plates of both.
        model_params: The names of the model's parameters, but for those that are empty.
        unseeded_plates: ``(size, subsample size)`` of the plates that draw their subsample, by
            name, in the guide and in the model, in order.
    """

    guide: dict[str, Site]
    model: dict[str, Site]
    plates: dict[str, Plate]
    model_params: tuple[str, ...]
    unseeded_plates: tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]

    @property
    def summed_out(self) -> frozenset[str]:
        """The model's sites that are marked for enumeration and that the guide leaves to it."""
        return frozenset(
            n for n, site in self.model.items() if site.enumerated and n not in self.guide
        )


def structure_of(program: Program, key) -> Structure:
    """Run guide and model abstractly; nothing is computed.

    NumPyro's own checks of a guide against its model, and of plates, are made here.
    """
    found: list[Structure] = []

    def run(key):
        of_model, of_guide = jax.random.split(key)
        guide = program.run_guide(of_guide)
        model = program.run_model(of_model, guide, mutable_state(guide))
        check_model_guide_match(model, guide)
        _validate_model(model, plate_warning="loose")
        found.append(
            Structure(
                guide=_sites(guide),
                model=_sites(model),
                plates=_joined(_plates(guide), _plates(model)),
                model_params=tuple(
                    name
                    for name, site in model.items()
                    if site["type"] == "param" and jax.tree.leaves(site["value"])
                ),
                unseeded_plates=(_unseeded(guide), _unseeded(model)),
            )
        )
        return ()

    try:
        jax.eval_shape(run, jax.random.clone(key))
    except Exception as error:
        if (note := _where(error, program)) is not None:
            error.add_note(note)
        raise
    return found[0]


def shared_plates(program: Program, structure: Structure, key) -> Program:
    """The program with one subsample for all particles, that of ``RenyiELBO`` at the same key."""

    def drawn(sizes):
        seed = jax.random.clone(key)
        seed = jax.random.key_data(seed) if program.raw_keys else seed
        with handlers.seed(rng_seed=seed), handlers.trace() as trace:
            for name, (size, subsample_size) in sizes.items():
                numpyro.plate(name, size, subsample_size)
        return {name: trace[name]["value"] for name in sizes}

    of_guide, of_model = structure.unseeded_plates
    if not (of_guide or of_model):
        return program
    return program._replace(plates={**drawn(of_model), **drawn(of_guide)})


def _where(error: Exception, program: Program) -> str | None:
    """At which site a program failed, with what arguments."""
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    known = ("fn", Distribution), ("site", dict)  # in numpyro.sample, in its checks of a trace
    names = [
        frame["name"]
        for frame in frames
        for local, kind in known
        if "name" in frame and isinstance(frame.get(local), kind)
    ]
    if not names:
        return None
    arguments = jax.tree.map(
        lambda leaf: list(jnp.shape(leaf)) if hasattr(leaf, "shape") else leaf,
        (program.args, dict(program.kwargs)),
    )
    return (
        f"at site {names[-1]!r}, with arguments of shapes {arguments[0]} {arguments[1] or ''}; an"
        " automatic guide is set up for the shapes of its first call, and others need another guide"
    )


def _sites(trace: Trace) -> dict[str, Site]:
    return {
        name: Site(
            name=name,
            plates=tuple(frame.name for frame in site["cond_indep_stack"]),
            family=_family(site["fn"]),
            batch_dim=len(site["fn"].batch_shape),
            event_dim=site["fn"].event_dim,
            observed=bool(site["is_observed"]),
            fixed=_is_fixed(site["fn"]),
            has_path=bool(site["fn"].has_rsample),
            leaks=_leaks(site),
            enumerated=site["infer"].get("enumerate") == "parallel",
            infer={k: v for k, v in site["infer"].items() if not isinstance(v, jax.Array)},
        )
        for name, site in trace.items()
        if site["type"] == "sample"
    }


def _leaks(site: dict[str, Any]) -> bool:
    floating = jnp.issubdtype(jnp.result_type(site["value"]), jnp.inexact)
    return bool(floating and site.get("_control_flow_done") and not site["fn"].has_rsample)


def _plates(trace: Trace) -> dict[str, Plate]:
    frames = {f.name: f for site in trace.values() for f in site.get("cond_indep_stack", ())}
    sizes = {n: site["args"][0] for n, site in trace.items() if site["type"] == "plate"}
    return {
        name: Plate(frame.dim, frame.size, sizes.get(name, frame.size))
        for name, frame in frames.items()
    }


def _joined(of_guide: dict[str, Plate], of_model: dict[str, Plate]) -> dict[str, Plate]:
    for name in of_guide.keys() & of_model.keys():
        if of_guide[name] != of_model[name]:
            got = f"{tuple(of_guide[name])} in the guide, {tuple(of_model[name])} in the model"
            rule = f"have one axis, subsample and size in both ({name})"
            remedy = "give both the same dim, size and subsample_size"
            raise refusal("Loss", "plates", rule, got, remedy)
    return of_guide | of_model


def _unseeded(trace: Trace) -> dict[str, tuple[int, int]]:
    return {
        name: site["args"]
        for name, site in trace.items()
        if site["type"] == "plate" and site["kwargs"]["rng_key"] is not None
    }


def _base(fn: Any) -> Distribution:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _is_fixed(fn: Distribution) -> bool:
    return isinstance(_base(fn), Delta)


def _family(fn: Distribution) -> str:
    return type(_base(fn)).__name__
