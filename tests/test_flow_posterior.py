"""Autoencoders with five posteriors: what they share, what they draw, and a short run."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx

import vi
from experiments import _flow_plane, flow_posterior
from experiments._config import execute, resolve
from experiments._data import load_digits
from experiments._flow_vae import build, heads
from experiments._vae import log_joint, posterior

KINDS = ("diagonal", "full", "iaf", "spline", "refined")


@pytest.fixture(scope="module")
def models():
    images = load_digits()
    made = heads(num_layers=2, flow_hidden=8)
    return {kind: build(images, 12, 4, made[kind], nnx.Rngs(0)) for kind in KINDS}


def test_every_posterior_begins_with_the_same_networks(models):
    for part in (lambda m: m.encoder, lambda m: m.decoder, lambda m: m.head.heads):
        first = jax.tree.leaves(part(models["diagonal"]))
        for model in models.values():
            same = zip(first, jax.tree.leaves(part(model)), strict=True)
            assert all((a == b).all() for a, b in same)


@pytest.mark.parametrize("kind", KINDS)
def test_a_posterior_draws_scores_and_learns(models, kind):
    """Of a batch, under the estimator it is trained with; a flow's last layers learn first."""
    model, x = models[kind], jnp.asarray(load_digits().test[:3] > 0.5, jnp.float32)

    @jax.jit
    def compute(model):
        q = posterior(model, x)
        z = q.sample(jax.random.key(0), (5,))

        def loss(model):
            objective = vi.gradients.reparam(vi.bounds.elbo)
            key = jax.random.key(1)
            return -objective(key, posterior(model, x), log_joint(model, x), 2).mean()

        return z, q.log_prob(z), jax.grad(loss)(model)

    z, log_q, gradient = compute(model)
    assert (z.shape, log_q.shape) == ((5, 3, 4), (5, 3))
    sizes = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient.head)]
    assert np.isfinite(sizes).all()
    assert np.mean(np.array(sizes) > 0) > 0.5  # the layers before a flow's last wait for it


class Known(nnx.Module):
    """A model whose pixels say nothing: the true posterior is the prior, q a shifted normal."""

    def __init__(self, shift):
        self.shift = shift

    def prior(self):
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

    def observation(self, z):
        return vi.likelihoods.bernoulli(jnp.zeros((*z.shape[:-1], 6)))

    def posterior(self, x):
        return dist.Normal(self.shift * jnp.ones(2), 1.0).to_event(1)


def test_panels_hold_q_against_the_true_posterior():
    held = _flow_plane.panels({"same": Known(0.0), "off": Known(0.5)}, jnp.zeros((2, 6)))
    np.testing.assert_allclose(held["same/kl"], 0.0, atol=1e-5)
    np.testing.assert_allclose(held["off/kl"], 0.25, rtol=1e-3)  # two dimensions, 0.5^2 / 2 each
    at_centre = held["same/p"][0, 80, 80]
    np.testing.assert_allclose(at_centre, -np.log(2 * np.pi), atol=1e-4)
    np.testing.assert_allclose(held["off/inside"], 1.0, atol=1e-4)
    far = _flow_plane.panels({"far": Known(8.0)}, jnp.zeros((2, 6)))
    assert (far["far/inside"] < 0.1).all()
    _flow_plane.draw(far, ["far"])


@pytest.mark.slow
def test_a_run_writes_every_metric(tmp_path):
    config = flow_posterior.Config(preset="smoke", progress=False, out=tmp_path)
    record = execute(config, flow_posterior.PRESETS, flow_posterior.experiment, "flow_posterior")
    for kind in ("diagonal", "iaf"):
        gap = record.metrics[f"{kind}/gap, NLL above -ELBO"].value
        assert gap is not None
        assert gap > 0
    assert "iaf/test ELBO - diagonal's, paired" in record.metrics
    assert (tmp_path / "posteriors.png").stat().st_size > 10_000


def test_what_would_fail_late_is_refused_by_its_flag():
    for fields, message in (
        ({"posteriors": ("iaf", "iaf")}, "--posteriors must name each posterior once"),
        ({"posteriors": ("spline",), "latent": 5}, "--latent must be even"),
        ({"plane_steps": -1}, "--plane-steps must be an integer of at least 0"),
    ):
        config = flow_posterior.Config(preset="smoke", **fields)
        with pytest.raises(ValueError, match=message):
            flow_posterior.check(resolve(config, flow_posterior.PRESETS))
