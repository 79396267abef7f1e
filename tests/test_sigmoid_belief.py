"""The belief-network experiment: its densities, its steps by enumeration, and what it writes."""

import itertools
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from numpy.testing import assert_allclose

import vi
from experiments import _belief_meter, _references, _wake_sleep, sigmoid_belief
from experiments._belief import SigmoidBelief, bits, build_belief, log_joint, relaxed_bits
from experiments._belief_methods import STEPS, nvil_bound, relaxed_bound
from experiments._belief_report import gradient_metrics
from experiments._config import execute, resolve
from experiments._data import load_digits

PIXELS, HIDDEN, K = 2, 2, 2
CELLS = [tuple(map(float, bit)) for bit in itertools.product((0, 1), repeat=HIDDEN)]
X = jnp.array([[1.0, 0.0]])
ALIKE = ("score", "nvil", "vimco", "wake_sleep")
TOY = {
    "preset": "smoke",
    "methods": ("vimco", "relaxed"),
    "layers": 2,
    "hidden": 2,
    "num_steps": 40,
    "learning_rate": 0.03,
    "eval_samples": 2000,
    "num_seeds": 2,
    "progress": False,
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A run of two seeds: its folder, its configuration and its record."""
    out = tmp_path_factory.mktemp("belief")
    config = resolve(sigmoid_belief.Config(**TOY, out=out), sigmoid_belief.PRESETS)
    execution = sigmoid_belief.PRESETS, sigmoid_belief.experiment, "sigmoid_belief"
    return out, config, execute(config, *execution)


@pytest.fixture
def tiny():
    """A network of 2 + 2 bits on 2 pixels, all weights at random: structure and parameters."""
    network = SigmoidBelief(jnp.array([0.3, 0.6]), HIDDEN, 2, nnx.Rngs(0))
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    leaves, structure = jax.tree.flatten(nnx.to_pure_dict(params))
    random = np.random.default_rng(1)
    leaves = [jnp.asarray(random.normal(size=leaf.shape)) for leaf in leaves]
    return lambda p: nnx.merge(graphdef, p, rest, copy=True), jax.tree.unflatten(structure, leaves)


def mass(bit, logits):
    """The log-probability of bits, by the definition."""
    p = 1 / (1 + jnp.exp(-logits))
    return jnp.log(jnp.where(bit == 1, p, 1 - p)).sum(-1)


def linear(layer, inputs):
    return inputs @ layer["kernel"] + layer["bias"]


def log_p(theta, x, z1, z2):
    down = theta["down"]
    pixels, lower = linear(down[0], 2 * z1 - 1), linear(down[1], 2 * z2 - 1)
    return mass(z2, theta["top"]) + mass(z1, lower) + mass(x, pixels)


def log_q(phi, x, z1, z2):
    up = phi["up"]
    centred = 2 * (x - jnp.array([0.3, 0.6]))
    return mass(z1, linear(up[0], centred)) + mass(z2, linear(up[1], 2 * z1 - 1))


def latents():
    """All 16 values of z1 and z2, ``[16, 2]`` each."""
    z1, z2 = zip(*itertools.product(CELLS, CELLS), strict=True)
    return jnp.array(z1), jnp.array(z2)


def pairs():
    """All values of two draws at one datum, ``[256, K, 1, 2]`` each."""
    z1, z2 = latents()
    places = jnp.array(list(itertools.product(range(16), repeat=K)))
    return z1[places][:, :, None], z2[places][:, :, None]


class GivenBits:
    """A q whose draws are handed in."""

    def __init__(self, q, z):
        self.q, self.z, self.log_prob = q, z, q.log_prob

    def sample(self, key, sample_shape=()):
        return self.z


@pytest.mark.usefixtures("x64")
def test_joint_and_q_are_the_networks_and_normalised(tiny):
    make, params = tiny

    @jax.jit
    def densities(params):
        network, (z1, z2), x = make(params), latents(), jnp.array(CELLS)
        z = {"z1": z1[:, None], "z2": z2[:, None]}
        z = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (16, 4, 2)), z)
        ours = log_joint(network, x)(z), network.posterior(x).log_prob(z)
        theta, phi = params["generative"], params["recognition"]
        return ours, (log_p(theta, x, **z), log_q(phi, x, **z))

    (joint, q), (by_hand, q_by_hand) = densities(params)
    assert joint.shape == q.shape == (16, 4)
    assert_allclose(joint, by_hand, rtol=1e-10)
    assert_allclose(q, q_by_hand, rtol=1e-10)
    assert_allclose(jnp.exp(joint).sum(), 1, rtol=1e-10)
    assert_allclose(jnp.exp(q).sum(0), np.ones(4), rtol=1e-10)


def test_a_bit_has_the_right_derivative_at_a_logit_of_zero():
    slope = jax.jit(jax.grad(lambda logits: bits(logits).log_prob(jnp.ones(3))))(jnp.zeros(3))
    assert_allclose(slope, 0.5 * np.ones(3))


@pytest.mark.usefixtures("x64")
def test_the_wake_phases_are_exact_by_enumeration(tiny, monkeypatch):
    """Their means over all outcomes of K draws; the twin has phi's other gradient, of ``fixed``."""
    make, params = tiny
    theta, phi = params["generative"], params["recognition"]
    z1, z2 = pairs()
    monkeypatch.setattr(_wake_sleep, "dream", lambda *_: (dict.fromkeys(["z1", "z2"], X), X))

    def mean(objective, weight):
        def phases(z1, z2):
            def given(params):
                network = make(params)
                q = GivenBits(network.posterior(X), {"z1": z1, "z2": z2})
                return SimpleNamespace(
                    prior=network.prior, observation=network.observation, posterior=lambda _: q
                )

            found = _wake_sleep.phases(given, params, jax.random.split(jax.random.key(0)), X, K)
            return found.theta, found.wake_phi

        monkeypatch.setattr(vi.gradients, "wake", objective)
        return jax.tree.map(lambda g: -jnp.tensordot(weight, g, 1), jax.vmap(phases)(z1, z2))

    @jax.jit
    def compare():
        weight = jnp.exp(log_q(phi, X, z1, z2).sum((1, 2)))
        log_w = log_p(theta, X, z1, z2) - log_q(phi, X, z1, z2)

        def bound(theta):
            log_w = log_p(theta, X, z1, z2) - log_q(phi, X, z1, z2)
            return weight @ (jax.nn.logsumexp(log_w, axis=1) - jnp.log(K))[:, 0]

        def towards(phi):
            return weight @ (jax.nn.softmax(log_w, axis=1) * log_q(phi, X, z1, z2)).sum((1, 2))

        ours = mean(vi.gradients.wake, weight)
        return (
            ours,
            mean(vi.gradients.fixed, weight),
            jax.grad(bound)(theta),
            jax.grad(towards)(phi),
        )

    (up, climb), (same, fled), truth, toward = compare()
    chex.assert_trees_all_close(up, truth, rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(up, same, rtol=1e-9, atol=1e-12)  # of theta they are one
    chex.assert_trees_all_close(climb, toward, rtol=1e-9, atol=1e-12)
    assert optax.tree.norm(jax.tree.map(jnp.subtract, fled, toward)) > optax.tree.norm(toward)


@pytest.mark.usefixtures("x64")
def test_the_sleep_phase_is_exact_by_enumeration(tiny, monkeypatch):
    """The mean over all 64 dreams; the twin dreams its pixels from the data."""
    make, params = tiny
    theta, phi = params["generative"], params["recognition"]
    z1, z2 = (jnp.repeat(z, 4, axis=0) for z in latents())
    x = jnp.tile(jnp.array(CELLS), (16, 1))

    def sleep(z1, z2, x):
        dreamt = {"z1": z1[None], "z2": z2[None]}, x[None]
        monkeypatch.setattr(_wake_sleep, "dream", lambda key, network, n: dreamt)
        found = _wake_sleep.phases(make, params, jax.random.split(jax.random.key(0)), X, K)
        return found.sleep_phi

    def exact(phi):
        return -jnp.exp(log_p(theta, x, z1, z2)) @ log_q(phi, x, z1, z2)

    @jax.jit
    def both():
        each = jax.vmap(sleep)(z1, z2, x)
        dreams = jnp.exp(log_p(theta, x, z1, z2))
        twin = jnp.where((x == X[0]).all(-1), dreams, 0)
        means = [
            jax.tree.map(lambda g, w=w: jnp.tensordot(w / w.sum(), g, 1), each)
            for w in (dreams, twin)
        ]
        return *means, jax.grad(exact)(phi)

    mean, broken, truth = both()
    chex.assert_trees_all_close(mean, truth, rtol=1e-9, atol=1e-12)
    apart = optax.tree.norm(jax.tree.map(jnp.subtract, broken, truth))
    assert apart > 0.05 * optax.tree.norm(truth)


def test_dreams_are_drawn_from_the_model(tiny):
    make, params = tiny
    params, count = jax.tree.map(lambda p: p.astype(jnp.float32), params), 20_000

    @jax.jit
    def look(key):
        z, x = _wake_sleep.dream(key, make(params), count)
        z1, z2 = latents()
        places = jnp.repeat(jnp.arange(16), 4), jnp.tile(jnp.arange(4), 16)
        exact = jnp.exp(
            log_p(params["generative"], jnp.array(CELLS)[places[1]], z1[places[0]], z2[places[0]])
        )
        digits = jnp.concatenate([z["z1"], z["z2"], x], -1) @ 2.0 ** jnp.arange(5, -1, -1)
        return jnp.bincount(digits.astype(int), length=64) / count, exact

    found, exact = look(jax.random.key(0))
    stderr = np.sqrt(exact * (1 - exact) / count)
    assert (np.abs(found - exact) < 5 * stderr + 1 / count).all()
    assert (np.abs(found - exact[::-1]) > 5 * stderr + 1 / count).any()


def test_the_wake_sleep_step_descends_its_three_phases(monkeypatch):
    images, optimizer = load_digits(), optax.sgd(1.0)
    models = build_belief(SimpleNamespace(hidden=3, layers=2), images, nnx.Rngs(0))
    before = vi.training.init(models, optimizer)

    def phases(make, params, keys, x, num_samples):
        assert make(params).names == ["z1", "z2"]
        assert (x.shape, num_samples) == ((20, 64), K)
        theta, wake = (optax.tree.full_like(params[n], 1.0) for n in ("generative", "recognition"))
        return _wake_sleep.Phases(theta, wake, optax.tree.full_like(wake, 5.0), jnp.float32(-7.0))

    monkeypatch.setattr(_wake_sleep, "phases", phases)
    step = _wake_sleep.wake_sleep_step(optimizer, K)
    after, metrics = jax.jit(step)(before, jax.random.key(0), jnp.asarray(images.train[:20]))
    moved = jax.tree.map(lambda a, b: np.unique((a - b).round(5)), before.params, after.params)
    found = {
        name: set(jnp.concatenate(jax.tree.leaves(part)).tolist())
        for name, part in (
            ("theta", moved["belief"]["generative"]),
            ("phi", moved["belief"]["recognition"]),
            ("baseline", moved["baseline"]),
        )
    }
    assert found == {"theta": {1.0}, "phi": {3.0}, "baseline": {0.0}}
    assert (after.step, metrics["loss"], metrics["bound"]) == (1, 7.0, -7.0)


def test_the_baseline_has_its_own_gradient_and_none_from_the_bound():
    """The twin's residual is not of a held bound: it has a gradient in the network."""
    models = build_belief(SimpleNamespace(hidden=3, layers=1), load_digits(), nnx.Rngs(0))
    state = vi.training.init(models, optax.sgd(1.0))
    x = jnp.asarray(load_digits().test[:7] > 0.5, jnp.float32)
    moments = vi.gradients.SignalMoments(jnp.float32(-40.0), jnp.float32(9.0))

    @jax.jit
    def gradients(params, key):
        def parts(params):
            models = nnx.merge(state.graphdef, params, state.variables, copy=True)
            value, residual = nvil_bound(moments, K, models, key, x)
            return (value.mean(), jnp.square(residual).mean(), jnp.square(value).mean()), value

        def by_hand(baseline, signal):
            whole = {**params, "baseline": baseline}
            models = nnx.merge(state.graphdef, whole, state.variables, copy=True)
            return ((models["baseline"](x) - (signal + 40.0)) ** 2).mean()

        each, value = jax.jacrev(parts, has_aux=True)(params)
        return *each, jax.grad(by_hand)(params["baseline"], value)

    bound, residual, twin, exact = gradients(state.params, jax.random.key(0))
    norm = optax.tree.norm
    assert norm(bound["baseline"]) == 0 < norm(bound["belief"])
    assert norm(residual["belief"]) == 0 < norm(residual["baseline"])
    assert norm(twin["belief"]) > 0
    chex.assert_trees_all_close(residual["baseline"], exact, rtol=1e-4, atol=1e-5)


def test_the_meters_baseline_is_fitted_to_weights_that_stay():
    """Traced alone: a fit of hundreds of steps is left to the runs."""
    images, seen = load_digits(), []
    config = resolve(sigmoid_belief.Config(preset="smoke"), sigmoid_belief.PRESETS)
    training = sigmoid_belief.make_training(config, K)

    def fit(name, step, state, data, *, num_steps, batch_size):
        seen.append((name, num_steps))
        one = jax.tree.map(lambda leaf: leaf[0], state)
        after, _ = step(one, jax.random.key(0), jnp.asarray(data[:batch_size]))
        seen.append(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), one.params, after.params))
        return SimpleNamespace(state=jax.tree.map(lambda leaf: leaf[None], after))

    @jax.jit
    def fitted(keys):
        states = sigmoid_belief.initial_state(config, images, keys, training.optimizer)
        run = SimpleNamespace(fit=fit)
        after = _belief_meter.with_baseline(run, "initial", states, images, training)
        same = jax.tree.map(jnp.array_equal, after.params["belief"], states.params["belief"])
        return same, seen[1], after.extra

    same, moved, moments = fitted(jax.random.key(0)[None])
    assert seen[0] == ("baseline, initial", _belief_meter.FIT_STEPS)
    assert jax.tree.all(same)
    assert jax.tree.reduce(max, moved["belief"]) == 0 < jax.tree.reduce(max, moved["baseline"])
    assert moments.mean[0] < -1


def test_a_run_writes_every_metric(toy):
    out, _, record = toy
    nll, gap = "test NLL, k = 2000", "test NLL - vimco's, paired"
    rows = {"draws a step, K", "training bound, its own", "test ELBO", nll, "least ESS of the 2000"}
    rows |= {"active units, z1", "active units, z2"}
    noise = {
        f"initial {block}: gradient {what}"
        for block in ("theta", "phi")
        for what in ("variance", "SNR")
    }
    names = "vimco", "relaxed"
    expected = {f"{name}/{row}" for name in names for row in rows | noise}
    expected |= {f"{name}/{gap}" for name in names if name != "vimco"}
    assert set(record.metrics) == expected
    for name, metric in record.metrics.items():
        assert np.isfinite(metric.value), name
        assert len(metric.seeds) == (0 if name.endswith("K") else 2), name
        assert metric.reference is None  # nobody published digits
    ours, theirs = (record.metrics[f"{name}/{nll}"].seeds for name in ("relaxed", "vimco"))
    assert_allclose(record.metrics[f"relaxed/{gap}"].seeds, np.subtract(ours, theirs), atol=1e-5)
    pictures = {"nll.png", "curves.png", "samples.png", "gradient_variance.png"}
    assert set(record.pictures) == pictures
    with np.load(out / "arrays.npz") as held:
        assert held["initial/relative_variance"].shape == (2, 2, 2)


def test_all_methods_begin_alike(toy):
    """One first bound, of the same weights, bits and draws; the NVIL step carries its moments."""
    _, config, _ = toy
    training = sigmoid_belief.make_training(config, 3)
    images, keys = load_digits(), jax.random.key(0)[None]
    state = sigmoid_belief.initial_state(config, images, keys, training.optimizer)
    grey = jnp.asarray(images.train[:10])

    @jax.jit
    def first(state):
        state = jax.tree.map(lambda leaf: leaf[0], state)
        steps = {m: STEPS[m](training) for m in (*ALIKE, "tvo")}
        after = {m: step(state, jax.random.key(1), grey) for m, step in steps.items()}
        return {m: metrics["bound"] for m, (_, metrics) in after.items()}, after["nvil"][0].extra

    bounds, moments = first(state)
    assert bounds.pop("tvo") < bounds["score"] - 0.1  # another bound, below it on every draw
    assert_allclose(list(bounds.values()), bounds["score"], rtol=1e-5)
    assert_allclose(moments.mean, 0.2 * bounds["score"], rtol=0.05)  # C(x) is small at first


def test_the_relaxed_network_is_scored_as_the_discrete_model(toy):
    """Its NLLs are those of the sum over all bits; the relaxed model's are others."""
    out, config, _ = toy
    images = load_digits()
    x = sigmoid_belief._evaluate.held_out_bits(images, config.test_images)
    keys = jnp.stack([jax.random.key(seed) for seed in (0, 1)])
    optimizer = sigmoid_belief.make_training(config, 3).optimizer
    like = sigmoid_belief.initial_state(config, images, keys, optimizer)
    state = jax.tree.map(lambda s: s[0], vi.training.load(out / "checkpoints" / "relaxed", like))

    @jax.jit
    def nlls(state, key):
        models, (z1, z2) = state.model, latents()
        z = {"z1": z1[:, None].repeat(len(x), 1), "z2": z2[:, None].repeat(len(x), 1)}
        exact = jax.nn.logsumexp(log_joint(models["belief"], x)(z), axis=0)
        return -exact, -relaxed_bound(config.final_temperature, 2000, models, key, x)

    exact, relaxed = nlls(state, jax.random.key(0))
    with np.load(out / "stages" / "scoring+relaxed.npz") as held:
        found, count = held["nll"][0], held["effective_samples"][0]
    stderr = np.sqrt(1 / count - 1 / 2000)  # of the log of a mean of 2000 weights
    assert (np.abs(found - exact) < 5 * stderr + 1e-3).all()
    assert (np.abs(relaxed - exact) > 5 * stderr + 1e-3).mean() > 0.5


def test_the_temperature_falls_with_the_steps(toy):
    out, config, _ = toy
    temperature = sigmoid_belief.make_training(config, 3).temperature
    assert_allclose([temperature(s) for s in (0, 10, 20, 40)], [1, 0.5**0.5, 0.5, 0.5], rtol=1e-6)
    rows = (out / "metrics.jsonl").read_text()
    assert '"temperature": [0.5' in rows
    draws = relaxed_bits(temperature(0))(jnp.zeros(3)).sample(jax.random.key(0), (9,))
    assert ((draws > 0) & (draws < 1)).all()


def test_vimco_is_quieter_than_the_score(toy):
    _, config, _ = toy
    training = sigmoid_belief.make_training(config, 5)
    images, keys = load_digits(), jax.random.key(0)[None]
    state = sigmoid_belief.initial_state(config, images, keys, training.optimizer)
    state = jax.tree.map(lambda leaf: leaf[0], state)
    x = jnp.asarray(images.test[:50] > 0.5, jnp.float32)
    losses = _belief_meter.losses(("vimco", "score"), training, state, x)
    meter = vi.diagnostics.gradient_meter(
        jax.random.key(1), losses, state.params["belief"], num_replicates=200, num_timings=0
    )
    assert (meter.names, meter.blocks) == (("score", "vimco"), ("generative", "recognition"))
    (_, (theta, phi)), (_, (_, error)) = meter.relative_variance
    assert_allclose(theta, 1, rtol=1e-3)  # the same draws, the same weights
    assert phi + 5 * error < 0.2


def test_ratios_to_the_score_are_of_the_one_gradient():
    """The TVO's and the relaxed model's gradients are others, and get none."""
    tables = np.ones((2, 5, 2)) * np.arange(1, 6)[:, None]
    names = ("total_variance", "snr", "relative_variance")
    table = {f"{n}{end}": tables for n in names for end in ("", "_stderr")}
    config = SimpleNamespace(methods=("relaxed", "tvo", "vimco", "score", "nvil", "wake_sleep"))
    metrics = gradient_metrics(config, {"trained": table})
    ratios = {n.split("/")[0]: m.value for n, m in metrics.items() if "phi" in n and "score's" in n}
    assert ratios == {"score, NVIL baseline": 2, "vimco": 3}
    assert metrics["vimco(tvo)/trained phi: gradient variance"].value == 4
    assert not any("wake" in name for name in metrics)


def test_published_figures_stand_beside_the_published_network_alone():
    found = _references.belief_nll("mnist", 3, 200, "vimco", 5)
    assert found is not None
    assert (found.value, found.how) == (92.8, "recalled")
    nvil = _references.belief_nll("mnist", 3, 200, "nvil", 5)
    assert nvil is not None
    assert nvil.value == 95.2
    assert nvil.protocol.endswith("K = 1")
    others = [("digits", 3, 200, "vimco"), ("mnist", 2, 200, "vimco"), ("mnist", 3, 200, "tvo")]
    assert [_references.belief_nll(*other, 5) for other in others] == [None] * 3


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu", "paper"])
@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_every_preset_is_complete(preset, data):
    config = resolve(sigmoid_belief.Config(preset=preset, data=data), sigmoid_belief.PRESETS)
    sigmoid_belief.check(config)
    published = (config.layers, config.hidden) == (3, 200)
    assert published == (preset != "smoke" and (data == "mnist" or preset != "cpu"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ()}, r"--methods must name at least one .*, once each \(got ''\); try"),
        ({"methods": ("tvo", "tvo")}, r"--methods must .* \(got 'tvo tvo'\)"),
        ({"points": ()}, r"--points must name at least one"),
        ({"num_samples": 1}, "--num-samples must be an integer of at least 2"),
        ({"vimco_samples": (3,)}, r"--vimco-samples must .* other than --num-samples 3.*got '3'"),
        ({"vimco_samples": (1,)}, r"--vimco-samples must be counts of at least 2"),
        ({"num_replicates": 19}, "--num-replicates must be an integer of at least 20"),
        (
            {"final_rate": 1.0},
            r"--final-rate must be from 0 to --learning-rate 0\.001 \(got 1\.0\)",
        ),
        ({"final_temperature": 2.0}, r"--final-temperature must be from 0 to --temperature 1\.0"),
        ({"final_temperature": 0.0}, "--final-temperature must be positive"),
        ({"betas": (0.0, 0.5)}, r"--betas must rise from 0 to 1 \(got '0\.0 0\.5'\)"),
        ({"betas": (0.0, 0.5, 0.5, 1.0)}, "--betas must rise from 0 to 1"),
        ({"layers": 0}, "--layers must be an integer of at least 1"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    config = sigmoid_belief.Config(**({"preset": "smoke"} | fields))
    with pytest.raises(ValueError, match=message):
        sigmoid_belief.check(resolve(config, sigmoid_belief.PRESETS))
