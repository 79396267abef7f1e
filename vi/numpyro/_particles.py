"""The guide as a q and the model as a log-density: K runs of both, as the estimators ask for them.

Two ways to see the same runs. Plain differentiation wants each run whole: the guide is traced
once, and every site counts by the log-probability that it had when it was drawn. Other rules want
draws apart from densities: z are the guide's free sites alone; whatever follows from them
(``Delta`` sites, factors, what the guide observes) is run again at z, as part of the log-joint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vi.numpyro._cells import Cells
from vi.numpyro._enumerated import enumerated, total_summed_out
from vi.numpyro._log_probs import is_plain, total, total_of_draws
from vi.numpyro._program import Program, Trace, mutable_state
from vi.numpyro._structure import Structure


class Particles(NamedTuple):
    """What every particle has in common.

    Attributes:
        program: Model and guide.
        structure: Their sites.
        cells: The sites that are weighed, and by which cells.
        one: Whether there is one particle, which is run as it stands, without ``vmap``.
        inner: Whether each has a key of its own for what is drawn inside it.
    """

    program: Program
    structure: Structure
    cells: Cells
    one: bool
    inner: bool = False

    @property
    def free(self) -> list[str]:
        """The guide's sites that are drawn here."""
        sites = self.structure.guide
        return [n for n in sites if n in self.cells.guide and sites[n].free]

    @property
    def own_plates(self) -> list[str]:
        """The plates whose subsample each run draws for itself."""
        plates = self.structure.plates
        return [n for n in plates if plates[n].scale != 1 and n not in self.program.plates]

    def seeds(self, key, sample_shape: tuple[int, ...]) -> dict[str, Any]:
        """The seeds of model and guide, ``[*sample_shape]`` each, as NumPyro splits them."""
        keys = key[None] if self.one else jax.random.split(key, sample_shape)
        names = ("model", "guide", "inner") if self.inner else ("model", "guide")

        def split(key) -> dict[str, Any]:
            return dict(zip(names, jax.random.split(key, len(names)), strict=True))

        return self._mapped(split, keys, keys)

    def each(self, function: Callable, runs):
        """``function`` of every run; its leaves lead with the axes of its seeds."""
        return self._mapped(function, runs, runs["seeds"]["model"])

    def _mapped(self, function, runs, keys):
        if self.one:
            alone = function(jax.tree.map(lambda leaf: leaf[0], runs))
            return jax.tree.map(lambda leaf: leaf[None], alone)
        for _ in range(keys.ndim):
            function = jax.vmap(function)
        return function(runs)

    def joint(self, z, guide_trace: Trace, mutable: Mapping[str, Any], derived):
        """One particle's ``log p(x, z)`` less what the guide's ``derived`` sites count, and aux."""
        seed, names = jax.random.clone(z["seeds"]["model"]), sorted(self.cells.model)
        if self.structure.summed_out & self.cells.model:
            model = self.program.replayed(seed, guide_trace, mutable)
            model_trace = enumerated(self.program, self.structure, model)
            log_p = total_summed_out(model_trace, names, self.cells, self.structure.summed_out)
        else:
            model_trace = self.program.run_model(seed, guide_trace, mutable)
            log_p = total(model_trace, names, self.cells)
        log_p -= total(guide_trace, derived, self.cells)
        return log_p, {**mutable, **mutable_state(model_trace)}


@dataclass(frozen=True)
class WholeRuns:
    """K runs of the guide, each scored as it is drawn."""

    particles: Particles
    has_rsample: bool = True

    def rsample_and_log_prob(self, key, sample_shape=()):
        """Every value the guide drew or derived, and the log-probability of all of them."""
        of = self.particles

        def one(z):
            trace = of.program.run_guide(jax.random.clone(z["seeds"]["guide"]))
            sites = of.structure.guide.items()
            drawn = {
                "values": {
                    n: jnp.asarray(trace[n]["value"]) for n, site in sites if not site.observed
                },
                "plates": {n: trace[n]["value"] for n in of.own_plates if n in trace},
                "mutable": mutable_state(trace),
            }
            return z | drawn, total(trace, sorted(of.cells.guide), of.cells)

        return of.each(one, {"seeds": of.seeds(key, sample_shape)})

    def rsample(self, key, sample_shape=()):
        """The draws alone."""
        return self.rsample_and_log_prob(key, sample_shape)[0]

    sample = rsample

    def has_path(self, z):
        """Every floating value has one."""
        return jax.tree.map(lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact), z)

    def log_joint(self, z):
        """``(log p(x, z), mutable state)`` of every run."""
        of = self.particles

        def one(z):
            return of.joint(z, _as_trace(of.structure, z), z["mutable"], ())

        return of.each(one, z)


@dataclass(frozen=True)
class Rescored:
    """K draws of the guide's free sites, and densities that may be evaluated at any."""

    particles: Particles

    @property
    def has_rsample(self) -> bool:
        """Whether all free sites are reparameterised."""
        sites = self.particles.structure.guide
        return all(sites[name].has_path for name in self.particles.free)

    def sample(self, key, sample_shape=()):
        """The free sites' values, and the seeds of all else that is random."""
        of = self.particles

        def one(z):
            trace = of.program.run_guide_without_paths(jax.random.clone(z["seeds"]["guide"]))
            drawn = {name: jnp.asarray(trace[name]["value"]) for name in of.free}
            values = {name: self._cells_first(name, value) for name, value in drawn.items()}
            return z | {"values": values}

        return of.each(one, {"seeds": of.seeds(key, sample_shape)})

    rsample = sample
    partial_rsample = sample

    def has_path(self, z):
        """Reparameterised sites have one; seeds have none."""
        sites = self.particles.structure.guide
        paths = jax.tree.map(lambda _: False, z)
        return paths | {"values": {name: sites[name].has_path for name in z["values"]}}

    def log_prob(self, z):
        """The log-probability of the draws themselves, whatever they count."""
        return self._scores(z, self.particles.free)

    def score_log_prob(self, z):
        """That of the sites that have no path."""
        sites = self.particles.structure.guide
        return self._scores(z, [n for n in self.particles.free if not sites[n].has_path])

    def _scores(self, z, names):
        of = self.particles
        return of.each(lambda z: total_of_draws(self._run(z), names, of.cells), z)

    def _run(self, z) -> Trace:
        values = {name: self._cells_first(name, v, -1) for name, v in z["values"].items()}
        return self.particles.program.run_guide(jax.random.clone(z["seeds"]["guide"]), values)

    def _cells_first(self, name: str, value, direction: int = 1):
        """A value ``[*cells, ...]``, whose cells lead as those of a log-weight do; or back."""
        event_dim, dims = self.particles.structure.guide[name].event_dim, self.particles.cells.dims
        where, front = [dim - event_dim for dim in dims], range(len(dims))
        return jnp.moveaxis(value, *(where, front)[::direction])

    def log_joint(self, z):
        """``(log p(x, z), mutable state)``, so that less ``log_prob`` it is the log-weight."""
        of = self.particles

        def one(z):
            trace = self._run(z)
            derived = sorted(of.cells.guide - set(of.free))
            log_p, aux = of.joint(z, trace, mutable_state(trace), derived)
            tempered = [n for n in of.free if not is_plain(trace, n, of.cells)]
            log_p += total_of_draws(trace, tempered, of.cells) - total(trace, tempered, of.cells)
            return log_p, aux

        return of.each(one, z)


def _as_trace(structure: Structure, z) -> Trace:
    """What ``replay`` reads of a guide's trace."""
    trace = {
        name: {
            "type": "sample",
            "name": name,
            "is_observed": site.observed,
            "value": z["values"].get(name),
            "infer": dict(site.infer),
        }
        for name, site in structure.guide.items()
    }
    plates = {name: {"type": "plate", "name": name, "value": v} for name, v in z["plates"].items()}
    return trace | plates
