"""A flow as a guide of a NumPyro program."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.contrib.module import nnx_module
from numpyro.infer import SVI, Trace_ELBO

import vi
from vi.bounds import iwae
from vi.flows import affine, coupling, planar
from vi.gradients import dreg

X = jnp.array(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
LAYERS = {"num_layers": 2, "rngs": nnx.Rngs(0), "context_size": 3}


def model(x):
    with numpyro.plate("N", len(x)):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
        mean = jnp.stack([z[..., 0], z[..., 1] ** 2, z.sum(-1)], -1)
        numpyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)


def guide_of(flow):
    def guide(x):
        flow_of = nnx_module("flow", flow)
        with numpyro.plate("N", len(x)):
            numpyro.sample("z", flow_of(dist.Normal(jnp.zeros((len(x), 2)), 1.0).to_event(1), x))

    return guide


@pytest.mark.parametrize(
    ("flow", "losses"),
    [
        (
            coupling(2, transformer=affine(), hidden=(8,), **LAYERS),
            [vi.numpyro.ELBO(4), Trace_ELBO(4), vi.numpyro.Loss(dreg(iwae), num_particles=4)],
        ),
        (planar(2, **LAYERS), [vi.numpyro.ELBO(4)]),
    ],
    ids=["coupling", "planar"],
)
def test_a_flow_trains_as_a_guide(flow, losses):
    before = jax.tree.leaves(flow)[0].copy()
    for loss in losses:
        svi = SVI(model, guide_of(flow), optax.adam(2e-2), loss)
        result = svi.run(jax.random.key(0), 150, X, progress_bar=False)
        assert np.mean(result.losses[-20:]) < np.mean(result.losses[:20]) - 5
        assert list(result.params) == ["flow$params"]
    assert (jax.tree.leaves(flow)[0] == before).all()
