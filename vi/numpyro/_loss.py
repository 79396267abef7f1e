"""An objective as a loss for NumPyro's SVI."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from numpyro import infer

from vi._check import name_of, refusal
from vi.bounds import declaration, elbo
from vi.gradients import Objective, Replicated, reparam
from vi.numpyro._nested import nested_bound
from vi.numpyro._particles import Particles
from vi.numpyro._prepare import (
    Prepared,
    counts,
    is_additive,
    one_objective,
    prepare,
    require_names,
    require_paths,
    runs_for,
    takes_discrete,
)
from vi.numpyro._program import Program


class Loss(infer.ELBO):
    """Minus a bound, with the gradient of any estimator, for ``numpyro.infer.SVI``.

    ``SVI(model, guide, optim, loss=Loss(dreg(iwae), num_particles=64))`` changes nothing else:
    plates, handlers, modules and optimisers stay. The value is minus the bound (plus, for what is
    to be minimised); the gradient is the estimator's, in forward mode too.

    Where the weights stand decides what a bound of several particles means:

    * ``plates=None``: every cell of the plates that all latents of model and guide share has its
      own log-weight, and its own bound; without plates around latents there is one weight for the
      whole model. Where some latents are inside and some outside, or a likelihood or a factor lies
      outside of them all, the user has to say which is meant, but for the ELBO, where it makes no
      difference.
    * ``plates=("N",)``: the sites inside plate N have a bound in each cell, given what is drawn
      outside; ``global_objective`` bounds the whole, the globals' own weights and the sum of those
      bounds.
    * ``plates=()``: one weight for the whole model.

    A subsampled plate multiplies the bounds of its cells by its size over the subsample's, after
    the log; all particles see one minibatch. ``handlers.scale`` and ``handlers.mask`` count in the
    log-weights as in NumPyro. Mutable state leaves as the last particle left it.

    Args:
        objective: What an estimator made of a bound.
        num_particles: K; with globals and locals K draws of the locals for one draw of the globals,
            or ``(S, K)`` for S of them.
        plates: The plates whose cells are weighed each, (), or None.
        global_objective: The objective of what lies outside ``plates``; ``reparam(elbo)`` where it
            is None. One of another bound needs ``reparam`` for the cells.

    A latent of the model that the guide lacks is drawn from the model and counted, and so is a site
    of the guide alone, as NumPyro does after its warning: what comes out then bounds nothing.

    Raises:
        ValueError: The objective is none; K is below 1 or below what its bound or rule needs. When
            called: plates that have to be said or do not exist, cells without a draw, a site that
            the rule cannot differentiate, by name, a bound to be minimised where the model has
            parameters or where cells are nested.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, optax, vi
        >>> from numpyro.infer import SVI, autoguide
        >>> def model(x):
        ...     with numpyro.plate("N", len(x)):
        ...         z = numpyro.sample("z", dist.Normal(0, 1))
        ...         numpyro.sample("x", dist.Normal(z, 1), obs=x)
        >>> x, guide = jnp.array([0.5, 1.5, 2.5]), autoguide.AutoNormal(model)
        >>> loss = vi.numpyro.Loss(vi.gradients.dreg(vi.bounds.iwae), num_particles=64)
        >>> svi = SVI(model, guide, optax.adam(0.01), loss)
        >>> state = svi.init(jax.random.key(0), x)
        >>> exact = dist.Normal(0, 2**0.5).log_prob(x).sum()
        >>> bool(abs(svi.evaluate(state, x) + exact) < 1)
        True

    References:
        Burda, Grosse and Salakhutdinov (2016), for one weight per datum.
    """

    def __init__(
        self,
        objective: Objective | Replicated,
        *,
        num_particles: int | tuple[int, int],
        plates: tuple[str, ...] | None = None,
        global_objective: Objective | Replicated | None = None,
    ):
        self.objective = _require_objective("objective", objective)
        if global_objective is not None:
            _require_objective("global_objective", global_objective)
        self.global_objective = global_objective
        self.plates = require_names("Loss", plates)
        self.num_global, num_local = counts("Loss", num_particles)
        _require_enough(self._overall, self.num_global)
        _require_enough(self.objective, num_local)
        super().__init__(num_particles=num_local)

    @property
    def _overall(self) -> Objective | Replicated:
        return reparam(elbo) if self.global_objective is None else self.global_objective

    @property
    def can_infer_discrete(self) -> bool:
        """Whether an objective of it needs no path through every draw."""
        return takes_discrete(self.objective) or takes_discrete(self._overall)

    def loss_with_mutable_state(
        self, rng_key, param_map: dict[str, Any], model: Callable, guide: Callable, *args, **kwargs
    ) -> dict[str, Any]:
        """Minus the bound, in nats, and the mutable state after it, or None.

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
        program = Program(model, guide, param_map, args, kwargs)
        one = self.num_particles == 1 and not isinstance(self.objective, Replicated)
        alone = one and self.num_global == 1
        additive = is_additive(self.objective) and is_additive(self._overall)
        prepared = prepare("Loss", rng_key, program, self.plates, one=alone, additive=additive)
        sign = self._sign(prepared)
        if prepared.partition.is_nested:
            sizes = (self.num_global, self.num_particles)
            value, aux = nested_bound(prepared, self.objective, self._overall, *sizes)
            leading = 1 + isinstance(self._overall, Replicated)
        else:
            self._require_globals_unasked()
            inside = prepared.partition.inside
            require_paths(self.objective, prepared.structure, inside)
            runs = runs_for(
                self.objective, Particles(prepared.program, prepared.structure, inside, one=one)
            )
            value, _, aux = self.objective.evaluate(
                prepared.key, runs, runs.log_joint, self.num_particles
            )
            value = inside.scale * value.sum()
            leading = 1 + isinstance(self.objective, Replicated)
        last = jax.tree.map(lambda leaf: leaf[(-1,) * leading], aux)
        return {"loss": sign * value, "mutable_state": last or None}

    def _require_globals_unasked(self) -> None:
        rule, remedy = "have sites outside", "pass num_particles=K and no global_objective"
        if self.num_global > 1 or self.global_objective is not None:
            asked = f"{self.num_global} draws of globals by {self._overall}, where there are none"
            raise refusal("Loss", "plates", rule, asked, remedy)

    def _sign(self, prepared: Prepared) -> int:
        bound = one_objective(self.objective).bound
        if declaration(bound).sense == "maximise":
            return -1
        trained = prepared.structure.model_params
        if trained:
            rule = f"be maximised where the model has parameters ({', '.join(trained)})"
            remedy = "train them with a lower bound; this one fits the guide alone"
            raise refusal("Loss", "objective", rule, name_of(bound), remedy)
        return 1

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.objective}, num_particles={self.num_particles})"


def _require_objective(argument: str, objective):
    if not isinstance(objective, Objective | Replicated):
        remedy = "pass what an estimator returns, for instance vi.gradients.dreg(vi.bounds.iwae)"
        raise refusal("Loss", argument, "be an objective", repr(objective), remedy)
    return objective


def _require_enough(objective: Objective | Replicated, count: int) -> None:
    one = one_objective(objective)
    least = declaration(one.bound).min_samples
    if count < least:
        rule = f"be at least {least} for {name_of(one.bound)}"
        raise refusal("Loss", "num_particles", rule, count, "draw more particles")
    log_w = jax.ShapeDtypeStruct((count,), jnp.float32)
    jax.eval_shape(lambda log_w: one.rule(one.bound, log_w), log_w)
