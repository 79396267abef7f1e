"""Autoencoders with discrete codes: what they share, what their codes cost, and a short run."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import vq_vae
from experiments._config import execute, resolve
from experiments._data import binarise, load_digits
from experiments._vq_model import build, codebooks, loss
from experiments._vq_prior import CodePrior
from experiments._vq_report import score

METHODS = ("naive", "commitment", "ema", "kmeans", "recipe", "fsq")
SETTINGS = types.SimpleNamespace(
    num_codes=6, levels=(3, 2), commitment=0.25, decay=0.9, least_use=0.05, batch_size=5
)
LENGTH = 2


@functools.cache
def models():
    images, make = load_digits(), codebooks(SETTINGS)

    @jax.jit
    def made(key):
        again = lambda: nnx.Rngs(jax.random.clone(key))  # noqa: E731
        return {kind: build(images, 12, LENGTH, 2, make[kind], again()) for kind in METHODS}

    return made(jax.random.key(0))


def test_every_method_begins_with_the_same_networks():
    for name in ("encoder", "decoder"):
        first = jax.tree.leaves(getattr(models()["naive"], name))
        for model in models().values():
            same = zip(first, jax.tree.leaves(getattr(model, name)), strict=True)
            assert all((a == b).all() for a, b in same)


def test_clusters_begin_where_the_encoder_is():
    """Small uniform codes do not: most of them are nearest to nothing."""
    model, x = models()["kmeans"], binarise(jax.random.key(1), load_digits().train[:500])
    vectors = model.vectors(x)
    spread = ((vectors - vectors.mean((0, 1))) ** 2).sum(-1).mean()

    def apart(model):
        return ((model.codebook.points(model.codes(x)) - vectors) ** 2).sum(-1).mean() / spread

    assert apart(model) < 0.35 < 0.8 < apart(models()["naive"])
    np.testing.assert_allclose(model.codebook.counts[...].mean(), 5 * LENGTH / 6, rtol=1e-5)


@pytest.mark.parametrize("kind", METHODS)
def test_the_loss_is_the_distortion_and_what_the_codebook_adds(kind):
    """By hand from its parts; running means move with the batch, and others by gradient alone."""
    grey = jnp.asarray(load_digits().train[:5])

    @jax.jit
    def compute(model):
        key = jax.random.key(1)
        again = jax.random.clone(key)

        def value(params, rest):
            model = nnx.merge(graph, params, rest, copy=True)
            return loss(model, None, key, grey, jnp.asarray(0))[0], model.codebook

        graph, params, rest = nnx.split(model, nnx.Param, ...)
        (total, book), gradient = jax.value_and_grad(value, has_aux=True)(params, rest)
        x = binarise(jax.random.split(again)[0], grey)
        vectors, codes = model.vectors(x), model.codes(x)
        squared = ((vectors - model.codebook.points(codes)) ** 2).sum((-2, -1)).mean()
        return total, book, gradient, -model.given(codes).log_prob(x).mean(), squared, vectors

    model = models()[kind]
    total, book, gradient, distortion, squared, _ = compute(model)
    weight = {"naive": 1.0, "commitment": 1.25, "fsq": 0.0}.get(kind, 0.25)
    np.testing.assert_allclose(total, distortion + weight * squared, rtol=1e-5)
    for part in ("encoder", "decoder"):
        assert any((leaf != 0).any() for leaf in jax.tree.leaves(gradient[part]))
    if kind != "fsq":
        moved = (np.asarray(book.codes[...]) != np.asarray(model.codebook.codes[...])).any()
        assert moved == (kind not in ("naive", "commitment"))
        assert ("codebook" in gradient) == (not moved)


@functools.cache
def small_prior():
    return jax.jit(lambda key: CodePrior(3, 4, 24, nnx.Rngs(key)))(jax.random.key(3))


def test_the_prior_is_a_distribution_over_rows_of_codes():
    prior, every = small_prior(), jnp.array(list(itertools.product(range(4), repeat=3)))

    @jax.jit
    def compute(prior):
        drawn = prior.sample(jax.random.key(0), (20_000,))
        return jnp.exp(prior.log_prob(every)), drawn, prior.logits(every)

    mass, drawn, logits = compute(prior)
    np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-5)
    assert mass.max() / mass.min() > 2  # or its draws would tell nothing
    seen = np.bincount(np.asarray(drawn) @ [16, 4, 1], minlength=64) / len(drawn)
    stderr = np.sqrt(mass * (1 - mass) / len(drawn))
    assert (np.abs(seen - mass) < 5 * stderr).all()
    assert (np.abs(seen - np.sort(mass)) > 5 * stderr).any()  # a twin: the rows in another order
    tree = np.asarray(logits).reshape(4, 4, 4, 3, 4)
    for place in range(3):  # the same whatever stands there and after
        later = tuple(range(place, 3))
        np.testing.assert_allclose(np.ptp(tree[..., place, :], later), 0.0, atol=1e-5)
        if place:
            assert np.ptp(tree[..., place, :], place - 1).max() > 0.05


@pytest.mark.parametrize("kind", ["recipe", "fsq"])
def test_the_scores_are_a_bound_that_falls_short_by_the_other_codes(kind):
    """``log p(x) - ELBO = -log p(c(x) | x)``, by summing over all rows of codes."""
    images, model = load_digits(), models()[kind]
    images = images._replace(train=images.train[:60])
    x = binarise(jax.random.key(5), images.test[:20])
    prior = jax.jit(lambda key: CodePrior(LENGTH, 6, 24, nnx.Rngs(key)))(jax.random.key(3))
    stacked = jax.tree.map(lambda leaf: leaf[None], (model, prior))
    scores = score(jax.random.key(6)[None], *stacked, images, x)
    every = jnp.array(list(itertools.product(range(6), repeat=LENGTH)))

    @jax.jit
    def exact(model, prior):
        rows = jnp.broadcast_to(every[:, None], (len(every), len(x), LENGTH))
        joint = model.given(rows).log_prob(jnp.broadcast_to(x, (len(every), *x.shape)))
        joint = joint + prior.log_prob(every)[:, None]
        chosen = (model.codes(x) == every[:, None]).all(-1)
        log_p = jax.nn.logsumexp(joint, 0)
        return log_p, log_p - (joint * chosen).sum(0)

    log_p, short = exact(model, prior)
    elbo = -(scores["rate"] + scores["distortion"])[0]
    np.testing.assert_allclose(log_p - elbo, short, atol=1e-4)
    assert (short > 0).all()
    assert (-scores["distortion"][0] > log_p).any()  # a twin that forgets to pay for the codes
    assert scores["rebuilt"].shape == scores["drawn"].shape == (1, 12, 64)
    np.testing.assert_allclose(scores["train frequencies"].sum(), 1.0, rtol=1e-5)


def test_a_run_writes_every_metric_and_goes_on(tmp_path, capsys):
    config = vq_vae.Config(preset="smoke", progress=False, out=tmp_path)
    record = execute(config, vq_vae.PRESETS, vq_vae.experiment, "vq_vae")
    metrics = {name: metric.value for name, metric in record.metrics.items()}
    parts = metrics["recipe/distortion"] + metrics["recipe/rate, learned prior"]
    np.testing.assert_allclose(metrics["recipe/test ELBO"], -parts, atol=1e-4)
    length = metrics["recipe/test code length"]
    np.testing.assert_allclose(length, parts / np.log(2), rtol=1e-5)
    behind = metrics["recipe/test ELBO"] - metrics["vae/test ELBO"]
    np.testing.assert_allclose(metrics["recipe/test ELBO - vae's, paired"], behind, atol=1e-4)
    np.testing.assert_allclose(metrics["recipe/rate, uniform prior"], 2 * np.log(8), rtol=1e-6)
    assert 1 <= metrics["recipe/perplexity, training epoch"] <= 8
    assert {"codes.png", "images.png"} <= {path.name for path in tmp_path.iterdir()}
    (tmp_path / "results.json").unlink()
    again = execute(config, vq_vae.PRESETS, vq_vae.experiment, "vq_vae")
    assert "going on" in capsys.readouterr().err
    kept = {name for name in metrics if not name.endswith("/training")}
    assert all(again.metrics[name].value == metrics[name] for name in kept)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ("fsq", "fsq")}, "--methods must name each method once"),
        ({"other_lengths": (2,)}, "--other-lengths must be different counts"),
        ({"other_lengths": (0,)}, "--other-lengths must be different counts"),
        ({"levels": (4, 1)}, "--levels must be counts of at least 2"),
        ({"decay": 1.0}, "--decay must be in"),
        ({"least_use": 0.0}, "--least-use must be above 0"),
        ({"num_codes": 401, "length": 4}, "--num-codes must be at most the 400"),
        ({"length": 0}, "--length must be an integer of at least 1"),
    ],
)
def test_what_would_fail_late_is_refused_by_its_flag(fields, message):
    config = resolve(vq_vae.Config(preset="smoke", **fields), vq_vae.PRESETS)
    with pytest.raises(ValueError, match=message) as refused:
        vq_vae.check(config)
    assert "; " in str(refused.value)


@pytest.mark.parametrize("preset", vq_vae.PRESETS)
def test_every_preset_is_one_that_runs(preset):
    vq_vae.check(resolve(vq_vae.Config(preset=preset.removeprefix("digits-")), vq_vae.PRESETS))


@pytest.mark.slow
def test_the_naive_codebook_dies_and_the_recipe_does_not(tmp_path):
    config = vq_vae.Config(
        methods=("naive", "recipe"), other_lengths=(), num_steps=600, prior_steps=20,
        eval_samples=10, progress=False, out=tmp_path,
    )  # fmt: skip
    record = execute(config, vq_vae.PRESETS, vq_vae.experiment, "vq_vae")
    used = {m: record.metrics[f"{m}/codes used, training epoch"].value for m in config.methods}
    assert used["naive"] < 50 < 90 < used["recipe"]
