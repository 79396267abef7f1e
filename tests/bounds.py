"""The table of bounds: a new one adds a line here and inherits every property."""

import jax.numpy as jnp
import numpy as np
import pytest

from vi import bounds

GRID = np.array([0.0, 0.1, 0.4, 1.0])


def triangular(u):
    """A generator of Csiszar's that has no name of its own here."""
    return (u - 1) ** 2 / (u + 1)


BOUNDS = {
    "elbo": bounds.elbo,
    "iwae": bounds.iwae,
    "renyi(0.4)": bounds.renyi(0.4),
    "renyi(2)": bounds.renyi(2.0),
    "renyi(-1)": bounds.renyi(-1.0),
    "cubo(2)": bounds.cubo(2.0),
    "eubo": bounds.eubo,
    "tvo_lower": bounds.tvo_lower(GRID),
    "tvo_upper": bounds.tvo_upper(GRID),
    "vr_max": bounds.vr_max,
    "log_variance": bounds.log_variance,
    "sumo": bounds.sumo(2),
    "csiszar": bounds.csiszar(triangular),
    "csiszar, evidence": bounds.csiszar(triangular, log_evidence=0.0),
    "forward_kl": bounds.forward_kl(),
    "forward_kl, evidence": bounds.forward_kl(log_evidence=0.0),
    "reverse_kl": bounds.reverse_kl(),
    "chi_square": bounds.chi_square(),
    "squared_hellinger": bounds.squared_hellinger(),
    "jensen_shannon": bounds.jensen_shannon(),
    "total_variation": bounds.total_variation(),
    "jackknife(iwae)": bounds.jackknife(bounds.iwae),
    "jackknife(iwae, 2)": bounds.jackknife(bounds.iwae, 2),
    "grouped": bounds.grouped(bounds.iwae, 2),
    "grouped(jackknife)": bounds.grouped(bounds.jackknife(bounds.iwae), 2),
    "mix": bounds.mix(0.3, bounds.elbo, bounds.iwae),
    "tempered": bounds.tempered(bounds.eubo, 1.5),
    "stratified_elbo": bounds.stratified_elbo(jnp.array([0.3, -0.8])),
    "stratified_iwae": bounds.stratified_iwae(jnp.array([0.3, -0.8])),
}
NEIGHBOURS = {  # near another in the table: they run with the slow tests
    *("cubo(2)", "tvo_upper", "csiszar, evidence", "jackknife(iwae, 2)", "grouped(jackknife)"),
    *("squared_hellinger", "chi_square", "jensen_shannon", "forward_kl, evidence", "renyi(2)"),
    *("eubo", "stratified_elbo", "renyi(-1)", "forward_kl"),
}


def each(table):
    """Parametrise a test over a table of bounds."""
    marks = {name: pytest.mark.slow if name in NEIGHBOURS else () for name in table}
    rows = [pytest.param(bound, marks=marks[name], id=name) for name, bound in table.items()]
    return pytest.mark.parametrize("bound", rows)


each_bound = each(BOUNDS)


def at_least(bound, num_samples):
    """The first K from ``num_samples`` on that the bound accepts."""
    declared = bounds.declaration(bound)
    groups = declared.num_groups or 1
    return -(-max(num_samples, declared.min_samples) // groups) * groups


def draw(shape, dtype=jnp.float32):
    """Log-weights of a spread of two nats, the same on every call."""
    return jnp.asarray(2 * np.random.default_rng(0).normal(size=shape), dtype)
