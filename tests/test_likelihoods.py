"""Likelihoods one by one: what each owns, what the field calls it, and where NumPyro's fail."""

import functools
import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import vi
from vi import likelihoods as lik


def test_bernoulli_has_the_right_derivative_at_zero_where_numpyro_has_not():
    def derivative(make):
        return jax.grad(lambda logit: make(logit[None]).log_prob(jnp.ones(1)).sum())(jnp.zeros(()))

    assert derivative(lik.bernoulli) == 0.5
    assert derivative(dist.BernoulliLogits) != 0.5  # should this fail, NumPyro's may be used again


@pytest.mark.parametrize("logit", [-1e30, -1e4, 0.0, 100.0, 1e30])
@pytest.mark.parametrize("bit", [0.0, 1.0])
def test_bernoulli_is_finite_for_any_logit(logit, bit):
    def value(logit):
        return lik.bernoulli(logit[None]).log_prob(jnp.array([bit]))

    log_prob, gradient = jax.value_and_grad(value)(jnp.float32(logit))
    assert jnp.isfinite(log_prob)
    np.testing.assert_allclose(
        gradient, bit - 1 / (1 + np.exp(-np.float64(min(max(logit, -700), 700)))), atol=1e-6
    )
    np.testing.assert_allclose(
        log_prob, bit * logit - np.logaddexp(0.0, np.float64(logit)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.usefixtures("x64")
def test_continuous_bernoulli_at_a_logit_of_zero():
    """Uniform; its slope is x less its mean, and its curvature minus its variance, 1/12."""
    x = jnp.array([0.1, 0.8])
    value, slope, curvature = jax.jit(
        lambda at: (
            lik.continuous_bernoulli(at).log_prob(x),
            jax.grad(lambda logits: lik.continuous_bernoulli(logits).log_prob(x))(at),
            jnp.diag(jax.hessian(lambda logits: lik.continuous_bernoulli(logits).log_prob(x))(at)),
        )
    )(jnp.zeros(2))
    np.testing.assert_allclose(value, 0.0, atol=1e-15)
    np.testing.assert_allclose(slope, x - 0.5, rtol=1e-12)
    np.testing.assert_allclose(curvature, -1 / 12, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_mean_of_a_continuous_bernoulli_is_not_the_sigmoid():
    logits = jnp.array([-1e4, -30.0, -0.2, 1e-6, 0.3, 4.0])
    mean = lik.continuous_bernoulli(logits).mean
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = (nodes + 1) / 2
    density = np.exp(np.outer(logits[1:], x - 1) * 1.0)
    truth = (density * x) @ weights / (density @ weights)
    np.testing.assert_allclose(mean[1:], truth, rtol=1e-9)
    np.testing.assert_allclose(mean[0], 1e-4, rtol=1e-9)
    assert abs(mean - jax.nn.sigmoid(logits)).max() > 0.2


MEANS = {
    "discretised_logistic": (
        lambda: lik.discretised_logistic(
            jnp.array([0.3, -2.0]), scale=0.4, low=-1, high=1, num_levels=8
        ),
        8,
    ),
    "discretised_logistic_mixture": (
        lambda: lik.discretised_logistic_mixture(
            jnp.array([[0.3, -1.0]] * 2), jnp.array([[0.5, -0.5], [0.0, 2.0]]), scale=0.4,
            low=-1, high=1, num_levels=8,
        ),
        8,
    ),
    "ordinal": (lambda: lik.ordinal(jnp.array([0.3, -2.0]), cutpoints=jnp.array([-1.0, 0.5])), 3),
    "zero_inflated": (
        lambda: lik.zero_inflated(lik.poisson(jnp.array([0.3, -2.0])), gate_logits=0.4), 60,
    ),
    "negative_binomial": (
        lambda: lik.negative_binomial(jnp.array([0.3, -2.0]), concentration=2.0), 200,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANS)
def test_moments_are_the_sums_over_the_support(name):
    make, num_values = MEANS[name]
    x = np.broadcast_to(np.arange(num_values, dtype=np.float32)[:, None], (num_values, 2))
    has_variance = name in ("zero_inflated", "negative_binomial")

    @jax.jit
    def compute(x):
        likelihood = make()
        mass = jnp.exp(jax.vmap(likelihood.base_dist.log_prob)(x))
        return mass, likelihood.mean, likelihood.variance if has_variance else 0.0

    mass, mean, variance = compute(x)
    np.testing.assert_allclose(mean, (mass * x).sum(0), rtol=1e-4)
    if has_variance:
        np.testing.assert_allclose(variance, (mass * (x - mean) ** 2).sum(0), rtol=1e-4)


def test_sum_of_squares_is_variance_one_half():
    loc, x = jnp.array([[0.3, -2.0], [1.0, 0.2]]), jnp.array([[1.0, 0.5], [0.0, 0.1]])
    likelihood = lik.normal(loc, scale=0.5**0.5)
    constant = -loc.shape[-1] * 0.5 * np.log(np.pi)
    chex.assert_trees_all_close(
        likelihood.log_prob(x), constant - ((x - loc) ** 2).sum(-1), rtol=1e-6
    )


def tutorial_loss(params, x, noise):
    """As it is written everywhere, with ``log_var`` heads."""
    z = params["mu"] + jnp.exp(0.5 * params["log_var"]) * noise
    x_hat = jnp.tanh(z @ params["decoder"])
    kl = 0.5 * (params["mu"] ** 2 + jnp.exp(params["log_var"]) - params["log_var"] - 1).sum(-1)
    return ((x - x_hat) ** 2).sum(-1) + kl


def ours(params, x, noise, *, score=lambda likelihood, x: likelihood.log_prob(x), heads="log_var"):
    q = vi.families.normal(params["mu"], **{heads: params["log_var"]})
    z = q.mean + q.variance**0.5 * noise
    likelihood = lik.normal(jnp.tanh(z @ params["decoder"]), scale=0.5**0.5)
    kl = dist.kl_divergence(q, dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    return -vi.bounds.elbo_closed_kl(score(likelihood, x)[None], kl)


def mean_over_pixels(likelihood, x):
    return likelihood.base_dist.log_prob(x).mean(-1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("options", "agrees"),
    [({}, True), ({"score": mean_over_pixels}, False), ({"heads": "log_scale"}, False)],
    ids=["ours", "mean over pixels", "log_var taken for log_scale"],
)
def test_the_tutorial_loss_is_the_elbo_up_to_its_constant(options, agrees):
    rng = np.random.default_rng(0)
    sizes = {"mu": (4, 3), "log_var": (4, 3), "decoder": (3, 5)}
    params = {name: jnp.asarray(rng.normal(size=size)) for name, size in sizes.items()}
    x, noise = jnp.asarray(rng.normal(size=(4, 5))), jnp.asarray(rng.normal(size=(4, 3)))

    def both(f):
        return jax.jit(jax.value_and_grad(lambda p: f(p, x, noise).sum()))(params)

    (theirs, their_gradient), (value, gradient) = (
        both(tutorial_loss),
        both(lambda *a: ours(*a, **options)),
    )
    constant = 4 * 5 / 2 * np.log(np.pi)
    assert np.isclose(value, theirs + constant, rtol=1e-12) == agrees
    close = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-11), gradient, their_gradient)
    assert all(jax.tree.leaves(close)) == agrees


def test_traced_data_outside_of_the_support_score_minus_infinity():
    """By NumPyro's validation, which is on unless someone turned it off."""

    @jax.jit
    def log_probs(x):
        words = lik.bag_of_words(jnp.zeros(3)).log_prob(x)
        return lik.bernoulli(x).log_prob(x), lik.categorical(jnp.zeros((3, 3))).log_prob(x), words

    assert log_probs(jnp.array([0.0, 1.0, 0.5])) == (-jnp.inf, -jnp.inf, -jnp.inf)
    assert all(jnp.isfinite(jnp.stack(log_probs(jnp.array([0.0, 1.0, 1.0])))))


def test_normal_scale_may_have_the_trailing_axes_of_loc():
    loc = jnp.zeros((5, 3, 4))
    for scale in (1.0, jnp.ones(4), jnp.ones((3, 4)), jnp.ones((5, 3, 4))):
        assert lik.normal(loc, scale=scale).log_prob(jnp.ones(4)).shape == (5, 3)


def test_images_may_keep_their_axes():
    likelihood = lik.bernoulli(jnp.zeros((5, 3, 8, 8)), event_ndims=2)
    chex.assert_trees_all_close(
        likelihood.log_prob(jnp.ones((3, 8, 8))), jnp.full((5, 3), 64 * jnp.log(0.5)), rtol=1e-6
    )


def test_several_documents_may_be_one_datum():
    counts = jnp.array([[[1, 2, 0], [0, 0, 4]]])
    logits = jax.random.normal(jax.random.key(0), (5, 1, 2, 3))
    for make in (lik.multinomial, lik.bag_of_words):
        whole = make(logits, event_ndims=2)
        assert (whole.batch_shape, whole.event_shape) == ((5, 1), (2, 3))
        log_p, of_each = jax.jit(
            lambda logits, make=make: (
                make(logits, event_ndims=2).log_prob(counts), make(logits).log_prob(counts),
            )
        )(logits)  # fmt: skip
        chex.assert_trees_all_close(log_p, of_each.sum(-1), rtol=1e-6)


@pytest.mark.parametrize("make", [lik.multinomial, lik.bag_of_words])
def test_a_banned_word_that_does_not_occur_is_no_word(make):
    """A logit of minus infinity, at a count of 0: the document over the words that remain."""

    @jax.jit
    def both(logits, counts):
        banned = jnp.concatenate([logits, jnp.full(1, -jnp.inf)])
        log_prob = lambda logits: make(logits).log_prob(jnp.append(counts, 0))  # noqa: E731
        along = jnp.arange(4.0)
        ours = jax.value_and_grad(log_prob)(banned), jax.jvp(log_prob, (banned,), (along,))[1]
        fewer = lambda logits: make(logits).log_prob(counts)  # noqa: E731
        truth = jax.value_and_grad(fewer)(logits), jax.jvp(fewer, (logits,), (along[:3],))[1]
        return ours, truth

    for counts in ([1, 0, 2], [3, 0, 40]):
        ((value, slope), turn), ((truth, of_fewer), turn_of_fewer) = both(
            jnp.array([0.3, -1.0, 2.0]), jnp.array(counts)
        )
        np.testing.assert_allclose(value, truth, rtol=1e-6)
        np.testing.assert_allclose(slope, jnp.append(of_fewer, 0.0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(turn, turn_of_fewer, rtol=1e-5, atol=1e-5)


def test_a_rate_beyond_float32_behind_a_gate_has_a_slope():
    """The zero came from the gate: log(1/2), to which the rate says nothing."""

    def value(log_rate):
        return lik.zero_inflated(lik.poisson(log_rate), gate_logits=0.0).log_prob(jnp.zeros(1, int))

    log_prob, slope = jax.jit(jax.value_and_grad(value))(jnp.full(1, 100.0))
    np.testing.assert_allclose(log_prob, np.log(0.5), rtol=1e-6)
    assert slope == 0


def test_scales_of_half_precision_are_computed_in_float32():
    raw = jnp.array([0.3, -1.0], jnp.bfloat16)
    for compute in (
        lambda raw: lik.clamped_scale(raw, low=1e-3, high=1.0),
        lambda raw: lik.optimal_scale(raw, raw + 1, axes=(0,)),
        lambda raw: lik.bits_per_dimension(raw, 7),
    ):
        assert compute(raw).dtype == jnp.float32
    wide = lik.clamped_scale(raw.astype(jnp.float32), low=1e-3, high=1.0)
    chex.assert_trees_all_equal(lik.clamped_scale(raw, low=1e-3, high=1.0), wide)


def test_cutpoints_may_differ_between_entries():
    cutpoints = jnp.array([[-1.0, 1.0], [0.0, 3.0]])
    predictor, x = jnp.array([[0.3, -2.0], [1.0, 0.2]]), jnp.array([1, 2])

    @jax.jit
    def both(predictor):
        apart = [
            lik.ordinal(predictor[:, i, None], cutpoints=cutpoints[i]).log_prob(x[i, None])
            for i in range(2)
        ]
        return lik.ordinal(predictor, cutpoints=cutpoints).log_prob(x), sum(apart)

    chex.assert_trees_all_close(*both(predictor), rtol=1e-6)


def test_a_clamped_scale_stays_inside_and_can_leave_its_ends():
    raw = jnp.array([-1e4, -3.0, 0.0, 3.0, 1e4])
    scale, slope = jax.jit(
        jax.vmap(jax.value_and_grad(lambda r: lik.clamped_scale(r, low=1e-3, high=10.0)))
    )(raw)
    assert (scale >= 0.999e-3).all()
    assert (scale <= 10.01).all()
    assert (jnp.diff(scale) > 0).all()
    np.testing.assert_allclose(scale[2], 0.1, rtol=1e-6)
    np.testing.assert_allclose(slope, scale * np.log(1e4) / np.pi / (1 + raw**2), rtol=1e-5)
    assert (slope > 0).all()
    assert jax.grad(jax.nn.sigmoid)(1e4) == 0  # what is not used


@pytest.mark.parametrize("axes", [(0,), (0, 1), (0, 1, 2)])
@pytest.mark.usefixtures("x64")
def test_the_optimal_scale_is_the_best_one_and_adds_no_gradient(axes):
    rng = np.random.default_rng(0)
    x, loc = jnp.asarray(rng.normal(size=(6, 2, 3))), jnp.asarray(rng.normal(size=(6, 2, 3)))

    def total(scale, loc):
        return lik.normal(loc, scale=scale).log_prob(x).sum()

    @jax.jit
    def slopes(loc):
        best = lik.optimal_scale(x, loc, axes=axes)
        carried = jax.grad(lambda m: total(lik.optimal_scale(x, m, axes=axes), m))(loc)
        return best, jax.grad(total)(best, loc), jax.grad(total, 1)(best, loc), carried

    best, at_best, held, carried = slopes(loc)
    assert best.shape == loc.shape[len(axes) :]
    np.testing.assert_allclose(at_best, 0.0, atol=1e-10)
    np.testing.assert_allclose(carried, held, rtol=1e-9)
    n = np.prod(loc.shape[: len(axes)])
    closed = -n * (np.log(best) + 0.5 * np.log(2 * np.pi * np.e)).sum()
    np.testing.assert_allclose(total(best, loc), closed, rtol=1e-12)
    assert total(1.01 * best, loc) < closed
    assert total(best / 1.01, loc) < closed


def test_bits_per_dimension_agree_between_levels_and_a_density():
    """A logistic of narrow bins: its mass, and its density in three units, are the same code."""
    D, levels, loc, scale = 7, np.arange(100, 107), 100.0, 40.0
    mass = lik.discretised_logistic(
        jnp.full(D, loc), scale=scale, low=0, high=255, num_levels=256
    ).log_prob(levels)
    truth = lik.bits_per_dimension(mass, D)
    for unit in (1.0, 1 / 256, 2 / 255):
        density = scipy.stats.logistic(loc * unit, scale * unit).logpdf(levels * unit).sum()
        ours = lik.bits_per_dimension(density, D, bin_width=unit)
        np.testing.assert_allclose(ours, truth, rtol=1e-4)
        if unit != 1:
            assert abs(lik.bits_per_dimension(density, D) - truth) > 6  # the bits left out


SIZE, BATCH = 5, 2
ALL = jnp.array([0.7, -1.2, 0.4, 2.0, -0.3])


def from_minibatch(rows, combine):
    def log_lik(z):
        return dist.Normal(z[:, None], 0.8).log_prob(ALL[rows])

    return combine(lambda z: dist.Normal(0.0, 1.0).log_prob(z), log_lik)


def ours_scaled(log_prior, log_lik):
    return lik.scaled_log_joint(log_prior, log_lik, SIZE)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("combine", "is_right"),
    [
        (ours_scaled, True),
        (lambda prior, lik: lambda z: prior(z) + lik(z).mean(-1), False),
        (lambda prior, lik: lambda z: SIZE / BATCH * (prior(z) + lik(z).sum(-1)), False),
    ],
    ids=["ours", "a mean", "the prior scaled too"],
)
def test_minibatches_have_the_log_joint_of_all_data_in_the_mean(combine, is_right):
    z = jnp.linspace(-1.0, 1.0, 4)
    batches = jnp.array(list(itertools.combinations(range(SIZE), BATCH)))
    each = jax.jit(jax.vmap(lambda rows: from_minibatch(rows, combine)(z)))(batches)
    truth = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z[:, None], 0.8).log_prob(ALL).sum(-1)
    assert np.allclose(np.mean(each, axis=0), truth, rtol=1e-12) == is_right
    assert each[0].shape == (4,)


FAULTS = {
    "many degrees of freedom": (
        lambda f: dist.StudentT(f(1e6), f(0.0), f(1.0)).log_prob(f(1.0)),
        lambda f: lik.student_t(f([0.0]), df=f(1e6), scale=f(1.0)).log_prob(f([1.0])),
    ),
    "logits that are large together": (
        lambda f: dist.CategoricalLogits(f([1e4, 1e4 + 1])).log_prob(1),
        lambda f: lik.categorical(f([[1e4, 1e4 + 1]])).log_prob(np.array([1])),
    ),
    "a large Poisson count": (
        lambda f: dist.Poisson(f(1e5)).log_prob(f(1e5)),
        lambda f: lik.poisson(jnp.log(f([1e5]))).log_prob(np.array([100_000])),
    ),
    "a large concentration": (
        lambda f: dist.NegativeBinomial2(f(3.0), f(1e6)).log_prob(f(2.0)),
        lambda f: lik.negative_binomial(jnp.log(f([3.0])), concentration=1e6).log_prob(
            np.array([2])
        ),
    ),
    "a closed gate": (
        lambda f: dist.ZeroInflatedDistribution(
            dist.Poisson(jnp.exp(f(0.3))), gate_logits=f(-1e4)
        ).log_prob(f(1.0)),
        lambda f: lik.zero_inflated(lik.poisson(f([0.3])), gate_logits=-1e4).log_prob(
            np.array([1])
        ),
    ),
    "an unlikely level": (
        lambda f: dist.OrderedLogistic(f(-30.0), f([-1.0, 0.25, 4.0])).log_prob(3),
        lambda f: lik.ordinal(f([-30.0]), cutpoints=f([-1.0, 0.25, 4.0])).log_prob(np.array([3])),
    ),
    "a long document": (
        lambda f: dist.MultinomialLogits(f([0.0, 0.0]), total_count=100_000).log_prob(
            f([50_000.0, 50_000.0])
        ),
        lambda f: lik.multinomial(f([0.0, 0.0])).log_prob(np.array([50_000, 50_000])),
    ),
}


@functools.cache
def in_each_precision():
    """NumPyro's numbers and ours in float32, and ours in float64; one keeps XLA from folding."""

    def every(which, one):
        return {name: pair[which](lambda v: jnp.asarray(v) * one) for name, pair in FAULTS.items()}

    theirs, our = jax.jit(lambda one: (every(0, one), every(1, one)))(np.float32(1))
    with jax.enable_x64(True):
        truth = jax.jit(functools.partial(every, 1))(np.float64(1))
    return jax.device_get((theirs, our, truth))


@pytest.mark.parametrize("name", FAULTS)
def test_float32_is_right_where_numpyros_is_not(name):
    theirs, our, truth = (numbers[name].item() for numbers in in_each_precision())
    assert np.isclose(our, truth, rtol=1e-5)
    assert not np.isclose(theirs, truth, rtol=1e-5)  # should this fail, NumPyro's may be used again


X = jnp.zeros((3, 2))
REFUSALS = {
    "a scale of 0": (
        lambda: lik.normal(X, scale=0.0),
        "likelihoods.normal: scale must be positive and finite (got 0);",
    ),
    "one negative scale": (
        lambda: lik.laplace(X, scale=jnp.array([1.0, -2.0])), "laplace: scale must be positive",
    ),
    "no degrees of freedom": (
        lambda: lik.student_t(X, df=0, scale=1.0), "student_t: df must be positive and finite",
    ),
    "df that broadcasts": (
        lambda: lik.student_t(X, df=jnp.ones((3, 1)), scale=1.0),
        "student_t: df must fit the trailing axes of loc (got [3, 1] against [3, 2])",
    ),
    "one level": (
        lambda: lik.discretised_logistic(X, scale=1.0, low=0, high=1, num_levels=1),
        "discretised_logistic: num_levels must be an integer of at least 2 (got 1)",
    ),
    "an empty interval": (
        lambda: lik.discretised_logistic(X, scale=1.0, low=1, high=1, num_levels=4),
        "discretised_logistic: low and high must be finite and low < high (got 1, 1)",
    ),
    "a traced interval": (
        lambda: jax.eval_shape(
            lambda a: lik.discretised_logistic(X, scale=1.0, low=a, high=1, num_levels=4), 0.0
        ),
        "discretised_logistic: low and high must be known",
    ),
    "logits of other components": (
        lambda: lik.discretised_logistic_mixture(
            jnp.zeros(2), X, scale=1.0, low=0, high=1, num_levels=4
        ),
        "discretised_logistic_mixture: logits must have the shape of loc",
    ),
    "cutpoints in no order": (
        lambda: lik.ordinal(X, cutpoints=jnp.array([1.0, 0.0])),
        "ordinal: cutpoints must rise and be finite",
    ),
    "no cutpoints": (
        lambda: lik.ordinal(X, cutpoints=jnp.zeros(0)), "ordinal: cutpoints must be [..., M - 1]",
    ),
    "cutpoints that broadcast": (
        lambda: lik.ordinal(X, cutpoints=jnp.ones((3, 1, 4))), "ordinal: cutpoints must fit",
    ),
    "no classes": (lambda: lik.categorical(jnp.zeros(())), "categorical: logits must be"),
    "none of the classes": (
        lambda: lik.categorical(jnp.zeros((3, 0))),
        "categorical: logits must be [..., M] with M at least 1 (got shape [3, 0])",
    ),
    "a vocabulary of none": (
        lambda: lik.bag_of_words(jnp.zeros((3, 0))), "bag_of_words: logits must be [..., V] with",
    ),
    "no components": (
        lambda: lik.discretised_logistic_mixture(
            jnp.zeros((2, 0)), jnp.zeros((2, 0)), scale=1.0, low=0, high=1, num_levels=4
        ),
        "discretised_logistic_mixture: loc must be [..., M] with M at least 1",
    ),
    "half a count in an expanded axis": (
        lambda: lik.poisson(X).expand((4, 3)).log_prob(jnp.full((4, 3, 2), 0.5)),
        "Poisson.log_prob: value must be whole numbers of at least 0 (got 0.5,",
    ),
    "no words": (lambda: lik.multinomial(jnp.zeros(())), "multinomial: logits must be"),
    "draws of no total": (
        lambda: lik.multinomial(X).sample(jax.random.key(0)),
        "Multinomial.sample: total must be known",
    ),
    "a concentration of 0": (
        lambda: lik.negative_binomial(X, concentration=0.0),
        "negative_binomial: concentration must be positive",
    ),
    "more zeros than bits have": (
        lambda: lik.zero_inflated(lik.bernoulli(X), gate_logits=0.0),
        "zero_inflated: likelihood must be one of counts (got Bernoulli)",
    ),
    "a gate that broadcasts": (
        lambda: lik.zero_inflated(lik.poisson(X), gate_logits=jnp.zeros((3, 1))),
        "zero_inflated: gate_logits must fit the trailing axes of the likelihood",
    ),
    "masked words": (
        lambda: lik.masked(lik.multinomial(X), X == 0),
        "masked: likelihood must have independent entries (got Multinomial)",
    ),
    "a mask of numbers": (
        lambda: lik.masked(lik.poisson(X), X), "masked: mask must be boolean (got dtype float32)",
    ),
    "a mask that broadcasts": (
        lambda: lik.masked(lik.poisson(X), jnp.ones((3, 1), bool)),
        "masked: mask must fit the trailing axes of the parameters (got [3, 1] against [3, 2])",
    ),
    "a mask of whole data": (
        lambda: lik.masked(lik.poisson(X, event_ndims=2), jnp.ones(2, bool)), "masked: mask must",
    ),
    "another library's": (
        lambda: lik.masked(dist.Normal(X, 1.0).to_event(1), X == 0),
        "masked: likelihood must be one of vi.likelihoods (got Independent)",
    ),
    "a scale per datum": (
        lambda: lik.optimal_scale(X, X, axes=(1,)),
        "optimal_scale: axes must be the leading axes of loc, (0,) or more (got (1,))",
    ),
    "a scale per datum over draws": (
        lambda: lik.optimal_scale(X, jnp.zeros((4, 3, 2)), axes=(0,)),
        "optimal_scale: axes must be the leading axes of loc, (0, 1) or more (got (0,))",
    ),
    "a scale clamped at 0": (
        lambda: lik.clamped_scale(X, low=0.0, high=1.0), "clamped_scale: low must be positive",
    ),
    "bits of no dimension": (
        lambda: lik.bits_per_dimension(X, 0), "bits_per_dimension: num_dimensions must be",
    ),
    "bits of no width": (
        lambda: lik.bits_per_dimension(X, 2, bin_width=0.0), "bits_per_dimension: bin_width must",
    ),
    "no data": (lambda: lik.scaled_log_joint(None, None, 0), "scaled_log_joint: data_size must"),
    "a minibatch summed already": (
        lambda: lik.scaled_log_joint(lambda z: z, lambda z: z, 10)(jnp.zeros(4)),
        "scaled_log_joint: log_lik must return [K, B] (got [4] against [4] of log_prior)",
    ),
    "a minibatch of more than all": (
        lambda: lik.scaled_log_joint(lambda z: z, lambda z: jnp.zeros((4, 3)), 2)(jnp.zeros(4)),
        "scaled_log_joint: log_lik must have at most data_size entries (got B = 3, N = 2)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name):
    call, message = REFUSALS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
