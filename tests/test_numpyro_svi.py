"""The loss where users meet it: inside SVI, its loops and its warnings."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import ELBO, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import vi
from tests.numpyro_models import Y, amortised, conjugate, local, mean_field
from vi.bounds import elbo, iwae
from vi.gradients import dreg, reparam, vimco

LOSSES = {
    "elbo": lambda: vi.numpyro.ELBO(64),
    "landing": lambda: vi.numpyro.Loss(dreg(elbo), num_particles=1),
    "iwae": lambda: vi.numpyro.IWAE(4),
    "renyi": lambda: vi.numpyro.Renyi(0.5, 4),
    "vimco": lambda: vi.numpyro.Loss(vimco(elbo), num_particles=64),
}


@pytest.mark.parametrize("name", LOSSES)
def test_svi_finds_the_posterior(name):
    rate = optax.cosine_decay_schedule(0.05, 2000)
    svi = SVI(conjugate, mean_field, optax.adam(rate), LOSSES[name]())
    result = svi.run(jax.random.key(0), 2000, Y, progress_bar=False)
    # the posterior of z is N(sum y / 7, 1 / 7), where the gradient of each loss is zero
    assert abs(result.params["loc"] - Y.sum() / 7) < 0.02
    assert abs(result.params["scale"] - 7**-0.5) < 0.02
    assert isinstance(svi.loss, ELBO)
    draws = Predictive(mean_field, params=result.params, num_samples=4)(jax.random.key(1), Y)
    assert draws["z"].shape == (4,)


def test_the_bar_changes_nothing(capsys):
    svi = SVI(conjugate, mean_field, optax.adam(0.02), vi.numpyro.IWAE(4))
    barred = svi.run(jax.random.key(0), 20, Y, progress_bar=True)
    plain = svi.run(jax.random.key(0), 20, Y, progress_bar=False)
    np.testing.assert_allclose(barred.losses, plain.losses, rtol=1e-5)
    assert "avg. loss" in capsys.readouterr().err


def test_stable_updates_and_a_second_run_go_on():
    svi = SVI(conjugate, mean_field, optax.adam(0.02), vi.numpyro.IWAE(4))
    first = svi.run(jax.random.key(0), 20, Y, progress_bar=False, stable_update=True)
    again = svi.run(jax.random.key(0), 20, Y, progress_bar=False, init_state=first.state)
    whole = svi.run(jax.random.key(0), 40, Y, progress_bar=False)
    np.testing.assert_allclose(
        jnp.concatenate([first.losses, again.losses]), whole.losses, rtol=1e-5
    )


def test_seeds_side_by_side():
    svi = SVI(conjugate, mean_field, optax.adam(0.02), vi.numpyro.IWAE(4))
    keys = jax.random.split(jax.random.key(0), 3)
    run = lambda key: svi.run(key, 30, Y, progress_bar=False).losses  # noqa: E731
    side_by_side = jax.vmap(run)(keys)
    alone = jnp.stack([run(key) for key in keys])
    np.testing.assert_allclose(side_by_side, alone, rtol=1e-4)
    assert (side_by_side.std(0) > 0).all()


def test_evaluated_with_more_particles_than_it_was_trained_with():
    svi = SVI(local, amortised, optax.adam(0.02), vi.numpyro.IWAE(2))
    state = svi.run(jax.random.key(0), 50, Y, progress_bar=False).state
    tight = SVI(local, amortised, optax.adam(0.02), vi.numpyro.IWAE(2000))
    tight.init(jax.random.key(0), Y)
    evidence = dist.Normal(0, 2**0.5).log_prob(Y).sum()
    assert abs(-tight.evaluate(state, Y) - evidence) < 0.1
    assert -svi.evaluate(state, Y) != -tight.evaluate(state, Y)


def test_forward_mode():
    svi = SVI(conjugate, mean_field, optax.adam(0.02), vi.numpyro.IWAE(4))
    state = svi.init(jax.random.key(0), Y)
    forward = svi.update(state, Y, forward_mode_differentiation=True)
    reverse = svi.update(state, Y)
    for one, other in zip(*map(svi.get_params, (forward[0], reverse[0])), strict=True):
        assert one == other
    np.testing.assert_allclose(forward[1], reverse[1], rtol=1e-6)


def test_one_program_for_every_data_set_of_a_shape():
    loss, traces = vi.numpyro.IWAE(4), []

    @jax.jit
    def run(key, params, y):
        traces.append(None)
        return loss.loss(key, params, local, amortised, y)

    params = {"slope": jnp.array(0.3), "scale": jnp.array(1.2)}
    run(jax.random.key(0), params, Y)
    run(jax.random.key(1), params, Y + 1)
    assert len(traces) == 1
    assert not vars(loss).keys() - {
        *("objective", "global_objective", "plates", "num_global"),
        *("num_particles", "vectorize_particles", "vectorize_particles_fn"),
    }


def test_a_changed_shape_names_the_site():
    guide = AutoNormal(local)
    svi = SVI(local, guide, optax.adam(0.02), vi.numpyro.IWAE(4))
    state = svi.init(jax.random.key(0), Y)
    with pytest.raises(ValueError, match="Incompatible shapes") as caught:
        svi.update(state, Y[:4])
    assert "at site 'y', with arguments of shapes ([4],)" in "".join(caught.value.__notes__)


def missing(y):
    numpyro.param("loc", 0.3)


def extra(y):
    mean_field(y)
    numpyro.sample("w", dist.Normal(0, 1))


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (missing, "Found vars in model but not guide: {'z'}"),
        (extra, "Found non-auxiliary vars in guide but not model"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_a_guide_that_does_not_match_its_model_is_warned_of_as_in_numpyro(guide, message):
    params = {"loc": jnp.array(0.3), "scale": jnp.array(0.8)}
    values = []
    for loss in (vi.numpyro.ELBO(), Trace_ELBO()):
        with pytest.warns(UserWarning, match=message):
            values.append(loss.loss(jax.random.key(0), params, conjugate, guide, Y))
    np.testing.assert_allclose(*values, rtol=1e-6)


def test_a_nan_is_traced_to_its_site():
    def broken(y):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("a", dist.Normal(z, 1), obs=1.0)
        numpyro.sample("y", dist.Normal(jnp.log(z), 1).expand([len(y)]).to_event(1), obs=y)

    params = {"loc": jnp.array(0.0), "scale": jnp.array(1.0)}
    look = lambda p, n: vi.numpyro.require_finite(  # noqa: E731
        jax.random.key(0), p, broken, mean_field, Y, num_particles=n
    )
    with pytest.raises(ValueError, match=r"finite \(got model site y: \d+ of 64 not finite, nan\)"):
        look(params, 64)
    with pytest.raises(ValueError, match=r"every parameter must be finite \(got parameter loc\)"):
        look(params | {"loc": jnp.array(jnp.nan)}, 1)
    vi.numpyro.require_finite(jax.random.key(0), params, conjugate, mean_field, Y, num_particles=8)


def test_a_discrete_model_is_warned_of_once_by_numpyro_unless_the_objective_takes_it():
    def coin(y):
        numpyro.sample("b", dist.Bernoulli(0.3))

    def coin_guide(y):
        numpyro.sample("b", dist.Bernoulli(logits=numpyro.param("l", 0.1)))

    SVI(coin, coin_guide, optax.sgd(0.1), vi.numpyro.IWAE(2, vimco)).init(jax.random.key(0), Y)
    svi = SVI(coin, coin_guide, optax.sgd(0.1), vi.numpyro.IWAE(2, reparam))
    with pytest.warns(
        UserWarning, match="SVI with IWAE loss does not support models with discrete"
    ):
        svi.init(jax.random.key(0), Y)


def test_printed():
    assert (
        repr(vi.numpyro.Loss(vimco(iwae), num_particles=3)) == "Loss(vimco(iwae), num_particles=3)"
    )
    assert (
        repr(vi.numpyro.Loss(reparam(elbo), num_particles=1))
        == "Loss(reparam(elbo), num_particles=1)"
    )


@pytest.mark.parametrize("jit", [False, True])
def test_a_guide_that_was_first_seen_by_a_loss_keeps_no_tracer(jit):
    guide = AutoNormal(local)
    params = {"z_auto_loc": jnp.zeros(6), "z_auto_scale": jnp.ones(6)}
    weigh = lambda key, y: vi.numpyro.log_weights(  # noqa: E731
        key, params, local, guide, y, num_particles=3
    )
    first = (jax.jit(weigh) if jit else weigh)(jax.random.key(0), Y)
    assert first.shape == (3, 6)
    assert (guide.prototype_trace is None) is jit  # set up only where the data are at hand
    svi = SVI(local, guide, optax.adam(0.02), vi.numpyro.IWAE(4))
    svi.run(jax.random.key(0), 3, Y, progress_bar=False)
    assert guide.median(params)["z"].shape == (6,)
