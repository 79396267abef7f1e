"""Autoencoders with learned priors: what they share, what they see, and a short run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vi
from experiments import learned_prior
from experiments._config import execute, resolve
from experiments._data import Images, load_digits
from experiments._prior_vae import Bits, Levels, build, priors

KINDS = ("standard", "mixture", "vamp", "flow")


@functools.cache
def models():
    images = load_digits()
    made = priors(images, num_components=5, num_layers=2, flow_hidden=8)
    return {k: build(images, 12, 4, Bits, made[k], nnx.Rngs(0)) for k in KINDS}


def test_every_prior_begins_with_the_same_networks():
    for name in ("encoder", "decoder"):
        first = jax.tree.leaves(getattr(models()["standard"], name))
        for model in models().values():
            same = zip(first, jax.tree.leaves(getattr(model, name)), strict=True)
            assert all((a == b).all() for a, b in same)


def test_pseudo_inputs_begin_near_training_images():
    inputs = np.asarray(models()["vamp"].learned.inputs())
    train = load_digits().train
    nearest = ((inputs[:, None] - train[None]) ** 2).mean(-1).min(1)
    assert (nearest < 1e-3).all()
    assert ((train[:200, None] - train[None, 500:]) ** 2).mean(-1).min(1).mean() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_minus_the_elbo_and_reaches_every_part(kind):
    """At weight 1, with the same bits and draws; and a half of the rate halfway up the ramp."""
    model, grey = models()[kind], jnp.asarray(load_digits().train[:3])

    @jax.jit
    def compute(model):
        key = jax.random.key(1)
        again = jax.random.clone(key)
        whole = jax.value_and_grad(lambda m: learned_prior.make_loss(0)(m, None, key, grey, 0)[0])
        half = learned_prior.make_loss(10)(model, None, again, grey, jnp.asarray(5))[0]
        pixels_key, draws_key = jax.random.split(jax.random.clone(key))
        x = model.pixels.data(pixels_key, grey)
        q = model.posterior(x)
        z = q.rsample(draws_key)
        rate = q.log_prob(z) - model.prior().log_prob(z)
        return whole(model), half, rate.mean(), model.observation(z).log_prob(x).mean()

    (value, gradient), half, rate, log_likelihood = compute(model)
    np.testing.assert_allclose(value, rate - log_likelihood, rtol=1e-5)
    np.testing.assert_allclose(half, rate / 2 - log_likelihood, rtol=1e-5)
    leaves = jax.tree.leaves(nnx.state(gradient.learned, nnx.Param))
    assert bool(leaves) == (kind != "standard")
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert kind == "standard" or any((leaf != 0).any() for leaf in leaves)


def test_levels_are_seen_as_shares_and_scored_as_bytes():
    grey = np.random.default_rng(0).integers(0, 256, (20, 6)).astype(np.uint8)
    images = Images("bytes", grey, grey[:4], None, None, (2, 3))
    made = priors(images, num_components=5, num_layers=2, flow_hidden=8)["standard"]
    model = build(images, 12, 4, lambda: Levels(6), made, nnx.Rngs(0))
    x = model.pixels.data(jax.random.key(0), jnp.asarray(grey[:3]))
    np.testing.assert_array_equal(x, grey[:3])
    assert model.pixels.inputs(x).max() <= 1
    z = jnp.zeros((3, 4))
    every = jnp.arange(256.0)[:, None, None] * jnp.ones((3, 6))
    base = model.observation(z).base_dist
    np.testing.assert_allclose(jnp.exp(base.log_prob(every)).sum(0), 1.0, rtol=1e-4)


def test_a_run_writes_every_metric(tmp_path):
    config = learned_prior.Config(preset="smoke", progress=False, out=tmp_path)
    record = execute(config, learned_prior.PRESETS, learned_prior.experiment, "learned_prior")
    rows = {name.partition("/")[2] for name in record.metrics if name.startswith("vamp/")}
    assert {"test NLL, k = 10", "test ELBO", "rate", "distortion", "active units"} <= rows
    behind = record.metrics["vamp/test NLL - standard's, paired"]
    nlls = [record.metrics[f"{kind}/test NLL, k = 10"].value for kind in ("vamp", "standard")]
    np.testing.assert_allclose(behind.value, nlls[0] - nlls[1], atol=1e-4)
    assert (tmp_path / "draws.png").stat().st_size > 10_000


def test_what_would_fail_late_is_refused_by_its_flag():
    for fields, message in (
        ({"priors": ("vamp", "vamp")}, "--priors must name each prior once"),
        ({"priors": ("flow",), "latent": 5}, "--latent must be even"),
        ({"annealed_steps": -1}, "--annealed-steps must be an integer of at least 0"),
    ):
        config = learned_prior.Config(preset="smoke", **fields)
        with pytest.raises(ValueError, match=message):
            learned_prior.check(resolve(config, learned_prior.PRESETS))
    config = resolve(learned_prior.Config(preset="smoke", pixels="levels"), learned_prior.PRESETS)
    with pytest.raises(ValueError, match="--pixels levels needs images of bytes"):
        learned_prior.held_out(config, load_digits())


def test_draws_of_a_prior_decode_to_pixels():
    model = models()["vamp"]
    made = vi.predictive.generate(jax.random.key(0), model.prior(), model.observation, (3,))
    assert made.values.shape == (3, 64)
    assert set(np.unique(made.values)) <= {0.0, 1.0}
