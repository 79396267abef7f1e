"""What a trained model is worth on held-out data, per datum so that comparisons can be paired."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import vi
from experiments._data import Images, fixed_test
from experiments._run import Run
from experiments._vae import VAE, code, decode, decode_code, posterior, prior
from vi.bounds import iwae

BLOCK = 100  # images, and draws of each, held in memory at once: measured, not critical
CHUNK = 100
MEAN_SAMPLES = 500  # draws for the posterior mean of an upper layer
_STREAM = 0x73636F72  # "scor": of every seed's key, for the noise of the evaluation


class Evaluation(NamedTuple):
    """Per test image, in nats; of one model, or of one for each seed on a first axis.

    Attributes:
        nll: At the largest K.
        effective_samples: Of the largest K.
        rate: ``E_q log q(z|x) - log p(z)`` over all stochastic layers.
        distortion: ``-E_q log p(x|z)``.
        bounds: By K, the importance-weighted bound at smaller K too.
        unit_variances: By layer, over the test images, of the posterior means.
    """

    nll: Float[np.ndarray, "*S M"]
    effective_samples: Float[np.ndarray, "*S M"]
    rate: Float[np.ndarray, "*S M"]
    distortion: Float[np.ndarray, "*S M"]
    bounds: dict[int, Float[np.ndarray, "*S M"]]
    unit_variances: dict[str, Float[np.ndarray, "*S D"]]

    @property
    def active_units(self) -> dict[str, np.ndarray]:
        """How many units of each layer are in use, ``[*S]``: ``Var_x(E_q[u]) > 0.01``."""
        return {layer: (v > 0.01).sum(-1) for layer, v in self.unit_variances.items()}


class Trained(NamedTuple):
    """One model's training of all seeds, and its held-out evaluation; leaves ``[S, ...]``."""

    fit: vi.training.FitResult
    evaluation: Evaluation


def evaluate(
    key: Array,
    model: VAE,
    x: Float[Array, "M pixels"],
    *,
    num_samples: int = 5000,
    estimator: Callable[..., vi.gradients.Objective] = vi.gradients.fixed,
    chunk_size: int = CHUNK,
) -> Evaluation:
    """Score ``x`` with ``num_samples`` draws per image, from which every number follows.

    ``estimator`` says how to draw: under ``reparam`` a flow scores its draws as it makes them.
    ``chunk_size`` draws of each image are in memory at once: fewer for a wide decoder.
    """
    count = -(-len(x) // BLOCK)
    size = -(-len(x) // count)
    # the last block is filled up with the last image, which is cut off again
    filled = jnp.pad(x, ((0, count * size - len(x)), (0, 0)), mode="edge")
    options = {"num_samples": num_samples, "estimator": estimator, "chunk_size": chunk_size}
    blocks = [
        jax.tree.map(np.asarray, _score(jax.random.fold_in(key, i), model, block, **options))
        for i, block in enumerate(filled.reshape(count, size, -1))
    ]
    scores, means = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(x)], *blocks)
    variances = {name: vi.diagnostics.active_units(m).variance for name, m in means.items()}
    return Evaluation(**scores, unit_variances=jax.tree.map(np.asarray, variances))


@functools.partial(jax.jit, static_argnames=("num_samples", "estimator", "chunk_size"))
def _score(key, model, x, *, num_samples, estimator, chunk_size):
    draws_key, means_key = jax.random.split(key)

    def log_joint(z):
        log_likelihood = decode(model, z).log_prob(x)
        return log_likelihood + prior(model).log_prob(z), log_likelihood

    objective = estimator(iwae, chunk_size=chunk_size)
    value, log_w, log_likelihood = objective.evaluate(
        draws_key, posterior(model, x), log_joint, num_samples
    )
    scores = {
        "nll": -value,
        "effective_samples": vi.diagnostics.effective_sample_size(log_w),
        "rate": (log_likelihood - log_w).mean(0),
        "distortion": -log_likelihood.mean(0),
        "bounds": {k: bound_at(log_w, k) for k in ladder(num_samples)},
    }
    return scores, model.means(means_key, x, MEAN_SAMPLES)


def evaluate_seeds(
    run: Run,
    name: str,
    state: vi.training.State,
    x: Float[Array, "M pixels"],
    num_samples: int,
    part: Callable[[Any], VAE] = lambda model: model,
    estimator: Callable[..., vi.gradients.Objective] = vi.gradients.fixed,
    chunk_size: int = CHUNK,
) -> Evaluation:
    """Every seed's evaluation, ``[S, M]`` and so on, with the same noise whatever was trained.

    It is kept in the run's folder under ``name``; ``part`` picks the model to score.
    """
    options = {"num_samples": num_samples, "estimator": estimator, "chunk_size": chunk_size}

    def compute():
        keys = stream(run.key, _STREAM)
        each = [evaluate(key, part(model_of(state, i)), x, **options) for i, key in enumerate(keys)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
        leaves = jax.tree_util.tree_leaves_with_path(stacked._asdict())
        return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}

    held = run.once(name, compute)

    def below(field, key):
        parts = (name.split("/") for name in held)
        return {key(p[1]): held["/".join(p)] for p in parts if p[0] == field}

    plain = {field: held[field] for field in Evaluation._fields if field in held}
    return Evaluation(
        **plain, bounds=below("bounds", int), unit_variances=below("unit_variances", str)
    )


def stream(keys: Array, number: int) -> Array:
    """One stream of every seed's key, ``[S]``."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def model_of(state: vi.training.State, run: int) -> Any:
    """One run's model, of states stacked over runs."""
    return jax.tree.map(lambda leaf: leaf[run], state).model


def held_out_bits(images: Images, test_images: int | None) -> Float[Array, "M pixels"]:
    """The first ``test_images`` of the fixed test bits; all for None."""
    return fixed_test(images, count_held_out(images, test_images))


def count_held_out(images: Images, test_images: int | None) -> int:
    """How many to score, all for None; refused by flag."""
    most = len(images.test)
    if test_images is not None and not 2 <= test_images <= most:
        rule = f"be from 2 to the {most} that {images.name} has"
        raise ValueError(f"--test-images must {rule} (got {test_images}); try {most}")
    return most if test_images is None else test_images


def ladder(num_samples: int) -> list[int]:
    """1, 2, 5, 10, ... up to ``num_samples``."""
    rungs = [m * 10**e for e in range(7) for m in (1, 2, 5)]
    return [k for k in rungs if k < num_samples] + [num_samples]


def bound_at(log_w: Float[Array, "N *batch"], num_samples: int) -> Float[Array, "*batch"]:
    """The bound at K, averaged over as many disjoint groups of K draws as there are."""
    groups = log_w.shape[0] // num_samples
    grouped = log_w[: groups * num_samples].reshape(groups, num_samples, *log_w.shape[1:])
    return jax.vmap(iwae)(grouped).mean(0)


def rate_distortion(key: Array, model: VAE, x: Float[Array, "M pixels"], num_samples: int):
    """The ELBO's terms per datum, of few draws."""
    log_likelihood = lambda z: decode(model, z).log_prob(x)  # noqa: E731
    q = posterior(model, x)
    return vi.diagnostics.rate_distortion(key, q, prior(model), log_likelihood, num_samples)


def mean_and_stderr(values: np.ndarray) -> tuple[float, float]:
    """The mean over data and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def paired(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Mean difference per datum and its standard error: matched data, so their spread cancels."""
    return mean_and_stderr(ours - theirs)


def reconstruct(key: Array, model: VAE, x: Float[Array, "M pixels"]) -> Float[Array, "M pixels"]:
    """Mean pixels decoded from one draw of q(z | x)."""
    return vi.predictive.reconstruct(key, posterior(model, x), model.observation, 1)


def generate(key: Array, model: VAE, num_images: int) -> Float[Array, "N pixels"]:
    """Mean pixels decoded from draws of the prior."""
    made = vi.predictive.generate(key, prior(model), model.observation, (num_images,))
    return made.observation.mean


def interpolate(
    model: VAE, start: Float[Array, "M pixels"], end: Float[Array, "M pixels"], num_images: int
) -> Float[Array, "num_images M pixels"]:
    """Mean pixels on the line between posterior means."""
    ends = code(model, start), code(model, end)
    return vi.predictive.interpolate(lambda c: decode_code(model, c), *ends, num_images)
