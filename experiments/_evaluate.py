"""What a trained model is worth on held-out data, per datum so that comparisons can be paired."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import vi
from experiments._vae import VAE, decode, log_joint, posterior, prior
from vi.bounds import iwae

CHUNK = 100
RATE_SAMPLES = 100


class Evaluation(NamedTuple):
    """Per test image, in nats, but for ``active_units``; ``bounds`` is ``{K: [M]}``."""

    nll: np.ndarray
    effective_samples: np.ndarray
    rate: np.ndarray
    distortion: np.ndarray
    active_units: int
    bounds: dict[int, np.ndarray]


def evaluate(
    key: Array, model: VAE, x: Float[Array, "M pixels"], *, num_samples: int
) -> Evaluation:
    """Score ``x``: NLL at K = ``num_samples``, the ELBO's terms, and the bound at smaller K."""
    keys = jax.random.split(key, 3)
    evidence = _log_evidence(keys[0], model, x, num_samples)
    terms = rate_distortion(keys[1], model, x, RATE_SAMPLES)
    log_w = _log_weights(keys[2], model, x, num_samples)
    means = posterior(model, x).mean
    return Evaluation(
        nll=-np.asarray(evidence.value),
        effective_samples=np.asarray(evidence.effective_sample_size),
        rate=np.asarray(terms.rate),
        distortion=np.asarray(terms.distortion),
        active_units=int(vi.diagnostics.active_units(means).count),
        bounds={k: np.asarray(_bound_at(log_w, k)) for k in _ladder(num_samples)},
    )


@functools.partial(jax.jit, static_argnames="num_samples")
def rate_distortion(key, model, x, num_samples):
    """The ELBO's terms per datum."""
    q = posterior(model, x)
    likelihood = lambda z: decode(model, z).log_prob(x)  # noqa: E731
    return vi.diagnostics.rate_distortion(key, q, prior(model), likelihood, num_samples)


@functools.partial(jax.jit, static_argnames="num_samples")
def _log_evidence(key, model, x, num_samples):
    q, joint = posterior(model, x), log_joint(model, x)
    return vi.diagnostics.log_evidence(key, q, joint, num_samples, chunk_size=CHUNK)


@functools.partial(jax.jit, static_argnames="num_samples")
def _log_weights(key, model, x, num_samples):
    objective = vi.gradients.reparam(iwae, chunk_size=CHUNK)
    return objective.evaluate(
        key, posterior(model, x), log_joint(model, x), num_samples
    ).log_weights


def _ladder(num_samples: int) -> list[int]:
    rungs = [m * 10**e for e in range(7) for m in (1, 2, 5)]
    return [k for k in rungs if k < num_samples] + [num_samples]


def _bound_at(log_w, num_samples):
    """The bound at K, averaged over as many disjoint groups of K draws as there are."""
    groups = log_w.shape[0] // num_samples
    grouped = log_w[: groups * num_samples].reshape(groups, num_samples, -1)
    return jax.vmap(iwae)(grouped).mean(0)


def mean_and_stderr(values: np.ndarray) -> tuple[float, float]:
    """The mean over data and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def paired(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Mean difference per datum and its standard error: matched data, so their spread cancels."""
    return mean_and_stderr(ours - theirs)


def reconstruct(key: Array, model: VAE, x: Float[Array, "M pixels"]) -> Any:
    """Mean pixels decoded from one draw of q(z | x)."""
    return jax.nn.sigmoid(model.decoder(posterior(model, x).sample(key))[0])


def generate(key: Array, model: VAE, num_images: int) -> Any:
    """Mean pixels decoded from draws of the prior."""
    return jax.nn.sigmoid(model.decoder(prior(model).sample(key, (num_images,)))[0])


def interpolate(model: VAE, start: Array, end: Array, num_images: int) -> Any:
    """Mean pixels on the line between posterior means, ``[num_images, M, pixels]``."""
    ends = posterior(model, start).mean, posterior(model, end).mean
    weight = jnp.linspace(0.0, 1.0, num_images)[:, None, None]
    return jax.nn.sigmoid(model.decoder((1 - weight) * ends[0] + weight * ends[1])[0])
