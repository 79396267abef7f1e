"""Stop rules, schedules and averages of iterates against what they say they are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vi
from vi.training import Cause

OPTIMIZER = optax.sgd(0.2)
DATA = np.random.default_rng(0).normal(3.0, 1.0, size=1000).astype(np.float32)


def loss(w, key, x):
    return ((w - x) ** 2).mean()


def fit(step, state, **options):
    options = {"num_steps": 4000, "batch_size": 4} | options
    return vi.training.fit(jax.random.key(0), step, state, DATA, **options)


# Stop rules


def test_a_plateau_ends_a_converged_run_and_not_a_falling_one():
    """The same noise, with a slope that 200 steps do not show singly and 2 x 200 do."""
    rng = np.random.default_rng(0)
    rule, stops, falls = vi.training.plateau(200), 0, 0
    for _ in range(200):
        noise = rng.normal(size=400)
        stops += rule({"loss": noise}, {}) is not None
        falls += rule({"loss": noise - np.arange(400) * 0.004}, {}) is not None
    # A flat loss passes for falling with P(T_8 > 2) = 4 %, one that falls by 8 s.e. almost never
    # for flat.
    assert stops > 180
    assert falls < 5
    greedy = vi.training.plateau(200, num_stderrs=0.0)
    flat = sum(greedy({"loss": rng.normal(size=400)}, {}) is not None for _ in range(200))
    assert 60 < flat < 140


def test_a_plateau_s_error_counts_autocorrelation():
    """An AR(1) loss at stationarity; with the error of independent draws it would look alive."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(200, 4000))
    walk = np.zeros((200, 4000))
    for t in range(1, 4000):
        walk[:, t] = 0.95 * walk[:, t - 1] + noise[:, t]
    rule = vi.training.plateau(2000)
    stopped = np.mean([rule({"loss": w}, {}) is not None for w in walk])
    first, last = walk[:, :2000], walk[:, 2000:]
    naive_se = np.sqrt((first.var(1, ddof=1) + last.var(1, ddof=1)) / 2000)
    naive = np.mean(first.mean(1) - last.mean(1) <= 2 * naive_se)
    assert stopped > 0.93
    assert naive < 0.85


def test_a_plateau_needs_two_windows():
    rule = vi.training.plateau(100)
    assert rule({"loss": np.ones(199)}, {}) is None
    assert str(rule({"loss": np.ones(200)}, {})).startswith("the loss fell by 0 +- ")


def test_a_plateau_is_not_a_trend_nor_a_transient_nor_a_skipped_step():
    rule, rng = vi.training.plateau(2000), np.random.default_rng(2)
    t = np.arange(4000)
    noise = 5 * rng.normal(size=4000)
    transient = 100 + 450 * np.exp(-t / 150) + 30 * np.exp(-t / 5000)
    assert rule({"loss": transient + noise}, {}) is None
    line = {"loss": 100 - 0.003 * t + 0.001 * noise}
    assert rule(line, {}) is None
    # with its trend for noise, a line falls by 7.8 standard errors whatever its slope
    assert vi.training.plateau(2000, num_stderrs=8.0)(line, {}) is None
    falling = 100 - 0.003 * t + noise
    falling[[17, 2500]] = np.nan, np.inf
    assert rule({"loss": np.append(falling, 94.0)}, {}) is None
    assert rule({"loss": falling}, {}) is None


def test_fit_stops_at_a_plateau_and_says_so():
    step = vi.training.gradient_step(loss, OPTIMIZER)
    result = fit(
        step, vi.training.init(jnp.zeros(()), OPTIMIZER),
        stop=vi.training.plateau(100), eval_every=100, chunk_steps=37,
    )  # fmt: skip
    assert result.stopped.cause is Cause.EARLY
    assert 200 <= result.stopped.step < 2000
    assert result.stopped.step % 100 == 0
    assert len(result.history["loss"]) == result.stopped.step
    assert ": the loss fell by" in str(result.stopped)


@pytest.mark.parametrize(
    ("scores", "times", "least_gain", "stops"),
    [
        ([1.0], 1, 0.0, False),
        ([1.0, 2.0, 3.0], 1, 0.0, False),
        ([1.0, 1.0], 1, 0.0, True),
        ([3.0, 1.0, 2.0], 3, 0.0, False),
        ([3.0, 1.0, 2.0], 2, 0.0, True),
        ([3.0, 1.0, 2.0, 3.1], 2, 0.0, False),
        ([3.0, 3.1, 3.2], 2, 0.5, True),
        ([3.0, 3.3, 3.6], 2, 0.5, False),
        ([-np.inf, -5.0, -6.0], 2, 0.0, False),
        ([np.nan, -5.0, np.nan], 2, 0.0, False),
        ([-5.0, np.nan, np.nan], 2, 0.0, True),
    ],
)
def test_patience_counts_evaluations_since_the_best(scores, times, least_gain, stops):
    rule = vi.training.patience(lambda e: e["elbo"], times, least_gain=least_gain)
    assert (rule({}, {"elbo": np.array(scores)}) is not None) == stops


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: vi.training.plateau(19), "plateau: window must be an integer of at least 20"),
        (lambda: vi.training.plateau(20, num_stderrs=-1), "plateau: num_stderrs must be at least"),
        (lambda: vi.training.patience(len, 0), "patience: times must be an integer of at least 1"),
        (lambda: vi.training.patience(len, 1, least_gain=-1), "patience: least_gain must be"),
        (lambda: vi.training.patience(lambda e: e, 1)({}, {}), "evaluations must hold something"),
        (
            lambda: vi.training.patience(lambda e: e["a"], 1)({}, {"a": np.ones((2, 3))}),
            r"score must be numbers \[times\] \(got shape \[2, 3\]\)",
        ),
        (lambda: vi.training.linear_annealing(0), "num_steps must be an integer of at least 1"),
        (lambda: vi.training.cyclical_annealing(5, 6), "num_cycles must be <= num_steps"),
        (lambda: vi.training.cyclical_annealing(5, 1, ramp=0.0), r"ramp must be in \(0, 1\]"),
        (lambda: vi.training.average(1.5), r"average: decay must be in \[0, 1\]"),
        (
            lambda: vi.training.averaged(vi.training.init(jnp.ones(2), OPTIMIZER)),
            r"averaged: state must hold one average \(got 0\)",
        ),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# Schedules


def test_annealing_follows_its_formula():
    steps = np.arange(260)
    linear = vi.training.linear_annealing(100, start=0.2, end=2.0)
    np.testing.assert_allclose(linear(steps), 0.2 + 1.8 * np.minimum(steps / 100, 1), rtol=1e-5)
    cyclical = vi.training.cyclical_annealing(200, 4, ramp=0.5)
    tau = (steps % 50) / 50
    expected = np.where(steps < 200, np.minimum(tau / 0.5, 1), 1.0)
    np.testing.assert_allclose([cyclical(t) for t in steps], expected, rtol=1e-5, atol=1e-6)
    uneven = vi.training.cyclical_annealing(12, 5, ramp=0.3, start=1.0, end=3.0)
    tau = (steps % 3) / (12 / 5)
    expected_uneven = np.where(steps < 12, 1 + 2 * np.minimum(tau / 0.3, 1), 3.0)
    np.testing.assert_allclose([uneven(t) for t in steps], expected_uneven, rtol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(cyclical)(jnp.asarray(steps)), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "schedule",
    [
        vi.training.linear_annealing(100),
        vi.training.cyclical_annealing(80, 2),
        optax.cosine_decay_schedule(1.0, 100),
        lambda step: 2.0 - step / 100,
    ],
)
def test_any_schedule_weighs_the_kl_by_the_step(schedule):
    """And free bits beside it: the loss of every step is the formula's."""

    def kl_loss(w, extra, key, x, step):
        beta = schedule(step)
        kl = vi.bounds.free_bits(jnp.broadcast_to(w**2, x.shape), 0.5 * beta)
        return -vi.bounds.beta_elbo(-((x[None, :] - w) ** 2), kl, beta).mean(), (
            extra,
            {"beta": beta},
        )

    step = vi.training.stateful_gradient_step(kl_loss, optax.sgd(0.0))
    state = vi.training.init(jnp.full((), 0.6), optax.sgd(0.0))
    result = fit(step, state, num_steps=120, batch_size=1000)
    betas = np.array([schedule(t) for t in range(120)])
    np.testing.assert_allclose(result.history["beta"], betas, rtol=1e-5, atol=1e-6)
    expected = ((DATA - 0.6) ** 2).mean() + betas * np.maximum(0.36, 0.5 * betas)
    np.testing.assert_allclose(result.history["loss"], expected, rtol=1e-4)


# Averages


def iterates(optimizer, num_steps=50):
    step = vi.training.stateful_gradient_step(
        lambda w, seen, key, x, t: (loss(w, key, x), (seen.at[t].set(w), {})), optimizer
    )
    state = vi.training.init(jnp.zeros(()), optimizer, extra=jnp.zeros(num_steps))
    state, _ = vi.training.run(
        jax.random.key(0), step, state, DATA, num_steps=num_steps, batch_size=2
    )
    # a step sees the parameters before it: those after it are the next one's
    return np.append(np.asarray(state.extra)[1:], state.params), state


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999, 1.0])
def test_the_average_is_the_weighted_mean_of_all_iterates(decay):
    seen, state = iterates(optax.chain(OPTIMIZER, vi.training.average(decay)))
    weights = np.append(decay ** np.arange(49, 0, -1.0), 1.0)
    expected = (weights * seen).sum() / weights.sum()
    np.testing.assert_allclose(vi.training.averaged(state).params, expected, rtol=1e-4)
    plain, _ = iterates(OPTIMIZER)
    np.testing.assert_allclose(seen, plain, rtol=1e-6)


def test_an_average_of_bfloat16_is_kept_in_float32():
    """1 + 0.001 t in steps that bfloat16 cannot add to 1."""
    average = vi.training.average(1.0)
    state = average.init(jnp.ones((), jnp.bfloat16))
    for value in (1.0, 1.0, 2.0, 2.0):
        _, state = average.update(jnp.zeros((), jnp.bfloat16), state, jnp.bfloat16(value))
    assert state.params.dtype == jnp.float32
    np.testing.assert_allclose(state.params, 1.5)


@pytest.mark.parametrize("decay", [1.0, 1 - 1e-8, 0.9999])
def test_an_average_of_many_iterates_is_exact(decay):
    """The newest one's weight after 5 million, against float64."""
    average, t = vi.training.average(decay), 5_000_000
    state = vi.training.AverageState(jnp.zeros(()), jnp.int32(t))
    _, state = average.update(jnp.zeros(()), state, jnp.ones(()))
    exact = 1 / (t + 1) if decay == 1 else (1 - decay) / -np.expm1((t + 1) * np.log(decay))
    np.testing.assert_allclose(state.params, exact, rtol=1e-5)


def test_a_decay_may_be_a_schedule():
    seen, state = iterates(optax.chain(OPTIMIZER, vi.training.average(lambda t: t / (t + 1.0))))
    np.testing.assert_allclose(vi.training.averaged(state).params, seen.mean(), rtol=1e-5)


def test_the_average_of_a_module_is_a_module():
    optimizer = optax.chain(optax.adam(0.1), vi.training.average(0.9))
    state = vi.training.init(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), optimizer)
    step = vi.training.gradient_step(lambda m, key, x: (m(x[:, None]) ** 2).mean(), optimizer)
    state = fit(step, state, num_steps=20).state
    model = vi.training.averaged(state).model
    chex.assert_trees_all_equal(model.kernel[...], state.opt_state[1].params["kernel"])
    assert (model.kernel[...] != state.model.kernel[...]).all()


def test_part_of_the_parameters_can_be_frozen():
    labels = {"train": "moves", "hold": "stays"}
    optimizer = optax.partition({"moves": optax.adam(0.1), "stays": optax.set_to_zero()}, labels)
    state = vi.training.init({"train": jnp.zeros(()), "hold": jnp.ones(())}, optimizer)
    step = vi.training.gradient_step(
        lambda p, key, x: loss(p["train"] + p["hold"], key, x), optimizer
    )
    result = fit(step, state, num_steps=300, batch_size=1000)
    assert result.state.params["hold"] == 1.0
    np.testing.assert_allclose(result.state.params["train"], DATA.mean() - 1, rtol=1e-2)
