"""The concrete distributions: discrete variables, relaxed so that draws have derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.core import Tracer
from jax.scipy.special import gammaln, logit, logsumexp
from jaxtyping import Array, Float, Real
from numpyro.distributions import constraints

from vi._check import refusal

Temperature = float | Real[Array, ""]


def concrete(logits: Float[Array, "*batch D M"], *, temperature: Temperature) -> dist.Distribution:
    r"""D relaxed categorical variables of M classes, points of simplices: Gumbel-softmax.

    .. math:: z_d = \mathrm{softmax}((\ell_d + g_d) / \tau), \qquad g_{dm} \sim \mathrm{Gumbel},
    .. math:: \log q(z_d) = \log (M - 1)! + (M - 1) \log \tau
              + \sum_m (s_{dm} - \log z_{dm}) - M \log \sum_m e^{s_{dm}}, \qquad
              s_{dm} = \ell_{dm} - \tau \log z_{dm}.

    The largest entry of a draw is distributed as the categorical variable at every temperature; as
    it goes to 0, draws go to the corners and the gradient's variance to infinity. The density is
    one in M - 1 coordinates: a bound needs a prior of the same kind, a ``concrete`` of the same
    temperature, and is then one of the relaxed model. Against a *mass* as the prior the ratio is
    of no meaning, and its gradient grows without limit as the temperature falls.

    The divergence of two of them is the same at every temperature, that of the Gumbels before the
    softmax, and above that of the categorical variables: the relaxed ELBO does not become the
    discrete one as the temperature goes to 0. What does, is the likelihood under relaxed draws with
    the discrete divergence in closed form, ``vi.bounds.elbo_closed_kl``.

    Entries are kept above ``tiny^(3/4)``, which is e^-65 in float32: log-odds of two classes are
    cut at 65 times the temperature. Keep that beyond the logits, those of the prior too.

    Args:
        logits: Unnormalised log-probabilities, ``[*batch, D, M]``; the last two axes are the event.
        temperature: Positive; a traced scalar will do.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and event shape ``[D, M]``.

    Raises:
        ValueError: Fewer than two axes or classes, or a temperature that is not one positive
            number.

    Examples:
        The temperature is an argument like any other, so that a schedule is a function of the step:

        >>> import jax, jax.numpy as jnp, optax, vi
        >>> schedule = optax.exponential_decay(1.0, 1000, jnp.exp(-0.1), end_value=0.5)
        >>> @jax.jit
        ... def draw(key, logits, step):
        ...     q = vi.families.concrete(logits, temperature=schedule(step))
        ...     return q.rsample(key, (7,))
        >>> draw(jax.random.key(0), jnp.zeros((3, 2, 4)), 500).shape
        (7, 3, 2, 4)
        >>> [round(float(schedule(t)), 3) for t in (0, 1000, 10_000)]
        [1.0, 0.905, 0.5]

    References:
        Maddison, Mnih and Teh (2017), definition 1; Jang, Gu and Poole (2017), whose schedule is
        max(0.5, exp(-r t)).
    """
    require_logits("concrete", logits, classes=True)
    require_temperature("concrete", temperature)
    return Concrete(logits, temperature).to_event(1)


def binary_concrete(
    logits: Float[Array, "*batch D"], *, temperature: Temperature
) -> dist.Distribution:
    r"""D relaxed bits, numbers in (0, 1).

    .. math:: z_d = \sigma((\ell_d + \epsilon_d) / \tau), \qquad \epsilon_d \sim \mathrm{Logistic}.

    ``z_d > 1/2`` has the probability of the bit at every temperature. The prior must be a density
    on (0, 1), a ``binary_concrete`` of the same temperature; what ``concrete`` says of divergences
    holds here.

    Numbers near 1 run out of digits: in float32 draws are kept below 1 - 1.2e-7, so that log-odds
    of the bit are cut at 16 times the temperature, 4.8 at 0.3. What is cut keeps its derivative:
    with a prior logit of 0, at logit 6 and temperature 0.3, the divergence's gradient under
    ``reparam`` is 0.966 instead of 0.975, while the value, and estimators that use ``log_prob``
    alone, are wrong. Keep 16 times the temperature beyond the logits, those of the prior too;
    else use ``concrete`` over two classes, logits ``[l, 0]``, or take as the latent
    ``numpyro.distributions.Logistic(logits / temperature, 1 / temperature)``, for the prior too,
    and its sigmoid inside ``log_joint``: the bound is the same, and nothing is cut.

    Args:
        logits: Log-odds ``[*batch, D]``; the last axis is the event.
        temperature: Positive; a traced scalar will do.

    Returns:
        A NumPyro distribution with batch shape ``[*batch]`` and event shape ``[D]``.

    Raises:
        ValueError: No event axis, or a temperature that is not one positive number.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> q = vi.families.binary_concrete(jnp.zeros((3, 2)), temperature=0.5)
        >>> z = q.rsample(jax.random.key(0), (7,))
        >>> z.shape, q.log_prob(z).shape
        ((7, 3, 2), (7, 3))

    References:
        Maddison, Mnih and Teh (2017), section 3.3 and appendix C.3.
    """
    require_logits("binary_concrete", logits)
    require_temperature("binary_concrete", temperature)
    return BinaryConcrete(logits, temperature).to_event(1)


class Concrete(dist.Distribution):
    """One relaxed categorical variable, ``[*batch, M]``; made by ``concrete``."""

    arg_constraints = {"logits": constraints.real_vector, "temperature": constraints.positive}  # noqa: RUF012
    support: Any = constraints.simplex
    reparametrized_params = ["logits", "temperature"]  # noqa: RUF012

    def __init__(self, logits, temperature, *, validate_args: bool | None = None):
        self.logits, self.temperature = logits, temperature
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def sample(self, key: Any, sample_shape=()):
        """Draw points of the simplex, ``[*sample_shape, *batch, M]``, with derivatives."""
        gumbel = jax.random.gumbel(key, self.shape(sample_shape))
        log_z = jax.nn.log_softmax((self.logits + gumbel) / self.temperature, axis=-1)
        least = 0.75 * jnp.log(jnp.finfo(log_z.dtype).tiny)  # far from where 1 / z is inf
        return jnp.exp(_held_within(log_z, least, 0.0))

    def log_prob(self, value):
        """The log-density in nats, in M - 1 coordinates."""
        num_classes = self.event_shape[0]
        log_z = jnp.log(value)
        s = self.logits - self.temperature * log_z
        constant = gammaln(float(num_classes)) + (num_classes - 1) * jnp.log(self.temperature)
        return constant + (s - log_z).sum(-1) - num_classes * logsumexp(s, axis=-1)


class BinaryConcrete(dist.Distribution):
    """Relaxed bits, ``[*batch]``; made by ``binary_concrete``.

    NumPyro's has no derivative at draws that it cuts off, and so a gradient of the wrong sign at
    logit 6 and temperature 0.3.
    """

    arg_constraints = {"logits": constraints.real, "temperature": constraints.positive}  # noqa: RUF012
    support: Any = constraints.unit_interval
    reparametrized_params = ["logits", "temperature"]  # noqa: RUF012

    def __init__(self, logits, temperature, *, validate_args: bool | None = None):
        self.logits, self.temperature = logits, temperature
        super().__init__(jnp.shape(logits), (), validate_args=validate_args)

    def sample(self, key: Any, sample_shape=()):
        """Draw numbers in (0, 1), ``[*sample_shape, *batch]``, with derivatives."""
        return self._relax(jax.random.logistic(key, self.shape(sample_shape)))

    def icdf(self, q):
        """The numbers at uniforms, with derivatives."""
        return self._relax(logit(q))

    def log_prob(self, value):
        """The log-density in nats."""
        y = logit(value)
        s = self.logits - self.temperature * y
        log_volume = jnp.log(value) + jnp.log1p(-value)
        return jnp.log(self.temperature) + s - 2 * jax.nn.softplus(s) - log_volume

    def _relax(self, noise):
        y = (self.logits + noise) / self.temperature
        info = jnp.finfo(y.dtype)
        largest = -jnp.log(info.eps)  # where sigma is 1 - eps
        return jax.nn.sigmoid(_held_within(y, 0.75 * jnp.log(info.tiny), largest))


def _held_within(value, least, largest):
    """The nearest number in an interval, with the derivative of the value itself."""
    held = jax.lax.stop_gradient(value)
    return jnp.clip(held, least, largest) + (value - held)


def require_logits(where: str, logits, *, classes: bool = False) -> None:
    """Refuse logits without their event axes: D, and with ``classes`` M of at least 2."""
    shape = jnp.shape(logits)
    if classes and (len(shape) < 2 or shape[-1] < 2):
        rule, remedy = "be [*batch, D, M] with M >= 2", "logits[None] is one variable, D = 1"
        raise refusal(where, "logits", rule, f"shape {list(shape)}", remedy)
    if not shape:
        remedy = "give the latent dimensions an axis: logits[None]"
        raise refusal(where, "logits", "have a last axis of D dimensions", "a scalar", remedy)


def require_temperature(where: str, temperature) -> None:
    """Refuse what is not one number, or is known and not positive."""
    rule, remedy = "be one positive number", "pass 0.5, or a schedule at its step"
    if jnp.shape(temperature) != ():
        got = f"shape {list(jnp.shape(temperature))}"
        raise refusal(where, "temperature", rule, got, remedy)
    if not isinstance(temperature, Tracer) and not 0 < float(temperature) < jnp.inf:
        raise refusal(where, "temperature", rule, temperature, remedy)
