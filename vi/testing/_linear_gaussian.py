"""The linear-Gaussian latent variable model: everything about it is known exactly."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._check import refusal, require_count, require_key
from vi.types import Key, LogDensity


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearGaussian:
    r"""A model whose evidence, posterior, ELBO and gradients are exact.

    .. math:: p(z) = N(z; 0, I_D), \qquad p(x|z) = N(x; W z + b, \sigma^2 I_P).

    Every method is a closed form written in JAX, so its gradients are exact too: differentiate
    ``log_evidence`` or ``elbo`` with respect to the model, which is a pytree, the data or q. The
    evidence (a P x P Cholesky), the posterior (a D x D one) and the ELBO (moments) are computed
    independently of each other, so that the identities between them can be tested.

    Attributes:
        weights: ``W``, ``[P, D]``.
        bias: ``b``, ``[P]``.
        noise_scale: ``sigma``, the standard deviation of the noise; a positive scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> model = LinearGaussian(jnp.ones((1, 1)), jnp.zeros(1), jnp.array(1.0))
        >>> x = jnp.array([2.0])
        >>> posterior = model.posterior(x)
        >>> elbo = model.elbo(x, posterior.mean, jnp.sqrt(posterior.variance))
        >>> print(f"{model.log_evidence(x):.4f} {elbo:.4f}")
        -2.2655 -2.2655

    References:
        Tipping and Bishop (1999), section 3.
    """

    weights: Float[Array, "P D"]
    bias: Float[Array, "P"]
    noise_scale: Float[Array, ""]

    @property
    def prior(self) -> dist.Distribution:
        """``p(z)``, a standard normal with event shape ``[D]``."""
        return dist.Normal(jnp.zeros_like(self.weights[0]), 1.0).to_event(1)

    def likelihood(self, z: Float[Array, "*shape D"]) -> dist.Distribution:
        """``p(x | z)``, batch shape ``[*shape]`` and event shape ``[P]``."""
        return dist.Normal(z @ self.weights.T + self.bias, self.noise_scale).to_event(1)

    def log_likelihood(self, x: Float[Array, "*batch P"]) -> LogDensity:
        """``z -> log p(x | z)``: latents ``[K, *batch, D]`` to ``[K, *batch]`` nats."""
        self._require_data("log_likelihood", x)
        return lambda z: self.likelihood(z).log_prob(x)

    def log_joint(self, x: Float[Array, "*batch P"]) -> LogDensity:
        """``z -> log p(x, z)``: latents ``[K, *batch, D]`` to ``[K, *batch]`` nats."""
        self._require_data("log_joint", x)
        return lambda z: self.prior.log_prob(z) + self.likelihood(z).log_prob(x)

    def log_evidence(self, x: Float[Array, "*batch P"]) -> Float[Array, "*batch"]:
        r"""``log p(x)`` in nats, from :math:`x \sim N(b, W W^\top + \sigma^2 I_P)`."""
        self._require_data("log_evidence", x)
        covariance = self.weights @ self.weights.T + self.noise_scale**2 * jnp.eye(len(self.bias))
        return dist.MultivariateNormal(self.bias, covariance).log_prob(x)

    def posterior(self, x: Float[Array, "*batch P"]) -> dist.MultivariateNormal:
        r"""``p(z | x)``, batch shape ``[*batch]`` and event shape ``[D]``.

        .. math:: p(z|x) = N(\sigma^{-2} \Lambda^{-1} W^\top (x - b), \Lambda^{-1}), \qquad
                  \Lambda = I_D + \sigma^{-2} W^\top W.
        """
        self._require_data("posterior", x)
        precision = self._posterior_precision()
        projected = (x - self.bias) @ self.weights / self.noise_scale**2
        loc = jnp.linalg.solve(precision, projected[..., None])[..., 0]
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def expected_log_joint(
        self,
        x: Float[Array, "*batch P"],
        loc: Float[Array, "*batch D"],
        covariance: Float[Array, "*#batch D D"],
    ) -> Float[Array, "*batch"]:
        r"""The mean of ``log p(x, z)`` under any q with these moments, in nats.

        .. math:: \mathbb{E}_q \log p(x, z) = \log p(x, m) - \tfrac12 \operatorname{tr}(S)
                  - \tfrac{1}{2 \sigma^2} \operatorname{tr}(W S W^\top).

        Add the entropy of q for its ELBO; this is what an M step of EM maximises.
        """
        self._require_latent("expected_log_joint", x, loc)
        spread = jnp.trace(covariance, axis1=-2, axis2=-1)
        explained = jnp.sum((self.weights @ covariance) * self.weights, axis=(-2, -1))
        return self.log_joint(x)(loc) - 0.5 * (spread + explained / self.noise_scale**2)

    def elbo(
        self,
        x: Float[Array, "*batch P"],
        loc: Float[Array, "*batch D"],
        scale: Float[Array, "*batch D"],
    ) -> Float[Array, "*batch"]:
        """The exact ELBO of the mean-field ``q = N(loc, diag(scale^2))``, in nats.

        Raises:
            ValueError: ``loc`` is not ``[*batch, D]``, or ``scale`` has another shape.
        """
        self._require_latent("elbo", x, loc, scale)
        covariance = scale[..., None] ** 2 * jnp.eye(scale.shape[-1])
        entropy = jnp.log(scale).sum(-1) + 0.5 * scale.shape[-1] * (1 + math.log(2 * math.pi))
        return self.expected_log_joint(x, loc, covariance) + entropy

    def kl_to_posterior(
        self,
        x: Float[Array, "*batch P"],
        loc: Float[Array, "*batch D"],
        scale: Float[Array, "*batch D"],
    ) -> Float[Array, "*batch"]:
        """``KL(q(z|x) || p(z|x))`` of the same mean-field q in nats: ``log p(x) = elbo + this``.

        Raises:
            ValueError: ``loc`` is not ``[*batch, D]``, or ``scale`` has another shape.
        """
        self._require_latent("kl_to_posterior", x, loc, scale)
        precision = self._posterior_precision()
        offset = loc - self.posterior(x).loc
        distance = jnp.sum((offset @ precision) * offset, -1)
        spread = jnp.sum(jnp.diagonal(precision) * scale**2, -1)
        log_ratio = jnp.linalg.slogdet(precision)[1] + 2 * jnp.log(scale).sum(-1)
        return 0.5 * (distance + spread - scale.shape[-1] - log_ratio)

    def sample(
        self, key: Key, num_data: int
    ) -> tuple[Float[Array, "num_data D"], Float[Array, "num_data P"]]:
        """Draw pairs ``(z, x)`` from the joint, ``[num_data, D]`` and ``[num_data, P]``."""
        require_key("sample", key)
        num_data = require_count("sample", "num_data", num_data)
        key_z, key_x = jax.random.split(key)
        z = jax.random.normal(key_z, (num_data, self.weights.shape[1]))
        noise = jax.random.normal(key_x, (num_data, len(self.bias)))
        return z, z @ self.weights.T + self.bias + self.noise_scale * noise

    def _posterior_precision(self):
        identity = jnp.eye(self.weights.shape[1])
        return identity + self.weights.T @ self.weights / self.noise_scale**2

    def _require_data(self, where, x):
        if jnp.shape(x)[-1:] != self.bias.shape:
            rule = f"end in the model's P = {len(self.bias)}"
            remedy = "give data [*batch, P]"
            raise refusal(where, "x", rule, f"shape {list(jnp.shape(x))}", remedy)

    def _require_latent(self, where, x, loc, scale=None):
        self._require_data(where, x)
        expected = (*x.shape[:-1], self.weights.shape[1])
        for name, value in (("loc", loc), ("scale", loc if scale is None else scale)):
            if jnp.shape(value) != expected:
                got, remedy = list(jnp.shape(value)), "give one Gaussian per datum, [*batch, D]"
                raise refusal(where, name, f"have shape {list(expected)}", got, remedy)


def ppca(x: Float[Array, "N P"], num_latents: int) -> LinearGaussian:
    r"""The maximum-likelihood linear-Gaussian model: probabilistic PCA.

    .. math:: W = U_D (\Lambda_D - \sigma^2 I)^{1/2}, \qquad
              \sigma^2 = \frac{1}{P - D} \sum_{j > D} \lambda_j, \qquad b = \bar x,

    with eigenvalues in falling order of the data's covariance (divided by N). W is unique up to a
    rotation of the latents; this one has orthogonal columns, so its posterior covariance is
    diagonal and a mean-field linear VAE attains ``log p(x)`` at it: this is where that VAE ends.

    Args:
        x: Data ``[N, P]`` of rank above ``num_latents``; otherwise the likelihood is unbounded.
        num_latents: ``D``, from 1 to ``P - 1``.

    Returns:
        The model; its weights are ``[P, D]``.

    Raises:
        ValueError: ``x`` is not a matrix, or ``num_latents`` is not from 1 to ``P - 1``.

    Examples:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> print(f"{ppca(x, 1).noise_scale:.4f}")  # the root of 0.5, the lesser eigenvalue
        0.7071

    References:
        Tipping and Bishop (1999), eqs. 7 and 8; Lucas, Tucker, Grosse and Norouzi (2019), for the
        linear VAE.
    """
    num_latents = require_count("ppca", "num_latents", num_latents)
    if jnp.ndim(x) != 2:
        raise refusal("ppca", "x", "be a matrix", f"shape {list(jnp.shape(x))}", "give data [N, P]")
    if num_latents >= x.shape[1]:
        remedy = "some direction must be left to the noise"
        raise refusal("ppca", "num_latents", f"be below P = {x.shape[1]}", num_latents, remedy)
    bias = x.mean(0)
    eigenvalues, eigenvectors = jnp.linalg.eigh((x - bias).T @ (x - bias) / len(x))
    discarded, kept = jnp.split(eigenvalues, [len(bias) - num_latents])
    variance = discarded.mean()
    weights = eigenvectors[:, len(bias) - num_latents :] * jnp.sqrt(kept - variance)
    return LinearGaussian(weights[:, ::-1], bias, jnp.sqrt(variance))
