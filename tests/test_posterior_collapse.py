"""Collapse and cures: the decoders, the losses and the steps, and a short run."""

import dataclasses
import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx

import vi
from experiments import posterior_collapse
from experiments._collapse_cures import lagging, make_loss, methods
from experiments._collapse_vae import (
    Expressive,
    Factorised,
    PixelByPixel,
    kl_by_dimension,
    mutual_information,
)
from experiments._config import execute, resolve
from experiments._data import binarise, load_digits

EVERY = jnp.asarray(list(itertools.product((0.0, 1.0), repeat=4)))


@functools.cache
def model(kind=Expressive):
    sizes = (load_digits(), 8, 3) + ((65,) if kind is Expressive else ())
    return kind(*sizes, nnx.Rngs(0))


def decoder():
    """Of four pixels, far from even."""
    rngs = nnx.Rngs(1)
    net = vi.networks.MaskedMLP(4, (9,), 1, context_size=2, activation=nnx.relu, rngs=rngs)
    return jax.tree.map(lambda a: 2 * a + 0.1, net)


def test_the_pixel_by_pixel_decoder_is_normalised_for_every_z():
    z = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (3, 2)), (16, 3, 2))
    log_p = PixelByPixel(decoder(), z).log_prob(jnp.broadcast_to(EVERY[:, None], (16, 3, 4)))
    np.testing.assert_allclose(jnp.exp(log_p).sum(0), 1.0, rtol=1e-5)
    assert float(jnp.ptp(log_p, axis=1).max()) > 0.1  # z matters


def test_its_draws_have_its_probabilities():
    """Each of the 16 images' shares among 20,000 draws; z-test at 5 sigma."""
    count = 20_000
    z = jnp.broadcast_to(jnp.array([0.7, -1.2]), (count, 2))

    @jax.jit
    def compute(net):
        drawn = PixelByPixel(net, z).sample(jax.random.key(1))
        exact = jnp.exp(PixelByPixel(net, z[:16]).log_prob(EVERY))
        return drawn @ jnp.array([8.0, 4.0, 2.0, 1.0]), exact

    codes, exact = map(np.asarray, compute(decoder()))
    shares = np.bincount(codes.astype(int), minlength=16) / count
    stderr = np.sqrt(exact * (1 - exact) / count)
    assert (np.abs(shares - exact) < 5 * stderr).all()
    assert (np.abs(shares[::-1] - exact) > 5 * stderr).any()


def test_data_may_lack_the_axis_of_samples():
    x = EVERY[:3]
    z = jax.random.normal(jax.random.key(2), (5, 3, 2))
    log_p = PixelByPixel(decoder(), z).log_prob(x)
    each = [PixelByPixel(decoder(), z[k]).log_prob(x) for k in range(5)]
    np.testing.assert_allclose(log_p, np.stack(each), rtol=1e-5)


def test_encoders_begin_the_same_whatever_the_decoder():
    leaves = (jax.tree.leaves(model(kind).encoder) for kind in (Expressive, Factorised))
    assert all((a == b).all() for a, b in zip(*leaves, strict=True))


@pytest.mark.parametrize("kind", [Expressive, Factorised])
def test_the_loss_is_minus_the_elbo_with_its_rate_weighted_and_floored(kind):
    grey = jnp.asarray(load_digits().train[:5])

    @jax.jit
    def compute(model):
        key = jax.random.key(3)

        def at(weight, min_nats):
            loss = make_loss(lambda t: weight * t, min_nats)
            return loss(model, None, jax.random.clone(key), grey, jnp.asarray(2))

        bits_key, draws_key = jax.random.split(jax.random.clone(key))
        x = binarise(bits_key, grey)
        q = model.posterior(x)
        distortion = -model.observation(q.rsample(draws_key)).log_prob(x).mean()
        kl = kl_by_dimension(model, x)
        whole = dist.kl_divergence(q, model.prior())
        return at(0.5, 0.0), at(0.25, 0.0), at(0.5, 50.0), at(0.5, 0.5), distortion, kl, whole

    plain, half, floored, partly, distortion, kl, whole = compute(model(kind))
    np.testing.assert_allclose(kl.sum(-1), whole, rtol=1e-5)
    rate = whole.mean()
    np.testing.assert_allclose(plain[1][1]["rate"], rate, rtol=1e-5)
    np.testing.assert_allclose(plain[0], distortion + rate, rtol=1e-5)
    np.testing.assert_allclose(half[0], distortion + rate / 2, rtol=1e-5)
    np.testing.assert_allclose(floored[0], distortion + 150, rtol=1e-5)
    of_means = np.maximum(np.asarray(kl).mean(0), 0.5).sum()
    np.testing.assert_allclose(partly[0], distortion + of_means, rtol=1e-5)
    assert abs(of_means - np.maximum(kl, 0.5).mean(0).sum()) > 1e-3  # the floor of each datum


def test_the_information_is_nothing_without_use_and_log_n_with_codes_apart():
    def fake(loc):
        return SimpleNamespace(posterior=lambda x: vi.families.normal(loc, scale=0.1 + 0 * loc))

    x, key = jnp.zeros((8, 4)), jax.random.key(4)
    same = mutual_information(key, fake(jnp.ones((8, 2))), x)
    np.testing.assert_allclose(same, 0.0, atol=1e-5)
    apart = 10.0 * jnp.arange(8.0)[:, None] * jnp.ones(2)
    np.testing.assert_allclose(
        mutual_information(jax.random.clone(key), fake(apart), x), np.log(8), rtol=1e-5
    )


def test_the_lagging_step_moves_the_encoder_ahead_and_then_is_the_plain_one():
    optimizer = optax.adam(1e-2)
    plain = vi.training.stateful_gradient_step(make_loss(lambda t: 1.0), optimizer)
    grey, lagged = jnp.asarray(load_digits().train[:5]), lagging(plain, 2, 1)
    take, take_plain = jax.jit(lagged), jax.jit(plain)
    state, key = vi.training.init(model(), optimizer), jax.random.key(5)
    moved, _ = take(state, key, grey)
    inner_key, outer_key = jax.random.split(jax.random.clone(key))
    ahead = state
    for i in range(2):
        whole, _ = take_plain(ahead, jax.random.fold_in(inner_key, i), grey)
        new, old = whole.opt_state[0], ahead.opt_state[0]
        held = old._replace(mu=_encoder_of(new.mu, old.mu), nu=_encoder_of(new.nu, old.nu))
        params = _encoder_of(whole.params, ahead.params)
        ahead = dataclasses.replace(ahead, params=params, opt_state=(held, *ahead.opt_state[1:]))
    by_hand, _ = take_plain(ahead, outer_key, grey)
    only_plain, _ = take_plain(state, jax.random.clone(outer_key), grey)
    _assert_close(moved, by_hand)
    with pytest.raises(AssertionError):
        _assert_close(moved, only_plain)
    assert int(moved.opt_state[0].count) == int(moved.step) == 1
    later, _ = take(moved, jax.random.key(6), grey)
    _assert_close(later, take_plain(moved, jax.random.split(jax.random.key(6))[1], grey)[0])


def _encoder_of(new, old):
    return {**old, "encoder": new["encoder"]}


def _assert_close(ours, theirs):
    pairs = zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_methods_differ_in_weight_and_floor_alone():
    """The weight of the rate at three steps, from the loss's change with a floor of many nats."""
    options = {"num_cycles": 2, "min_nats": 0.5, "num_inner": 1, "lagging_steps": 2}
    steps = methods(optax.sgd(0.0), annealed_steps=8, **options)
    grey = jnp.asarray(load_digits().train[:5])
    state = vi.training.init(model(), optax.sgd(0.0))
    states = [dataclasses.replace(state, step=jnp.int32(t)) for t in (0, 2, 4, 9)]
    key = jax.random.key(7)

    def run(name):
        step = jax.jit(steps[name])
        return [step(s, jax.random.clone(key), grey)[1] for s in states]

    def losses():
        held = {}
        for name in ("plain", "linear", "cyclical", "free bits"):
            made = run(name)
            held[name] = np.array([m["loss"] for m in made])
            held["rate"] = np.array(made[0]["rate"])
        return held

    held = losses()
    rate = held["rate"]
    distortion = held["plain"] - rate
    weights = {name: (held[name] - distortion) / rate for name in ("linear", "cyclical")}
    np.testing.assert_allclose(weights["linear"], [0, 0.25, 0.5, 1], atol=1e-4)
    np.testing.assert_allclose(weights["cyclical"], [0, 1, 0, 1], atol=1e-4)
    assert (held["free bits"] > held["plain"]).all()


def test_a_run_writes_every_metric_and_goes_on(tmp_path, monkeypatch):
    def run():
        config = posterior_collapse.Config(preset="smoke", progress=False, out=tmp_path)
        name = "posterior_collapse"
        return execute(config, posterior_collapse.PRESETS, posterior_collapse.experiment, name)

    record = run()
    rows = {name.partition("/")[2] for name in record.metrics if name.startswith("lagging/")}
    assert {"rate", "active units", "information I_q(x; z)", "test NLL, k = 10"} <= rows
    behind = record.metrics["lagging/test NLL - plain's, paired"]
    nlls = [record.metrics[f"{name}/test NLL, k = 10"].value for name in ("lagging", "plain")]
    np.testing.assert_allclose(behind.value, nlls[0] - nlls[1], atol=1e-4)
    assert (tmp_path / "collapse.png").stat().st_size > 10_000
    (tmp_path / "results.json").unlink()

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(posterior_collapse, "_usage", refuse)
    again = run().metrics
    assert {n: m for n, m in again.items() if m.unit != "s"} == {
        n: m for n, m in record.metrics.items() if m.unit != "s"
    }


def test_what_would_fail_late_is_refused_by_its_flag():
    for fields, message in (
        ({"methods": ("linear", "plain")}, "--methods must begin with plain"),
        ({"methods": ("plain", "plain")}, "--methods must begin with plain, and name each"),
        ({"num_cycles": 11}, "--num-cycles must be at most the 10 annealed steps"),
        ({"free_nats": 0.0}, "--free-nats must be positive"),
        ({"lagging_steps": -1}, "--lagging-steps must be an integer of at least 0"),
    ):
        config = posterior_collapse.Config(preset="smoke", **fields)
        with pytest.raises(ValueError, match=message):
            posterior_collapse.check(resolve(config, posterior_collapse.PRESETS))
    narrow = posterior_collapse.Config(preset="smoke", width=63)
    with pytest.raises(ValueError, match="--width must be at least the 64 pixels"):
        posterior_collapse.check_width(resolve(narrow, posterior_collapse.PRESETS), 64)
