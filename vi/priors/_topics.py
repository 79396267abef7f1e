"""A normal in the place of a Dirichlet, for topics."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vi._check import refusal
from vi._known import require_positive
from vi.priors._event import Event


def laplace_softmax(concentration: Float[Array, "*batch M"]) -> dist.Distribution:
    r"""The normal whose softmax stands for a Dirichlet: its Laplace approximation there.

    .. math:: \mu_m = \log \alpha_m - \frac{1}{M} \sum_i \log \alpha_i, \qquad
              \sigma_m^2 = \frac{1}{\alpha_m} \Bigl(1 - \frac{2}{M}\Bigr)
                           + \frac{1}{M^2} \sum_i \frac{1}{\alpha_i}

    Latents are logits: topic shares are ``jax.nn.softmax(z)``. With a diagonal normal as q the KL
    is analytic, and draws have a plain path. It is close for large concentrations; the Dirichlet
    itself is ``numpyro.distributions.Dirichlet``, as a prior and (with implicit derivatives) as q.

    Args:
        concentration: :math:`\alpha`, ``[*batch, M]``, positive.

    Returns:
        A NumPyro distribution over logits, with event shape ``[M]``.

    Raises:
        ValueError: Fewer than two topics, or a known concentration at or below 0; on scoring,
            logits of another number of topics.

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> prior = vi.priors.laplace_softmax(jnp.full(50, 0.02))
        >>> prior.event_shape, f"{prior.variance[0]:.0f}"
        ((50,), '49')

    References:
        Srivastava and Sutton (2017), equation 2, after MacKay (1998).
    """
    size = jnp.shape(concentration)[-1] if jnp.ndim(concentration) else 0
    if size < 2:
        got, remedy = f"shape {list(jnp.shape(concentration))}", "give one entry per topic"
        raise refusal("laplace_softmax", "concentration", "have two topics or more", got, remedy)
    remedy = "pass it through jnp.exp or jax.nn.softplus"
    require_positive("laplace_softmax", "concentration", concentration, remedy)
    log_alpha = jnp.log(concentration)
    loc = log_alpha - log_alpha.mean(-1, keepdims=True)
    shared = (1 / concentration).mean(-1, keepdims=True) / size
    scale = jnp.sqrt((1 - 2 / size) / concentration + shared)
    return Event("laplace_softmax", dist.Normal(loc, scale), 1)
