"""The loss against NumPyro's own, where that is right."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer import RenyiELBO, Trace_ELBO
from numpyro.infer.util import compute_log_probs

import vi
from tests.numpyro_models import PROGRAMS, setup


def magnitude(model, guide, args, params, seed=0):
    """The sum of absolute log-probabilities of all sites: what a rounding error is measured by."""
    of_model, of_guide = jax.random.split(jax.random.key(seed))
    log_q, trace = compute_log_probs(handlers.seed(guide, of_guide), args, {}, params)
    replayed = handlers.replay(handlers.seed(model, of_model), trace)
    log_p, _ = compute_log_probs(replayed, args, {}, params)
    return sum(abs(v) for v in (*log_q.values(), *log_p.values()))


def compared(name, ours, theirs, seed=0):
    model, guide, args, params = setup(name)

    def value_and_gradient(loss):
        run = lambda params, key: loss.loss(key, params, model, guide, *args)  # noqa: E731
        return jax.jit(jax.value_and_grad(run))(params, jax.random.key(seed))

    return (
        value_and_gradient(ours),
        value_and_gradient(theirs),
        magnitude(model, guide, args, params),
    )


def require_equal(name, ours, theirs, tolerance):
    (value, gradient), (their_value, their_gradient), size = compared(name, ours, theirs)
    np.testing.assert_allclose(value, their_value, atol=tolerance * size, rtol=0)
    largest = max(jnp.abs(g).max() for g in jax.tree.leaves(their_gradient))
    chex.assert_trees_all_close(
        gradient, their_gradient, atol=tolerance * max(size, largest), rtol=0
    )


IN_FLOAT32 = {"hierarchy, subsampled", "flow"}


@pytest.mark.parametrize(
    "name",
    [n if n in IN_FLOAT32 else pytest.param(n, marks=pytest.mark.slow) for n in PROGRAMS],
)
def test_one_particle_is_trace_elbo(name):
    require_equal(name, vi.numpyro.ELBO(), Trace_ELBO(), 1e-6)


NEIGHBOURS = {"correlated", "eight schools", "eight schools, full", "regression", "ladder"}
NEIGHBOURS |= {"regression, subsampled"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in NEIGHBOURS else n for n in PROGRAMS],
)
@pytest.mark.usefixtures("x64")
def test_one_particle_is_trace_elbo_in_float64(name):
    require_equal(name, vi.numpyro.ELBO(), Trace_ELBO(), 1e-12)


RIGHT = ["conjugate", "local", "local, subsampled", "grid", "improper", "learned", "ladder"]


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize(
    "alpha",
    [0.0, pytest.param(0.5, marks=pytest.mark.slow), pytest.param(2.0, marks=pytest.mark.slow)],
)
def test_renyi_is_numpyros_where_that_is_right(name, alpha):
    ours = vi.numpyro.Renyi(alpha, 4, gradient=vi.gradients.reparam)
    require_equal(name, ours, RenyiELBO(alpha, 4), 2e-6)
