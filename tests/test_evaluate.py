"""What a trained autoencoder is worth, against closed forms, quadrature and independent code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import _evaluate
from experiments._data import fixed_test, load_digits
from experiments._vae import (
    Architecture,
    build_vae,
    code,
    decode,
    log_joint,
    posterior,
    prior,
)

IMAGES = load_digits()
X = fixed_test(IMAGES, 101)  # two blocks, the second filled up


K = 1000


def small(layers: int):
    return build_vae(Architecture(16, 3, layers), IMAGES, nnx.Rngs(0))


def scored(model):
    return _evaluate.evaluate(jax.random.key(0), model, X, num_samples=K)


def set_heads(network, *biases):
    """Make a network constant."""
    for head, bias in zip(network.heads, biases, strict=True):
        head.kernel[...] = jnp.zeros_like(head.kernel[...])
        head.bias[...] = jnp.full_like(head.bias[...], bias)


def bernoulli(logits, x):
    logits = np.asarray(logits, np.float64)
    return (x * logits - np.logaddexp(0, logits)).sum(-1)


def deaf(layers: int, *, mean: float, log_sd: float):
    """A model whose decoder and whose posterior do not listen: every number has a closed form."""
    model = small(layers)
    bias = np.asarray(model.decoder.heads[0].bias[...])
    for network in [model.encoder, *([model.upper_encoder] if layers == 2 else [])]:
        set_heads(network, mean, log_sd)
    if layers == 2:
        set_heads(model.upper_decoder, 0.0, 0.0)
    head = model.decoder.heads[0]
    head.kernel[...] = jnp.zeros_like(head.kernel[...])
    return model, bernoulli(bias, np.asarray(X))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_posterior_that_is_exact_gives_the_evidence_from_one_draw(layers):
    model, evidence = deaf(layers, mean=0.0, log_sd=0.0)
    scores = scored(model)
    assert list(scores.bounds) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    for bound in scores.bounds.values():
        np.testing.assert_allclose(bound, evidence, rtol=1e-5)
    np.testing.assert_allclose(scores.nll, -evidence, rtol=1e-5)
    np.testing.assert_allclose(scores.distortion, -evidence, rtol=1e-5)
    np.testing.assert_allclose(scores.rate, 0, atol=2e-5)
    np.testing.assert_allclose(scores.effective_samples, K, rtol=1e-4)
    assert set(scores.active_units.values()) == {0}


@pytest.mark.parametrize("layers", [1, 2])
def test_the_rate_is_the_divergence_of_all_layers(layers):
    mean, log_sd = 0.4, -0.3
    model, evidence = deaf(layers, mean=mean, log_sd=log_sd)
    scores = scored(model)
    units = 3 if layers == 1 else 3 + 6
    rate = units * 0.5 * (mean**2 + np.exp(2 * log_sd) - 1 - 2 * log_sd)
    measured, stderr = _evaluate.mean_and_stderr(scores.rate)
    assert abs(measured - rate) < 5 * stderr
    assert stderr < 0.02
    np.testing.assert_allclose(scores.bounds[1].mean(), evidence.mean() - rate, atol=0.02)
    assert np.all(np.diff([b.mean() for b in scores.bounds.values()]) > 0)
    assert 0 < scores.nll.mean() + evidence.mean() < 0.2


def test_the_largest_bound_is_the_evidence_by_quadrature():
    model = small(1)
    # two of the three latents are noise that nobody hears: the evidence is an integral over one
    first = model.decoder.first
    first.kernel[...] = first.kernel[...].at[1:].set(0.0)
    for head in model.encoder.heads:
        head.kernel[...] = head.kernel[...].at[:, 1:].set(0.0)
    scores = scored(model)
    z = np.linspace(-9, 9, 2001)
    padded = jnp.asarray(np.pad(z[:, None], ((0, 0), (0, 2))), jnp.float32)
    others = jnp.log(2 * jnp.pi)  # minus the log-density of two standard normals at 0
    log_p = np.stack([log_joint(model, x)(padded) + others for x in X[:20]])
    evidence = np.logaddexp.reduce(log_p.astype(np.float64), 1) + np.log(z[1] - z[0])
    stderr = np.sqrt((K / scores.effective_samples[:20] - 1) / (K - 1))
    assert np.abs((-scores.nll[:20] - evidence) / stderr).max() < 5
    assert (evidence - scores.bounds[1][:20]).mean() > 5 * stderr.mean()


def forward(network, inputs):
    """The network in NumPy."""
    layers = [network.first, network.second, *network.heads]
    (w1, b1), (w2, b2), *heads = [
        (np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...], np.float64))
        for layer in layers
    ]
    hidden = np.tanh(np.tanh(inputs @ w1 + b1) @ w2 + b2)
    return [hidden @ w + b for w, b in heads]


def normal(value, loc, log_sd):
    terms = -0.5 * np.square((value - loc) / np.exp(log_sd)) - log_sd - 0.5 * np.log(2 * np.pi)
    return terms.sum(-1)


def test_the_two_layer_model_is_the_sum_written_by_hand():
    model, x = small(2), X[:4]
    z = jax.tree.map(np.asarray, posterior(model, x).sample(jax.random.key(1), (5,)))
    assert jax.tree.map(np.shape, z) == {"z1": (5, 4, 6), "z2": (5, 4, 3)}
    z1, z2 = (z[name].astype(np.float64) for name in ("z1", "z2"))
    by_hand = (
        bernoulli(forward(model.decoder, z1)[0], np.asarray(x))
        + normal(z1, *forward(model.upper_decoder, z2))
        + normal(z2, 0.0, np.zeros(3))
    )
    np.testing.assert_allclose(log_joint(model, x)(z), by_hand, rtol=1e-5)
    q = normal(z1, *forward(model.encoder, np.asarray(x))) + normal(
        z2, *forward(model.upper_encoder, z1)
    )
    np.testing.assert_allclose(posterior(model, x).log_prob(z), q, rtol=1e-4)


def test_two_layer_rate_and_means_agree_with_independent_code():
    model, x = small(2), X[:3]
    scores = scored(model)
    rng = np.random.default_rng(0)
    loc1, log_sd1 = forward(model.encoder, np.asarray(X, np.float64))
    np.testing.assert_allclose(scores.unit_variances["z1"], np.var(loc1, 0), rtol=1e-3)
    loc1, log_sd1 = loc1[:3], log_sd1[:3]
    z1 = loc1 + np.exp(log_sd1) * rng.normal(size=(4000, *loc1.shape))
    loc2, log_sd2 = forward(model.upper_encoder, z1)
    z2 = loc2 + np.exp(log_sd2) * rng.normal(size=loc2.shape)
    rates = normal(z1, loc1, log_sd1) + normal(z2, loc2, log_sd2)
    rates -= normal(z1, *forward(model.upper_decoder, z2)) + normal(z2, 0.0, np.zeros(3))
    stderr = rates.std(0) * np.sqrt(1 / 4000 + 1 / K)
    assert np.abs((scores.rate[:3] - rates.mean(0)) / stderr).max() < 5
    means = model.means(jax.random.key(0), x, _evaluate.MEAN_SAMPLES)
    np.testing.assert_allclose(means["z1"], loc1, atol=1e-4)
    np.testing.assert_allclose(means["z1"], code(model, x), atol=1e-6)
    spread = loc2.std(0) * np.sqrt(1 / 4000 + 1 / _evaluate.MEAN_SAMPLES)
    assert np.abs((means["z2"] - loc2.mean(0)) / spread).max() < 5


@pytest.mark.parametrize("layers", [1, 2])
def test_images_come_out_of_either_depth(layers):
    model, x = small(layers), X[:4]
    rebuilt = _evaluate.reconstruct(jax.random.key(0), model, x)
    drawn = _evaluate.generate(jax.random.key(0), model, 7)
    path = _evaluate.interpolate(model, x[:2], x[2:], 5)
    assert (rebuilt.shape, drawn.shape, path.shape) == ((4, 64), (7, 64), (5, 2, 64))
    for images in (rebuilt, drawn, path):
        assert 0 < float(images.min()) < float(images.max()) < 1
    reverse = _evaluate.interpolate(model, x[2:], x[:2], 5)
    np.testing.assert_allclose(path, reverse[::-1], atol=1e-6)
    z = prior(model).sample(jax.random.split(jax.random.key(0))[0], (7,))
    np.testing.assert_allclose(drawn, decode(model, z).mean, atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_the_output_bias_starts_at_the_mean_image(kind):
    images = IMAGES
    if kind == np.uint8:
        images = IMAGES._replace(train=np.round(255 * IMAGES.train).astype(np.uint8))
    bias = build_vae(Architecture(16, 4, 1), images, nnx.Rngs(0)).decoder.heads[0].bias
    assert bias is not None
    expected = np.clip(IMAGES.train.mean(0), 1e-3, 1 - 1e-3)
    tolerance = {np.uint8: 2e-3, np.float32: 1e-5}[kind]
    np.testing.assert_allclose(jax.nn.sigmoid(bias[...]), expected, atol=tolerance)
    assert expected.min() == pytest.approx(1e-3)


def test_paired_differences_are_tighter_than_their_parts():
    rng = np.random.default_rng(0)
    hardness = rng.normal(80, 10, 500)
    a, b = hardness + rng.normal(0, 1, 500), hardness + rng.normal(0.5, 1, 500)
    mean, stderr = _evaluate.paired(a, b)
    np.testing.assert_allclose(mean, (a - b).mean())
    assert stderr < 0.2 * _evaluate.mean_and_stderr(a)[1]
