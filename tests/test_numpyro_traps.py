"""Where NumPyro's bounds go wrong, or a loss easily would: ours is right, theirs is the twin."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.autoguide import (
    AutoBNAFNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)

import vi
from tests.numpyro_models import Y, amortised, conjugate, local, mean_field, setup
from vi.bounds import elbo, iwae, renyi
from vi.gradients import dreg, reparam, score, vimco

DATA = jnp.array([0.5, 1.5, 2.5])
EVIDENCE = float(dist.Normal(0, 2**0.5).log_prob(DATA).sum())


def mean_loss(loss, model, guide, params, *args, num_draws=2000):
    """The mean of a loss over keys, and its standard error."""
    keys = jax.random.split(jax.random.key(0), num_draws)
    run = lambda key: loss.loss(key, params, model, guide, *args)  # noqa: E731
    values = np.asarray(jax.jit(lambda k: jax.lax.map(run, k, batch_size=200))(keys), float)
    return values.mean(), values.std(ddof=1) / num_draws**0.5


def initial(model, guide, *args):
    svi = SVI(model, guide, optax.sgd(0.1), Trace_ELBO())
    return svi.get_params(svi.init(jax.random.key(0), *args))


LOC = {"auto_loc": DATA / 2}
JOINT_GUIDES = {
    "full": (AutoMultivariateNormal, LOC | {"auto_scale_tril": jnp.eye(3)}),
    "low rank": (
        AutoLowRankMultivariateNormal,
        LOC | {"auto_scale": jnp.ones(3), "auto_cov_factor": jnp.full((3, 1), 0.1)},
    ),
    "flow": (lambda model: AutoIAFNormal(model, num_flows=1, hidden_dims=[6]), {}),
}


@pytest.mark.parametrize("name", JOINT_GUIDES)
def test_a_joint_guide_over_a_plate_is_counted_once(name):
    make, at = JOINT_GUIDES[name]
    guide = make(local)
    params = initial(local, guide, DATA) | at
    ours = vi.numpyro.IWAE(8, reparam, plates=())
    value, error = mean_loss(ours, local, guide, params, DATA)
    theirs, their_error = mean_loss(RenyiELBO(num_particles=8), local, guide, params, DATA)
    assert value > -EVIDENCE - 5 * error  # a lower bound
    assert theirs < -EVIDENCE - 1 - 5 * their_error  # above the evidence by nats


def test_a_joint_guide_over_a_plate_has_to_be_said():
    guide = AutoMultivariateNormal(local)
    params = initial(local, guide, DATA)
    with pytest.raises(
        ValueError,
        match=r"z are in plates N and _auto_latent outside.*plates=\('N',\).*plates=\(\)",
    ):
        vi.numpyro.IWAE(8).loss(jax.random.key(0), params, local, guide, DATA)


def with_a_factor(y, size=None):
    local(y, size)
    numpyro.factor("nothing", jnp.zeros(()))


def test_a_factor_outside_the_plate_does_not_join_the_weights():
    params = {"slope": jnp.array(-0.5), "scale": jnp.array(0.6)}
    joined, _ = mean_loss(RenyiELBO(num_particles=8), with_a_factor, amortised, params, DATA)
    apart, _ = mean_loss(RenyiELBO(num_particles=8), local, amortised, params, DATA)
    assert joined > apart + 0.2  # one weight for the whole batch, without a word
    with pytest.raises(ValueError, match="all latent sites are in plates N and nothing outside"):
        vi.numpyro.IWAE(8).loss(jax.random.key(0), params, with_a_factor, amortised, DATA)
    ours, error = mean_loss(
        vi.numpyro.IWAE(8, plates=("N",)), with_a_factor, amortised, params, DATA
    )
    assert abs(ours - apart) < 5 * error * 2**0.5


def test_subsampled_cells_are_scaled_after_the_log():
    params = {"slope": jnp.array(0.3), "scale": jnp.array(1.2)}
    whole, error = mean_loss(vi.numpyro.IWAE(4), local, amortised, params, Y)
    part, part_error = mean_loss(vi.numpyro.IWAE(4), local, amortised, params, Y, 2, num_draws=6000)
    assert abs(whole - part) < 5 * np.hypot(error, part_error)
    inside = lambda y, size: handlers.scale(local, scale=3.0)(y)  # noqa: E731
    scaled_guide = lambda y, size: handlers.scale(amortised, scale=3.0)(y)  # noqa: E731
    inside_log, inside_error = mean_loss(vi.numpyro.IWAE(4), inside, scaled_guide, params, Y, 2)
    assert abs(inside_log - 3 * whole) > 5 * np.hypot(inside_error, 3 * error)


def test_all_particles_see_one_minibatch():
    params = {"slope": jnp.array(0.5), "scale": jnp.array(0.5**0.5)}  # the exact posterior
    value = lambda loss: loss.loss(jax.random.key(1), params, local, amortised, Y, 2)  # noqa: E731
    exact = dist.Normal(0, 2**0.5).log_prob(Y)
    drawn = float(-value(vi.numpyro.IWAE(8)) / 3)
    pairs = exact[:, None] + exact[None, :]
    assert jnp.abs(pairs - drawn).min() < 1e-4


def circular(y):
    z = numpyro.sample("z", dist.VonMises(0.0, 1.0))
    numpyro.sample("y", dist.Normal(jnp.cos(z), 1).expand([len(y)]).to_event(1), obs=y)


def circular_guide(y):
    concentration = numpyro.param("concentration", 2.0)
    numpyro.sample("z", dist.VonMises(0.4, concentration))


AT = {"concentration": jnp.array(2.0)}


def test_a_site_without_a_path_is_refused_by_name():
    for loss in (vi.numpyro.ELBO(), vi.numpyro.IWAE(8)):
        with pytest.raises(ValueError, match=r"z \(VonMises\)\); use vimco, score"):
            loss.loss(jax.random.key(0), AT, circular, circular_guide, DATA)


def test_the_way_out_has_the_right_gradient():
    theta = jnp.linspace(-jnp.pi, jnp.pi, 4001)[:-1]

    def exact(params):
        log_p = dist.VonMises(0.0, 1.0).log_prob(theta)
        log_p += dist.Normal(jnp.cos(theta)[:, None], 1).log_prob(DATA).sum(-1)
        log_q = dist.VonMises(0.4, params["concentration"]).log_prob(theta)
        return -(jnp.exp(log_q) * (log_p - log_q)).sum() * (2 * jnp.pi / 4000)

    truth = jax.grad(exact)(AT)["concentration"]

    def gradients(loss):
        run = lambda params, key: loss.loss(key, params, circular, circular_guide, DATA)  # noqa: E731
        keys = jax.random.split(jax.random.key(0), 4000)
        return jax.jit(jax.vmap(jax.grad(run), (None, 0)))(AT, keys)["concentration"]

    for objective in (vimco(elbo), score(elbo)):
        found = gradients(vi.numpyro.Loss(objective, num_particles=4))
        assert abs(found.mean() - truth) < 5 * found.std() / 4000**0.5
    silent = gradients(RenyiELBO(num_particles=1))
    assert abs(silent.mean() - truth) > 5 * silent.std() / 4000**0.5


def annealed(y):
    with handlers.scale(scale=0.1):
        z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(z, 1).expand([len(y)]).to_event(1), obs=y)


def test_a_scale_of_the_model_alone_counts():
    params = {"loc": jnp.array(0.3), "scale": jnp.array(0.8)}
    log_q = dist.Normal(0.3, 0.8)
    expected = -(0.1 * (-0.5 * (0.3**2 + 0.8**2) - 0.5 * jnp.log(2 * jnp.pi)) + log_q.entropy())
    expected -= (-0.5 * ((DATA - 0.3) ** 2 + 0.8**2) - 0.5 * jnp.log(2 * jnp.pi)).sum()
    ours, error = mean_loss(vi.numpyro.ELBO(), annealed, mean_field, params, DATA)
    theirs, their_error = mean_loss(TraceMeanField_ELBO(), annealed, mean_field, params, DATA)
    assert abs(ours - expected) < 5 * error
    assert abs(theirs - expected) > 5 * their_error


def test_particles_are_averaged_not_summed():
    model, guide, args, params = setup("conjugate")
    one, error = mean_loss(vi.numpyro.ELBO(), model, guide, params, *args)
    eight, eight_error = mean_loss(vi.numpyro.ELBO(8), model, guide, params, *args)
    assert abs(one - eight) < 5 * np.hypot(error, eight_error)


def test_a_guide_that_cannot_be_scored_is_refused_under_dreg_alone():
    guide = AutoBNAFNormal(local, num_flows=1, hidden_factors=[4])
    params = initial(local, guide, DATA)
    run = lambda loss: loss.loss(jax.random.key(0), params, local, guide, DATA)  # noqa: E731
    assert jnp.isfinite(run(vi.numpyro.IWAE(4, reparam, plates=())))
    with pytest.raises(ValueError, match=r"site _auto_latent.*use reparam"):
        run(vi.numpyro.IWAE(4, plates=()))


@pytest.mark.parametrize("estimator", [reparam, dreg, vimco])
@pytest.mark.parametrize("num_particles", [2, 4])
def test_nothing_is_zero(estimator, num_particles):
    loss = vi.numpyro.IWAE(num_particles, estimator)
    assert loss.loss(jax.random.key(0), {}, lambda: None, lambda: None) == 0.0


def test_nothing_is_zero_for_one():
    assert vi.numpyro.ELBO().loss(jax.random.key(0), {}, lambda: None, lambda: None) == 0.0


@pytest.mark.parametrize(
    ("estimator", "bound"), [(reparam, elbo), (reparam, iwae), (dreg, renyi(0.5)), (vimco, iwae)]
)
def test_forward_mode_is_reverse_mode(estimator, bound):
    loss = vi.numpyro.Loss(estimator(bound), num_particles=4)
    params = {"loc": jnp.array(0.3), "scale": jnp.array(0.8)}
    run = lambda p: loss.loss(jax.random.key(0), p, conjugate, mean_field, DATA)  # noqa: E731
    forward, reverse = jax.jit(jax.jacfwd(run))(params), jax.jit(jax.grad(run))(params)
    for name in params:
        np.testing.assert_allclose(forward[name], reverse[name], rtol=1e-4)


def test_legacy_keys_are_typed_keys():
    params = {"slope": jnp.array(0.3), "scale": jnp.array(1.2)}
    for loss in (vi.numpyro.ELBO(), vi.numpyro.IWAE(4), vi.numpyro.IWAE(4, vimco)):
        value = lambda key, loss=loss: loss.loss(key, params, local, amortised, Y, 2)  # noqa: E731
        assert value(jax.random.key(7)) == value(jax.random.PRNGKey(7))


def test_an_own_loop_reuses_no_key():
    with jax.debug_key_reuse(True):
        params = {"slope": jnp.array(0.3), "scale": jnp.array(1.2)}
        for loss in (vi.numpyro.ELBO(), vi.numpyro.IWAE(4), vi.numpyro.IWAE(4, vimco)):
            run = lambda key, p, loss=loss: loss.loss(key, p, local, amortised, Y)  # noqa: E731
            jax.jit(jax.value_and_grad(run, 1))(jax.random.key(0), params)
