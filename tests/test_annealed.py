"""Annealing, on models whose evidence is known, against broken twins."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import vi
from vi.bounds import iwae
from vi.diagnostics import (
    annealed_importance_sampling,
    hamiltonian,
    reverse_annealed_importance_sampling,
    sigmoidal_temperatures,
    tuned_step_sizes,
)
from vi.testing import LinearGaussian

# From the prior w is at most the largest likelihood: every moment exists. Of 1 / w under the
# posterior four do: the noise is wide enough that chains of four steps have few large weights.
MODEL = LinearGaussian(
    jnp.array([[1.0, 0.3], [0.0, 0.8], [0.5, 0.0]]), jnp.array([0.1, 0.0, -0.2]), jnp.array(0.9)
)
X = jnp.array([[0.5, -1.0, 0.3], [1.5, 0.2, -0.7]])
PRIOR = MODEL.prior.expand((2,))
STEPS = jnp.array([0.5, 0.9])  # each datum has its own
PATH = sigmoidal_temperatures(4)
CHAINS = 20_000


def z_scores(values, expected):
    values = np.asarray(values, np.float64)
    return (values.mean(0) - expected) / (values.std(0, ddof=1) / len(values) ** 0.5)


def unadjusted(step_size, num_steps):
    """The twin without the Metropolis test: every end of a trajectory is taken."""

    def transition(key, z, log_density, t):
        p = jax.random.normal(key, z.shape)
        size = jnp.broadcast_to(step_size, z.shape[:-1])[..., None]
        force = jax.grad(lambda z: log_density(z).sum())
        for _ in range(num_steps):
            p = p + size / 2 * force(z)
            z = z + size * p
            p = p + size / 2 * force(z)
        return z, jnp.ones(z.shape[:-1])

    return transition


def weighed_after(key, temperatures, transition):
    """The twin whose increments are taken where each transition ends, not where it begins."""
    draw_key, *keys = jax.random.split(key, len(temperatures))
    z = PRIOR.sample(draw_key, (CHAINS,))
    log_w = 0.0
    for before, t, key in zip(temperatures[:-1], temperatures[1:], keys, strict=True):
        z, _ = transition(key, z, lambda z, t=t: log_f(t, z), t)
        log_w += (t - before) * MODEL.log_likelihood(X)(z)
    return log_w


def log_f(t, z):
    return MODEL.prior.log_prob(z) + t * MODEL.log_likelihood(X)(z)


def shifted(move):
    """The twin that moves by the density of the next temperature up."""

    def transition(key, z, log_density, t):
        following = PATH[jnp.searchsorted(PATH, t) + 1]
        return move(key, z, lambda z: log_f(following, z), t)

    return transition


@pytest.fixture(scope="module")
def weights():
    """``log_w - log p(x)`` of both directions, and of the twins, ``[K, B]``."""
    move = hamiltonian(STEPS, num_steps=2)

    @jax.jit
    def run(key):
        keys = jax.random.split(key, 7)
        joint = MODEL.log_joint(X)
        options: dict[str, Any] = {"temperatures": PATH, "transition": move}
        exact = MODEL.posterior(X).sample(keys[0], (CHAINS,))
        forward = annealed_importance_sampling(keys[1], PRIOR, joint, CHAINS, **options)
        back = reverse_annealed_importance_sampling(keys[2], exact, PRIOR, joint, **options)
        free: dict[str, Any] = options | {"transition": unadjusted(1.3, 2)}
        untested = annealed_importance_sampling(keys[3], PRIOR, joint, CHAINS, **free)
        after = weighed_after(keys[4], PATH, move)
        late: dict[str, Any] = options | {"transition": shifted(move)}
        ahead = annealed_importance_sampling(keys[5], PRIOR, joint, CHAINS, **late)
        behind = reverse_annealed_importance_sampling(keys[6], exact, PRIOR, joint, **late)
        log_p = MODEL.log_evidence(X)
        held = {"forward": forward, "back": back, "untested": untested}
        held |= {"shifted": ahead, "shifted back": behind}
        named = {name: annealed.log_weights for name, annealed in held.items()}
        kept = (forward.draws, forward.acceptance, back.acceptance)
        return {k: v - log_p for k, v in (named | {"after": after}).items()}, kept

    return run(jax.random.key(0))


def test_the_mean_weight_is_the_evidence(weights):
    log_w, _ = weights
    assert (np.abs(z_scores(np.exp(log_w["forward"]), 1.0)) < 5).all()
    for twin in ("untested", "after", "back", "shifted"):
        assert (np.abs(z_scores(np.exp(log_w[twin]), 1.0)) > 5).all(), twin


def test_the_mean_inverse_weight_of_the_way_back_is_one_over_the_evidence(weights):
    log_w, _ = weights
    assert (np.abs(z_scores(np.exp(-log_w["back"]), 1.0)) < 5).all()
    for twin in ("forward", "shifted back"):
        assert (np.abs(z_scores(np.exp(-log_w[twin]), 1.0)) > 5).all(), twin


def test_the_two_directions_enclose_the_evidence(weights):
    """With one chain each the bounds are the log-weights themselves."""
    log_w, _ = weights
    assert (z_scores(log_w["forward"], 0.0) < -5).all()
    assert (z_scores(log_w["back"], 0.0) > 5).all()


def test_weighted_draws_are_the_posteriors(weights):
    log_w, (draws, acceptance, back) = weights
    share = np.asarray(jax.nn.softmax(log_w["forward"], 0), np.float64)[..., None]
    away = np.asarray(draws, np.float64) - np.asarray(MODEL.posterior(X).mean)
    stderr = np.sqrt((share**2 * away**2).sum(0))
    assert (np.abs((share * away).sum(0)) < 5 * stderr).all()
    assert (np.abs(away.mean(0)) > 5 * away.std(0) / CHAINS**0.5).any(), "unweighted they are not"
    assert acceptance.shape == (2,)
    assert ((acceptance > 0.5) & (acceptance < 1)).all()
    assert ((back > 0.5) & (back < 1)).all()


def test_one_step_is_importance_sampling():
    joint = MODEL.log_joint(X)

    @jax.jit
    def both(key):
        got = annealed_importance_sampling(
            key,
            PRIOR,
            joint,
            7,
            temperatures=jnp.array([0.0, 1.0]),
            transition=hamiltonian(0.1, num_steps=1),
        )
        z = PRIOR.sample(jax.random.split(jax.random.clone(key))[0], (7,))
        return got, z, vi.types.log_weights(z, PRIOR, joint)

    got, z, expected = both(jax.random.key(0))
    np.testing.assert_array_equal(got.draws, z)
    np.testing.assert_array_equal(got.log_weights, expected)
    np.testing.assert_array_equal(got.acceptance, 1.0)


class Pairs:
    """Independent standard normals, a dictionary of a vector and a number for each datum."""

    def __init__(self, batch):
        self.batch = batch

    def sample(self, key, sample_shape=()):
        lead = (*sample_shape, *self.batch)
        a, b = jax.random.split(key)
        return {"vector": jax.random.normal(a, (*lead, 2)), "number": jax.random.normal(b, lead)}

    def log_prob(self, z):
        standard = dist.Normal(0.0, 1.0)
        return standard.log_prob(z["vector"]).sum(-1) + standard.log_prob(z["number"])


def test_latents_are_any_pytree():
    """p(z) N(y; sum of z, 1): the evidence is N(y; 0, 4)."""
    y, q = jnp.array([0.5, -2.0, 3.0]), Pairs((3,))

    def log_joint(z):
        total = z["vector"].sum(-1) + z["number"]
        return q.log_prob(z) + dist.Normal(total, 1.0).log_prob(y), {"total": total}

    @jax.jit
    def run(key):
        move = hamiltonian(0.7, num_steps=2)
        return annealed_importance_sampling(
            key, q, log_joint, 5000, temperatures=sigmoidal_temperatures(5), transition=move
        )

    got = run(jax.random.key(0))
    weight = np.exp(got.log_weights - dist.Normal(0.0, 2.0).log_prob(y))
    assert (np.abs(z_scores(weight, 1.0)) < 5).all()
    assert {k: v.shape for k, v in got.draws.items()} == {
        "vector": (5000, 3, 2),
        "number": (5000, 3),
    }


def test_two_modes_that_few_chains_cross():
    """An even mixture at -3 and 3, its mass 0.3: exact, since the prior covers both."""
    halves = dist.MixtureSameFamily(
        dist.Categorical(jnp.array([0.5, 0.5])), dist.Normal(jnp.array([-3.0, 3.0]), 0.4)
    )

    @jax.jit
    def run(key, centre):
        return annealed_importance_sampling(
            key,
            dist.Normal(centre, jnp.where(centre == 0, 3.0, 0.5)),
            lambda z: halves.log_prob(z) + jnp.log(0.3),
            5000,
            temperatures=sigmoidal_temperatures(30),
            transition=hamiltonian(0.4, num_steps=2),
        )

    got = run(jax.random.key(0), 0.0)
    assert np.abs(z_scores(np.exp(got.log_weights), 0.3)) < 5
    share = jax.nn.softmax(got.log_weights)
    assert 0.4 < (share * (got.draws > 0)).sum() < 0.6
    missed = run(jax.random.key(0), 3.0)  # begun in one mode, it finds half of the mass
    np.testing.assert_allclose(np.exp(iwae(missed.log_weights)), 0.15, rtol=0.05)


def test_each_datum_moves_on_its_own():
    """A batch is its data one by one: chains of one are not changed by another's data."""
    move = hamiltonian(jnp.array([0.3, 0.6]), num_steps=2)

    @jax.jit
    def run(key, x):
        return annealed_importance_sampling(
            key, PRIOR, MODEL.log_joint(x), 6, temperatures=PATH, transition=move
        )

    one = run(jax.random.key(0), X)
    other = run(jax.random.key(0), X.at[1].set(jnp.array([-3.0, 2.0, 5.0])))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        batch = a.ndim - 1 if a.ndim < 3 else 1
        np.testing.assert_array_equal(jnp.take(a, 0, batch), jnp.take(b, 0, batch))
        assert (jnp.take(a, 1, batch) != jnp.take(b, 1, batch)).any()


def test_under_vmap_it_is_a_loop_over_data():
    def one(key, x, step):
        return annealed_importance_sampling(
            key,
            MODEL.prior,
            MODEL.log_joint(x),
            5,
            temperatures=PATH,
            transition=hamiltonian(step, num_steps=2),
        ).log_weights

    keys = jax.random.split(jax.random.key(3), 2)
    got = jax.jit(jax.vmap(one))(keys, X, STEPS)
    alone = jax.jit(one)
    each = [alone(*args) for args in zip(jax.random.clone(keys), X, STEPS, strict=True)]
    np.testing.assert_allclose(got, jnp.stack(each), rtol=1e-4)


def test_a_transition_keeps_its_density():
    """From draws of it, for a step size so large that most are refused; untested ones drift."""
    target = dist.Normal(jnp.zeros(3), jnp.array([0.5, 1.0, 2.0])).to_event(1)

    @jax.jit
    def run(key):
        draw_key, *keys = jax.random.split(key, 4)
        z = target.sample(draw_key, (CHAINS,))
        t = jnp.array(1.0)
        good, acceptance = hamiltonian(0.8, num_steps=3)(keys[0], z, target.log_prob, t)
        bad, _ = unadjusted(0.8, 3)(keys[1], z, target.log_prob, t)
        return good, bad, acceptance

    good, bad, acceptance = run(jax.random.key(0))
    variance = np.array([0.25, 1.0, 4.0])
    assert (np.abs(z_scores(good**2, variance)) < 5).all()
    assert np.abs(z_scores(bad**2, variance)).max() > 5
    assert 0.3 < acceptance.mean() < 0.9


def test_what_diverges_or_leaves_the_support_is_refused():
    def log_density(z):
        return jnp.where(z > 0, -z, -jnp.inf)  # exponential; its derivative is -1 or 0

    z = jnp.array([0.1, 1.0, 5.0])
    move = jax.jit(lambda key: hamiltonian(2.0, num_steps=3)(key, z, log_density, jnp.array(1.0)))
    ends = [move(key) for key in jax.random.split(jax.random.key(0), 20)]
    assert all((end > 0).all() for end, _ in ends)
    quartic = jax.jit(
        lambda key: hamiltonian(50.0, num_steps=9)(key, z, lambda z: -(z**4), jnp.array(1.0))
    )
    kept, acceptance = quartic(jax.random.key(0))
    np.testing.assert_array_equal(kept, z)
    np.testing.assert_array_equal(acceptance, 0.0)


def test_a_weight_of_zero_stays_one():
    """The likelihood is 0 below 0: half of the draws, and no NaN among the others."""

    def log_joint(z):
        return jnp.where(z > 0, dist.Normal(0.0, 1.0).log_prob(z), -jnp.inf)

    run = jax.jit(
        lambda key: annealed_importance_sampling(
            key,
            dist.Normal(0.0, 1.0),
            log_joint,
            4000,
            temperatures=PATH,
            transition=hamiltonian(0.5, num_steps=2),
        )
    )
    got = run(jax.random.key(0))
    assert not np.isnan(got.log_weights).any()
    assert np.abs(z_scores(np.exp(got.log_weights), 0.5)) < 5
    assert (got.draws[got.log_weights > -jnp.inf] > 0).all()


def test_gradients_are_stopped():
    def total(scale):
        got = annealed_importance_sampling(
            jax.random.key(0),
            dist.Normal(jnp.zeros((2, 2)), scale).to_event(1),
            MODEL.log_joint(X),
            3,
            temperatures=PATH,
            transition=hamiltonian(0.5, num_steps=1),
        )
        return sum(leaf.sum() for leaf in got)

    assert jax.jit(jax.grad(total))(1.1) == 0.0


def test_step_sizes_are_tuned_for_each_datum_and_temperature():
    """Posteriors 1 and 30 times narrower than the prior; and what was tuned is met in the run."""
    noise = jnp.array([1.0, 1 / 30])
    prior = dist.Normal(jnp.zeros((2, 4)), 1.0).to_event(1)

    def log_joint(z):
        return prior.log_prob(z) + dist.Normal(z, noise[:, None]).log_prob(0.5).sum(-1)

    @jax.jit
    def run(key):
        pilot_key, run_key = jax.random.split(key)
        sizes = tuned_step_sizes(
            pilot_key, prior, log_joint, 20, temperatures=sigmoidal_temperatures(60), num_steps=3
        )
        got = annealed_importance_sampling(
            run_key,
            prior,
            log_joint,
            400,
            temperatures=sigmoidal_temperatures(30),
            transition=hamiltonian(sizes, num_steps=3),
        )
        return sizes, sizes(jnp.array(1.0)), sizes(jnp.array(0.0)), got.acceptance

    sizes, last, first, acceptance = run(jax.random.key(0))
    assert sizes.values.shape == (60, 2)
    np.testing.assert_array_equal(last, sizes.values[-1])
    np.testing.assert_array_equal(first, sizes.values[0])
    assert 10 < last[0] / last[1] < 60
    np.testing.assert_allclose(acceptance, 0.8, atol=0.1)


def test_temperatures_follow_their_formula():
    def sigmoid(y):
        return 1 / (1 + np.exp(-y))

    i = np.arange(11)
    expected = (sigmoid(3 * (2 * i / 10 - 1)) - sigmoid(-3)) / (sigmoid(3) - sigmoid(-3))
    got = np.asarray(sigmoidal_temperatures(10, steepness=3.0))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert got[0] == 0
    assert got[-1] == 1
    assert (np.diff(np.asarray(sigmoidal_temperatures(100_000))) > 0).all()


def anneal(**changes):
    options = {
        "initial": PRIOR,
        "log_joint": MODEL.log_joint(X),
        "num_samples": 3,
        "temperatures": PATH,
        "transition": hamiltonian(0.1, num_steps=1),
    } | changes
    key = options.pop("key", jax.random.key(0))
    args = (options.pop(name) for name in ("initial", "log_joint", "num_samples"))
    return lambda: annealed_importance_sampling(key, *args, **options)


def reverse(draws):
    options = {"temperatures": PATH, "transition": hamiltonian(0.1, num_steps=1)}
    joint = MODEL.log_joint(X)
    return lambda: reverse_annealed_importance_sampling(
        jax.random.key(0), draws, PRIOR, joint, **options
    )


def tune(**changes):
    options = {"temperatures": PATH, "num_steps": 1} | changes
    return lambda: tuned_step_sizes(jax.random.key(0), PRIOR, MODEL.log_joint(X), 3, **options)


class Integers:
    def sample(self, key, sample_shape=()):
        return jnp.zeros((*sample_shape, 2), int)

    def log_prob(self, z):
        return jnp.zeros(z.shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (anneal(key=0), "annealed_importance_sampling: key must be a typed PRNG key"),
        (anneal(num_samples=0), "num_samples must be an integer of at least 1"),
        (anneal(temperatures=jnp.array(1.0)), r"temperatures must rise from 0 to 1, \[T\+1\]"),
        (anneal(temperatures=jnp.array([0.0, 0.5])), "temperatures must rise from 0 to 1"),
        (anneal(temperatures=jnp.array([0.0, 0.5, 0.5, 1.0])), "temperatures must rise"),
        (anneal(temperatures=jnp.array([1.0, 0.5, 0.0])), "temperatures must rise from 0 to 1"),
        (anneal(temperatures=np.array([0.0, 1 - 1e-9, 1.0])), "rise from 0 to 1.* in float32"),
        (anneal(initial=Integers()), "latents must be floating"),
        (anneal(initial=MODEL.prior, log_joint=lambda z: jnp.zeros((3, 2))), "have the shape of"),
        (anneal(log_joint=lambda z: z.sum()), r"log_joint must return \[K, \*batch\]"),
        (
            anneal(transition=hamiltonian(jnp.ones(3), num_steps=1)),
            r"hamiltonian: step_size must be a number or \[\*batch\] \(got shape \[3\]\)",
        ),
        (
            anneal(transition=lambda key, z, log_density, t: (z[0], log_density(z))),
            "transition must return latents like those it is given",
        ),
        (
            anneal(transition=lambda key, z, log_density, t: (z, jnp.ones(()))),
            r"transition must return its acceptance as \[K, \*batch\]",
        ),
        (reverse(jnp.zeros(())), "posterior_draws must have leaves"),
        (reverse(jnp.zeros((2, 2))), "have the shapes of initial's draws.* give one draw as z"),
        (lambda: hamiltonian(0.1, num_steps=0), "num_steps must be an integer of at least 1"),
        (lambda: hamiltonian(-0.1, num_steps=1), "step_size must be positive and finite"),
        (tune(acceptance=1.0), "acceptance must be between 0 and 1"),
        (tune(start=0.0), "start must be positive"),
        (tune(temperatures=jnp.ones(3)), "tuned_step_sizes: temperatures must rise"),
        (lambda: sigmoidal_temperatures(0), "num_temperatures must be an integer"),
        (lambda: sigmoidal_temperatures(500, steepness=40.0), "leave 500 temperatures apart in f"),
        (lambda: sigmoidal_temperatures(5, steepness=0.0), "steepness must be positive"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        jax.eval_shape(call)
    assert "; " in str(caught.value)
