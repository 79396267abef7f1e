"""What the engine asks of its parts before anything is computed."""

import jax
import jax.numpy as jnp

from vi._check import is_reparameterised, refusal
from vi._mixed import has_path
from vi.types import Coefficients, Rule, Variational


def require_path(name: str, q: Variational, draws) -> None:
    """Refuse draws through which no derivative flows, for a rule that has a path term."""
    rule = "be reparameterised"
    remedy = "use vimco or score, or mixed where some leaves are reparameterised"
    if not is_reparameterised(q):
        raise refusal(name, "q", rule, _type_name(q), remedy)
    vouched = getattr(q, "has_rsample", False)  # it says so itself: what has no path rides along
    for path, leaf in jax.tree.leaves_with_path(draws):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        if not vouched or _said_to_move(q, draws)[path]:
            got = f"draws{jax.tree_util.keystr(path)} of dtype {leaf.dtype}"
            raise refusal(name, "q", rule, got, remedy)


def _said_to_move(q: Variational, draws) -> dict:
    """Whether a derivative is said to flow through each leaf of the draws, by its path."""
    said: list = []
    jax.eval_shape(lambda z: said.extend(jax.tree.leaves_with_path(has_path(q, z))), draws)
    return dict(said)


def is_plain_derivative(rule: Rule) -> bool:
    """Whether the rule says that it is plain differentiation of the value, through every draw."""
    return getattr(rule, "is_plain_derivative", False)


def is_path_derivative(rule: Rule) -> bool:
    """Whether the rule says that it takes nothing of log q but its derivative through the draws."""
    return getattr(rule, "is_path_derivative", False)


def require_independent(name: str, rule: Rule, q: Variational) -> None:
    """Refuse draws that depend on each other inside K, but for plain differentiation."""
    if getattr(q, "independent_samples", True) or is_plain_derivative(rule):
        return
    remedy = "couple replicates instead, vi.gradients.replicated(objective, S), or use reparam"
    raise refusal(name, "q", "have independent draws inside K", _type_name(q), remedy)


def _type_name(q) -> str:
    base = getattr(q, "base_dist", None)
    return type(q).__name__ + ("" if base is None else f"({_type_name(base)})")


def require_coefficients(name: str, rule: Rule, log_w, out) -> Coefficients:
    """Refuse what is not one floating coefficient per weight, or None; theta is always given.

    And what belies the rule's own word, since q is asked for no more than that.
    """
    shaped = _require_shapes(name, log_w, out)
    if is_path_derivative(rule) and (shaped.score is not None or shaped.signal is not None):
        got, remedy = "a score or a signal", "drop the attribute is_path_derivative"
        raise refusal(name, "rule", "return theta and path alone", got, remedy)
    return shaped


def _require_shapes(name: str, log_w, out) -> Coefficients:
    rule = f"return Coefficients of shape {list(log_w.shape)}"
    remedy = "give theta, and path, score and signal where they are not None, one float per weight"
    if not isinstance(out, Coefficients) or out.theta is None:
        raise refusal(name, "rule", rule, type(out).__name__, remedy)
    for field, value in out._asdict().items():
        if value is not None and not _is_floating(value, log_w.shape):
            got = f"{field} {value.dtype} {list(value.shape)}"
            raise refusal(name, "rule", rule, got, remedy)
    return out


def require_pair(name: str, out: tuple) -> tuple:
    """Refuse what is neither a log-density nor ``(log_p, aux)``."""
    if len(out) != 2 or not hasattr(out[0], "dtype"):
        got = f"{type(out[0]).__name__}, {len(out)} in all" if out else "an empty tuple"
        remedy = "return [K, *batch] nats, and what else there is as one pytree beside them"
        raise refusal(name, "log_joint", "return log_p or (log_p, aux)", got, remedy)
    return out


def require_leading(name: str, argument: str, what: str, tree, size: int) -> None:
    """Refuse leaves without one entry per sample on axis 0."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if leaf.shape[:1] != (size,):
            got = f"{what}{jax.tree_util.keystr(path)} of shape {list(leaf.shape)} for K = {size}"
            remedy = "give every leaf one entry per sample on axis 0"
            raise refusal(name, argument, f"return {what} that lead with the K axis", got, remedy)


def require_reduction(name: str, log_w, out) -> None:
    """Refuse a bound that keeps the K axis, drops a batch axis or is not real."""
    if not hasattr(out, "dtype") or not _is_floating(out, log_w.shape[1:]):
        to = f"{list(out.shape)} {out.dtype}" if hasattr(out, "dtype") else type(out).__name__
        remedy = "reduce axis 0 and no other, for instance log_w.mean(0)"
        got = f"{list(log_w.shape)} to {to}"
        raise refusal(name, "bound", "map [K, *batch] to floating [*batch]", got, remedy)


def _is_floating(value, shape: tuple[int, ...]) -> bool:
    return value.shape == shape and bool(jnp.issubdtype(value.dtype, jnp.floating))
