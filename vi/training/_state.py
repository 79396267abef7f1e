"""What training carries from one step to the next."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, PyTree

from vi._check import refusal


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """The state of one training run: a pytree, made by ``init`` and moved on by a ``Step``.

    Attributes:
        params: What the optimiser trains; of an NNX module its ``nnx.Param``, as a nested dict.
        opt_state: The optimiser's state.
        step: Steps taken so far, an int32 scalar. It alone decides the place in the data.
        extra: What does not train and is the user's to carry, e.g. a moving average.
        variables: An NNX module's other variables (batch statistics, dropout counts), or None.
        graphdef: The NNX module's structure, static, or None for a plain pytree.
    """

    # Any, for JAX also builds this class of axes, shapes and placeholders.
    params: Any
    opt_state: Any
    step: Any
    extra: Any = None
    variables: Any = None
    graphdef: Any = field(default=None, metadata={"static": True})

    @property
    def model(self) -> Any:
        """What a loss receives: the plain pytree, or a fresh copy of the NNX module."""
        if self.graphdef is None:
            return self.params
        return nnx.merge(self.graphdef, self.params, self.variables, copy=True)


def init(params: Any, optimizer: optax.GradientTransformation, *, extra: PyTree = None) -> State:
    """The state before the first step.

    Everything is copied: a later in-place update of the module or of a NumPy array leaves the state
    as it is. Pure, so ``jax.vmap`` over keys makes the states of many seeds.

    Args:
        params: Any pytree of floating arrays, or of NNX modules (one, a tuple, a dict); of a
            module only its ``nnx.Param`` trains.
        optimizer: Any optax transformation; in ``optax.inject_hyperparams`` its rates become part
            of the state, which ``jax.vmap`` can vary.
        extra: What ``stateful_gradient_step`` carries without training it, a pytree of arrays.

    Returns:
        The state at step 0.

    Raises:
        ValueError: Nothing to train, a leaf that is not a floating array, a bare array beside a
            module, or a module whose structure cannot be hashed.

    Examples:
        >>> import jax.numpy as jnp, optax, vi
        >>> state = vi.training.init({"w": jnp.zeros(3)}, optax.sgd(0.1))
        >>> state.step, state.model
        (Array(0, dtype=int32), {'w': Array([0., 0., 0.], dtype=float32)})
    """
    graphdef = variables = None
    if _holds_module(params):
        graphdef, trained, rest = nnx.split(params, nnx.Param, ...)
        _require_hashable(graphdef)
        params, variables = nnx.to_pure_dict(trained), _copied(nnx.to_pure_dict(rest))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        remedy = "pass a pytree of arrays or an NNX module with an nnx.Param"
        raise refusal("init", "params", "hold something to train", "no array", remedy)
    for path, leaf in leaves:
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            name = f"params{jax.tree_util.keystr(path)}"
            got = getattr(leaf, "dtype", repr(leaf))
            remedy = "pass a floating array, and in extra what does not train"
            raise refusal("init", name, "be a floating array", got, remedy)
    params = _copied(params)
    return State(
        params=params,
        opt_state=_copied(optimizer.init(params)),
        step=jnp.zeros((), jnp.int32),
        extra=_copied(extra),
        variables=variables,
        graphdef=graphdef,
    )


def variables_of(model: Any) -> PyTree[Array]:
    """The variables of an NNX module that do not train, as ``State.variables`` holds them."""
    _, _, variables = nnx.split(model, nnx.Param, ...)
    return nnx.to_pure_dict(variables)


def skipped(state: State) -> Any:
    """How many steps ``optax.apply_if_finite`` left out; 0 where the optimiser has none."""
    counts = optax.tree_utils.tree_get_all_with_path(state.opt_state, "total_notfinite")
    return jnp.asarray(sum(count for _, count in counts), jnp.int32)


def require_state(where: str, state: Any, runs: tuple[int, ...] = ()) -> None:
    """Refuse anything but the state of one run, or of as many as ``runs`` says."""
    if not isinstance(state, State):
        remedy = "make one with vi.training.init(params, optimizer)"
        raise refusal(where, "state", "be a vi.training.State", type(state).__name__, remedy)
    if jnp.shape(state.step) != runs:
        got = f"step of shape {list(jnp.shape(state.step))}"
        if runs:
            remedy = "make it with jax.vmap of init"
            raise refusal(where, "state", f"be that of {runs[0]} runs, as key", got, remedy)
        remedy = "give vi.training.fit a key for each, or jax.vmap vi.training.run"
        raise refusal(where, "state", "be that of one run", got, remedy)


def _is_module(node) -> bool:
    return isinstance(node, nnx.Pytree)


def _holds_module(params) -> bool:
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_module)
    bare = [jax.tree_util.keystr(path) for path, leaf in leaves if not _is_module(leaf)]
    if bare and len(bare) < len(leaves):
        # NNX would file a bare array under what does not train, without a word.
        remedy = "put the array in a module, as an nnx.Param"
        raise refusal("init", "params", "be all modules or all arrays", f"array {bare[0]}", remedy)
    return len(bare) < len(leaves)


def _require_hashable(graphdef) -> None:
    try:
        hash(graphdef)
    except TypeError as error:
        # NNX takes a bare array for structure when the module is made under jit or vmap.
        remedy = "hold every array of a module in an nnx.Variable"
        raise refusal("init", "params", "have a hashable structure", error, remedy) from None


def _copied(tree):
    """Copies of the leaves, strongly typed: what a step returns has the same types."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.asarray(leaf).dtype), tree)
