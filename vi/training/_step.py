"""One optimisation step, from a loss that the user wrote."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from vi._check import refusal
from vi.training._state import State, skipped, variables_of
from vi.types import Key

Step: TypeAlias = Callable[[State, Key, PyTree[Array]], tuple[State, dict[str, Array]]]
"""``step(state, key, batch) -> (state, metrics)``: one update, pure.

``metrics`` is a dict of arrays that contains ``"loss"``. The state that comes back has the same
structure, shapes and types, and ``step`` one higher.
"""


def gradient_step(
    loss: Callable[[Any, Key, Any], Any], optimizer: optax.GradientTransformation
) -> Step:
    """A step down the gradient of ``loss``.

    ``loss(model, key, batch)`` returns the scalar to minimise, or ``(value, metrics)``. ``model``
    is what was given to ``init``: the pytree, or the NNX module, of which ``nnx.Param`` alone is
    differentiated. A bound is maximised: the minus sign is the user's.

    Build a step once: ``fit`` compiles once per step object.

    Args:
        loss: ``(model, key, batch) -> value`` or ``(value, {name: array})``.
        optimizer: The optax transformation that the state was made with.

    Returns:
        A ``Step``; its metrics are ``loss`` and those of the user.

    Raises:
        ValueError: When the step is traced: the value is not a scalar, a metric is called ``loss``,
            or the loss changes variables of the NNX module, which only ``stateful_gradient_step``
            carries on.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, vi
        >>> def loss(w, key, x):
        ...     return ((w - x) ** 2).mean()
        >>> optimizer = optax.sgd(0.25)
        >>> state = vi.training.init(jnp.zeros(()), optimizer)
        >>> step = vi.training.gradient_step(loss, optimizer)
        >>> state, metrics = step(state, jax.random.key(0), jnp.array([1.0, 3.0]))
        >>> state.params, metrics
        (Array(1., dtype=float32), {'loss': Array(5., dtype=float32)})
    """
    where = "gradient_step"

    def step(state: State, key: Key, batch: PyTree[Array]) -> tuple[State, dict[str, Array]]:
        def value_and_metrics(params):
            model = replace(state, params=params).model
            returned = loss(model, key, batch)
            value, metrics = returned if isinstance(returned, tuple) else (returned, {})
            _require_unchanged(where, state, model)
            return _scalar(where, value), metrics

        differentiate = jax.value_and_grad(value_and_metrics, has_aux=True)
        (value, metrics), gradient = differentiate(state.params)
        return _updated(state, gradient, optimizer), _with_loss(where, value, metrics)

    return step


def stateful_gradient_step(
    loss: Callable[[Any, Any, Key, Any, Array], Any], optimizer: optax.GradientTransformation
) -> Step:
    """A step down the gradient of a loss that carries something from step to step.

    ``loss(model, extra, key, batch, step)`` returns ``(value, (extra, metrics))``; the next step
    receives that ``extra``, which is not differentiated (moving averages, schedules by the step
    count). What an NNX module changes in itself while the loss runs (batch statistics, dropout
    counts) is carried along in ``state.variables``. Of a step that ``optax.apply_if_finite`` skips
    the floating arrays in both stay as they were.

    Args:
        loss: ``(model, extra, key, batch, step) -> (value, (extra, {name: array}))``; ``step`` is
            the int32 number of steps taken before this one.
        optimizer: The optax transformation that the state was made with.

    Returns:
        A ``Step``; its metrics are ``loss`` and those of the user.

    Raises:
        ValueError: When the step is traced: the loss returns another structure, its value is not a
            scalar, a metric is called ``loss``, or the module gains or loses variables.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, vi
        >>> def loss(w, average, key, x, step):
        ...     average = 0.5 * average + 0.5 * w
        ...     return ((w - x) ** 2).mean(), (average, {"average": average})
        >>> optimizer = optax.sgd(0.25)
        >>> state = vi.training.init(jnp.ones(()), optimizer, extra=jnp.zeros(()))
        >>> step = vi.training.stateful_gradient_step(loss, optimizer)
        >>> state, metrics = step(state, jax.random.key(0), jnp.array([1.0, 3.0]))
        >>> state.extra
        Array(0.5, dtype=float32)
    """
    where = "stateful_gradient_step"

    def step(state: State, key: Key, batch: PyTree[Array]) -> tuple[State, dict[str, Array]]:
        def value_and_carried(params):
            model = replace(state, params=params).model
            returned = loss(model, state.extra, key, batch, state.step)
            try:
                value, (extra, metrics) = returned
            except (TypeError, ValueError):
                rule, got = "return (value, (extra, metrics))", type(returned).__name__
                remedy = "return extra=None and metrics={} where there are none"
                raise refusal(where, "loss", rule, got, remedy) from None
            variables = _carried_variables(where, state, model)
            return _scalar(where, value), (extra, variables, metrics)

        differentiate = jax.value_and_grad(value_and_carried, has_aux=True)
        (value, (extra, variables, metrics)), gradient = differentiate(state.params)
        moved = _updated(state, gradient, optimizer)
        kept = _unless_skipped(state, moved, (extra, variables), (state.extra, state.variables))
        moved = replace(moved, extra=kept[0], variables=kept[1])
        return moved, _with_loss(where, value, metrics)

    return step


def _updated(state: State, gradient, optimizer) -> State:
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return replace(state, params=params, opt_state=opt_state, step=state.step + 1)


def _unless_skipped(state: State, moved: State, carried, before):
    """What is carried on; of a step that was skipped the floats of before, for they may be NaN.

    Keys and counts go on, or the same noise would fail again.
    """
    if not optax.tree_utils.tree_get_all_with_path(state.opt_state, "total_notfinite"):
        return carried
    left_out = skipped(moved) > skipped(state)

    def kept(new, old):
        floating = jnp.issubdtype(jnp.result_type(new), jnp.inexact)
        return jnp.where(left_out, old, new) if floating else new

    return jax.tree.map(kept, carried, before)


def _scalar(where, value):
    if value is None:
        raise refusal(where, "loss", "return a scalar", "None", "return the value to minimise")
    if jnp.shape(value) != ():
        got, remedy = f"shape {list(jnp.shape(value))}", "take the mean over the batch"
        raise refusal(where, "loss", "return a scalar", got, remedy)
    return value


def _with_loss(where, value, metrics):
    if not isinstance(metrics, dict):
        got, remedy = type(metrics).__name__, "return (value, {name: array})"
        raise refusal(where, "metrics", "be a dict of arrays", got, remedy)
    if "loss" in metrics:
        remedy = "rename yours: the value to minimise is recorded as loss"
        raise refusal(where, "metrics", "not be named loss", f"names {list(metrics)}", remedy)
    return {"loss": value, **metrics}


def _carried_variables(where, state, model):
    """The module's variables as the loss left them."""
    if state.graphdef is None:
        return None
    variables = variables_of(model)
    changed = _named_leaves(variables).keys() ^ _named_leaves(state.variables).keys()
    if changed:
        remedy = "create them before vi.training.init, or nnx.pop them inside the loss"
        got = ", ".join(sorted(changed))
        raise refusal(where, "loss", "neither add nor remove module variables", got, remedy)
    return variables


def _require_unchanged(where, state, model):
    before = _named_leaves(state.variables)
    after = _named_leaves(_carried_variables(where, state, model))
    # A variable that nobody assigned to holds the very object that went in.
    changed = [name for name in before if before[name] is not after[name]]
    if changed:
        remedy = "use stateful_gradient_step, which carries them, or put the module in eval mode"
        rule = "leave the module's variables as they are"
        raise refusal(where, "loss", rule, f"new {', '.join(changed)}", remedy)


def _named_leaves(tree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
