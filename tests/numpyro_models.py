"""NumPyro programs that a loss must take: model, guide and arguments by name."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

from vi.numpyro._restarts import _unseen

EIGHT = (
    jnp.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
    jnp.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
)
X = jnp.array(np.random.default_rng(0).normal(size=(6, 3)))
Y = jnp.array(np.random.default_rng(1).normal(size=6))


def conjugate(y):
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(z, 1).expand([len(y)]).to_event(1), obs=y)


def mean_field(y):
    loc = numpyro.param("loc", 0.3)
    scale = numpyro.param("scale", 0.8, constraint=constraints.positive)
    numpyro.sample("z", dist.Normal(loc, scale))


def eight_schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def local(y, size=None):
    with numpyro.plate("N", len(y), subsample_size=size):
        batch = numpyro.subsample(y, event_dim=0)
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=batch)


def amortised(y, size=None):
    slope = numpyro.param("slope", 0.4)
    scale = numpyro.param("scale", 0.8, constraint=constraints.positive)
    with numpyro.plate("N", len(y), subsample_size=size):
        batch = numpyro.subsample(y, event_dim=0)
        numpyro.sample("z", dist.Normal(slope * batch, scale))


def regression(x, y, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    with numpyro.plate("N", len(y), subsample_size=size):
        xs, ys = numpyro.subsample(x, event_dim=1), numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(xs @ w, noise), obs=ys)


def hierarchy(y, size=None):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    with numpyro.plate("N", len(y), subsample_size=size):
        batch = numpyro.subsample(y, event_dim=0)
        z = numpyro.sample("z", dist.Normal(mu, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=batch)


def hierarchy_guide(y, size=None):
    loc = numpyro.param("mu_loc", 0.2)
    slope = numpyro.param("slope", 0.4)
    pull = numpyro.param("pull", 0.3)
    scale = numpyro.param("scale", 0.8, constraint=constraints.positive)
    mu = numpyro.sample("mu", dist.Normal(loc, 0.5))
    with numpyro.plate("N", len(y), subsample_size=size):
        batch = numpyro.subsample(y, event_dim=0)
        numpyro.sample("z", dist.Normal(slope * batch + pull * mu, scale))


def grid(y):
    with numpyro.plate("rows", y.shape[0], dim=-2), numpyro.plate("columns", y.shape[1], dim=-1):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z, 0.5), obs=y)


def ladder(y):
    with numpyro.plate("groups", y.shape[0], dim=-2):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("members", y.shape[1], dim=-1):
            z = numpyro.sample("z", dist.Normal(mu, 1))
            numpyro.sample("y", dist.Normal(z, 1), obs=y)


def mixture(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        means = numpyro.sample("means", dist.Normal(0, 3))
    components = dist.Normal(means, 1.0)
    with numpyro.plate("N", len(y)):
        numpyro.sample(
            "y", dist.MixtureSameFamily(dist.Categorical(probs=weights), components), obs=y
        )


def walk(y):
    scale = numpyro.sample("scale", dist.LogNormal(0, 1))

    def step(previous, seen):
        z = numpyro.sample("z", dist.Normal(previous, scale))
        numpyro.sample("y", dist.Normal(z, 1), obs=seen)
        return z, None

    scan(step, 0.0, y)


def improper(y):
    loc = numpyro.sample("loc", dist.ImproperUniform(constraints.real, (), ()))
    scale = numpyro.sample("scale", dist.ImproperUniform(constraints.positive, (), ()))
    with numpyro.plate("N", len(y)):
        numpyro.sample("y", dist.Normal(loc, scale), obs=y)


def factors(y):
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.deterministic("square", z**2)
    numpyro.factor("tilt", -0.1 * z**2)
    with numpyro.handlers.mask(mask=y > 0), numpyro.plate("N", len(y)):
        numpyro.sample("y", dist.StudentT(4.0, z, 1.0), obs=y)


def scaled(y):
    with numpyro.handlers.scale(scale=0.3):
        z = numpyro.sample("z", dist.Gamma(2.0, 1.0))
    with numpyro.plate("N", len(y)), numpyro.handlers.scale(scale=2.0):
        numpyro.sample("y", dist.Normal(z, 1), obs=y)


def gamma_guide(y):
    rate = numpyro.param("rate", 1.5, constraint=constraints.positive)
    with numpyro.handlers.scale(scale=0.3):
        numpyro.sample("z", dist.Gamma(2.5, rate))


def auxiliary(y):
    loc = numpyro.param("loc", 0.3)
    u = numpyro.sample("u", dist.Normal(loc, 1), infer={"is_auxiliary": True})
    numpyro.factor("reverse", -dist.Normal(0, 1).log_prob(u))
    numpyro.sample("z", dist.Delta(jnp.tanh(u), log_density=-jnp.log1p(-(jnp.tanh(u) ** 2))))


def ordered(y):
    cuts = numpyro.sample(
        "cuts",
        dist.TransformedDistribution(
            dist.Normal(0, 1).expand([2]), dist.transforms.OrderedTransform()
        ),
    )
    with numpyro.plate("N", len(y)):
        numpyro.sample("y", dist.OrderedLogistic(jnp.zeros(len(y)), cuts), obs=(y > 0) * 1)


def correlated(y):
    factor = numpyro.sample("factor", dist.LKJCholesky(2))
    with numpyro.plate("N", len(y) // 2):
        pairs = y.reshape(-1, 2)
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), scale_tril=factor), obs=pairs)


def learned(y):
    slope = numpyro.param("theta", 1.2)
    with numpyro.plate("N", len(y)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(slope * z, 1), obs=y)


PROGRAMS = {
    "conjugate": (conjugate, mean_field, (Y,)),
    "eight schools": (eight_schools, AutoNormal(eight_schools), EIGHT),
    "eight schools, full": (eight_schools, AutoMultivariateNormal(eight_schools), EIGHT),
    "local": (local, amortised, (Y,)),
    "local, subsampled": (local, amortised, (Y, 3)),
    "regression": (regression, AutoDiagonalNormal(regression), (X, Y)),
    "regression, subsampled": (
        regression, AutoLowRankMultivariateNormal(regression), (X, Y, 2)
    ),
    "hierarchy": (hierarchy, hierarchy_guide, (Y,)),
    "hierarchy, subsampled": (hierarchy, hierarchy_guide, (Y, 2)),
    "grid": (grid, AutoNormal(grid), (Y.reshape(2, 3),)),
    "ladder": (ladder, AutoNormal(ladder), (Y.reshape(2, 3),)),
    "mixture": (mixture, AutoNormal(mixture), (Y,)),
    "walk": (walk, AutoNormal(walk), (Y,)),
    "improper": (improper, AutoNormal(improper), (Y,)),
    "factors": (factors, AutoDelta(factors), (Y,)),
    "masked": (factors, AutoNormal(factors), (Y,)),
    "scaled": (scaled, gamma_guide, (Y,)),
    "auxiliary": (conjugate, auxiliary, (Y,)),
    "ordered": (ordered, AutoNormal(ordered), (Y,)),
    "correlated": (correlated, AutoDiagonalNormal(correlated), (Y,)),
    "learned": (learned, AutoNormal(learned), (Y,)),
    "flow": (
        eight_schools, AutoIAFNormal(eight_schools, num_flows=1, hidden_dims=[12]), EIGHT
    ),
}  # fmt: skip
"""Continuous programs: ``(model, guide, args)``."""


def setup(name, key=None):
    """``(model, guide, args, constrained parameters)`` of a program, ready to be weighed."""
    import optax
    from numpyro.infer import SVI, Trace_ELBO

    model, guide, args = PROGRAMS[name]
    guide = _unseen(guide)  # a guide keeps arrays, in the precision of the test that it saw first
    svi = SVI(model, guide, optax.sgd(0.1), Trace_ELBO())
    params = svi.get_params(svi.init(random.key(3) if key is None else key, *args))
    return model, guide, args, params
