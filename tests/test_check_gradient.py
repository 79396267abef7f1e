"""check_gradient: what is right passes, and a gallery of broken twins, each of which fails.

The twins are written as their authors would write them: plain functions of (key, q, log_joint, K).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.lax import stop_gradient

import vi
from tests.models import renyi
from vi.bounds import elbo, iwae
from vi.gradients import dreg, reparam
from vi.testing import LinearGaussian, check_gradient, enumerated, quadrature
from vi.testing._density_probe import probe

KEY = jax.random.key(7)
X = jnp.array([1.3, -0.4, 0.6])
K, S = 3, 10_000  # the twins need S; what is right is content with less
slow = pytest.mark.slow


class Nonlinear:
    """Three data and a latent number each: z ~ N(0, 1), x ~ N(sin(w z), 0.8)."""

    params = {  # noqa: RUF012
        "q": {"loc": jnp.array([0.5, -0.2, 0.1]), "log_scale": jnp.array([-0.1, 0.1, 0.0])},
        "w": jnp.array(1.1),
    }

    @staticmethod
    def make_q(params):
        return dist.Normal(params["q"]["loc"], jnp.exp(params["q"]["log_scale"]))

    @staticmethod
    def log_joint(params):
        def value(z):
            log_lik = dist.Normal(jnp.sin(params["w"] * z), 0.8).log_prob(X)
            return dist.Normal(0.0, 1.0).log_prob(z) + log_lik

        return value


class Bits:
    """A 3-bit latent and one datum."""

    params = {  # noqa: RUF012
        "logits": jnp.array([0.3, -0.8, 0.5]),
        "w": jnp.array([0.9, -0.4, 1.3]),
        "b": jnp.array(0.1),
    }

    @staticmethod
    def make_q(params):
        return dist.Bernoulli(logits=params["logits"]).to_event(1)

    @staticmethod
    def log_joint(params):
        def value(z):
            prior = dist.Bernoulli(jnp.full(3, 0.4)).to_event(1).log_prob(z)
            return prior + dist.Normal(z @ params["w"] + params["b"], 0.6).log_prob(1.1)

        return value


NODES = {1: 129, 2: 65, 3: 41}
EXACT = {
    Nonlinear: lambda bound, num_samples: quadrature(
        bound, lower=-6.5, upper=6.5, num_nodes=NODES[num_samples]
    ),
    Bits: lambda bound, num_samples: enumerated(bound),
}
truths = {}


def truth_of(model, bound, num_samples):
    """Each exact gradient once."""
    at = model, bound, num_samples
    if at not in truths:
        objective = EXACT[model](bound, num_samples)

        def value(params):
            return objective(KEY, model.make_q(params), model.log_joint(params), num_samples).sum()

        truths[at] = jax.jit(jax.grad(value))(model.params)
    return truths[at]


def check(objective, model, bound, num_samples=K, *, seed=0, log_joint=None, num_replicates=S):
    return check_gradient(
        objective,
        model.make_q,
        model.params,
        log_joint or model.log_joint,
        key=jax.random.key(seed),
        num_samples=num_samples,
        num_replicates=num_replicates,
        truth=truth_of(model, bound, num_samples),
    )


def plain(key, q, log_joint, num_samples):
    """What everyone writes first, and it is right."""
    z = q.rsample(key, (num_samples,))
    return iwae(log_joint(z) - q.log_prob(z))


def score_function(key, q, log_joint, num_samples):
    z = q.sample(key, (num_samples,))
    log_q = q.log_prob(z)
    value = iwae(log_joint(z) - log_q)
    signal = stop_gradient(value) * log_q.sum(0)
    return value + signal - stop_gradient(signal)


def leave_one_out(value, log_w):
    """The bound less the bound without sample k, ``[K, *batch]``."""
    num_samples = log_w.shape[0]
    others = (log_w.sum(0) - log_w) / (num_samples - 1)
    return value - jnp.stack([iwae(log_w.at[k].set(others[k])) for k in range(num_samples)])


def vimco(key, q, log_joint, num_samples):
    z = q.sample(key, (num_samples,))
    log_q = q.log_prob(z)
    log_w = log_joint(z) - log_q
    value = iwae(log_w)
    signal = (stop_gradient(leave_one_out(value, log_w)) * log_q).sum(0)
    return value + signal - stop_gradient(signal)


RIGHT = {
    "plain": (plain, Nonlinear, iwae),
    "reparam(iwae)": (reparam(iwae), Nonlinear, iwae),
    "dreg(iwae)": (dreg(iwae), Nonlinear, iwae),
    "dreg(iwae, chunk_size=2)": (dreg(iwae, chunk_size=2), Nonlinear, iwae),
    "dreg(renyi)": (dreg(renyi(0.4)), Nonlinear, renyi(0.4)),
    "reparam(elbo)": (reparam(elbo), Nonlinear, elbo),
    "score function": (score_function, Bits, iwae),
    "vimco": (vimco, Bits, iwae),
    "enumerated(iwae)": (enumerated(iwae), Bits, iwae),
}


SLOW = {  # a few seconds each, nearly all of it compiling; near neighbours of another
    *(
        "plain",
        "reparam(iwae)",
        "dreg(iwae, chunk_size=2)",
        "dreg(renyi)",
        "reparam(elbo)",
        "score function",
    ),
    *("enumerated(iwae)", "log_mean_of_everything", "sticking_the_landing", "draws_stopped"),
    *("mean_inside_the_log", "mean_over_the_batch", "sum_over_samples", "antithetic_dreg"),
    *("dreg_without_the_square", "signal_not_detached"),
}


def some_slow(names):
    return [pytest.param(name, marks=slow if name in SLOW else ()) for name in names]


@pytest.mark.parametrize("name", some_slow(RIGHT))
def test_what_is_right_passes(name):
    report = check(*RIGHT[name], num_replicates=4000)
    assert report.passed, str(report)


def weights_not_detached(key, q, log_joint, num_samples):
    """The gradient of iwae is sum_k w~_k d log w_k, with w~ constant: here it is not."""
    z = q.rsample(key, (num_samples,))
    log_w = log_joint(z) - q.log_prob(z)
    return (jax.nn.softmax(log_w, axis=0) * log_w).sum(0)


def mean_of_the_log(key, q, log_joint, num_samples):
    z = q.rsample(key, (num_samples,))
    return (log_joint(z) - q.log_prob(z)).mean(0)


def log_mean_over_the_batch(key, q, log_joint, num_samples):
    z = q.rsample(key, (num_samples,))
    log_w = log_joint(z) - q.log_prob(z)
    return jax.nn.logsumexp(log_w, axis=-1) - math.log(num_samples)


def log_mean_of_everything(key, q, log_joint, num_samples):
    """A bound on the product of the data's evidences, and not the sum of their bounds."""
    z = q.rsample(key, (num_samples,))
    return iwae((log_joint(z) - q.log_prob(z)).sum(-1))


def log_q_stopped(key, q, log_joint, num_samples):
    z = q.rsample(key, (num_samples,))
    return iwae(log_joint(z) - stop_gradient(q.log_prob(z)))


def sticking_the_landing(key, q, log_joint, num_samples):
    """Right for the ELBO, biased for iwae: the parameters of log q are held, z moves."""
    z = q.rsample(key, (num_samples,))
    return iwae(log_joint(z) - jax.tree.map(stop_gradient, q).log_prob(z))


def draws_stopped(key, q, log_joint, num_samples):
    z = stop_gradient(q.rsample(key, (num_samples,)))
    return iwae(log_joint(z) - q.log_prob(z))


def model_stopped(key, q, log_joint, num_samples):
    """The model taken for data."""
    z = q.rsample(key, (num_samples,))
    return iwae(stop_gradient(log_joint(z)) - q.log_prob(z))


def scale_inside_the_log(key, q, log_joint, num_samples):
    """A data set 10 times the batch: 10 * log mean w, not log mean w^10 (over 10)."""
    z = q.rsample(key, (num_samples,))
    log_w = log_joint(z) - q.log_prob(z)
    return iwae(10.0 * log_w) / 10.0


def mean_inside_the_log(key, q, log_joint, num_samples):
    """The 1 / K applied to the log-weights: the log of a geometric mean."""
    z = q.rsample(key, (num_samples,))
    log_w = log_joint(z) - q.log_prob(z)
    return jax.nn.logsumexp(log_w / num_samples, axis=0)


def mean_over_the_batch(key, q, log_joint, num_samples):
    return plain(key, q, log_joint, num_samples).mean()


def sum_over_samples(key, q, log_joint, num_samples):
    """The K axis kept."""
    z = q.rsample(key, (num_samples,))
    return log_joint(z) - q.log_prob(z)


def dreg_without_the_square(key, q, log_joint, num_samples):
    """Normalised weights, not their squares, on the path; the parameters of q are held."""
    z = q.rsample(key, (num_samples,))
    log_w = log_joint(z) - jax.tree.map(stop_gradient, q).log_prob(z)
    return (stop_gradient(jax.nn.softmax(log_w, axis=0)) * log_w).sum(0)


def antithetic_dreg(key, q, log_joint, num_samples):
    """Draws coupled inside K, where dreg needs them independent."""
    return dreg(iwae)(key, Antithetic(q.loc, q.scale), log_joint, num_samples)


class Antithetic:
    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale

    def rsample(self, key, sample_shape=()):
        (num_samples,) = sample_shape
        noise = jax.random.normal(key, (num_samples - num_samples // 2, *self.loc.shape))
        return self.loc + self.scale * jnp.concatenate([noise, -noise])[:num_samples]

    sample = rsample

    def log_prob(self, z):
        return dist.Normal(self.loc, self.scale).log_prob(z)


def score_sign_flipped(key, q, log_joint, num_samples):
    z = q.sample(key, (num_samples,))
    log_q = q.log_prob(z)
    value = iwae(log_joint(z) - log_q)
    signal = stop_gradient(value) * log_q.sum(0)
    return value - signal + stop_gradient(signal)


def vimco_without_its_last_part(key, q, log_joint, num_samples):
    """The learning signal alone, log q in the weights held: ``- F_k`` forgotten."""
    z = q.sample(key, (num_samples,))
    log_q = q.log_prob(z)
    log_w = log_joint(z) - stop_gradient(log_q)
    value = iwae(log_w)
    signal = (stop_gradient(leave_one_out(value, log_w)) * log_q).sum(0)
    return value + signal - stop_gradient(signal)


def signal_not_detached(key, q, log_joint, num_samples):
    z = q.sample(key, (num_samples,))
    log_q = q.log_prob(z)
    log_w = log_joint(z) - log_q
    value = iwae(log_w)
    signal = (leave_one_out(value, log_w) * log_q).sum(0)
    return value + signal - stop_gradient(signal)


LOC, SCALE, W = "params['q']['loc']", "params['q']['log_scale']", "params['w']"
BROKEN = {  # what must fail, and what must not
    weights_not_detached: (Nonlinear, {SCALE, W}, {"value"}),
    mean_of_the_log: (Nonlinear, {LOC, SCALE}, {"value"}),
    log_mean_over_the_batch: (Nonlinear, {LOC, SCALE}, set()),
    log_mean_of_everything: (Nonlinear, {"value", SCALE, W}, set()),
    log_q_stopped: (Nonlinear, {SCALE}, {"value", W}),
    sticking_the_landing: (Nonlinear, {SCALE}, {"value", W}),
    draws_stopped: (Nonlinear, {LOC, SCALE}, {"value", W}),
    model_stopped: (Nonlinear, {LOC, W}, {"value"}),
    scale_inside_the_log: (Nonlinear, {LOC, SCALE}, {"value"}),
    mean_inside_the_log: (Nonlinear, {SCALE, W}, {"value"}),
    mean_over_the_batch: (Nonlinear, {"value", LOC, SCALE}, set()),
    sum_over_samples: (Nonlinear, {"value", LOC, SCALE}, set()),
    antithetic_dreg: (Nonlinear, {LOC, SCALE}, {"value", W}),
    dreg_without_the_square: (Nonlinear, {SCALE}, {"value", W}),
    score_sign_flipped: (Bits, {"params['logits']"}, {"value", "params['w']"}),
    vimco_without_its_last_part: (Bits, {"params['logits']"}, {"value", "params['w']"}),
    signal_not_detached: (Bits, {"params['logits']", "params['w']"}, {"value"}),
}


@pytest.mark.parametrize("name", some_slow(twin.__name__ for twin in BROKEN))
def test_a_broken_twin_fails_where_it_is_wrong(name):
    twin = globals()[name]
    model, expected, fine = BROKEN[twin]
    report = check(twin, model, iwae)
    assert expected <= set(report.failed), str(report)
    assert not fine & set(report.failed), str(report)


def batch_statistics(params):
    """A normalisation over the samples, as a BatchNorm does whose batch axis is K."""

    def value(z):
        centred = z - z.mean(0)
        log_lik = dist.Normal(jnp.sin(params["w"] * centred), 0.8).log_prob(X)
        return dist.Normal(0.0, 1.0).log_prob(z) + log_lik

    return value


def detached_statistics(params):
    """Statistics that a tangent in one sample does not see."""

    def value(z):
        centred = z - stop_gradient(z.mean(0))
        return dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(centred, 0.8).log_prob(X)

    return value


@pytest.mark.parametrize(
    "log_joint", [batch_statistics, pytest.param(detached_statistics, marks=slow)]
)
def test_a_log_joint_with_batch_statistics_is_found(log_joint):
    report = check(reparam(iwae), Nonlinear, iwae, log_joint=log_joint, num_replicates=1000)
    assert "log_joint" in report.failed
    assert "take no batch statistics over the K axis" in str(report)
    assert "q.log_prob" not in report.failed


MODEL = LinearGaussian(jnp.array([[0.8, 0.3], [-0.5, 1.0]]), jnp.zeros(2), jnp.array(0.7))
DATA = jnp.array([[1.0, 0.3], [-0.4, 0.9]])


def gaussian(params):
    return vi.families.normal(params["loc"], log_scale=params["log_scale"])


def closed_elbo(params):
    loc, scale = params["loc"], jnp.exp(params["log_scale"])
    return params["model"].elbo(DATA, loc, scale).sum()


@pytest.mark.parametrize("make", [pytest.param(reparam, marks=slow), dreg])
def test_the_linear_gaussian(make):
    """A batch of two, two latent dimensions, the gradients of the model too."""
    params = {
        "loc": jnp.array([[0.3, -0.2], [0.0, 0.5]]),
        "log_scale": jnp.array([[-0.3, 0.1], [-0.6, 0.0]]),
        "model": MODEL,
    }
    report = check_gradient(
        make(elbo),
        gaussian,
        params,
        lambda params: params["model"].log_joint(DATA),
        key=jax.random.key(3),
        num_samples=2,
        num_replicates=2000,
        truth=jax.jit(jax.grad(closed_elbo))(params),
    )
    assert report.passed, str(report)
    assert jax.tree.structure(report.z) == jax.tree.structure(params)


@pytest.mark.parametrize("is_right", [True, pytest.param(False, marks=slow)])
def test_what_has_no_spread_is_compared_to_rounding(is_right):
    """At the exact posterior N(x / 2, 1 / 2): every replicate of dreg is 0."""
    x = jnp.array([3.0, -1.0, 0.2])
    params = {"loc": x / 2, "log_scale": jnp.full(3, 0.5 * jnp.log(0.5))}

    def log_joint(params):
        return lambda z: dist.Normal(0, 1).log_prob(z) + dist.Normal(z, 1).log_prob(x)

    report = check_gradient(
        dreg(iwae),
        lambda params: dist.Normal(params["loc"], jnp.exp(params["log_scale"])),
        params,
        log_joint,
        key=jax.random.key(4),
        num_samples=K,
        num_replicates=500,
        truth={"loc": jnp.zeros(3), "log_scale": jnp.array([0.0, 0.0 if is_right else 1e-3, 0.0])},
    )
    assert max(map(jnp.max, jax.tree.leaves(report.stderr))) < 1e-6
    assert report.failed == (() if is_right else ("params['log_scale']",)), str(report)


class Light:
    """A q that compiles fast; its density need not be that of its draws."""

    batch_shape = ()

    def __init__(self, loc):
        self.loc = loc

    def sample(self, key, sample_shape=()):
        return jax.random.uniform(key, sample_shape)

    def log_prob(self, z):
        return -(z**2)


class Fixed(Light):
    """A q that always draws the same."""

    def sample(self, key, sample_shape=()):
        return jnp.ones(sample_shape)


class Ranked(Light):
    """A density of all draws at once: it cannot be taken one by one."""

    def log_prob(self, z):
        return -(z**2) - z.max(0)


def slope(gradient):
    """An objective with any gradient one likes: a number or a function of the key."""

    def objective(key, q, log_joint, num_samples):
        slope = gradient(key) if callable(gradient) else gradient
        return (q.loc * slope).sum()

    return objective


def report_of(objective, truth=1.0, *, params=None, num_replicates=1000, **options):
    options = {"num_samples": 2, "key": jax.random.key(5)} | options
    return check_gradient(
        objective,
        options.pop("make_q", Light),
        jnp.array(0.5) if params is None else params,
        options.pop("log_joint", lambda loc: lambda z: -(z**2)),
        num_replicates=num_replicates,
        truth=truth,
        **options,
    )


def test_mean_and_standard_error_are_those_of_the_replicates():
    """1000 replicates are 7.8 blocks of 128."""
    report = report_of(slope(lambda key: 3.0 + 2.0 * jax.random.normal(key)), truth=3.0)
    assert report.passed
    assert abs(float(report.stderr) / (2 / 1000**0.5) - 1) < 5 / (2 * 1000) ** 0.5
    assert abs(float(report.mean) - 3.0) < 5 * report.stderr
    expected = (report.mean - 3.0) / jnp.hypot(report.stderr, 3 * (2.0**-11.5 + 2.0**-17) / 5)
    np.testing.assert_allclose(report.z, expected, rtol=1e-4)


@pytest.mark.parametrize("num_replicates", [100, 300])
def test_every_replicate_counts_once(num_replicates):
    report = report_of(slope(1.0), truth=0.5, num_replicates=num_replicates)
    np.testing.assert_allclose(report.mean, 1.0, rtol=1e-6)
    assert not report.passed


@pytest.mark.parametrize(
    "gradient",
    [jnp.nan, jnp.inf, lambda key: 1e30 * jax.random.normal(key)],
    ids=["nan", "inf", "overflowing square"],
)
def test_what_is_not_finite_fails(gradient):
    """The last: its squares overflow, so its standard error is not known."""
    report = report_of(slope(gradient))
    assert report.failed == ("params",), str(report)


@pytest.mark.parametrize(("truth", "passes"), [(1.6e-4, False), (0.0, False), (1e-6, True)])
def test_a_small_gradient_of_the_wrong_sign_is_found(truth, passes):
    """Down to 64 roundings, 7.6e-6; the truth of 0 has a gradient of 1e-5."""
    report = report_of(slope(-truth or 1e-5), truth=truth)
    assert report.passed == passes, str(report)


def test_rounding_is_relative_to_the_leaf():
    """An error of 1e-3 is nothing in a leaf of 1e4, and too much in the leaf beside it."""
    params = {"large": jnp.zeros(2), "small": jnp.zeros(2)}

    def objective(key, q, log_joint, num_samples):
        large, small = q.loc["large"], q.loc["small"]
        return 1e4 * large[0] + 1e-3 * large[1] + 1.001 * small.sum()

    truth = {"large": jnp.array([1e4, 0.0]), "small": jnp.ones(2)}
    large = report_of(objective, truth, params=params)
    assert large.passed  # 64 roundings of the 1e4
    truth["large"] = jnp.zeros(2)
    assert report_of(objective, truth, params=params).failed == (
        "params['large']",
        "params['small']",
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    """The sum of 2000 gradients of 100 overflows float16; in bfloat16 it stops at 2^15."""
    report = report_of(
        slope(lambda key: 100 + jax.random.normal(key, dtype=dtype)),
        truth=50.0,
        params=jnp.array(0.5, dtype),
        num_replicates=2000,
    )
    assert report.mean.dtype == jnp.float32
    np.testing.assert_allclose(report.mean, 100.0, atol=0.3)
    assert report.failed == ("params",)


@pytest.mark.parametrize("batch_size", [1, 300, 5000])
def test_the_batch_of_replicates_does_not_count(batch_size):
    noise = slope(lambda key: 1.0 + jax.random.normal(key))
    report = report_of(noise, num_replicates=300, batch_size=batch_size)
    assert report.passed
    assert abs(float(report.stderr) * 300**0.5 - 1) < 5 / (2 * 300) ** 0.5


def test_parameters_may_be_a_distribution():
    """NumPyro's are pytrees that can be called."""
    params = dist.Normal(jnp.array(0.5), jnp.array(1.2))
    target = dist.Normal(0.0, 1.5)
    report = report_of(
        lambda key, q, log_joint, K: 2.0 * q.loc,
        jax.grad(lambda q: 2.0 * q.loc)(params),
        params=params,
        make_q=lambda q: q,
        log_joint=lambda q: target.log_prob,
    )
    assert report.passed, str(report)


def test_one_bad_entry_of_many_is_named():
    noise = slope(lambda key: jax.random.normal(key, (4, 2)).at[2, 1].add(0.5))
    zeros = {"a": [jnp.zeros((4, 2))]}
    report = report_of(noise, zeros, params=zeros, make_q=lambda params: Light(params["a"][0]))
    assert report.failed == ("params['a'][0]",)
    assert "worst at [2, 1] of [4, 2], 1 entries beyond 5" in str(report)


def test_the_report_reads_as_a_table_and_repeats():
    report = report_of(slope(1.0))
    lines = str(report).splitlines()
    assert lines[0] == "check_gradient(objective, K = 2, S = 1000): passed"
    assert len({line.index("ok") for line in lines[1:]}) == 1
    assert [check.name for check in report.checks] == ["value", "log_joint", "q.log_prob", "params"]
    assert "z  +0.00 | mean +1.0000e+00 +- 0.0e+00 | truth +1.0000e+00" in lines[-1]
    assert str(report_of(slope(1.0))) == str(report)


def test_an_objective_goes_by_what_it_calls_itself():
    fixed = vi.gradients.estimator(lambda bound, log_w: vi.types.Coefficients(0.0 * log_w))(elbo)
    report = report_of(fixed, 0.0)
    assert report.name == repr(fixed)
    assert report.passed, str(report)


def test_what_cannot_be_probed_is_skipped_and_said():
    skipped = {check.name: check for check in report_of(slope(1.0), num_samples=1).checks}
    assert skipped["log_joint"].passed is None
    assert "K = 1" in skipped["q.log_prob"].detail
    fixed = {check.name: check for check in report_of(slope(1.0), make_q=Fixed).checks}
    assert fixed["log_joint"].passed is None
    assert "no draw differs" in fixed["log_joint"].detail


def test_q_is_probed_too():
    assert report_of(slope(1.0), make_q=Ranked, num_samples=4).failed == ("q.log_prob",)


@pytest.mark.parametrize(
    ("num_samples", "shift"), [(4, 2), (8, 2), (8, 4), pytest.param(64, 32, marks=slow)]
)
def test_a_coupling_at_any_distance_is_found(num_samples, shift):
    def log_joint(loc):
        return lambda z: -((z - 0.1 * stop_gradient(jnp.roll(z, shift, 0))) ** 2)

    report = probe(jax.random.key(9), Light(0.0), log_joint(0.0), num_samples)
    assert [check.passed for check in report.checks] == [False, True], report


@pytest.mark.parametrize("num_samples", [1, 3])
def test_nan_is_called_nan(num_samples):
    report = report_of(
        slope(1.0), log_joint=lambda loc: lambda z: jnp.log(z - 0.5), num_samples=num_samples
    )
    assert report.failed == ("log_joint",)
    assert "NaN at a draw of q" in str(report)
    assert "batch statistics" not in str(report)


def test_a_discrete_latent_is_probed():
    def pooled(loc):
        return lambda z: 0.1 * z + z.mean(0)

    def per_sample(loc):
        return lambda z: (0.1 * z, {"aux": z})

    def coin(loc):
        q = dist.Bernoulli(0.4)
        q.loc = loc
        return q

    common = {"make_q": coin, "num_samples": 3}
    assert report_of(slope(1.0), log_joint=pooled, **common).failed == ("log_joint",)
    assert report_of(slope(1.0), log_joint=per_sample, **common).passed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": 3}, r"objective must be a function \(got int\); pass a function of \(key"),
        ({"make_q": dist.Normal(0, 1)}, r"make_q must be a function \(got Normal\)"),
        ({"log_joint": 3.0}, "log_joint must be a function"),
        ({"log_joint": dist.Normal(0, 1).log_prob}, "log_joint must map params to a function"),
        ({"truth": {"loc": 1.0}}, "truth must be a pytree like params"),
        ({"truth": lambda loc: loc}, r"give the gradient itself, for instance jax.grad\(exact\)"),
        ({"truth": jnp.ones(2)}, r"truth must have the shape \[\] \(got shape \[2\]\)"),
        ({"params": jnp.array(1)}, r"params must be floating \(got dtype int32\); close over"),
        ({"params": {}, "truth": {}}, r"params must have at least one entry \(got PyTreeDef"),
        ({"params": jnp.zeros(0), "truth": jnp.zeros(0)}, "params must have at least one entry"),
        ({"truth": dist.Normal(0.0, 1.0)}, "truth must be a pytree like params"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"key": 0}, "key must be a typed PRNG key"),
        ({"num_samples": 0}, "num_samples must be an integer of at least 1"),
        ({"num_replicates": 99}, "num_replicates must be an integer of at least 100"),
        (
            {"objective": lambda key, q, log_joint, K: (q.loc, key)},
            r"objective must return a floating array \(got tuple\); return the value alone",
        ),
        ({"objective": lambda key, q, log_joint, K: K}, "objective must return a floating array"),
        (
            {"log_joint": lambda loc: lambda z: z.sum()},
            r"check_gradient: log_joint must return \[K, \*batch\]",
        ),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        report_of(**({"objective": slope(1.0)} | options))
