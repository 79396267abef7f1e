"""What trained autoencoders look like: from models and held-out images to figures."""

import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments import _plots
from experiments._data import Images, probabilities
from experiments._evaluate import (
    Trained,
    generate,
    interpolate,
    model_of,
    paired,
    reconstruct,
    stream,
)
from experiments._run import Run
from experiments._vae import VAE, code

SHOWN = 12
STREAM = 0x64726177  # "draw": of the first seed's key


def of_runs(
    run: Run, trained: Mapping[str, Trained], images: Images, x_test: Float[Array, "M pixels"]
) -> dict[str, Callable[[], Figure]]:
    """All of the first seed's, by file name."""
    models = {name: model_of(t.fit.state, 0) for name, t in trained.items()}
    ladders = {
        name: {k: values[0] for k, values in t.evaluation.bounds.items()}
        for name, t in trained.items()
    }
    curves = {
        name: {k: v if k == "step" else v[0] for k, v in t.fit.evaluations.items()}
        for name, t in trained.items()
    }
    key = stream(run.key, STREAM)[0]
    return {
        **_of_models(jax.random.fold_in(key, 0), models, images, x_test),
        "samples": samples(jax.random.fold_in(key, 1), models, images.shape),
        "rate_distortion": lambda: _plots.training_curves(curves),
        "bound_against_k": lambda: _bound_against_k(ladders),
    }


def _of_models(key, models: Mapping[str, VAE], images: Images, x_test):
    shown, labels = x_test[:SHOWN], images.test_labels
    chosen = np.arange(len(x_test))
    if labels is not None:
        labels = labels[: len(x_test)]
        chosen = np.unique(labels, return_index=True)[1]
    start, end = (x_test[chosen[np.array(i) % len(chosen)]] for i in ([0, 2, 4], [1, 7, 9]))

    @jax.jit
    def look(key, model):
        path = interpolate(model, start, end, SHOWN)
        return reconstruct(key, model, shown), path, code(model, x_test)

    seen = {
        name: jax.tree.map(np.asarray, look(jax.random.clone(key), model))
        for name, model in models.items()
    }
    grey = np.asarray(probabilities(images.test[:SHOWN]))
    rebuilt = {"test image": grey, "as bits": np.asarray(shown)}
    rebuilt |= {name: again for name, (again, _, _) in seen.items()}
    between = {
        f"{name} {i + 1}": path[:, i] for name, (_, path, _) in seen.items() for i in range(3)
    }
    means = {name: codes for name, (_, _, codes) in seen.items()}
    rows = functools.partial(_plots.image_rows, shape=images.shape)
    return {
        "reconstructions": lambda: rows(rebuilt, title="Held-out images, rebuilt"),
        "interpolation": lambda: rows(between, title="Between the codes of two test images"),
        "latent": lambda: _plots.latent_space(means, labels),
    }


def samples(key: Array, models: Mapping[str, VAE], shape: tuple[int, ...]) -> Callable[[], Figure]:
    """Draws from the prior, of the same noise for every model."""
    draw = jax.jit(lambda key, model: generate(key, model, 100))
    drawn = {name: np.asarray(draw(jax.random.clone(key), model)) for name, model in models.items()}
    title = "Mean pixels of draws from the prior"
    return lambda: _plots.image_grids(drawn, shape, 10, title)


def _bound_against_k(ladders: Mapping[str, Mapping[int, np.ndarray]]) -> Figure:
    """The ladders of bounds, and their paired gaps to the first's."""
    first = next(iter(ladders))
    gaps = {
        f"{name} - {first}": {k: paired(v, ladders[first][k]) for k, v in ladder.items()}
        for name, ladder in ladders.items()
        if name != first
    }
    return _plots.bound_against_samples(ladders, gaps)
