"""The Bernoulli mass in nats, for a decoder's pixels and for a posterior's bits."""

import jax
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions.util import validate_sample


class Bernoulli(dist.BernoulliLogits):
    """NumPyro's, with a derivative that is right at a logit of 0.

    There NumPyro 0.22 writes softplus as ``max(l, 0) + log1p(exp(-|l|))``, whose automatic
    derivative at 0 is 0 and not 1/2: wrong for whatever starts at zero, a decoder's output layer
    and the score of a posterior's bits.
    """

    @validate_sample
    def log_prob(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """``x l - softplus(l)`` per bit, in nats."""
        return value * self.logits - jax.nn.softplus(self.logits)
