"""What trained codes are worth on held-out bits: their scores, the table and the pictures."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import vi
from experiments import _plots
from experiments._data import Images, binarise, probabilities
from experiments._evaluate import Evaluation, generate, reconstruct
from experiments._results import Metric, over_data, over_seeds
from experiments._vae import VAE
from experiments._vq_model import CodeAutoencoder
from experiments._vq_prior import CodePrior

SHOWN = 12
Scores = dict[str, np.ndarray]


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, 0, None, None))
def _score(key: Any, model: CodeAutoencoder, prior: CodePrior, grey: Any, x_test: Any) -> Any:
    bits_key, draw_key = jax.random.split(key)
    epoch, codes = model.codes(binarise(bits_key, grey)), model.codes(x_test)
    observation = model.given(codes)
    held = {
        "rate": -jnp.asarray(prior.log_prob(codes)),
        "distortion": -jnp.asarray(observation.log_prob(x_test)),
        "rebuilt": observation.mean[:SHOWN],
        "drawn": model.given(prior.sample(draw_key, (SHOWN,))).mean,
    }
    for name, seen in (("train", epoch), ("test", codes)):
        use = vi.networks.code_use(seen, model.codebook.num_codes)
        held |= {f"{name} {field}": value for field, value in use._asdict().items()}
    return held


def score(keys: jax.Array, model: Any, prior: Any, images: Images, x_test: jax.Array) -> Scores:
    """Of every seed's model: nats per test image, code use over an epoch of either set, images.

    ``-log p(x | c(x))`` and ``-log p(c(x))`` sum to minus the ELBO: q(c | x) has all its mass on
    the one row c(x), so that there is nothing to average and its entropy is 0.
    """
    scored: Any = _score(keys, model, prior, jnp.asarray(images.train), x_test)
    return {name: np.asarray(values) for name, values in scored.items()}


def code_rows(scores: Scores, vae: Evaluation, length: int, num_codes: int) -> dict[str, Metric]:
    """One method's part of the table."""
    rate, distortion = scores["rate"], scores["distortion"]
    loss, theirs = rate + distortion, vae.rate + vae.distortion
    rows, uniform = {}, length * math.log(num_codes)
    for part, epoch in (("train", "training"), ("test", "test")):
        used = 100 * scores[f"{part} share_used"]
        rows[f"codes used, {epoch} epoch"] = over_seeds(used, unit="%", better="higher")
        rows[f"perplexity, {epoch} epoch"] = over_seeds(
            scores[f"{part} perplexity"], unit="codes", better="higher"
        )
    return rows | {
        "distortion": over_data(distortion),
        "rate, learned prior": over_data(rate),
        "rate, uniform prior": Metric(uniform),
        "test ELBO": over_data(-loss, better="higher"),
        "test code length": over_data(loss / math.log(2), unit="bits", better="lower"),
        "the same, uniform prior": over_data((uniform + distortion) / math.log(2), unit="bits"),
        "test ELBO - vae's, paired": over_data(theirs - loss, better="higher"),
        "test NLL bound - vae's NLL, paired": over_data(loss - vae.nll, better="lower"),
    }


def vae_rows(vae: Evaluation, num_samples: int) -> dict[str, Metric]:
    """The VAE's part of the table."""
    loss = vae.rate + vae.distortion
    return {
        "distortion": over_data(vae.distortion),
        "rate": over_data(vae.rate),
        "test ELBO": over_data(-loss, better="higher"),
        "test code length": over_data(loss / math.log(2), unit="bits", better="lower"),
        f"test NLL, k = {num_samples}": over_data(vae.nll, better="lower"),
        "active units": over_seeds(vae.active_units["z"], unit="count"),
    }


@jax.jit
def vae_images(key: jax.Array, model: VAE, x: jax.Array) -> dict[str, jax.Array]:
    """Mean pixels: test images rebuilt from one draw of q, and draws of the prior decoded."""
    rebuilt_key, drawn_key = jax.random.split(key)
    rebuilt = reconstruct(rebuilt_key, model, x[:SHOWN])
    return {"rebuilt": rebuilt, "drawn": generate(drawn_key, model, SHOWN)}


def image_figure(seen: Mapping[str, Scores], images: Images, x: jax.Array) -> Callable[[], Figure]:
    """Rows of test images, of each model's reconstructions of them, and of its draws."""
    rows = {"image": probabilities(images.test[:SHOWN]), "as bits": x[:SHOWN]}
    rows |= {name: each["rebuilt"] for name, each in seen.items()}
    rows |= {f"~ {name}": each["drawn"] for name, each in seen.items()}
    held = {name: np.asarray(row) for name, row in rows.items()}
    title = "Test images rebuilt by each model; after ~, draws of its prior, decoded"
    return lambda: _plots.image_rows(held, images.shape, title)


def code_figure(scored: Mapping[str, Scores], vae: Evaluation) -> Callable[[], Figure]:
    """Sorted code frequencies, and where the models lie between rate and distortion."""

    def draw():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2))
        methods = dict.fromkeys(name.split(",")[0] for name in scored)
        colours = {method: f"C{i}" for i, method in enumerate(methods)}
        for name, scores in scored.items():
            if "," not in name:
                _frequencies(left, name, scores, colours[name])
        left.set_xlabel("code, most frequent first")
        left.set_ylabel("share of a training epoch's codes")
        left.set_ylim(top=1.0)
        left.legend(fontsize=8, loc="upper right")
        points = {n: (s["rate"].mean(), s["distortion"].mean()) for n, s in scored.items()}
        theirs = vae.rate.mean(), vae.distortion.mean()
        _iso_lines(right, [theirs, *points.values()])
        right.plot(*theirs, "k*", ms=11)
        right.annotate("vae", theirs, (-5, -14), textcoords="offset points", fontsize=8)
        for name, point in points.items():
            method, _, length = name.partition(", ")
            right.plot(*point, "s" if length else "o", color=colours[method], ms=6, alpha=0.8)
            right.annotate(length, point, (7, 2), textcoords="offset points", fontsize=8)
        right.set_xlabel("rate: nats per test image, learned prior")
        right.set_ylabel("distortion: nats per test image")
        title = "How evenly codes are used, and what they cost (grey: one ELBO, in nats)"
        figure.suptitle(title, fontsize=11)
        figure.tight_layout()
        return figure

    return draw


def _frequencies(axis: Axes, name: str, scores: Scores, colour: str) -> None:
    """A method's code frequencies, sorted in each seed and averaged over seeds."""
    shares = np.sort(scores["train frequencies"], axis=1)[:, ::-1].mean(0)
    label = f"{name}: perplexity {scores['train perplexity'].mean():.1f} of {len(shares)}"
    shown = np.where(shares > 0, shares, np.nan)
    axis.semilogy(1 + np.arange(len(shares)), shown, ".-", ms=3, lw=1, color=colour, label=label)


def _iso_lines(axis: Axes, points: list[tuple[float, float]]) -> None:
    """Lines of one ELBO each, across all points."""
    rates, distortions = np.array(points).T
    totals = rates + distortions
    ends, low = np.array([0.0, 1.12 * rates.max()]), 0.85 * distortions.min()
    for total in np.arange(2 * math.floor(totals.min() / 2), totals.max() + 2, 2.0):
        axis.plot(ends, total - ends, color="0.85", lw=0.8, zorder=0)
        at = (ends[1], total - ends[1]) if total - ends[1] > low else (total - low, low)
        axis.annotate(
            f"{-total:.0f}",
            at,
            (-3, 3),
            textcoords="offset points",
            fontsize=7,
            color="0.5",
            ha="right",
        )
    axis.set_xlim(*ends)
    axis.set_ylim(low, 1.08 * distortions.max())
