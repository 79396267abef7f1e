"""SVI as a step of ``vi.training``."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree
from numpyro.infer import ELBO

from vi import training
from vi._check import refusal, require_key
from vi.numpyro._batches import arguments, on_device, require_arguments
from vi.numpyro._restarts import guide_to_train
from vi.numpyro._start import Sites, start
from vi.types import Key

_WHERE = "svi_step"


def svi_step(
    model: Callable, guide: Callable, optimizer: optax.GradientTransformation, loss: ELBO
) -> "SVIStep":
    """A step of stochastic variational inference, for ``vi.training.fit`` and ``run``.

    The step that ``numpyro.infer.SVI(model, guide, optimizer, loss).update`` takes with the same
    key. What comes with it: the loop compiled once per step object, minibatches drawn on the
    device, checkpoints, early stopping, and many seeds in one program.

    A batch is what the model and the guide are called with: a tuple holds positional arguments, a
    dict keyword arguments, anything else is one argument. Constants are fixed in both with
    ``functools.partial``. A model of minibatches says how many data there are:
    ``numpyro.plate("N", N, subsample_size=len(batch))``. Rows come in random order: where they have
    a place (a series, or a guide with parameters for every row, as an automatic guide has for a
    latent in a plate of data) pass ``whole(...)``, with ``batch_size=1``.

    Args:
        model: The model.
        guide: The guide, automatic or written by hand.
        optimizer: Any optax transformation.
        loss: Any ``numpyro.infer.ELBO``: ``vi.numpyro.Loss``, or one of NumPyro's.

    Returns:
        A ``vi.training.Step``; its ``init`` makes the state to begin with, and ``params`` gives the
        parameters of a state to guides and ``numpyro.infer.Predictive``. Its metric is ``loss``,
        minus the bound, in nats.

    Raises:
        ValueError: A model or guide that is no function, an optimiser that is not optax's, a loss
            that is no ``numpyro.infer.ELBO``. When called: a state that ``init`` did not make, a
            batch that model and guide cannot take, mutable sites that the loss does not return.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, optax, vi
        >>> from numpyro.infer import Trace_ELBO, autoguide
        >>> def model(x):
        ...     mu = numpyro.sample("mu", dist.Normal(0, 10))
        ...     with numpyro.plate("N", len(x)):
        ...         numpyro.sample("x", dist.Normal(mu, 1), obs=x)
        >>> data = 3.0 + jax.random.normal(jax.random.key(1), (100,))
        >>> guide = autoguide.AutoNormal(model)
        >>> step = vi.numpyro.svi_step(model, guide, optax.adam(0.05), Trace_ELBO())
        >>> state = step.init(jax.random.key(2), data)
        >>> result = vi.training.fit(
        ...     jax.random.key(3), step, state, data, num_steps=500, batch_size=100
        ... )
        >>> mu = guide.median(step.params(result.state))["mu"]
        >>> bool(abs(mu - data.mean()) < 0.1)
        True
    """
    for name, function in (("model", model), ("guide", guide)):
        if not callable(function):
            raise refusal(_WHERE, name, "be a function", repr(function), "pass what SVI takes")
    if not isinstance(optimizer, optax.GradientTransformation):
        got = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        remedy = "pass for instance optax.adam(0.001)"
        raise refusal(_WHERE, "optimizer", "be an optax transformation", got, remedy)
    if not isinstance(loss, ELBO):
        remedy = "pass for instance vi.numpyro.Loss(dreg(iwae), num_particles=64)"
        raise refusal(_WHERE, "loss", "be a numpyro.infer.ELBO", repr(loss), remedy)
    return SVIStep(model, guide, optimizer, loss)


@dataclass(frozen=True, eq=False)
class SVIStep:
    """A ``vi.training.Step`` for a model and a guide; made by ``svi_step``.

    Attributes:
        model: The model.
        guide: The guide.
        optimizer: The optax transformation.
        loss: The loss, minus a bound.
    """

    model: Callable
    guide: Callable
    optimizer: optax.GradientTransformation
    loss: ELBO

    def init(
        self, key: Key, batch: PyTree[Array], *, init_params: dict[str, Any] | None = None
    ) -> training.State:
        """The state before the first step, as ``SVI.init`` finds it.

        It follows from the key and the batch alone, automatic guides included: ``jax.vmap`` over
        keys makes restarts that differ, for ``fit`` with keys ``[R]``.

        Args:
            key: For the initial values.
            batch: A batch as the step will get, of any size; or ``whole(...)``.
            init_params: Constrained values to begin with, by site.

        Returns:
            The state: ``params`` holds the parameters without their constraints, by site,
            ``extra.mutable`` the mutable sites.

        Raises:
            ValueError: No parameters; a discrete latent that the loss cannot infer; a batch in
                random order of a model whose rows have a place; ``init_params`` that are none.
        """
        require_key(f"{_WHERE}.init", key)
        self._require_arguments(batch)
        batch = on_device(batch)
        params, sites = start(self.model, self.guide, self.loss, key, batch, init_params or {})
        return training.init(params, self.optimizer, extra=sites)

    def __call__(
        self, state: training.State, key: Key, batch: PyTree[Array]
    ) -> tuple[training.State, dict[str, Array]]:
        """One update.

        Args:
            state: From ``init``, or from the step before.
            key: The noise of this step.
            batch: What model and guide are called with.

        Returns:
            The state after it, and ``{"loss": []}`` in nats.
        """
        _require_state(state)
        self._require_arguments(batch)
        if jax.tree.structure(batch) != state.extra.batch:
            got = f"{jax.tree.structure(batch)} against {state.extra.batch}"
            remedy = "give init a batch as fit will draw it from the data"
            raise refusal(_WHERE, "batch", "be as the one of init", got, remedy)
        return training.stateful_gradient_step(self._value, self.optimizer)(state, key, batch)

    def params(self, state: training.State) -> dict[str, Any]:
        """The constrained parameters and the mutable sites, by site.

        As ``guide.median``, ``guide.sample_posterior``, ``loss.loss`` and
        ``numpyro.infer.Predictive`` take them. Of the state of several runs: ``jax.vmap`` it.

        Args:
            state: From ``init``, the step, or ``fit``.

        Returns:
            ``{name: value}``; the parameters of a module are a pytree.
        """
        _require_state(state)
        if jnp.shape(state.step):
            got = f"step of shape {list(jnp.shape(state.step))}"
            remedy = "jax.vmap(step.params) over them"
            raise refusal(f"{_WHERE}.params", "state", "be that of one run", got, remedy)
        values = state.extra.constrained(state.params) | state.extra.mutable
        return jax.tree.map(lambda leaf: leaf, values)

    def _value(
        self, params: dict[str, Any], sites: Sites, key: Key, batch, step
    ) -> tuple[Float[Array, ""], tuple[Sites, dict]]:
        """The loss, and the mutable sites after it."""
        del step
        args, kwargs = arguments(batch)
        guide = guide_to_train(self.guide, args, kwargs)
        values = sites.constrained(params)
        if not jax.tree.leaves(sites.mutable):
            value = self.loss.loss(key, values, self.model, guide, *args, **kwargs)
            return _scalar(value), (sites, {})
        values |= jax.lax.stop_gradient(sites.mutable)
        result = self.loss.loss_with_mutable_state(key, values, self.model, guide, *args, **kwargs)
        mutable = result["mutable_state"]
        if jax.tree.structure(mutable) != jax.tree.structure(sites.mutable):
            rule = f"return the mutable sites {', '.join(sites.mutable)}"
            got = "none" if mutable is None else jax.tree.structure(mutable)
            raise refusal(_WHERE, "loss", rule, got, "use vi.numpyro.Loss, or one particle")
        return _scalar(result["loss"]), (replace(sites, mutable=mutable), {})

    def _require_arguments(self, batch) -> None:
        for name, function in (("model", self.model), ("guide", self.guide)):
            require_arguments(name, function, batch)


def _scalar(value: Array | dict[str, Array]) -> Float[Array, ""]:
    if isinstance(value, dict):
        got, remedy = "a value per site", "leave sum_sites at True"
        raise refusal(_WHERE, "loss", "return a scalar", got, remedy)
    return value


def _require_state(state) -> None:
    extra = getattr(state, "extra", None)
    if not isinstance(extra, Sites):
        got = type(state).__name__ if extra is None else f"extra of {type(extra).__name__}"
        raise refusal(_WHERE, "state", "be made by its init", got, "call step.init(key, batch)")
