"""Codes asked for more: the sprites, the objectives against their sums, and a short run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx

import vi
from experiments import _distances_codes, distances
from experiments._config import execute, resolve
from experiments._distances_methods import NAMES, draw, losses
from experiments._sprites import FACTORS, load_sprites
from experiments._vae import Architecture, build_vae

FIELDS = {"beta": 3.0, "info_alpha": 0.25, "mmd_weight": 7.0, "renyi_alpha": 0.5}


@functools.cache
def sprites():
    return load_sprites()


@functools.cache
def model():
    return build_vae(Architecture(8, 3, 1), sprites().images, nnx.Rngs(0))


def test_the_grid_is_whole_and_every_sprite_is_another():
    held = sprites()
    assert held.sizes == tuple(map(len, FACTORS.values()))
    assert len(held.grid) == np.prod(held.sizes) == len(np.unique(held.factors, axis=0))
    assert len(np.unique(held.grid, axis=0)) == len(held.grid)
    assert set(np.unique(held.grid)) == {0, 255}
    split = np.concatenate([held.images.train, held.images.test])
    assert sorted(map(bytes, split)) == sorted(map(bytes, held.grid))
    assert load_sprites(2).images.fingerprint == load_sprites(2).images.fingerprint


def test_a_sprite_goes_where_its_factors_say():
    held = sprites()
    pixels = held.grid.reshape(-1, 16, 16) / 255.0
    at = np.arange(16) + 0.5
    area = pixels.sum((1, 2))
    for name, middle in (
        ("x", (pixels.sum(1) @ at) / area),
        ("y", (pixels.sum(2) @ at) / area),
        ("size", np.sqrt(area)),
    ):
        by_value = held.factors[:, list(FACTORS).index(name)]
        means = [middle[by_value == value].mean() for value in range(by_value.max() + 1)]
        np.testing.assert_allclose(np.diff(means), np.diff(FACTORS[name]), rtol=0.35)
    edge = np.concatenate([pixels[:, [0, -1]].ravel(), pixels[:, :, [0, -1]].ravel()])
    assert edge.mean() < 0.05  # none is cut off


def test_every_objective_is_its_sum_and_begins_from_one_noise():
    config = distances.Config(**FIELDS, num_samples=2)
    x = jnp.asarray(sprites().images.train[:6] > 0, jnp.float32)
    made = losses(config, data_size=20)
    assert set(made) == set(NAMES)

    @jax.jit
    def compute(model):
        key = jax.random.key(0)
        again = lambda: jax.random.clone(key)  # noqa: E731
        values = {name: loss(model, again(), x) for name, loss in made.items()}
        q, prior, z, z_prior, log_lik = draw(model, again(), x)
        kl = dist.kl_divergence(q, prior).sum(-1).mean()
        at_q = q.log_prob(z[:, None])
        log_weights = vi.bounds.minibatch_stratified(6, data_size=20)
        log_joint = jax.nn.logsumexp(log_weights + at_q.sum(-1), 1)
        log_each = jax.nn.logsumexp(log_weights[..., None] + at_q, 1).sum(-1)
        rate = (q.log_prob(z) - prior.log_prob(z)).sum(-1)

        def mmd(codes):
            kernel = vi.bounds.inverse_multiquadratic_kernel(6**0.5)
            return vi.bounds.squared_mmd_unbiased(codes, z_prior, kernel)

        misfit = -log_lik.mean()
        point = model.observation(q.loc).log_prob(x).mean()
        expected = {
            "VAE": misfit + kl,
            "beta-VAE": misfit + 3 * kl,
            "beta-TC-VAE": misfit + (rate + 2 * (log_joint - log_each)).mean(),
            "InfoVAE": misfit + 0.75 * kl + 6.25 * mmd(z),
            "WAE": 7 * mmd(q.loc) - point,
        }
        return values, expected

    values, expected = compute(model())
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5, err_msg=name)
    assert len({round(float(v), 3) for v in values.values()}) == len(NAMES)


def test_terms_in_blocks_are_those_of_all_pairs():
    random = np.random.default_rng(0)
    loc, scale = random.normal(size=(7, 2)), random.uniform(0.2, 1, (7, 2))
    loc, scale = jnp.asarray(loc, jnp.float32), jnp.asarray(scale, jnp.float32)

    @jax.jit
    def compute():
        q, prior = dist.Normal(loc, scale), dist.Normal(0.0, 1.0)
        z = q.sample(jax.random.key(0))
        weights = jnp.full((7, 7), -np.log(7.0))
        whole = vi.bounds.kl_terms(
            q.log_prob(z), q.log_prob(z[:, None]), prior.log_prob(z), weights
        )
        return whole, _distances_codes.terms(loc, scale, z, jnp.arange(7))

    whole, blocks = compute()
    np.testing.assert_allclose(whole, blocks, atol=1e-5)


def test_a_run_writes_every_metric_and_goes_on_where_it_was(tmp_path, monkeypatch):
    config = distances.Config(preset="smoke", progress=False, out=tmp_path)
    record = execute(config, distances.PRESETS, distances.experiment, "distances")
    terms = {"mutual information", "total correlation", "dimension-wise KL"}
    for name in ("VAE", "beta-TC-VAE"):
        rows = {n.partition("/")[2]: m for n, m in record.metrics.items() if n.startswith(name)}
        assert terms | {"MIG, median", "squared MMD x 1000", "rate", "distortion"} <= set(rows)
    assert all(np.isfinite(m.value) for m in record.metrics.values())
    assert (tmp_path / "codes.png").stat().st_size > 10_000
    (tmp_path / "results.json").unlink()
    monkeypatch.setattr(_distances_codes, "read", None)  # kept, not computed again
    again = execute(config, distances.PRESETS, distances.experiment, "distances")
    for name, metric in record.metrics.items():
        assert name.endswith("training") or again.metrics[name] == metric


def test_a_point_has_no_terms_and_its_scores_are_draws_around_it():
    x = jnp.asarray(sprites().images.test[:4] > 0, jnp.float32)
    q = distances.AroundPoints(model()).posterior(x)
    np.testing.assert_allclose(q.mean, model().encoder(x)[0], rtol=1e-5)
    np.testing.assert_allclose(q.variance, distances.PROPOSAL**2, rtol=1e-6)
    keys, models = jax.random.key(0)[None], jax.tree.map(lambda leaf: leaf[None], model())
    factors = jnp.asarray(sprites().factors[:4])

    def found(is_point):
        read = functools.partial(_distances_codes.read, num_draws=4, is_point=is_point)
        return set(jax.eval_shape(read, keys, models, x, factors))

    assert found(False) - found(True) == {*distances.TERMS, "rates"}


def test_what_would_fail_late_is_refused_by_its_flag():
    for fields, message in (
        ({"data": "digits"}, "--data must be sprites"),
        ({"methods": ("beta-VAE",)}, "--methods must name methods, once each, VAE among them"),
        ({"methods": ("VAE", "GAN")}, "--methods must name methods"),
        ({"renyi_alpha": 1.0}, "--renyi-alpha must be at least 0 and below 1"),
        ({"info_alpha": 1.5}, "--info-alpha must be from 0 to 1"),
        ({"beta": 0.0}, "--beta must be positive"),
        ({"values_per_factor": 1}, "--values-per-factor must be an integer of at least 2"),
        ({"latent": 1}, "--latent must be an integer of at least 2"),
    ):
        config = distances.Config(preset="smoke", **fields)
        with pytest.raises(ValueError, match=message):
            distances.check(resolve(config, distances.PRESETS))
    for fields in ({"batch_size": 1000}, {"code_draws": 33}):
        config = distances.Config(preset="smoke", **fields)
        with pytest.raises(ValueError, match="must be at most"):
            distances.sprites_of(resolve(config, distances.PRESETS))
