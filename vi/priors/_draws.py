"""Draws made one at a time, for what depends on the draws before it."""

from collections.abc import Callable
from typing import Any

import jax

from vi.types import Key


def each_alone(draw: Callable[[Key], Any], key: Key, sample_shape: tuple[int, ...]) -> Any:
    """``draw`` at ``sample_shape`` keys, mapped: no axis of one draw is mistaken for another's."""
    if not sample_shape:
        return draw(key)
    for _ in sample_shape:
        draw = jax.vmap(draw)
    return draw(jax.random.split(key, sample_shape))
