"""The table of priors: a new one adds a row here and inherits every property.

A row says how to make one from its parameters and where its mass is, as the rows of families do.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from numpyro.distributions import transforms

import vi
from tests.families import PLANE, Grid, box, of, outcomes


class Prior(NamedTuple):
    """One prior: ``make(params)``, parameters (floating arrays), and where its mass is."""

    make: Callable[[Any], Any]
    params: Any
    grid: Callable[..., Grid]


class CubedSinh(transforms.ParameterFreeTransform):
    """``sinh(u)^3``: fine around a pole at 0, and far out for the heaviest tails."""

    def __call__(self, u):
        return jnp.sinh(u) ** 3

    def _inverse(self, w):
        return jnp.arcsinh(jnp.cbrt(w))

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.log(3 * jnp.sinh(x) ** 2 * jnp.cosh(x))


def _mixture(p):
    prior = vi.priors.MixturePrior(2, num_components=2, rngs=nnx.Rngs(0))
    prior.loc[...], prior.log_scale[...], prior.logits[...] = p["loc"], p["log_scale"], p["logits"]
    return prior()


def _vamp(p):
    prior = vi.priors.VampPrior(p["raw"], squash=jnp.tanh, logits=p["logits"])
    return prior(lambda x: vi.families.normal(x @ p["encoder"], scale=0.3 + x**2))


def _group(*earlier):
    return dist.Normal(0.8 * jnp.sin(sum(earlier)), 0.7).to_event(1)


def _named(prior_of):
    def make(p):
        top = dist.Normal(p["loc"], jnp.exp(p["log_scale"])).to_event(1)
        return prior_of({"a": top, "b": _group})

    return make


def _flow(p):
    flow = vi.flows.coupling(
        2, num_layers=2, transformer=vi.flows.affine(), hidden=(4,), rngs=nnx.Rngs(0)
    )
    flow = jax.tree.map(lambda leaf: 0 * leaf + p["shift"], flow)
    return flow(dist.Normal(jnp.zeros(2), 1.0).to_event(1))


NAMED = box(
    (-7, 7),
    (-7, 7),
    pack=lambda u: {"a": u[..., :1], "b": u[..., 1:]},
    unpack=lambda z: jnp.concatenate([z["a"], z["b"]], -1),
)
TOP = of(loc=[0.3], log_scale=[-0.2])
TWO_STEPS = box((-9, 9), (-9, 9), pack=lambda u: u[..., None], unpack=lambda z: z[..., 0])

PRIORS: dict[str, Prior] = {
    "MixturePrior": Prior(
        _mixture,
        of(
            loc=[[-1.0, 0.4], [1.2, -0.6]], log_scale=[[-0.3, 0.1], [0.0, -0.1]], logits=[0.2, -0.3]
        ),
        PLANE,
    ),
    "VampPrior": Prior(
        _vamp,
        of(raw=[[0.9, -0.4], [-1.2, 0.6]], encoder=[[1.0, 0.3], [-0.2, 0.8]], logits=[0.2, -0.3]),
        box((-9, 9), (-9, 9), num_nodes=160),
    ),
    "hierarchical": Prior(_named(vi.priors.hierarchical), TOP, NAMED),
    "autoregressive": Prior(_named(vi.priors.autoregressive), TOP, NAMED),
    "ar1": Prior(
        lambda p: vi.priors.ar1(2, coefficient=p["coefficient"], scale=p["scale"]),
        of(coefficient=[0.7], scale=[0.8]),
        TWO_STEPS,
    ),
    "markov": Prior(
        lambda p: vi.priors.markov(
            dist.Normal(p["loc"], 1.0).to_event(1),
            lambda z: dist.Normal(jnp.sin(z), jnp.exp(p["log_scale"])).to_event(1),
            num_steps=2,
        ),
        of(loc=[0.3], log_scale=[-0.4]),
        TWO_STEPS,
    ),
    "gaussian_process": Prior(
        lambda p: vi.priors.gaussian_process(
            jnp.array([0.0, 0.4]), vi.priors.matern32(p["length_scale"]), size=1
        ),
        of(length_scale=0.8),
        TWO_STEPS,
    ),
    "laplace_softmax": Prior(
        lambda p: vi.priors.laplace_softmax(p["concentration"]),
        of(concentration=[2.1, 3.0]),
        PLANE,
    ),
    "dirichlet": Prior(
        lambda p: dist.Dirichlet(p["concentration"]),
        of(concentration=[2.1, 3.0, 2.5]),
        box((-8, 7), (-8, 7), transform=transforms.StickBreakingTransform()),
    ),
    "scale_mixture": Prior(
        lambda p: vi.priors.scale_mixture(p["scales"], shares=p["shares"], event_shape=(1,)),
        of(scales=[1.0, 0.1], shares=[0.4, 0.6]),
        box((-8, 8), num_nodes=8192),
    ),
    "horseshoe": Prior(
        lambda p: vi.priors.horseshoe(p["scale"], event_shape=(1,)),
        of(scale=0.3),
        box((-8, 8), num_nodes=4096, transform=CubedSinh()),
    ),
    "uniform_codes": Prior(
        lambda p: vi.priors.uniform_codes(3, event_shape=(2,)),
        {},
        outcomes(*np.stack(np.meshgrid([0, 1, 2], [0, 1, 2]), -1).reshape(-1, 2)),
    ),
    "a flow": Prior(_flow, of(shift=0.1), PLANE),
}
