"""Gradients of bounds through flows, against quadrature."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flows import make, normal, perturbed

from vi.bounds import elbo
from vi.flows import affine, autoregressive, composed, continuous, inverted, planar, spline
from vi.gradients import dreg, reparam
from vi.testing import check_gradient, quadrature

SIDE = jnp.linspace(-7.0, 7.0, 141)
PLANE = jnp.stack(jnp.meshgrid(SIDE, SIDE), -1).reshape(-1, 2)
CELL = float(SIDE[1] - SIDE[0]) ** 2


def banana(flow):
    del flow
    return lambda z: -0.5 * (z[..., 0] ** 2 / 2 + (z[..., 1] - 0.5 * z[..., 0] ** 2) ** 2)


def of(flow):
    return flow(normal(size=flow.size))


class Drawn:
    """A q whose draws are scored as they are drawn; its ``log_prob`` is only there."""

    def __init__(self, q):
        self.q, self.log_prob = q, q.base_dist.log_prob
        self.sample = self.rsample = q.rsample

    def rsample_and_log_prob(self, key, sample_shape=()):
        return self.q.rsample_and_log_prob(key, sample_shape)


def elbo_over_draws(flow):
    """The ELBO as an integral over z: only the inverse is used."""
    log_q = of(flow).log_prob(PLANE)
    return (jnp.exp(log_q) * (banana(flow)(PLANE) - log_q)).sum() * CELL


def elbo_over_noise(flow):
    """The same over the base: only the forward pass is used."""
    z, log_det = flow.forward(PLANE)
    log_base = normal(size=2).log_prob(PLANE)
    return (jnp.exp(log_base) * (banana(flow)(z) - log_base + log_det)).sum() * CELL


slow = pytest.mark.slow
PLANAR = planar(2, num_layers=2, rngs=nnx.Rngs(0))
FIELD = continuous(2, hidden=(8,), num_steps=2, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("flow", "exact", "estimator"),
    [
        (make("coupling-affine", size=2), elbo_over_draws, dreg),
        (make("coupling-affine", size=2), elbo_over_draws, reparam),
        (make("autoregressive-affine", size=2), elbo_over_noise, dreg),
        (PLANAR, elbo_over_noise, reparam),
        pytest.param(make("coupling-spline", size=2), elbo_over_noise, dreg, marks=slow),
        pytest.param(FIELD, elbo_over_noise, dreg, marks=slow),
    ],
    ids=["coupling-dreg", "coupling-reparam", "iaf-dreg", "planar", "spline", "continuous"],
)  # fmt: skip
def test_the_elbo_in_the_plane(flow, exact, estimator):
    flow = perturbed(flow, 3, std=0.3)
    make_q = of if flow.name != "planar" else lambda flow: Drawn(of(flow))
    report = check_gradient(
        estimator(elbo), make_q, flow, banana, key=jax.random.key(0), num_samples=4,
        num_replicates=1000, truth=jax.jit(jax.grad(exact))(flow),
    )  # fmt: skip
    assert report.passed, report


LINE = autoregressive(
    1, num_layers=2, transformer=composed(spline(num_bins=3), affine()), hidden=(2,),
    rngs=nnx.Rngs(0),
)  # fmt: skip


def bimodal(flow):
    del flow
    return lambda z: two_modes(z[..., 0])


def two_modes(z):
    return jnp.logaddexp(-0.5 * (z - 1) ** 2, -0.5 * (z + 2) ** 2)


class OnTheLine:
    """A q of one dimension as one over real numbers."""

    def __init__(self, q):
        self.q = q

    def sample(self, key, sample_shape=()):
        return self.q.sample(key, sample_shape)[..., 0]

    def log_prob(self, z):
        return self.q.log_prob(z[..., None])


def truth_of(flow):
    """Fine, since the derivative of log q in a knot jumps at the knot."""
    exact = quadrature(elbo, lower=-9.0, upper=9.0, num_nodes=8193)

    def value(flow):
        return exact(jax.random.key(0), OnTheLine(of(flow)), two_modes, 1)

    return jax.jit(jax.grad(value))(flow)


@pytest.mark.parametrize(
    ("flow", "estimator"),
    [pytest.param(LINE, dreg, marks=pytest.mark.slow), (inverted(LINE), reparam)],
    ids=["iaf", "maf"],
)
def test_splines_on_the_line(flow, estimator):
    """The direction that loops over dimensions, in scoring and in drawing."""
    flow = perturbed(flow, 1, std=0.5)
    report = check_gradient(
        estimator(elbo), of, flow, bimodal, key=jax.random.key(0), num_samples=2,
        num_replicates=1000, truth=truth_of(flow),
    )  # fmt: skip
    assert report.passed, report


class Twin(Drawn):
    """A q whose one pass adds the log-determinant that it should subtract."""

    def __init__(self, q):
        super().__init__(q)
        self.log_prob = q.log_prob

    def rsample_and_log_prob(self, key, sample_shape=()):
        z, log_q = self.q.rsample_and_log_prob(key, sample_shape)
        return z, log_q - 2 * self.q.transforms[0].flow.inverse(z)[1]


def test_a_score_of_the_wrong_sign_is_found():
    flow = perturbed(make("coupling-affine", size=2), 3, std=0.3)
    report = check_gradient(
        reparam(elbo), lambda flow: Twin(of(flow)), flow, banana, key=jax.random.key(0),
        num_samples=4, num_replicates=1000, truth=jax.jit(jax.grad(elbo_over_noise))(flow),
    )  # fmt: skip
    assert not report.passed


@pytest.mark.parametrize("flow", [make("autoregressive-spline", size=2), LINE])
def test_both_modes_agree_through_every_pass(flow):
    """Forward over the loop of the inverse equals reverse: the engine asks for both."""
    flow = perturbed(flow, 2)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(4, flow.size)), jnp.float32)

    def total(z):
        return of(flow).log_prob(z).sum()

    forward, reverse = jax.jit(lambda z: (jax.jacfwd(total)(z), jax.grad(total)(z)))(z)
    chex.assert_trees_all_close(forward, reverse, atol=1e-4)
