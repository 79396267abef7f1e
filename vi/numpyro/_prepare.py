"""From what NumPyro hands a loss to particles that an objective can draw."""

from typing import Any, NamedTuple

import jax

from vi import bounds
from vi._check import is_key, name_of, refusal, require_count
from vi.gradients import Objective, Replicated
from vi.numpyro._cells import Cells, Partition, partition
from vi.numpyro._particles import Particles, Rescored, WholeRuns
from vi.numpyro._program import Program
from vi.numpyro._restarts import set_up
from vi.numpyro._structure import Structure, shared_plates, structure_of
from vi.types import Coefficients


class Prepared(NamedTuple):
    """A program whose sites are known, and the key that its particles are drawn with."""

    key: jax.Array
    program: Program
    structure: Structure
    partition: Partition


def prepare(
    where: str, key, program: Program, plates: tuple[str, ...] | None, *, one: bool, additive: bool
) -> Prepared:
    """Find the sites, give each its log-weight, and draw what all particles share.

    Args:
        where: Who asks, for a refusal.
        key: A typed or a legacy key.
        program: Model and guide.
        plates: The plates whose cells are weighed, or None.
        one: Whether there is one particle, which shares its subsample with none, unless nested.
        additive: Whether the bound of a sum is the sum of the bounds.
    """
    if not is_key(key):
        key, program = jax.random.wrap_key_data(key), program._replace(raw_keys=True)
    plates = require_names(where, plates)
    guide = set_up(program.guide, key, program.args, dict(program.kwargs))
    program = program._replace(guide=guide)
    structure = structure_of(program, key)
    _require_sampled(where, structure)
    split = partition(where, structure, plates, additive=additive)
    if not one or split.is_nested:
        plate_key, key = jax.random.split(key)
        program = shared_plates(program, structure, plate_key)
    return Prepared(key, program, structure, split)


def counts(where: str, num_particles: int | tuple[int, int]) -> tuple[int, int]:
    """``(S, K)``, how many draws of the globals and how many of the locals for each."""
    pair = num_particles if isinstance(num_particles, tuple) else (1, num_particles)
    if len(pair) != 2:
        raise refusal(where, "num_particles", "be one or two counts", pair, "pass K, or (S, K)")
    of_globals, of_locals = (require_count(where, "num_particles", count) for count in pair)
    return of_globals, of_locals


def require_names(where: str, plates) -> tuple[str, ...] | None:
    """Refuse what is neither None nor a tuple of names."""
    if plates is None or (
        isinstance(plates, tuple | list) and all(isinstance(name, str) for name in plates)
    ):
        return None if plates is None else tuple(plates)
    remedy = "pass ('N',) for a plate N, () for one weight, or None"
    raise refusal(where, "plates", "be a tuple of names of plates", repr(plates), remedy)


def one_objective(objective: Objective | Replicated) -> Objective:
    """The objective of one replicate."""
    return objective.objective if isinstance(objective, Replicated) else objective


def is_additive(objective: Objective | Replicated) -> bool:
    """Whether its bound is declared additive, as the ELBO is."""
    return bounds.declaration(one_objective(objective).bound).additive


def is_plain_derivative(objective: Objective | Replicated) -> bool:
    """Whether it differentiates the value through each draw, as it stands."""
    return getattr(one_objective(objective).rule, "is_plain_derivative", False)


def runs_for(objective: Objective | Replicated, particles: Particles) -> Any:
    """The particles as the objective's rule asks for them: ``WholeRuns`` or ``Rescored``."""
    return WholeRuns(particles) if is_plain_derivative(objective) else Rescored(particles)


def require_paths(objective: Objective | Replicated, structure: Structure, cells: Cells) -> None:
    """Refuse draws whose derivatives are not what the rule takes them for, by name."""
    used, rule = _coefficients(objective), name_of(one_objective(objective).rule)
    sites = [structure.guide[name] for name in sorted(cells.guide) if structure.guide[name].free]
    if used.path is None:
        return
    if used.signal is None:
        stuck, must = [site for site in sites if not site.has_path], "be reparameterised"
        remedy = "use vimco, score, or mixed where other sites are"
    else:
        stuck, must = [site for site in sites if site.leaks], "be reparameterised inside a scan"
        remedy = "use score or vimco, or write the steps of the scan out"
    if stuck:
        got = ", ".join(f"{site.name} ({site.family})" for site in stuck)
        raise refusal(rule, "every site of the guide", must, got, remedy)


def takes_discrete(objective: Objective | Replicated) -> bool:
    """Whether its rule needs no path through every draw."""
    used = _coefficients(objective)
    return used.path is None or used.signal is not None


def _coefficients(objective: Objective | Replicated) -> Coefficients:
    one = one_objective(objective)
    log_w = jax.ShapeDtypeStruct((max(2, bounds.declaration(one.bound).min_samples),), "float32")
    return jax.eval_shape(lambda log_w: one.rule(one.bound, log_w), log_w)


def require_all_drawn(where: str, structure: Structure) -> None:
    """Refuse a latent that only the model draws: a weight with it is not that of a posterior."""
    drawn = {name for name, site in structure.guide.items() if not site.observed}
    alone = {name for name, site in structure.model.items() if not site.observed} - drawn
    if missing := sorted(alone - structure.summed_out):
        rule, got = "have every latent of the model", f"none for {', '.join(missing)}"
        raise refusal(where, "guide", rule, got, "add the site to the guide")


def _require_sampled(where: str, structure: Structure) -> None:
    marked = [site.name for site in structure.guide.values() if site.enumerated]
    if marked:
        remedy = "use numpyro.infer.TraceEnum_ELBO, or sample them (vimco, score, mixed)"
        got = f"{', '.join(marked)} marked for enumeration"
        raise refusal(where, "guide", "draw its sites", got, remedy)
