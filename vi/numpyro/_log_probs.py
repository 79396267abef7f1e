"""Log-probabilities of traced sites, summed to the cells that have a log-weight."""

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)
from numpyro.distributions.util import is_identically_one

from vi._check import refusal
from vi.numpyro._cells import Cells
from vi.numpyro._program import Trace


def total(trace: Trace, names: Iterable[str], cells: Cells):
    """The sum over sites of what each counts in a log-weight, ``[*cells]``, in nats.

    As in NumPyro: times the site's scale, zero where it is masked. The scale of the cells' own
    subsampling is left out: it multiplies the bound.
    """
    return _sum((_counted(trace[name], cells) for name in names), cells)


def total_of_draws(trace: Trace, names: Iterable[str], cells: Cells):
    """The log-probability of the draws at these sites themselves, neither scaled nor masked."""
    return _sum((_reduced(log_prob_of(trace[name], _unmasked), cells) for name in names), cells)


def is_plain(trace: Trace, name: str, cells: Cells) -> bool:
    """Whether what a site counts is the log-probability of its draw."""
    site = trace[name]
    return is_identically_one(scale_of(site, cells)) and _unmasked(site["fn"]) is site["fn"]


def _sum(terms, cells: Cells):
    return sum(terms, start=jnp.zeros(cells.shape))


def _counted(site: dict[str, Any], cells: Cells):
    log_prob, scale = log_prob_of(site), scale_of(site, cells)
    return _reduced(log_prob if is_identically_one(scale) else scale * log_prob, cells)


def log_prob_of(site: dict[str, Any], law: Callable[[Distribution], Distribution] = lambda fn: fn):
    """The log-probability at a site, not summed, by what ``law`` makes of its distribution."""
    fn = law(site["fn"])
    if site["intermediates"]:
        return fn.log_prob(site["value"], site["intermediates"])
    try:
        return fn.log_prob(site["value"])
    except NotImplementedError as error:
        rule = "be scored at a value that it did not just draw"
        remedy = "use reparam, which needs no inverse, or a guide that has one"
        got = f"site {site['name']}: {error or type(fn).__name__}"
        raise refusal("Loss", "guide", rule, got, remedy) from error


def scale_of(site: dict[str, Any], cells: Cells):
    """What multiplies a site's log-probability within a cell's log-weight."""
    inside = {frame.name for frame in site["cond_indep_stack"]} >= set(cells.plates)
    scale = 1.0 if site["scale"] is None else site["scale"]
    return scale / cells.scale if inside and cells.scale != 1 else scale


def _reduced(log_prob, cells: Cells):
    log_prob = jnp.asarray(log_prob)
    if not jnp.issubdtype(log_prob.dtype, jnp.floating):
        log_prob = log_prob.astype(jnp.result_type(float))
    kept = [log_prob.ndim + dim for dim in cells.dims]
    log_prob = log_prob.sum([axis for axis in range(log_prob.ndim) if axis not in kept])
    place = {axis: i for i, axis in enumerate(sorted(kept))}
    return jnp.transpose(log_prob, [place[axis] for axis in kept])


def _unmasked(fn: Distribution) -> Distribution:
    """The law of the draws: ``fn`` without masks, and ``fn`` itself where there is none."""
    if isinstance(fn, MaskedDistribution):
        return _unmasked(fn.base_dist)
    if isinstance(fn, ExpandedDistribution | Independent):
        base = _unmasked(fn.base_dist)
        if base is fn.base_dist:
            return fn
        if isinstance(fn, Independent):
            return base.to_event(fn.reinterpreted_batch_ndims)
        return base.expand(fn.batch_shape)
    return fn
