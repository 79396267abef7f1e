"""Bad input is refused before anything is computed, in the house form, with a way out."""

import functools
import re

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import vi
from vi.bounds import elbo, iwae, vr_max
from vi.gradients import dreg, estimator, reparam

Q = vi.families.normal(jnp.zeros((3, 2)), scale=jnp.ones((3, 2)))
KEY = jax.random.key(0)


def log_joint(z):
    return -(z**2).sum(-1)


PLAIN = reparam(elbo)


def call(objective=PLAIN, key=KEY, q=Q, joint=log_joint, num_samples=4):
    return objective(key, q, joint, num_samples)


@vi.bounds.declare(min_samples=3)
def needs_three(log_w):
    return log_w.mean(0)


class Scores:
    """Samples and scores, and has no rsample."""

    def sample(self, key, sample_shape=()):
        return jnp.zeros((*sample_shape, 3, 2))

    def log_prob(self, z):
        return jnp.zeros(z.shape[:-1], jnp.float32)


class Counts(Scores):
    def rsample(self, key, sample_shape=()):
        return jnp.zeros((*sample_shape, 3, 2), int)


class Remembers(Scores):
    """Keeps what it computed from its parameters in the first trace."""

    @functools.cached_property
    def scale(self):
        return jnp.exp(jnp.zeros((3, 2)))

    def rsample(self, key, sample_shape=()):
        return self.scale * jax.random.normal(key, (*sample_shape, 3, 2))

    def log_prob(self, z):
        return -((z / self.scale) ** 2).sum(-1)


def broken_rule(**fields):
    def rule(bound, log_w):
        theta = vi.bounds.first_derivative(bound, log_w)
        return vi.types.Coefficients(**{"theta": theta, **{k: f(theta) for k, f in fields.items()}})

    return estimator(rule)


@vi.bounds.declare(derivatives=lambda log_w: (jnp.ones(log_w.shape[0]), jnp.zeros(log_w.shape[0])))
def misdeclared(log_w):
    return log_w.sum(0)


class Stuck(Scores):
    def rsample(self, key, sample_shape=()):
        return jnp.zeros((3, 2))


REFUSED = {
    "legacy key": (
        lambda: call(key=jax.random.PRNGKey(0)),
        "reparam: key must be a typed PRNG key (got a uint32 array of shape (2,)); make one",
    ),
    "integer key": (lambda: call(key=0), "key must be a typed PRNG key (got 0); make one with"),
    "many keys": (lambda: call(key=jax.random.split(KEY, 2)), "key must be a single key"),
    "no samples": (
        lambda: call(num_samples=0),
        "reparam: num_samples must be an integer of at least 1 (got 0); pass num_samples=1",
    ),
    "half a sample": (lambda: call(num_samples=2.5), "num_samples must be an integer"),
    "a boolean K": (lambda: call(num_samples=True), "num_samples must be an integer"),
    "a traced K": (
        lambda: jax.jit(lambda k: call(num_samples=k))(3),
        "num_samples must be an integer of at least 1 (got a traced value); it sets array shapes",
    ),
    "too few for the bound": (
        lambda: call(dreg(needs_three), num_samples=2),
        "dreg: num_samples must be at least 3 for needs_three (got 2)",
    ),
    "a discrete family": (
        lambda: call(
            dreg(iwae),
            q=dist.Bernoulli(0.3 * jnp.ones((3, 2))).to_event(1),
            joint=lambda z: log_joint(1.0 * z),
        ),
        "dreg: q must be reparameterised (got Independent(BernoulliProbs)); use vimco",
    ),
    "a family without rsample": (
        lambda: call(q=Scores()),
        "reparam: q must be reparameterised (got Scores)",
    ),
    "draws without the K axis": (lambda: call(q=Stuck()), "q must return draws that lead"),
    "a kink under dreg": (
        lambda: dreg(vr_max),
        "dreg: bound must be smooth (got vr_max, declared smooth=False); use reparam",
    ),
    "a bound that is none": (lambda: reparam("elbo"), "reparam: bound must be a function"),
    "a chunk of nothing": (lambda: reparam(elbo, chunk_size=0), "chunk_size must be an integer"),
    "a log-joint that sums over K": (
        lambda: call(joint=lambda z: log_joint(z).sum(0)),
        "log_joint must return [K, *batch] (got shape [3] for K = 4); keep the sample axis",
    ),
    "a log-joint that keeps the event": (
        lambda: call(joint=lambda z: -(z**2)),
        "log_joint must have the shape of q.log_prob (got [4, 3, 2] against [4, 3]); sum both",
    ),
    "a scalar log-joint": (lambda: call(joint=jnp.sum), "log_joint must return [K, *batch]"),
    "integer log-weights": (
        lambda: call(joint=lambda z: jnp.zeros(z.shape[:-1], int)),
        "log_joint must return a floating log-density (got dtype int32); return nats as floats",
    ),
    "aux without the K axis": (
        lambda: call(joint=lambda z: (log_joint(z), {"mean": z.mean()})),
        "log_joint must return aux that lead with the K axis (got aux['mean'] of shape [] for K",
    ),
    "a bound that keeps K": (
        lambda: call(reparam(lambda log_w: log_w)),
        "bound must map [K, *batch] to floating [*batch] (got [4, 3] to [4, 3] float32); reduce",
    ),
    "a bound that drops the batch": (
        lambda: call(dreg(lambda log_w: log_w.mean())),
        "bound must map [K, *batch] to floating [*batch] (got [4, 3] to [] float32); reduce",
    ),
    "a rule without theta": (
        lambda: call(estimator(lambda bound, log_w: log_w)(elbo)),
        "rule must return Coefficients",
    ),
    "a coefficient per datum": (
        lambda: call(broken_rule(theta=lambda t: t.sum(0))(elbo)),
        "rule must return Coefficients of shape [4, 3] (got theta float32 [3]); give theta",
    ),
    "a scalar coefficient": (
        lambda: call(broken_rule(score=lambda t: 1.0)(elbo)),
        "rule must return Coefficients of shape [4, 3]",
    ),
    "declared derivatives of another shape": (
        lambda: call(dreg(misdeclared)),
        "derivatives: each of them must have the shape of log_w (got [4] against [4, 3])",
    ),
    "integer draws under a path": (
        lambda: call(q=Counts(), joint=lambda z: log_joint(1.0 * z)),
        "reparam: q must be reparameterised (got draws of dtype int32)",
    ),
    "a q that keeps a tracer": (
        lambda: call(q=Remembers()),
        "q and log_joint must keep nothing (got a value kept from an earlier trace); compute what",
    ),
    "three things from log_joint": (
        lambda: call(joint=lambda z: (log_joint(z), z, z)),
        "log_joint must return log_p or (log_p, aux) (got",
    ),
    "a list from log_joint": (
        lambda: call(joint=lambda z: [log_joint(z)]),
        "log_joint must return log_p or (log_p, aux) (got list, 2 in all)",
    ),
    "an integer bound": (
        lambda: call(reparam(lambda log_w: (log_w > 0).sum(0))),
        "bound must map [K, *batch] to floating [*batch] (got [4, 3] to [3] int32)",
    ),
    "an objective of an objective": (
        lambda: reparam(dreg(iwae)),
        "bound must be a function of log_w (got dreg(iwae)); pass a function of log-weights",
    ),
    "an integer bound input": (lambda: iwae(jnp.arange(3)), "iwae: log_w must be floating"),
    "no weights": (lambda: elbo(jnp.zeros((0, 2))), "elbo: log_w must be [K, *batch]"),
    "two spreads": (
        lambda: vi.families.normal(jnp.zeros(2), log_scale=jnp.zeros(2), log_var=jnp.zeros(2)),
        "normal: the spread must be one of log_scale, log_var, scale (got log_scale and log_var)",
    ),
    "no spread": (lambda: vi.families.normal(jnp.zeros(2)), "(got none of them)"),
    "a spread that would broadcast": (
        lambda: vi.families.normal(jnp.zeros((3, 2)), scale=jnp.ones(2)),
        "normal: scale must have the shape of loc (got [2] against [3, 2]); jnp.broadcast_to",
    ),
    "a scalar loc": (lambda: vi.families.normal(0.0, scale=1.0), "loc must have a last axis"),
    "an empty chain": (lambda: vi.families.chain({}), "chain: members must name at least one"),
    "a chain out of order": (
        lambda: vi.families.chain({"b": lambda a: Q, "a": Q}),
        "chain: 'b' must depend on earlier latents alone (got a function of ['a'])",
    ),
    "a conditional that ignores its parent": (
        lambda: vi.families.chain({"a": Q, "b": lambda a: Q}).rsample(jax.random.key(1), (4,)),
        "chain: 'b' must have one entry per draw (got [3] against [4, 3] of 'a')",
    ),
    "a discrete link": (
        lambda: call(
            q=vi.families.chain({"a": Q, "b": lambda a: dist.Bernoulli(logits=a).to_event(1)}),
            joint=lambda z: log_joint(z["a"]),
        ),
        "chain: 'b' must be reparameterised (got Independent); use a reparameterised member",
    ),
    "a latent too many": (
        lambda: vi.families.chain({"a": Q}).log_prob({"a": jnp.zeros((3, 2)), "b": 0.0}),
        "chain.log_prob: value must have ['a']",
    ),
    "data that would broadcast": (
        lambda: vi.likelihoods.bernoulli(jnp.zeros((4, 3, 2))).log_prob(jnp.ones((3, 1))),
        "Bernoulli.log_prob: value must fit the parameters (got [3, 1] against [4, 3, 2])",
    ),
    "data of too few axes": (
        lambda: vi.likelihoods.normal(jnp.zeros((4, 3)), scale=1.0).log_prob(jnp.ones(())),
        "Normal.log_prob: value must fit the parameters",
    ),
    "a scale that would broadcast": (
        lambda: vi.likelihoods.normal(jnp.zeros((4, 3)), scale=jnp.ones((4, 1))),
        "likelihoods.normal: scale must fit the trailing axes of loc",
    ),
    "more event axes than axes": (
        lambda: vi.likelihoods.bernoulli(jnp.zeros(2), event_ndims=2),
        "bernoulli: event_ndims must be at most the parameters' 1 axes (got 2)",
    ),
    "weights of two shapes": (
        lambda: vi.types.log_weights(jnp.zeros((4, 3, 2)), Q, lambda z: z),
        "log_weights: log_joint must have the shape of q.log_prob",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    bad, message = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(message)), jax.debug_key_reuse(False):
        bad()


@pytest.mark.parametrize("name", REFUSED)
def test_the_message_says_what_to_do(name):
    with (
        pytest.raises(ValueError, match=r".+: .+ must .+ \(got .+\); .+"),
        jax.debug_key_reuse(False),
    ):
        REFUSED[name][0]()


def test_refusals_come_before_any_computation():
    def poisoned(z):
        jax.debug.callback(lambda: pytest.fail("log_joint was computed"))
        return log_joint(z).sum(0)

    with pytest.raises(ValueError, match="log_joint must return"):
        call(key=jax.random.key(9), joint=poisoned)
    jax.effects_barrier()
