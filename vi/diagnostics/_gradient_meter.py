"""What gradient estimators are worth: signal, noise and seconds, block by block."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from vi._check import refusal, require_count, require_key
from vi.diagnostics._gradient_moments import GROUPS, Sums, group_moments, merged
from vi.diagnostics._gradient_table import GradientMeter
from vi.types import Key

Loss = Callable[[Any, Key], Float[Array, ""]]


def gradient_meter(
    key: Key,
    losses: Mapping[str, Loss],
    params: PyTree[Array],
    *,
    num_replicates: int,
    block_of: Callable[[tuple[Any, ...]], str] | None = None,
    batch_size: int = 1,
    num_timings: int = 31,
) -> GradientMeter:
    r"""Measure the gradients of several losses: mean, variance, signal to noise, seconds.

    .. math:: \mathrm{SNR} = \frac{|\mathbb{E} g|}{\sqrt{\operatorname{tr} \operatorname{Var} g}},
              \qquad \text{efficiency} = \frac{1}{\operatorname{tr} \operatorname{Var} g
              \cdot \text{seconds}},

    for the part of the gradient in each block of parameters. Each name is an estimator, its loss a
    closure over one batch of data; replicate i of every estimator has the key ``fold_in(key, i)``,
    so that differences between estimators are paired. Compare variances of estimators of one
    gradient only: a smaller loss has smaller gradients.

    Squared norms are debiased by the variance of the mean. Standard errors are a jackknife's over
    20 groups of replicates. Those of variance, snr and efficiency need a fourth moment of the
    gradient; under heavy tails the variance found is mostly too low, and the snr too high.

    Memory is that of 40 gradients on the host, and of 28 more of one leaf at a time, plus that of
    ``batch_size`` gradients at work, whatever ``num_replicates``.

    This instrument times, so unlike the rest of the diagnostics it compiles what it is given, and
    is itself not for ``jit``. Timed calls of the estimators take turns, each with one key, after a
    first call that is not counted; what a call costs beside its work (tens of microseconds) is
    in the figure.

    Args:
        key: One typed PRNG key.
        losses: By name, ``(params, key) -> scalar``.
        params: A pytree of floating arrays; of an NNX module ``vi.training.init`` gives one.
        num_replicates: R, at least 20.
        block_of: Path of a leaf, as ``jax.tree_util`` gives it, to the name of its block; by
            default the first entry of the path, that is the top level of ``params``.
        batch_size: Replicates computed at once by ``vmap``. More is faster where one gradient does
            not fill the device, up to R / 20; the numbers are the same.
        num_timings: Timed calls of each estimator, of which the median counts; at 0 none is
            compiled for it, and seconds and efficiencies are NaN.

    Returns:
        A ``GradientMeter``.

    Raises:
        ValueError: Losses that are not functions by name, too few replicates, a loss that is not a
            floating scalar, a key that is not one typed key, parameters that are not floating
            arrays or that are traced, or a block without a name.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> def loss(noise):
        ...     return lambda params, key: params["w"] @ (1 + noise * jax.random.normal(key, (3,)))
        >>> losses = {"loud": loss(2.0), "quiet": loss(0.5)}
        >>> params = {"w": jnp.zeros(3)}
        >>> meter = gradient_meter(jax.random.key(0), losses, params, num_replicates=2000)
        >>> print(meter.snr[0].round(1).T, meter.relative_variance[0].round(4).T)
        [[0.5 2. ]] [[1.     0.0625]]

    References:
        Rainforth et al. (2018), for the signal-to-noise ratio of single entries.
    """
    where = "gradient_meter"
    require_key(where, key)
    num_replicates = require_count(where, "num_replicates", num_replicates, least=GROUPS)
    batch_size = require_count(where, "batch_size", batch_size)
    num_timings = require_count(where, "num_timings", num_timings, least=0)
    params = jax.tree.map(jnp.asarray, params)
    _require_measurable(where, key, losses, params)

    paths = jax.tree_util.tree_leaves_with_path(params)
    owners = [_owner(where, block_of or _top_level, path) for path, _ in paths]
    groups = np.diff(np.arange(GROUPS + 1) * num_replicates // GROUPS)
    structure = jax.tree.structure(params)
    means, variances, sums = {}, {}, {}
    for name, loss in losses.items():
        leaves = _measured(key, loss, params, groups, batch_size)
        means[name] = jax.tree.unflatten(structure, [mean for mean, _, _ in leaves])
        variances[name] = jax.tree.unflatten(structure, [variance for _, variance, _ in leaves])
        sums[name] = [of_leaf for _, _, of_leaf in leaves]

    def by_block(values):
        held = {}
        for block, (_, leaf), value in zip(owners, paths, values, strict=True):
            if leaf.size:
                held[block] = held.get(block, 0) + value
        return held

    sizes = by_block([leaf.size for _, leaf in paths])
    tables = np.array([list(by_block(values).values()) for values in sums.values()])
    return GradientMeter(
        names=tuple(losses),
        blocks=tuple(sizes),
        sizes=np.array(list(sizes.values())),
        num_replicates=num_replicates,
        mean=means,
        variance=variances,
        timings=_timings(key, losses, params, num_replicates, num_timings),
        sums=Sums(*np.moveaxis(tables, 2, 0)),
        counts=num_replicates - np.concatenate([[0], groups]),
    )


def _measured(key, loss, params, groups, batch_size):
    """Mean, variance and ``Sums`` of each leaf; the groups one after the other, in one program."""
    moments = group_moments(loss, params, min(batch_size, int(groups.max())))
    first, found = 0, []
    for count in map(int, groups):
        found.append(jax.device_get(moments(key, first, count)))
        first += count
    leaves, measured, begin = jax.tree.leaves(params), [], 0
    for leaf in leaves:
        part = slice(begin, begin + leaf.size)
        pairs = [(of_group.mean[part], of_group.norm[part]) for of_group in found]
        *tables, sums = merged(groups, *zip(*pairs, strict=True))
        with np.errstate(over="ignore"):  # a variance may exceed float32; its sum does not
            arrays = [jnp.asarray(table.reshape(leaf.shape)) for table in tables]
        measured.append((*arrays, np.array(sums)))
        begin = part.stop
    return measured


def _timings(key, losses, params, first, num_timings):
    """Seconds ``[E, T]``: in turns, so that what slows the machine slows all of them."""
    calls = [jax.jit(jax.value_and_grad(loss)) for loss in losses.values()]
    seconds = np.empty((len(calls), num_timings + 1))
    for turn in range(num_timings + 1 if num_timings else 0):  # the first compiles
        for i, call in enumerate(calls):
            own = jax.block_until_ready(jax.random.fold_in(key, first + turn))
            begun = time.perf_counter()
            jax.block_until_ready(call(params, own))
            seconds[i, turn] = time.perf_counter() - begun
    return seconds[:, 1:]


def _top_level(path) -> str:
    return jax.tree_util.keystr(path[:1], simple=True) or "params"


def _owner(where, block_of, path):
    remedy = "return a name, for instance jax.tree_util.keystr(path)"
    if not callable(block_of):
        raise refusal(where, "block_of", "be a function of a path", repr(block_of), remedy)
    block = block_of(path)
    if not isinstance(block, str):
        got = f"{block!r} for params{jax.tree_util.keystr(path)}"
        raise refusal(where, "block_of", "return a string", got, remedy)
    return block


def _require_measurable(where, key, losses, params):
    remedy = "pass {name: (params, key) -> scalar}"
    if not isinstance(losses, Mapping):
        raise refusal(where, "losses", "map names to functions", type(losses).__name__, remedy)
    if not losses:
        raise refusal(where, "losses", "hold at least one", "none", remedy)
    for name, loss in losses.items():
        if not callable(loss):
            raise refusal(where, f"losses[{name!r}]", "be a function", repr(loss), remedy)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((key, params))):
        remedy = "it compiles and times: call it outside jit and vmap"
        raise refusal(where, "key and params", "be concrete", "a traced value", remedy)
    if not any(leaf.size for _, leaf in leaves):
        remedy = "pass a pytree of floating arrays"
        raise refusal(where, "params", "hold something to differentiate by", "no entry", remedy)
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = f"params{jax.tree_util.keystr(path)}"
            remedy = "let the losses close over what does not train"
            raise refusal(where, name, "be a floating array", leaf.dtype, remedy)
    for name, loss in losses.items():
        value = jax.eval_shape(loss, params, jax.random.clone(key))
        is_array = isinstance(value, jax.ShapeDtypeStruct)
        if not is_array or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            got = f"{value.dtype}{list(value.shape)}" if is_array else type(value).__name__
            remedy = "return the mean over the batch, alone"
            raise refusal(where, f"losses[{name!r}]", "return a floating scalar", got, remedy)
