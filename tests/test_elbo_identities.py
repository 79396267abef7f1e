"""The identities of the ELBO, EM's staircase and the linear VAE, and what breaks them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats
from sklearn.mixture import GaussianMixture

from experiments import _em, _identities_exact, _linear_vae, elbo_identities
from experiments._config import execute, resolve
from experiments._em import EM, Staircase, ascend, largest_gap_after_e, least_rise
from experiments._identities_plots import _first_shown
from experiments._identities_table import largest_angle
from vi.testing import LinearGaussian, ppca

TOY = {"preset": "smoke", "progress": False}
EXACT = 1e-10  # nats, in float64
x64 = pytest.mark.usefixtures("x64")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two seeds: its record, and the arrays of its stages."""
    out = tmp_path_factory.mktemp("elbo_identities")
    config = elbo_identities.Config(**TOY, num_seeds=2, out=out)
    record = execute(config, elbo_identities.PRESETS, elbo_identities.experiment, "elbo_identities")
    stages = {}
    for path in (out / "stages").glob("*.npz"):
        with np.load(path) as held:
            stages[path.stem] = dict(held)
    return record, stages


def test_every_identity_holds_in_the_record(run):
    record, _ = run
    metrics = record.metrics
    zero = ["linear-Gaussian/max |log p(x) - ELBO - KL(q || posterior)|"]
    zero += ["linear-Gaussian/max |log p(x) - ELBO| at the posterior"]
    zero += ["linear-Gaussian/max |difference of the two decompositions|"]
    zero += [f"{em} by EM/max |log p(x) - ELBO| after an E step" for em in ("pPCA", "mixture")]
    for name in zero:
        assert metrics[name].reference.value == 0.0
        assert len(metrics[name].seeds) == 2
        assert max(metrics[name].seeds) < EXACT, name
    for em in ("pPCA", "mixture"):
        assert min(metrics[f"{em} by EM/least rise over a half step, relative"].seeds) > -EXACT
    assert min(metrics["linear-Gaussian/least KL(q || posterior) among these q"].seeds) > 0.1
    assert max(metrics["linear-Gaussian/max |z| of rate_distortion's five terms"].seeds) < 5
    one = metrics["linear-Gaussian/log p(x) - E L_K, K = 1"]
    assert abs(one.difference) < 5 * one.stderr


def test_the_linear_vae_is_probabilistic_pca(run):
    metrics = run[0].metrics
    gap = metrics["linear VAE, dreg/pPCA's log p(x) - ELBO"]
    kl = metrics["linear VAE, dreg/of that, KL(q || posterior)"]
    assert all(0 < k < g < 0.1 for k, g in zip(kl.seeds, gap.seeds, strict=True))
    assert abs(metrics["linear VAE, dreg/noise scale"].difference) < 1e-3
    assert max(metrics["linear VAE, dreg/largest angle between the subspaces"].seeds) < 2
    assert set(run[0].pictures) == {
        f"{name}.png"
        for name in ("decompositions", "staircase", "mixture", "linear_vae", "components")
    }


def test_the_ladder_falls_in_every_replicate_and_the_path_ends_at_the_posterior(run):
    held = run[1]["identities"]
    assert held["ladder"].shape == (2, 7, 20)
    assert (np.diff(held["ladder"], axis=1) < 0).all()
    kl, rate = held["path/kl"], held["path/rate"]
    assert (np.diff(kl, axis=1) < 0).all()
    assert (np.diff(rate, axis=1) > 0).all()
    assert np.abs(rate[:, 0]).max() < EXACT  # q is the prior
    assert np.abs(kl[:, -1]).max() < EXACT  # q is the posterior


@functools.cache
def terms_of_random_q():
    @jax.jit
    def compute():
        model, x = _identities_exact.toy(jax.random.key(0))
        q = _identities_exact.random_q(jax.random.key(1), model.posterior(x), 5)
        return model, x, q.loc, q.scale_tril, _identities_exact.exact_terms(model, x, q)

    with jax.enable_x64(True):
        return compute()


@x64
def test_the_evidence_is_elbo_plus_the_kl_to_the_posterior_and_to_nothing_else():
    *_, terms = terms_of_random_q()
    assert jnp.abs(terms.evidence_error).max() < EXACT
    to_the_prior = terms._replace(kl=terms.rate)
    assert jnp.abs(to_the_prior.evidence_error).min() > 0.01


@x64
def test_the_decompositions_agree_and_a_distortion_at_the_mean_does_not():
    model, x, loc, _, terms = terms_of_random_q()
    assert jnp.abs(terms.decomposition_error).max() < EXACT
    at_mean = terms._replace(distortion=-model.likelihood(loc).log_prob(x))
    assert jnp.abs(at_mean.decomposition_error).min() > 0.01


@x64
def test_of_a_mean_field_q_the_terms_are_those_of_the_model():
    model, x, loc, scale_tril, _ = terms_of_random_q()

    @jax.jit
    def both(scale):
        q = dist.MultivariateNormal(loc, scale_tril=scale[..., None] * jnp.eye(scale.shape[-1]))
        repeated = jnp.broadcast_to(x, (len(loc), *x.shape))
        exact = model.elbo(repeated, loc, scale), model.kl_to_posterior(repeated, loc, scale)
        return _identities_exact.exact_terms(model, x, q), exact

    terms, (elbo, kl) = both(jnp.diagonal(scale_tril, axis1=-2, axis2=-1))
    np.testing.assert_allclose(terms.elbo, elbo, rtol=1e-12)
    np.testing.assert_allclose(terms.kl, kl, rtol=1e-10)


@x64
def test_monte_carlo_agrees_and_finds_a_wrong_distortion():
    model, x, loc, scale_tril, terms = terms_of_random_q()
    q = dist.MultivariateNormal(loc, scale_tril=scale_tril)

    @jax.jit
    def errors(key, terms):
        return _identities_exact.monte_carlo(key, model, x, q, terms, 100)

    assert np.abs(errors(jax.random.key(2), terms)).max() < 5
    wrong = terms._replace(distortion=terms.distortion + 1.0)
    found = np.abs(errors(jax.random.key(3), wrong))
    assert found[1] > 5
    assert np.delete(found, 1).max() < 5


@x64
def test_the_variance_of_the_ladders_weights_by_quadrature():
    """Along the posterior's own axes q and the posterior are products of equal factors."""
    s = _identities_exact.SHIFT / _identities_exact.LATENTS**0.5
    u = np.linspace(-12, 12, 4001)
    ratio = stats.norm.pdf(u) ** 2 / stats.norm.pdf(u, s, _identities_exact.STRETCH)
    second = np.trapezoid(ratio, u) ** _identities_exact.LATENTS
    np.testing.assert_allclose(_identities_exact.relative_variance(), second - 1, rtol=1e-9)


def make_data(num_data=60, P=5):
    rng = np.random.default_rng(0)
    scales = np.array([3.0, 1.5, 0.6, 0.5, 0.4])
    rotation = np.linalg.qr(rng.normal(size=(P, P)))[0]
    return jnp.asarray(rng.normal(size=(num_data, P)) * scales @ rotation + 1, float)


def clusters(num_data=60):
    rng = np.random.default_rng(1)
    centres = np.array([[-2.0, 0.0], [2.0, 1.0], [0.0, -2.0]])
    return jnp.asarray(np.repeat(centres, num_data // 3, 0) + rng.normal(size=(num_data, 2)), float)


def of(model: str):
    """An EM and where it starts."""
    if model == "ppca":
        x = make_data()
        return _em.ppca_em(x), _em.ppca_start(jax.random.key(0), x, 2)
    x = clusters()
    return _em.mixture_em(x), _em.mixture_start(jax.random.key(0), x, 3)


def climbed(em: EM, start, num_steps):
    params, stairs = jax.jit(lambda: ascend(em, *start, num_steps))()
    return params, Staircase(*map(np.asarray, stairs))


@functools.cache
def climb(model: str):
    """300 right steps, in float64."""
    with jax.enable_x64(True):
        return climbed(*of(model), 300)


@pytest.mark.parametrize("model", ["ppca", "mixture"])
def test_em_never_falls_and_touches_the_evidence(model):
    _, stairs = climb(model)
    assert stairs.elbo.shape == stairs.log_likelihood.shape == (600,)
    assert largest_gap_after_e(stairs) < 1e-12
    assert least_rise(stairs) > -1e-12
    between = (stairs.log_likelihood - stairs.elbo)[::2]
    assert (between[:5] > 1e-4).all(), "an M step leaves the ELBO below"
    assert stairs.log_likelihood[-1] - stairs.log_likelihood[0] > 0.1
    np.testing.assert_array_equal(stairs.log_likelihood[::2], stairs.log_likelihood[1::2])


@x64
def test_em_for_ppca_ends_at_the_closed_form():
    model, stairs = climb("ppca")
    best = jax.jit(ppca, static_argnums=1)(make_data(), 2)
    evidence = jax.jit(best.log_evidence)(make_data()).mean()
    assert abs(stairs.log_likelihood[-1] - evidence) < EXACT
    np.testing.assert_allclose(model.noise_scale, best.noise_scale, rtol=1e-8)
    assert largest_angle(np.asarray(model.weights), np.asarray(best.weights)) < 1e-3


@x64
def test_one_iteration_for_ppca_is_that_of_tipping_and_bishop():
    em, (model, _) = of("ppca")
    x = np.asarray(make_data())
    S, W, variance = np.cov(x.T, bias=True), np.asarray(model.weights), model.noise_scale**2
    M = W.T @ W + variance * np.eye(2)
    W_new = S @ W @ np.linalg.inv(variance * np.eye(2) + np.linalg.inv(M) @ W.T @ S @ W)
    variance_new = np.trace(S - S @ W @ np.linalg.inv(M) @ W_new.T) / 5
    ours = jax.jit(lambda model: em.m_step(em.e_step(model)))(model)
    np.testing.assert_allclose(ours.weights, W_new, rtol=1e-9)
    np.testing.assert_allclose(ours.noise_scale**2, variance_new, rtol=1e-9)


@x64
@pytest.mark.filterwarnings("ignore:.*did not converge")
def test_em_for_a_mixture_is_that_of_scikit_learn():
    em, start = of("mixture")
    first, x, T = start[0], np.asarray(clusters()), 7
    mixture, _ = climbed(em, start, T)
    precisions = np.linalg.inv(first.covariances)
    reference = GaussianMixture(
        3, max_iter=T, tol=0, reg_covar=0, weights_init=np.asarray(first.weights),
        means_init=np.asarray(first.means), precisions_init=precisions,
    ).fit(x)  # fmt: skip
    np.testing.assert_allclose(mixture.means, reference.means_, rtol=1e-9)
    np.testing.assert_allclose(mixture.covariances, reference.covariances_, rtol=1e-9)
    log_likelihood = jax.jit(em.log_likelihood)(mixture)
    np.testing.assert_allclose(log_likelihood, reference.score(x), rtol=1e-12)


def halved_noise(em: EM):
    """An M step that divides the residual by the wrong count."""

    def m_step(q):
        model = em.m_step(q)
        return dataclasses.replace(model, noise_scale=model.noise_scale / 2**0.5)

    return em._replace(m_step=m_step)


def halved_covariances(em: EM):
    """An M step with the same mistake."""

    def m_step(q):
        mixture = em.m_step(q)
        return mixture._replace(covariances=mixture.covariances / 2)

    return em._replace(m_step=m_step)


@x64
@pytest.mark.parametrize(
    ("model", "broken"), [("ppca", halved_noise), ("mixture", halved_covariances)]
)
def test_a_wrong_m_step_falls(model, broken):
    em, start = of(model)
    _, stairs = climbed(broken(em), start, 20)
    assert least_rise(stairs) < -1e-3
    assert largest_gap_after_e(stairs) < 1e-12  # the E step is still right


def old_covariance(em: EM):
    """An E step that moves the means alone."""

    def e_step(model):
        q = em.e_step(model)
        return q._replace(covariance=jnp.eye(len(q.covariance)))

    return em._replace(e_step=e_step)


def winner_takes_all(em: EM):
    """An E step of hard assignments, as in k-means."""

    def e_step(mixture):
        log_q = em.e_step(mixture)
        return jnp.where(log_q == log_q.max(1, keepdims=True), 0.0, -50.0)

    return em._replace(e_step=e_step)


@x64
@pytest.mark.parametrize(
    ("model", "broken"), [("ppca", old_covariance), ("mixture", winner_takes_all)]
)
def test_a_wrong_e_step_does_not_touch(model, broken):
    em, start = of(model)
    _, stairs = climbed(broken(em), start, 20)
    assert largest_gap_after_e(stairs) > 1e-3


def vae_of(model: LinearGaussian) -> _linear_vae.LinearVAE:
    """The best linear VAE with this decoder, where the posterior's covariance is diagonal."""
    precision = jnp.eye(model.weights.shape[1]) + (
        model.weights.T @ model.weights / model.noise_scale**2
    )
    encoder = jnp.linalg.solve(precision, model.weights.T / model.noise_scale**2).T
    log_scale = -0.5 * jnp.log(jnp.diagonal(precision))
    return _linear_vae.LinearVAE(
        model.weights, model.bias, jnp.log(model.noise_scale), encoder, log_scale
    )


@x64
def test_at_ppca_the_linear_vae_attains_the_evidence_and_rotated_it_does_not():
    x, angle = make_data(), jnp.array([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5

    @jax.jit
    def both():
        best = ppca(x, 2)
        rotated = dataclasses.replace(best, weights=best.weights @ angle)
        evidence = best.log_evidence(x).mean()
        return evidence, _linear_vae.exact(vae_of(best), x), _linear_vae.exact(vae_of(rotated), x)

    evidence, at_best, off = both()
    assert abs(at_best["elbo"] - evidence) < EXACT
    assert at_best["kl"] < EXACT
    assert abs(off["log_evidence"] - evidence) < EXACT
    assert off["kl"] > 0.1  # a mean-field q cannot follow
    np.testing.assert_allclose(off["elbo"] + off["kl"], off["log_evidence"], atol=EXACT)


def test_every_objective_estimates_the_elbo():
    x = jnp.asarray(make_data(), jnp.float32)
    vae = _linear_vae.start(jax.random.key(0), x, 2)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def values(key, vae):
        losses = {name: _linear_vae.make_loss(name) for name in _linear_vae.OBJECTIVES}
        keys = jax.random.split(key, len(losses))
        return {n: -losses[n](vae, k, x) for n, k in zip(losses, keys, strict=True)}

    exact = _linear_vae.exact(vae, x)
    for name, each in values(jax.random.split(jax.random.key(1), 400), vae).items():
        each = np.asarray(each, float)
        stderr = each.std(ddof=1) / 20  # a quadratic in normals: every moment exists
        assert abs(each.mean() - float(exact["elbo"])) < 5 * stderr, name
        assert abs(each.mean() - float(exact["log_evidence"])) > 5 * stderr, name


def test_angles_and_the_window_of_the_staircase():
    axes = np.eye(4)
    assert largest_angle(axes[:, :2], axes[:, :2] @ np.array([[2.0, 1.0], [0.0, 1.0]])) < 1e-5
    assert largest_angle(axes[:, :2], axes[:, 1:3]) == pytest.approx(90)
    jump = np.concatenate([[-100.0], np.arange(20.0)])
    assert _first_shown(jump) == 2
    assert _first_shown(np.arange(20.0)) == 1


def test_the_float64_part_leaves_float32_as_it_was():
    double = elbo_identities.in_float64(lambda key, x: {"x": x + jax.random.normal(key, (2,))})
    held = double(jax.random.key(0), np.ones(2, np.float32))["x"]
    assert held.dtype == np.float64
    assert jnp.ones(()).dtype == jnp.float32


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu", "paper"])
@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_every_preset_is_complete(preset, data):
    config = resolve(elbo_identities.Config(preset=preset, data=data), elbo_identities.PRESETS)
    elbo_identities.check(config)
    assert config.images is None or config.images >= config.batch_size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objectives": ()}, r"--objectives must name objectives, once each \(got ''\); try"),
        ({"objectives": ("dreg", "dreg")}, r"--objectives must .* \(got 'dreg dreg'\)"),
        ({"num_replicates": 1}, r"--num-replicates must be an integer of at least 2"),
        ({"em_steps": 0}, "--em-steps must be an integer of at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive"),
        ({"images": 0}, "--images must be an integer of at least 1"),
        ({"batch_size": 201}, r"--batch-size must be at most 200 .* \(got 201\); try 200"),
        ({"images": 3, "batch_size": 3}, r"--latent must be at most 1 .* \(got 3\); try 1"),
        ({"clusters": 201}, r"--clusters must be at most 200"),
    ],
)
def test_bad_settings_are_refused_before_any_work(tmp_path, fields, message):
    config = elbo_identities.Config(**(TOY | fields), out=tmp_path)
    with pytest.raises(ValueError, match=message):
        execute(config, elbo_identities.PRESETS, elbo_identities.experiment, "elbo_identities")
