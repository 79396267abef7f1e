"""The data set a run draws its minibatches from."""

from typing import Any

import jax
import jax.numpy as jnp

from vi._check import refusal


def require_data(where: str, data: Any, batch_size: int) -> None:
    """Refuse what is not a pytree of arrays ``[N, ...]`` with ``N >= batch_size``."""
    named = {
        f"data{jax.tree_util.keystr(path)}": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(data)
    }
    if not named:
        remedy = "pass an array [N, ...] or a pytree of them"
        raise refusal(where, "data", "hold at least one array", "none", remedy)
    for name, leaf in named.items():
        if not getattr(leaf, "shape", ()):
            remedy = "give every leaf the data axis first; constants belong in the loss"
            raise refusal(where, name, "be an array [N, ...]", repr(leaf), remedy)
    sizes = {name: leaf.shape[0] for name, leaf in named.items()}
    if len(set(sizes.values())) > 1:
        got = ", ".join(f"{name} {size}" for name, size in sizes.items())
        remedy = "give every leaf one entry per datum"
        raise refusal(where, "data", "have one length N in all leaves", got, remedy)
    size = data_size(data)
    if size == 0:
        raise refusal(where, "data", "have at least one datum", "N = 0", "check how it was loaded")
    if batch_size > size:
        remedy = f"pass batch_size={size} or less"
        raise refusal(where, "batch_size", f"be at most N = {size}", batch_size, remedy)


def data_size(data: Any) -> int:
    """N, the number of data."""
    return jnp.shape(jax.tree.leaves(data)[0])[0]
