"""Automatic guides, which keep what they see of a model, under transformations that trace."""

import copy
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer
from numpyro.handlers import seed
from numpyro.infer.autoguide import AutoContinuous, AutoGuide, AutoGuideList

from vi._check import refusal


def guide_to_start(guide: Callable, key, args: tuple, kwargs: dict[str, Any]) -> Callable:
    """A guide whose initial values follow from the key it will be seeded with.

    An automatic guide runs the model at its first call, and keeps the arrays: later keys would
    find the first one's initial values, and a call under ``jax.vmap`` would leave tracers behind.
    So the first call outside of a trace sets the guide up, and others start a copy of it.
    """
    if not isinstance(guide, AutoGuide):
        return guide
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs)))
    if guide.prototype_trace is None:
        if not traced and not isinstance(key, Tracer):
            return guide
        if traced:
            remedy = "call init outside of jax.jit, or under jax.vmap over keys alone"
            raise refusal("svi_step", "batch", "be concrete at first", "traced arrays", remedy)
        with jax.ensure_compile_time_eval():
            seed(guide, jax.random.key(0))(*args, **kwargs)
    return _unseen(guide)


def set_up(guide: Callable, key, args: tuple, kwargs: dict[str, Any]) -> Callable:
    """The guide once it has run the model, where it is an automatic one, outside of any trace.

    Where the arguments are traced it is a copy that has: the guide itself must keep no tracer.
    """
    if not isinstance(guide, AutoGuide) or guide.prototype_trace is not None:
        return guide
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs))):
        return guide_to_train(guide, args, kwargs)
    with jax.ensure_compile_time_eval():
        seed(guide, jax.random.key(0) if isinstance(key, Tracer) else jax.random.clone(key))(
            *args, **kwargs
        )
    return guide


def guide_to_train(guide: Callable, args: tuple, kwargs: dict[str, Any]) -> Callable:
    """The guide, or where it has yet to run the model a copy that has, inside of this trace."""
    if not isinstance(guide, AutoGuide) or guide.prototype_trace is not None:
        return guide
    twin = _unseen(guide)
    seed(twin, jax.random.key(0))(*args, **kwargs)
    return twin


def is_joint(guide: Callable) -> bool:
    """Whether an automatic guide, or a part of one, holds all its latents in one vector."""
    if isinstance(guide, AutoGuideList):
        return any(map(is_joint, guide._guides))
    return isinstance(guide, AutoContinuous)


def _unseen(guide):
    """A copy that has yet to run the model."""
    if not isinstance(guide, AutoGuide):
        return guide
    twin = copy.copy(guide)
    twin.prototype_trace = None
    twin._prototype_frame_full_sizes = {}
    if isinstance(twin, AutoGuideList):
        twin._guides = [_unseen(part) for part in twin._guides]
    return twin
