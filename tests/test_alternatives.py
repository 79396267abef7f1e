"""Five kinds of model of levels: masses against enumeration and quadrature, and a short run."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vi
from experiments import alternatives
from experiments._alternatives_fits import Training, _of_block, parts_of, train
from experiments._alternatives_models import Model, makers
from experiments._alternatives_table import baselines
from experiments._config import execute, resolve
from experiments._likelihoods_vae import Greys
from experiments._run import open_run

PIXELS, LEVELS, NODES = 2, 3, 200
SIZES = {"hidden": 5, "latent": 2, "masked_hidden": 4, "posterior_layers": 2}
PRESETS = alternatives.PRESETS
KINDS = ("vae", "posterior", "autoregressive")


def greys(num_levels=LEVELS, pixels=PIXELS):
    random = np.random.default_rng(0)
    levels = random.integers(0, num_levels, (40, pixels)).astype(np.uint8)
    return Greys(levels[:30], levels[30:], num_levels)


def build(kind, data, shape):
    """A flow is the identity at the start, and pixels are nearly independent: neither stays."""
    model = makers(data, shape, flow_layers=2, flow_hidden=4, **SIZES)[kind](nnx.Rngs(0))
    leaves, tree = jax.tree.flatten(nnx.state(model, nnx.Param))
    keys = jax.random.split(jax.random.key(7), len(leaves))
    moved = [a + 0.5 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    nnx.update(model, jax.tree.unflatten(tree, moved))
    return model


def every_image(levels=range(LEVELS), pixels=PIXELS):
    return jnp.asarray(list(itertools.product(levels, repeat=pixels)), jnp.int32)


def exact_log_mass(model, x):
    """By quadrature over z; the autoregressive one's by its own word."""
    if model.is_exact:
        return model.bound(jax.random.key(0), x, 1, vi.gradients.fixed)
    nodes = jnp.linspace(-7, 7, NODES)
    z = jnp.stack(jnp.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    log_prior = -0.5 * (z**2).sum(-1) - jnp.log(2 * jnp.pi) + 2 * jnp.log(14 / (NODES - 1))
    log_each = jax.vmap(lambda x: model._observe(z).log_prob(x))(x)
    return jax.nn.logsumexp(log_each + log_prior, axis=-1)


def bounds_and_draws(key, model, x, num_samples, num_draws):
    """Bounds of one sample, the score at K, and how often each image is drawn."""
    keys = jax.random.split(key, 3)
    one = lambda key: model.bound(key, x, 1, vi.gradients.fixed)  # noqa: E731
    singles = jax.vmap(one)(jax.random.split(keys[0], num_samples))
    nll = _of_block(keys[1], model, x, num_samples)["nll"]
    drawn = model.draw(keys[2], num_draws)
    return singles, nll, (drawn[:, None] == x).all(-1).mean(0)


def relative_stderr(singles, log_mass):
    """Of the mean weight of all but the exact model, by its own mean."""
    return np.exp(singles - log_mass).std(0, ddof=1) / np.sqrt(len(singles)) + 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_masses_are_exact_and_draws_follow_them(kind):
    """Of all images: the bounds by quadrature, and the frequencies of draws by the masses."""
    model, x, num_draws = build(kind, greys(), (1, PIXELS)), every_image(), 20_000

    @jax.jit
    def compute(model):
        found = bounds_and_draws(jax.random.key(1), model, x, 2000, num_draws)
        return exact_log_mass(model, x), *found

    log_mass, singles, nll, share = jax.tree.map(np.asarray, compute(model))
    mass, stderr = np.exp(log_mass.astype(float)), relative_stderr(singles, log_mass)
    np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-3)
    assert (abs(np.exp(-nll - log_mass) - 1) < 5 * stderr).all()
    assert model.is_exact or (singles.mean(0) < log_mass).all()
    spread = np.sqrt(mass * (1 - mass) / num_draws)
    assert (abs(share - mass) < 5 * spread).all()
    swapped = mass.reshape(LEVELS, LEVELS).T.ravel()  # the twin that takes a pixel for the other
    assert (abs(share - swapped) > 5 * spread).any()


def test_the_flow_draws_as_often_as_it_says():
    """Images of inner levels: what lies beyond the ends is cut to the end levels when drawn."""
    model, num_draws = build("flow", greys(4, 4), (2, 2)), 50_000
    x = every_image((1, 2), 4)
    found = jax.jit(bounds_and_draws, static_argnums=(3, 4))(
        jax.random.key(1), model, x, 1000, num_draws
    )
    singles, nll, share = jax.tree.map(np.asarray, found)
    mass = np.exp(-nll.astype(float))
    stderr = np.hypot(np.sqrt(mass / num_draws), mass * relative_stderr(singles, -nll))
    assert (abs(share - mass) < 5 * stderr).all()
    assert (singles.mean(0) < -nll).all()
    twin = mass.reshape(2, 2, 2, 2).transpose(0, 3, 1, 2).ravel()  # pixels in the flow's order
    assert (abs(share - twin) > 5 * stderr).any()


def test_the_models_with_a_decoder_begin_with_the_same_one():
    made = makers(greys(), (1, PIXELS), flow_layers=2, flow_hidden=4, **SIZES)
    begun = [made[kind](nnx.Rngs(3)) for kind in ("vae", "iwae", "posterior")]
    for part in ("encoder", "decoder"):
        first, *others = (jax.tree.leaves(getattr(model, part)) for model in begun)
        for leaves in others:
            assert all((a == b).all() for a, b in zip(first, leaves, strict=True))


class Falling(Model):
    """Fits the training images by a number, and the held-out ones the worse."""

    latent = 0

    def __init__(self):
        self.at = nnx.Param(jnp.zeros(()))

    def bound(self, key, levels, num_samples, estimator):
        """Highest at the mean level."""
        del key, num_samples, estimator
        return -((self.at[...] - levels.mean(-1)) ** 2)


@pytest.mark.parametrize(("held", "steps"), [(0, 30), (1, 80)])
def test_training_ends_when_the_held_out_part_says_so(tmp_path, held, steps):
    levels = np.ones((20, PIXELS), np.uint8)
    parts = parts_of(levels)._replace(held=np.full((4, PIXELS), held, np.uint8))
    config = types.SimpleNamespace(
        learning_rate=0.01, num_steps=80, eval_every=10, patience=2, batch_size=5
    )
    with open_run({"seed": 0, "num_seeds": 1}, tmp_path, False) as run:
        how = Training(vi.gradients.reparam, 1)
        fit = train(config, run, "falling", lambda rngs: Falling(), how, parts)
    assert fit.stopped[0].step == steps
    last = fit.history["loss"].reshape(-1)[-1]
    assert 0 < fit.state.params["at"][0] < 1 - np.sqrt(last)  # averages lag behind


def test_parts_share_no_image_and_are_the_same_each_time():
    levels = np.arange(46, dtype=np.uint8).reshape(23, 2)
    train_part, held = parts_of(levels)
    assert len(held) == 4
    rows = {tuple(row) for row in train_part} | {tuple(row) for row in held}
    assert len(rows) == len(train_part) + len(held) == 23
    assert (parts_of(levels).held == held).all()


def test_pixels_alone_are_their_frequencies():
    metrics = baselines(greys(), greys().test)
    total = 0.0
    for image in greys().test:
        for pixel, level in enumerate(image):
            total -= np.log(((greys().train[:, pixel] == level).sum() + 1) / (30 + LEVELS))
    np.testing.assert_allclose(metrics["each pixel alone/test NLL"].value, total / 10)
    alike = metrics["all levels alike/bits per pixel"].value
    np.testing.assert_allclose(alike, np.log2(LEVELS))


def test_a_run_writes_every_metric_and_goes_on(tmp_path):
    config = alternatives.Config(preset="smoke", progress=False, out=tmp_path)
    again = PRESETS, alternatives.experiment, "alternatives"
    value = {name: metric.value for name, metric in execute(config, *again).metrics.items()}
    masked = "autoregressive"
    nlls = [value[f"{name}/test NLL"] for name in (masked, "VAE")]
    behind = value[f"{masked}/test NLL - the first's, paired"]
    np.testing.assert_allclose(behind, nlls[0] - nlls[1], atol=1e-3)
    np.testing.assert_allclose(value["VAE/bits per pixel"], nlls[1] / 64 / np.log(2), rtol=1e-5)
    assert value[f"{masked}/bound of one sample, above the NLL"] == 0
    assert value["VAE/bound of one sample, above the NLL"] > 0
    assert [value[f"{name}/latent dimensions (0: none)"] for name in (masked, "VAE")] == [0, 4]
    assert [value[f"{name}/network passes of a draw"] for name in (masked, "VAE")] == [64, 1]
    assert [value[f"{name}/samples of the NLL (0: exact)"] for name in (masked, "VAE")] == [0, 10]
    assert (tmp_path / "alternatives.png").stat().st_size > 10_000
    (tmp_path / "results.json").unlink()
    resumed = {name: metric.value for name, metric in execute(config, *again).metrics.items()}
    timed = {name for name in value if name.endswith("training")}
    assert all(resumed[name] == value[name] for name in value.keys() - timed)


def test_what_would_fail_late_is_refused_by_its_flag():
    for fields, pixels, message in (
        ({"models": ("vae", "vae")}, 64, "--models must name each model once"),
        ({"patience": 0}, 64, "--patience must be an integer of at least 1"),
        ({"models": ("flow",)}, 9, "--models: flow needs an even number of pixels"),
        ({"masked_hidden": 20}, 64, "--masked-hidden must be at least the 63"),
    ):
        config = resolve(alternatives.Config(preset="smoke", **fields), PRESETS)
        with pytest.raises(ValueError, match=message):
            alternatives.check(config, pixels)
