"""The noise of each method's gradient, side by side on one network and one minibatch.

``score``, ``score`` with a baseline and ``vimco`` estimate one gradient, so that their variances
compare; the TVO's and the relaxed model's are of other functions, and what compares is the ratio of
signal to noise. NVIL's baseline is fitted to the very weights it is measured at, which stay; its
division by the signal's deviation, which shrinks q's gradient along with its noise, is left out.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import vi
from experiments._belief_methods import Training, held_bound, nvil_bound, relaxed_bound
from experiments._data import Images, binarise
from experiments._evaluate import stream
from experiments._run import Run
from vi.bounds import iwae

METERED = ("score", "nvil", "vimco", "tvo", "relaxed")
ONE_GRADIENT = ("score", "nvil", "vimco")
BLOCKS = {"generative": "theta", "recognition": "phi"}
BATCH, FIT_STEPS, FIT_RATE = 100, 500, 3e-3
BITS, NOISE = range(0x736266, 0x736268)  # "sbf": streams of each seed's key

Arrays = dict[str, np.ndarray]


def minibatch(run: Run, images: Images) -> jax.Array:
    """The first training images as bits, the same for every seed."""
    return binarise(stream(run.key, BITS)[0], images.train[:BATCH])


def losses(
    methods: tuple[str, ...], training: Training, state: vi.training.State, x: jax.Array
) -> dict[str, Callable[[Any, jax.Array], jax.Array]]:
    """By method, minus its mean bound as a function of the network's parameters; of one seed."""
    k, temperature = training.num_samples, np.asarray(training.temperature(state.step))
    moments = state.extra._replace(variance=jnp.zeros_like(state.extra.variance))
    tvo = vi.bounds.tvo_lower(training.betas)
    bounds = {
        "score": functools.partial(held_bound, vi.gradients.score(iwae), k),
        "nvil": lambda *at: nvil_bound(moments, k, *at)[0],
        "vimco": functools.partial(held_bound, vi.gradients.vimco(iwae), k),
        "tvo": functools.partial(held_bound, vi.gradients.vimco(tvo), k),
        "relaxed": functools.partial(relaxed_bound, temperature, k),
    }

    def loss_of(bound):
        def loss(params, key):
            whole = {**state.params, "belief": params}
            models = nnx.merge(state.graphdef, whole, state.variables, copy=True)
            return -bound(models, key, x).mean()

        return loss

    return {method: loss_of(bounds[method]) for method in METERED if method in methods}


def with_baseline(
    run: Run, point: str, states: vi.training.State, images: Images, training: Training
) -> vi.training.State:
    """The states of all seeds with a baseline and moments fitted to their networks as they are."""
    optimizer = optax.adam(FIT_RATE)

    def loss(models, moments, key, grey, step):
        del step
        bits_key, draws_key = jax.random.split(key)
        x = binarise(bits_key, grey)
        _, residual = nvil_bound(moments, training.num_samples, models, draws_key, x)
        return jnp.square(residual).mean(), (moments.updated(residual + moments.mean), {})

    fresh = replace(
        states,
        opt_state=jax.vmap(optimizer.init)(states.params),
        step=jnp.zeros_like(states.step),
        extra=jax.tree.map(jnp.zeros_like, states.extra),
    )
    fit = run.fit(
        f"baseline, {point}",
        vi.training.stateful_gradient_step(loss, optimizer),
        fresh,
        images.train,
        num_steps=FIT_STEPS,
        batch_size=min(BATCH, len(images.train)),
    )
    fitted = {**states.params, "baseline": fit.state.params["baseline"]}
    return replace(states, params=fitted, extra=fit.state.extra)


def measure(
    run: Run,
    point: str,
    states: vi.training.State,
    images: Images,
    training: Training,
    methods: tuple[str, ...],
    num_replicates: int,
) -> Arrays:
    """Tables ``[S, E, G]`` over seeds, the methods of ``METERED`` and theta, phi."""
    x = minibatch(run, images)
    if "nvil" in methods:
        states = with_baseline(run, point, states, images, training)

    def of_seed(i, key):
        state = jax.tree.map(lambda leaf: leaf[i], states)
        meter = vi.diagnostics.gradient_meter(
            key,
            losses(methods, training, state, x),
            state.params["belief"],
            num_replicates=num_replicates,
            num_timings=0,
        )
        snr, snr_stderr = meter.snr
        if "vimco" in meter.names:
            shared = meter.snr_with("vimco")
            rows = [meter.names.index(name) for name in ONE_GRADIENT if name in meter.names]
            snr[rows], snr_stderr[rows] = (table[rows] for table in shared)
        return meter.arrays() | {"snr": snr, "snr_stderr": snr_stderr}

    def compute():
        each = [of_seed(i, key) for i, key in enumerate(stream(run.key, NOISE))]
        kept = ("total_variance", "snr", "relative_variance")
        names = [*kept, *(f"{name}_stderr" for name in kept)]
        return {name: np.stack([tables[name] for tables in each]) for name in names}

    return run.once(f"gradients, {point}", compute)
