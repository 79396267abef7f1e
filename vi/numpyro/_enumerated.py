"""Discrete sites of a model that its guide leaves out: summed out of the log-weights, exactly."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax.numpy as jnp
from numpyro.distributions.util import is_identically_one

from vi._check import refusal
from vi.numpyro._cells import Cells
from vi.numpyro._log_probs import log_prob_of, scale_of, total
from vi.numpyro._program import Program, Trace
from vi.numpyro._structure import Structure


def enumerated(program: Program, structure: Structure, model: Callable) -> Trace:
    """Run the model at every outcome of its marked sites, each outcome along an axis of its own."""
    funsor = _contrib_funsor(structure)
    deepest = max(site.batch_dim for site in structure.model.values())
    with funsor.plate_to_enum_plate(), funsor.enum(first_available_dim=-deepest - 1):
        return funsor.trace(model).get_trace(*program.args, **program.kwargs)


def total_summed_out(trace: Trace, names: list[str], cells: Cells, marked: frozenset[str]):
    r"""The sum over sites of what each counts, with the marked ones summed out, ``[*cells]``.

    .. math:: \log \sum_c p(x, c, z)

    The sites that depend on a marked one share a scale, which multiplies the logarithm.

    References:
        Obermeyer, Bingham, Jankowiak, Chiu, Pradhan, Rush and Goodman (2019).
    """
    import funsor
    from funsor import ops
    from funsor.optimizer import apply_optimizer
    from funsor.sum_product import sum_product

    factors = {name: _factor(trace[name]) for name in names}
    together = {name: f for name, f in factors.items() if marked & set(f.inputs) or name in marked}
    apart = total(trace, [name for name in names if name not in together], cells)
    scale = _common_scale(trace, sorted(together), cells)
    inputs = reduce(frozenset.union, (frozenset(f.inputs) for f in together.values()))
    plates = inputs - marked
    _require_plates_alone(trace, plates)
    with funsor.interpretations.normalize:
        lazy = sum_product(
            ops.logaddexp,
            ops.add,
            list(together.values()),
            eliminate=(inputs & marked) | (plates - set(cells.plates)),
            plates=plates,
        )
    contracted = apply_optimizer(lazy)
    places = {name: i - len(cells.plates) for i, name in enumerate(cells.plates)}
    joint = funsor.to_data(contracted, name_to_dim=places)
    return apart + (joint if is_identically_one(scale) else scale * joint)


def _factor(site: dict[str, Any]):
    import funsor

    log_prob, names = log_prob_of(site), site["infer"]["dim_to_name"]
    if not names:
        log_prob = jnp.sum(log_prob)
    return funsor.to_funsor(log_prob, output=funsor.Real, dim_to_name=names)


def _common_scale(trace: Trace, names: list[str], cells: Cells):
    scales = {name: scale_of(trace[name], cells) for name in names}
    first, *others = scales.values()
    if any(other is not first and not _equal(first, other) for other in others):
        rule = "scale alike all that depends on what is summed out"
        got = ", ".join(f"{name}: {scale}" for name, scale in scales.items())
        remedy = "put them in the same plates and under the same handlers.scale"
        raise refusal("Loss", "model", rule, got, remedy)
    return first


def _equal(one, other) -> bool:
    return isinstance(one, float | int) and isinstance(other, float | int) and one == other


def _require_plates_alone(trace: Trace, inputs: frozenset[str]) -> None:
    plates = {frame.name for site in trace.values() for frame in site.get("cond_indep_stack", ())}
    if other := sorted(inputs - plates):
        rule, got = "sum out sites of plates alone", f"a scan, {', '.join(other)}"
        remedy = "write the sum over the chain into the model (forward algorithm, as a factor)"
        raise refusal("Loss", "model", rule, got, remedy)


def _contrib_funsor(structure: Structure):
    try:
        import numpyro.contrib.funsor as contrib
    except ImportError as error:
        rule = f"leave no site to be summed out ({', '.join(sorted(structure.summed_out))})"
        remedy = (
            "pip install funsor, with which this loss and numpyro.infer.TraceEnum_ELBO do it, or"
            " give the guide those sites and use vimco"
        )
        raise refusal("Loss", "model", rule, "no funsor", remedy) from error
    return contrib
