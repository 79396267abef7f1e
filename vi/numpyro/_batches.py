"""How a batch of ``vi.training`` becomes the arguments of a model."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi._check import refusal


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Whole:
    """All data as one datum; made by ``whole``.

    Attributes:
        args: The positional arguments, each array with an axis of length 1 in front.
        kwargs: The keyword arguments, likewise.
        row: Zeros of shape [1], so that there is a datum where there are no arrays.
    """

    args: Any
    kwargs: Any
    row: Any


def whole(*args: Any, **kwargs: Any) -> Whole:
    """All data at every step and in their order, for ``fit`` with ``batch_size=1``.

    ``vi.training`` draws the rows of its data in random order. A model whose rows have a place (a
    series, or a guide with parameters for every row) takes them whole: for ``fit`` they are a data
    set of one datum. Such a model may subsample its plates itself, as under NumPyro's SVI.

    Args:
        *args: Arrays, or pytrees of them: the model's arguments.
        **kwargs: Its keyword arguments.

    Returns:
        Data for ``vi.training.fit`` and ``run``, and a batch for ``SVIStep.init``.

    Raises:
        ValueError: An argument that is no array.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> data = vi.numpyro.whole(jnp.ones(8), sigma=jnp.ones(8))
        >>> data.args[0].shape, data.kwargs["sigma"].shape
        ((1, 8), (1, 8))
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path((args, kwargs)):
        if not hasattr(leaf, "shape"):
            name = f"argument {jax.tree_util.keystr(path)}"
            remedy = "fix it with functools.partial(model, ...)"
            raise refusal("whole", name, "be an array", repr(leaf), remedy)
    args, kwargs = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (args, kwargs))
    return Whole(args, kwargs, jnp.zeros(1))


def on_device(batch: Any) -> Any:
    """The batch as ``fit`` has it: NumPy's arrays take no traced index."""
    with jax.ensure_compile_time_eval():
        return jax.tree.map(
            lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, batch
        )


def arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch as ``(args, kwargs)``."""
    if isinstance(batch, Whole):
        return jax.tree.map(lambda leaf: leaf[0], (batch.args, batch.kwargs))
    if type(batch) is tuple:
        return batch, {}
    if type(batch) is dict:
        return (), batch
    return (batch,), {}


def require_arguments(name: str, function: Callable, batch: Any) -> None:
    """Refuse a batch whose parts are not the arguments of a function."""
    args, kwargs = arguments(batch)
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except ValueError:
        return  # it does not say what it takes
    except TypeError as error:
        remedy = (
            "a tuple holds positional arguments, a dict keyword arguments, all else is one"
            " argument; fix the others with functools.partial"
        )
        raise refusal("svi_step", "batch", f"fit the {name}", error, remedy) from None
