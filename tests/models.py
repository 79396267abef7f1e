"""Small models shared by the tests, and the quadrature that makes their expectations exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import vi

X = 1.3


class GivenNoise:
    """A normal q whose draws are computed from given noise: quadrature instead of sampling."""

    def __init__(self, loc, log_scale, noise):
        self.loc, self.scale, self.noise = loc, jnp.exp(log_scale), noise

    def rsample(self, key, sample_shape=()):
        return self.loc + self.scale * self.noise

    sample = rsample

    def log_prob(self, z):
        return dist.Normal(self.loc, self.scale).log_prob(z)


def log_joint(params):
    """A nonlinear one-dimensional model with one parameter."""
    return lambda z: (
        dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(jnp.sin(params["w"] * z), 0.8).log_prob(X)
    )


def scalar_params(dtype=jnp.float64):
    values = {"loc": 0.4, "log_scale": -0.2, "w": 1.1}
    return {name: jnp.asarray(value, dtype) for name, value in values.items()}


def noise_grid(num_samples: int, num_nodes: int):
    """Nodes ``[num_nodes**K, K]`` and weights of the product trapezoid rule for N(0, I).

    Its error falls exponentially in ``num_nodes`` for integrands analytic in a strip, which the log
    of a sum of weights is; Gauss-Hermite needs them analytic in the whole plane.
    """
    nodes = np.linspace(-8.0, 8.0, num_nodes)
    weights = np.exp(-(nodes**2) / 2)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(nodes, repeat=num_samples)))
    mass = np.array([np.prod(w) for w in itertools.product(weights, repeat=num_samples)])
    return jnp.asarray(grid), jnp.asarray(mass)


def exact_bound(bound, params, num_samples, num_nodes=129):
    """E[bound] by quadrature: differentiate this for the exact gradient."""
    noise, mass = noise_grid(num_samples, num_nodes)
    z = params["loc"] + jnp.exp(params["log_scale"]) * noise
    log_q = dist.Normal(params["loc"], jnp.exp(params["log_scale"])).log_prob(z)
    log_w = log_joint(params)(z) - log_q
    return mass @ bound(log_w.T)


def mean_gradient(objective, params, num_samples, num_nodes=129):
    """The expectation of an objective's gradient, by quadrature over its draws."""
    noise, mass = noise_grid(num_samples, num_nodes)

    def gradient(noise):
        def value(params):
            q = GivenNoise(params["loc"], params["log_scale"], noise)
            return objective(jax.random.key(0), q, log_joint(params), num_samples)

        return jax.grad(value)(params)

    return jax.tree.map(lambda g: mass @ g, jax.jit(jax.vmap(gradient))(noise))


def renyi(alpha):
    """A bound as a user writes it: undeclared, differentiated generically."""

    def bound(log_w):
        return vi.bounds.iwae((1 - alpha) * log_w) / (1 - alpha)

    return bound
