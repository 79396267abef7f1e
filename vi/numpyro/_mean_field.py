"""The ELBO with the KL of every site that has a closed form integrated out."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro import infer
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Kumaraswamy,
    MaskedDistribution,
)
from numpyro.distributions.kl import kl_divergence
from numpyro.ops.provenance import eval_provenance

from vi._check import refusal, require_count
from vi.bounds import elbo
from vi.gradients import reparam
from vi.numpyro._log_probs import total
from vi.numpyro._particles import Particles
from vi.numpyro._prepare import prepare, require_paths
from vi.numpyro._program import Program, mutable_state
from vi.numpyro._structure import Structure

_MARK = "site "  # eval_provenance has an argument fn, and a site may have that name


class MeanFieldELBO(infer.ELBO):
    r"""Minus the ELBO, its KL in closed form where NumPyro knows one, for ``numpyro.infer.SVI``.

    With :math:`s_p` and :math:`s_q` what ``handlers.scale``, ``handlers.mask`` and subsampled
    plates multiply into the log-probability of a latent z in the model and in the guide, z counts

    .. math:: E_q[s_p \log p(z) - s_q \log q(z)]
              = -s_p \, \mathrm{KL}(q \,\|\, p) + (s_p - s_q) \, E_q[\log q(z)],

    the last term from the draw of z, and absent where the two are equal. (``TraceMeanField_ELBO``
    takes :math:`s_q` for both: annealing the KL by a scale in the model changes nothing there.)

    A site is sampled, as in ``Trace_ELBO``, where no KL is known (that of Kumaraswamy from Beta is
    a series cut short), and where the model gives its law a latent that the guide draws given this
    very site: a KL would take that latent for independent of the draw. So the ELBO is unbiased
    whatever the order of the guide; one in the order of the model has every KL that is known.
    Sites of a scan whose guide depends on its own steps are sampled where the model's do too.

    All particles see one minibatch; mutable state leaves as the last particle left it.

    Args:
        num_particles: K, over which it is averaged.

    Raises:
        ValueError: ``num_particles`` is below 1. When called: a site of the guide without a path.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, vi
        >>> def model(x, beta):
        ...     with numpyro.plate("N", len(x)):
        ...         with numpyro.handlers.scale(scale=beta):
        ...             z = numpyro.sample("z", dist.Normal(0, 1))
        ...         numpyro.sample("x", dist.Normal(0, 1), obs=x)
        >>> def guide(x, beta):
        ...     with numpyro.plate("N", len(x)), numpyro.handlers.scale(scale=beta):
        ...         numpyro.sample("z", dist.Normal(1, 1))  # KL: 1/2 per datum
        >>> x, loss = jnp.zeros(10), vi.numpyro.MeanFieldELBO()
        >>> likelihood = dist.Normal(0, 1).log_prob(x).sum()
        >>> print(loss.loss(jax.random.key(0), {}, model, guide, x, 0.5) + likelihood)
        2.5

    References:
        Kingma and Welling (2014), eq. 10, where model and guide have one latent.
    """

    def __init__(self, num_particles: int = 1):
        super().__init__(require_count("MeanFieldELBO", "num_particles", num_particles))

    def loss_with_mutable_state(
        self, rng_key, param_map: dict[str, Any], model: Callable, guide: Callable, *args, **kwargs
    ) -> dict[str, Any]:
        """Minus the ELBO, in nats, and the mutable state after it, or None.

        Args:
            rng_key: One key, typed or legacy.
            param_map: Constrained parameters and mutable state, by site.
            model: The model.
            guide: The guide.
            *args: Arguments of both.
            **kwargs: Keyword arguments of both.

        Returns:
            ``{"loss": [], "mutable_state": dict or None}``.
        """
        one = self.num_particles == 1
        program = Program(model, guide, param_map, args, kwargs)
        prepared = prepare("MeanFieldELBO", rng_key, program, (), one=one, additive=True)
        program, structure, whole = prepared.program, prepared.structure, prepared.partition.inside
        require_paths(reparam(elbo), structure, whole)
        _require_drawn(structure)
        integrated = _integrated_sites(program, structure)

        def particle(run):
            guide_trace = program.run_guide(run["seeds"]["guide"])
            mutable = mutable_state(guide_trace)
            model_trace = program.run_model(run["seeds"]["model"], guide_trace, mutable)
            value = total(model_trace, sorted(whole.model - integrated), whole)
            value -= total(guide_trace, sorted(whole.guide - integrated), whole)
            value += sum(_integral(guide_trace[n], model_trace[n]) for n in sorted(integrated))
            return value, {**mutable, **mutable_state(model_trace)}

        particles = Particles(program, structure, whole, one=one)
        seeds = particles.seeds(prepared.key, (self.num_particles,))
        values, state = particles.each(particle, {"seeds": seeds})
        last = jax.tree.map(lambda leaf: leaf[-1], state)
        return {"loss": -elbo(values), "mutable_state": last or None}

    def __repr__(self) -> str:
        return f"MeanFieldELBO(num_particles={self.num_particles})"


def _require_drawn(structure: Structure) -> None:
    if marked := structure.summed_out:
        rule, got = "leave no site to be summed out", ", ".join(sorted(marked))
        raise refusal("MeanFieldELBO", "model", rule, got, "use vi.numpyro.ELBO, which does it")


def _integral(guide_site: dict[str, Any], model_site: dict[str, Any]) -> jax.Array:
    """``E_q[s_p log p - s_q log q]`` of one site, but for a draw of log q where s_p is not s_q."""
    (q, mask_q), (p, mask_p) = _bare(guide_site["fn"]), _bare(model_site["fn"])
    scale_q, scale_p = (
        1.0 if site["scale"] is None else site["scale"] for site in (guide_site, model_site)
    )
    shape = _batch_shape(q, guide_site["value"])
    kl = jnp.broadcast_to(kl_divergence(q, p), shape)
    integral = -jnp.where(mask_p, scale_p * kl, 0.0).sum()
    if _is_same(scale_p, scale_q) and _is_same(mask_p, mask_q):
        return integral
    excess = jnp.where(mask_p, scale_p, 0.0) - jnp.where(mask_q, scale_q, 0.0)
    return integral + (excess * q.log_prob(guide_site["value"])).sum()


def _has_integral(guide_site: dict[str, Any], model_site: dict[str, Any]) -> bool:
    """Whether NumPyro knows the KL of a site, by the same batch elements as its log-densities."""
    (q, _), (p, _) = _bare(guide_site["fn"]), _bare(model_site["fn"])
    # Masks within an event have no KL; that of Kumaraswamy from Beta is a series cut at ten terms.
    if any(isinstance(of, MaskedDistribution | Kumaraswamy) for of in (*_layers(q), *_layers(p))):
        return False
    value = guide_site["value"]
    shape = _batch_shape(q, value)
    scales = [jnp.shape(s["scale"]) for s in (guide_site, model_site) if s["scale"] is not None]
    if _batch_shape(p, value) != shape or jnp.broadcast_shapes(shape, *scales) != shape:
        return False
    try:
        kl_divergence(q, p)
    except NotImplementedError:
        return False
    return True


def _integrated_sites(program: Program, structure: Structure) -> frozenset[str]:
    """The sites whose KL is known, and of which nothing that the KL is given is a descendant."""
    free = [name for name, site in structure.guide.items() if site.free]
    latent = [n for n in free if n in structure.model and not structure.model[n].observed]

    def drawn(key):
        trace = program.run_guide(key)
        return {name: trace[name]["value"] for name in free}

    def laws(key, values):
        of_model, of_guide, again = jax.random.split(key, 3)
        guide = program.run_guide(of_guide, values)
        model = program.run_model(of_model, guide, mutable_state(guide))
        known = [name for name in latent if _has_integral(guide[name], model[name])]

        def law(site):
            # A fresh draw depends on what its law depends on, and not on the value in the trace.
            return site["fn"].sample(jax.random.clone(again)), _bare(site["fn"])[1], site["scale"]

        return {
            "model": {name: law(model[name]) for name in known},
            "guide": {name: law(guide[name]) for name in (free if known else ())},
        }

    key = jax.random.key(0)
    marked = {_MARK + name: value for name, value in jax.eval_shape(drawn, key).items()}
    found = eval_provenance(
        lambda **values: laws(key, {name: values[_MARK + name] for name in free}), **marked
    )
    parents = {
        side: {
            name: {mark.removeprefix(_MARK) for mark in set().union(*jax.tree.leaves(law))}
            for name, law in of.items()
        }
        for side, of in found.items()
    }
    return frozenset(
        name
        for name, given in parents["model"].items()
        if not given & _descendants(parents["guide"], name)
    )


def _descendants(parents: Mapping[str, set[str]], name: str) -> set[str]:
    found, latest = set(), {name}
    while latest:
        latest = {child for child, of in parents.items() if of & latest} - found
        found |= latest
    return found


def _bare(fn: Distribution) -> tuple[Distribution, Any]:
    """A law without the masks that hold for batch elements, and their conjunction."""
    if isinstance(fn, MaskedDistribution):
        law, mask = _bare(fn.base_dist)
        return law, fn._mask & mask
    if isinstance(fn, ExpandedDistribution):
        law, mask = _bare(fn.base_dist)
        return (fn if mask is True else law.expand(fn.batch_shape)), mask
    return fn, True


def _layers(fn: Distribution | None) -> Iterator[Distribution]:
    """A distribution and what it is made of."""
    while fn is not None:
        yield fn
        fn = getattr(fn, "base_dist", None)


def _batch_shape(fn: Distribution, value) -> tuple[int, ...]:
    """The shape of its log-probability of a value."""
    return jnp.broadcast_shapes(fn.batch_shape, jnp.shape(value)[: jnp.ndim(value) - fn.event_dim])


def _is_same(one, other) -> bool:
    known = not isinstance(one, Tracer) and not isinstance(other, Tracer)
    return one is other or (known and np.array_equal(one, other))
