"""A bound of the local latents in each cell of some plates, inside a bound of the global ones."""

from functools import partial
from typing import Any

import jax
from numpyro.ops.provenance import eval_provenance

from vi._check import name_of, refusal
from vi.bounds import declaration
from vi.gradients import Objective, Replicated
from vi.numpyro._log_probs import total
from vi.numpyro._particles import Particles
from vi.numpyro._prepare import (
    Prepared,
    is_additive,
    is_plain_derivative,
    one_objective,
    require_paths,
    runs_for,
)
from vi.numpyro._program import mutable_state


def nested_bound(
    prepared: Prepared,
    local: Objective | Replicated,
    overall: Objective | Replicated,
    num_global: int,
    num_local: int,
):
    """``overall`` of the global latents, with the sum over cells of ``local`` in its log-joint.

    Returns:
        ``(value [], aux)``, aux with the axis of the global draws.
    """
    inside, outside = prepared.partition
    _require_lower(local, "objective")
    _require_lower(overall, "global_objective")
    _require_linear(local, overall, inside.scale)
    _require_drawn(prepared, local, num_local)
    _require_apart(prepared)
    require_paths(overall, prepared.structure, outside)
    require_paths(local, prepared.structure, inside)
    around = Particles(
        prepared.program, prepared.structure, outside, one=_is_one(overall, num_global), inner=True
    )
    runs = runs_for(overall, around)

    def log_joint(z):
        log_p, aux = runs.log_joint(z)

        def of_cells(z):
            particles = particles_at(prepared, around, z, one=_is_one(local, num_local))
            within = runs_for(local, particles)
            key = jax.random.clone(z["seeds"]["inner"])
            return inside.scale * local(key, within, within.log_joint, num_local).sum()

        return log_p + around.each(of_cells, z), aux

    evaluation = overall.evaluate(prepared.key, runs, log_joint, num_global)
    return outside.scale * evaluation.value, evaluation.aux


def particles_at(prepared: Prepared, around: Particles, z: dict[str, Any], *, one: bool):
    """The local particles, given one draw of the global sites."""
    drawn = {name: z["values"][name] for name in around.free}
    program = prepared.program._replace(given=drawn)
    return Particles(program, prepared.structure, prepared.partition.inside, one=one)


def _is_one(objective: Objective | Replicated, num_samples: int) -> bool:
    return num_samples == 1 and not isinstance(objective, Replicated)


def _require_lower(objective, argument: str) -> None:
    bound = one_objective(objective).bound
    if declaration(bound).sense != "maximise":
        rule = "be one to maximise where cells are nested in globals"
        remedy = "a sum of its cells bounds nothing: use plates=(), or a lower bound"
        raise refusal("Loss", argument, rule, name_of(bound), remedy)


def _require_drawn(prepared: Prepared, local, num_local: int) -> None:
    """Refuse cells without a draw, whose particles would all be the same."""
    inside, structure = prepared.partition.inside, prepared.structure
    drawn = any(structure.guide[name].free for name in inside.guide)
    if drawn or num_local == 1 or is_additive(local) or structure.summed_out & inside.model:
        return
    remedy = "plates=() weighs the whole model at once; cells without a draw take num_particles=1"
    rule = "hold a site that the guide draws"
    raise refusal("Loss", "plates", rule, repr(inside.plates), remedy)


def _require_linear(local, overall, scale: float) -> None:
    """Refuse a bound of bounds that is none: the globals' must be linear in what varies inside."""
    if is_additive(overall):
        return
    rule, remedy = "be of the ELBO", "use global_objective=reparam(elbo)"
    if not is_plain_derivative(local):
        rule += " where the cells' objective does not differentiate its own value"
        got, remedy = f"{overall} around {local}", f"{remedy}, or reparam for the cells"
        raise refusal("Loss", "global_objective", rule, got, remedy)
    if scale != 1:
        rule += " where the cells are a subsample"
        raise refusal("Loss", "global_objective", rule, repr(overall), remedy)


def _require_apart(prepared: Prepared) -> None:
    """Refuse a site outside the plates that depends on what is drawn inside a cell."""
    program, structure = prepared.program, prepared.structure
    inside, outside = prepared.partition
    local = [n for n in sorted(inside.guide) if structure.guide[n].free]

    def drawn(key):
        trace = program.run_guide(key)
        return {name: trace[name]["value"] for name in local}

    def counted(key, values):
        of_model, of_guide = jax.random.split(key)
        guide = program.run_guide(of_guide, values)
        model = program.run_model(of_model, guide, mutable_state(guide))
        alone = partial(total, cells=outside)
        of_guide = {name: alone(guide, [name]) for name in sorted(outside.guide)}
        of_model = {name: alone(model, [name]) for name in sorted(outside.model)}
        return {"guide": of_guide, "model": of_model}

    values = jax.eval_shape(drawn, jax.random.key(0))

    def by_argument(**arguments):  # by place: a site may be called as an argument is
        return counted(jax.random.key(0), dict(zip(local, arguments.values(), strict=True)))

    numbered = {f"_{i}": values[name] for i, name in enumerate(local)}
    found = eval_provenance(by_argument, **numbered)
    for side, sites in found.items():
        for name, needs in sites.items():
            if needs:
                names = ", ".join(sorted(local[int(place[1:])] for place in needs))
                rule = f"hold {side} site {name}, which depends on {names}"
                remedy = "move it into the plates, or weigh the whole model at once: plates=()"
                raise refusal("Loss", "plates", rule, repr(inside.plates), remedy)
