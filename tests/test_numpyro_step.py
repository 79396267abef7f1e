"""SVI as a step of vi.training: the steps that NumPyro takes, and what training adds to them."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import nnx_module, random_nnx_module
from numpyro.distributions import constraints
from numpyro.infer import SVI, Predictive, Trace_ELBO, TraceGraph_ELBO
from numpyro.infer import autoguide as guides

import vi
from vi.numpyro._batches import whole
from vi.numpyro._svi_step import svi_step


@pytest.fixture(autouse=True)
def _numpyro_uses_keys_twice():
    """Its subsampled plates and its automatic guides do."""
    with jax.debug_key_reuse(False):
        yield


KEY = jax.random.key(0)
ADAM = optax.adam(0.05)
N, B = 60, 20
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]) + 0.3).astype(np.float32)
ROWS = X[:B], Y[:B]


def linear(x, y=None, *, size=N):
    with numpyro.plate("D", 3):
        w = numpyro.sample("w", dist.Normal(0, 1))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("N", size, subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(x @ w, noise), obs=y)


def linear_guide(x, y=None, *, size=N):
    """Constraints of every kind: none, a constant, an array, and a value found at run time."""
    loc = numpyro.param("loc", lambda key: jax.random.normal(key, (3,)))
    widest = jnp.abs(x).max() + jnp.ones(3)
    width = numpyro.param("width", 0.2 * jnp.ones(3), constraint=constraints.interval(0.1, widest))
    with numpyro.plate("D", 3):
        numpyro.sample("w", dist.Normal(loc, width))
    location = numpyro.param("noise_loc", 0.0)
    scale = numpyro.param("noise_scale", 0.1, constraint=constraints.positive)
    numpyro.sample("noise", dist.LogNormal(location, scale))


STEP = svi_step(linear, linear_guide, ADAM, Trace_ELBO())


class Network(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.linear(x))).sum(-1)


NETWORK, LINEAR = Network(nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(1))


def network(x, y=None):
    net = nnx_module("net", NETWORK)
    noise = numpyro.sample("noise", dist.LogNormal())
    with numpyro.plate("N", N, subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(net(x), noise), obs=y)


def network_guide(x, y=None):
    numpyro.sample("noise", dist.LogNormal(numpyro.param("loc", 0.0), 0.1))


def random_network(x, y=None):
    net = random_nnx_module("net", LINEAR, dist.Normal(0, 1))
    with numpyro.plate("N", N, subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(net(x)[:, 0], 1), obs=y)


@functools.cache
def restarted():
    """A step with an automatic guide that sees its model under jax.vmap first, and the states."""
    step = svi_step(random_network, guides.AutoNormal(random_network), ADAM, Trace_ELBO())
    init = jax.vmap(lambda key: step.init(key, ROWS))
    return step, jax.jit(init)(jax.random.split(KEY, 2))


def initial(step=STEP, key=KEY, batch=ROWS):
    return jax.jit(lambda key: step.init(key, batch))(key)


@functools.cache
def start():
    """The state that ``STEP`` begins with."""
    return initial()


def fit(step, state, data=(X, Y), key=KEY, num_steps=20, batch_size=B, **options):
    return vi.training.fit(
        key, step, state, data, num_steps=num_steps, batch_size=batch_size, **options
    )


# The same steps


def of_numpyro(step, key, args, num_steps):
    """Parameters before and after, mutable state, losses and keys of ``SVI.update``."""
    svi = SVI(step.model, step.guide, step.optimizer, step.loss)
    start = svi.init(key, *args)

    @jax.jit
    def updates(state):
        def body(state, _):
            key = jax.random.split(state.rng_key)[1]
            state, loss = svi.update(state, *args)
            return state, (loss, key)

        return jax.lax.scan(body, state, length=num_steps)

    state, (losses, keys) = updates(start)
    return svi.get_params(start), svi.get_params(state), state.mutable_state, losses, keys


def without_keys(tree):
    def data(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.tree.map(data, tree)


def of_ours(step, key, batch, keys, init_params=None):
    start = jax.jit(lambda: step.init(key, batch, init_params=init_params))()
    body = lambda state, key: step(state, key, batch)  # noqa: E731
    state, metrics = jax.jit(lambda state: jax.lax.scan(body, state, keys))(start)
    params = step.params(state)
    mutable = {name: params.pop(name) for name in state.extra.mutable}
    begun = {name: value for name, value in step.params(start).items() if name in params}
    return begun, params, mutable, metrics["loss"]


WHOLE = {"size": B}
SAME = {
    "constraints": lambda: STEP,
    "our loss": lambda: svi_step(
        functools.partial(linear, **WHOLE),
        functools.partial(linear_guide, **WHOLE),
        optax.sgd(1e-3),
        vi.numpyro.Loss(vi.gradients.dreg(vi.bounds.iwae), num_particles=5, plates=()),
    ),
    "batch statistics and dropout": lambda: svi_step(
        network, network_guide, optax.sgd(1e-3), Trace_ELBO()
    ),
    "an automatic guide of a random module": lambda: restarted()[0],
}


@pytest.mark.parametrize("name", SAME)
def test_twenty_steps_are_those_of_numpyro(name):
    step = SAME[name]()
    start, expected, mutable, losses, keys = of_numpyro(step, KEY, ROWS, 20)
    # the guide of an automatic one that has seen the model begins where it began before
    given = start if isinstance(step.guide, guides.AutoGuide) else None
    begun, params, moved, ours = of_ours(step, KEY, ROWS, keys, given)
    rounding = {"rtol": 1e-5, "atol": 1e-5}
    chex.assert_trees_all_close(begun, start, **rounding)
    chex.assert_trees_all_close(ours, losses, rtol=1e-5)
    chex.assert_trees_all_close(params, expected, **rounding)
    chex.assert_trees_all_close(without_keys(moved), without_keys(mutable or {}), **rounding)


def test_steps_with_other_noise_would_be_seen():
    state = start()
    run = jax.jit(lambda keys: jax.lax.scan(lambda s, k: STEP(s, k, ROWS), state, keys))
    keys = jax.random.split(jax.random.key(9), (2, 20))
    (one, first), (other, second) = map(run, keys)
    assert np.abs(one.params["loc"] - other.params["loc"]).max() > 1e-2
    assert np.abs(first["loss"] - second["loss"]).max() > 1e-2


def test_a_fit_takes_these_steps():
    result = fit(STEP, start(), num_steps=2)
    state, losses = start(), []
    one = jax.jit(STEP)
    order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(KEY, 0), 0), N)
    for number in range(2):
        rows = order[number * B : (number + 1) * B]
        key = jax.random.fold_in(jax.random.fold_in(KEY, 1), number)
        state, metrics = one(state, key, (X[rows], Y[rows]))
        losses.append(metrics["loss"])
    chex.assert_trees_all_close(result.history["loss"], np.array(losses), rtol=1e-5)
    chex.assert_trees_all_close(result.state.params, state.params, rtol=1e-5, atol=1e-6)


def test_a_second_fit_compiles_nothing():
    traced = chex.assert_max_traces(linear, n=3)  # init, the shapes of the metrics, the loop
    step = svi_step(traced, linear_guide, ADAM, Trace_ELBO())
    state = initial(step)
    for key in range(3):
        fit(step, state, key=jax.random.key(key), num_steps=5 + key)


# Many seeds


def test_many_seeds_are_the_single_runs():
    keys = jax.random.split(KEY, 3)
    states = jax.jit(jax.vmap(STEP.init, (0, None)))(keys, ROWS)
    together = fit(STEP, states, key=keys)
    params = jax.vmap(STEP.params)(together.state)
    for run in range(3):
        alone = fit(STEP, initial(key=keys[run]), key=keys[run])
        of_run = jax.tree.map(lambda leaf, run=run: leaf[run], params)
        chex.assert_trees_all_close(STEP.params(alone.state), of_run, rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_close(alone.history["loss"], together.history["loss"][run], rtol=1e-4)
    assert jnp.ptp(states.params["loc"], axis=0).min() > 1e-2


def test_restarts_of_an_automatic_guide_differ_and_leave_no_tracer():
    step, states = restarted()
    for run, key in enumerate(jax.random.split(KEY, 2)):
        of_run = jax.tree.map(lambda leaf, run=run: leaf[run], states.params)
        chex.assert_trees_all_close(initial(step, key).params, of_run, rtol=1e-5)
    start = states.params["net/kernel_auto_loc"]
    assert jnp.abs(start[0] - start[1]).max() > 1e-2
    params = step.params(jax.tree.map(lambda leaf: leaf[0], states))
    chex.assert_trees_all_close(step.guide.median(params)["net/kernel"], start[0])


def test_numpyros_restarts_of_an_automatic_guide_would_be_seen():
    step, _ = restarted()
    svi = SVI(step.model, step.guide, ADAM, step.loss)
    init = jax.vmap(lambda key: svi.init(key, *ROWS).optim_state[1][0])
    start = jax.jit(init)(jax.random.split(KEY, 2))
    assert jnp.ptp(start["net/kernel_auto_loc"], axis=0).max() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "AutoBNAFNormal", "AutoBatchedLowRankMultivariateNormal", "AutoBatchedMultivariateNormal",
        "AutoDAIS", "AutoDelta", "AutoDiagonalNormal", "AutoIAFNormal", "AutoLaplaceApproximation",
        "AutoLowRankMultivariateNormal", "AutoMultivariateNormal", "AutoNormal",
    ],
)  # fmt: skip
def test_every_automatic_guide_restarts_as_it_starts(name):
    def model(x, y=None):
        with numpyro.plate("D", 3):
            w = numpyro.sample("w", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x @ w, 1).to_event(1), obs=y)

    def make():
        options = {"batch_ndim": 0} if "Batched" in name else {}
        return svi_step(model, getattr(guides, name)(model, **options), ADAM, Trace_ELBO())

    keys, step = jax.random.split(KEY, 2), make()
    states = jax.vmap(step.init, (0, None))(keys, ROWS)
    alone = make().init(keys[1], ROWS)
    of_run = jax.tree.map(lambda leaf: leaf[1], states.params)
    chex.assert_trees_all_close(alone.params, of_run, rtol=1e-5, atol=1e-6)
    moved, _ = jax.jit(step)(alone, KEY, ROWS)
    drawn = step.guide.sample_posterior(jax.random.key(1), step.params(moved), *ROWS)
    assert drawn["w"].shape == (3,)


# Training


def test_early_stopping():
    stop = lambda history, evaluations: "enough" if len(history["loss"]) >= 10 else None  # noqa: E731
    result = fit(STEP, start(), eval_every=5, stop=stop)
    assert result.state.step == 10
    assert "enough" in str(result.stopped)


def test_a_checkpoint_is_taken_up_by_another_step_object(tmp_path):
    for num_steps in (11, 20):
        step = svi_step(network, network_guide, ADAM, Trace_ELBO())
        result = fit(step, initial_network(), num_steps=num_steps, checkpoint=tmp_path)
    whole_run = fit(step, initial_network())
    chex.assert_trees_all_close(result.history, whole_run.history, rtol=1e-6)
    chex.assert_trees_all_close(
        step.params(result.state)["net$params"],
        step.params(whole_run.state)["net$params"],
        rtol=1e-6,
    )
    loaded = vi.training.load(tmp_path, initial_network())
    chex.assert_trees_all_equal(step.params(loaded)["loc"], step.params(result.state)["loc"])


@functools.cache
def initial_network():
    return initial(svi_step(network, network_guide, ADAM, Trace_ELBO()))


def test_a_guide_that_has_not_seen_the_model_trains_all_the_same():
    seen, states = restarted()
    state = jax.tree.map(lambda leaf: leaf[0], states)
    guide = guides.AutoNormal(random_network)
    unseen = svi_step(random_network, guide, ADAM, Trace_ELBO())
    moved, expected = (jax.jit(step)(state, KEY, ROWS) for step in (unseen, seen))
    chex.assert_trees_all_close(moved[0].params, expected[0].params, rtol=1e-5)
    chex.assert_trees_all_close(moved[1], expected[1], rtol=1e-5)
    assert guide.prototype_trace is None


def test_batch_statistics_and_dropout_move_on():
    start = initial_network()
    step = svi_step(network, network_guide, optax.sgd(0.0), Trace_ELBO())
    result = fit(step, start, data=(X[:B], Y[:B]), num_steps=2)
    hidden = np.asarray(X[:B] @ NETWORK.linear.kernel[...])
    state = result.state.extra.mutable["net$state"]["state"]
    seen = 0.875  # init has run the model once, with the momentum of a half, and then two steps
    chex.assert_trees_all_close(state["norm"]["mean"], seen * hidden.mean(0), rtol=1e-4, atol=1e-6)
    count = lambda state: state.extra.mutable["net$state"]["state"]["dropout"]["rngs"]["count"]  # noqa: E731
    assert count(result.state) == count(start) + 2


# Parameters


def test_params_feed_guides_and_predictive():
    result = fit(STEP, start(), num_steps=300)
    params = STEP.params(result.state)
    assert set(params) == {"loc", "width", "noise_loc", "noise_scale"}
    chex.assert_trees_all_close(params["loc"], jnp.array([1.0, -2.0, 0.5]), atol=0.2)
    assert ((params["width"] > 0.1) & (params["width"] < np.abs(X[:B]).max() + 1)).all()
    predict = Predictive(linear, guide=linear_guide, params=params, num_samples=7)
    assert predict(jax.random.key(1), X)["y"].shape == (7, N)

    step = svi_step(network, network_guide, ADAM, Trace_ELBO())
    params = step.params(initial(step))
    predict = Predictive(network, guide=network_guide, params=params, num_samples=7)
    for key in (1, 2):  # the first must not leave its trace in the mutable state
        assert predict(jax.random.key(key), X)["y"].shape == (7, N)


def test_initial_parameters_may_be_given():
    given = {"loc": jnp.arange(3.0), "width": jnp.full(3, 0.5)}
    state = jax.jit(lambda: STEP.init(KEY, ROWS, init_params=given))()
    params = STEP.params(state)
    chex.assert_trees_all_close({name: params[name] for name in given}, given, rtol=1e-6)
    assert params["noise_scale"] == pytest.approx(0.1)


# Batches


def test_how_a_batch_becomes_arguments():
    x, y = ROWS
    as_pytree = lambda data, f=linear: f(data[0]["x"], data[1])  # noqa: E731
    pytree_guide = lambda data: as_pytree(data, linear_guide)  # noqa: E731
    ways = [
        (linear, linear_guide, (x, y)),
        (linear, linear_guide, {"y": y, "x": x}),
        (as_pytree, pytree_guide, [{"x": x}, y]),
        (linear, linear_guide, whole(x, y=y)),
    ]
    losses = []
    for model, guide, batch in ways:
        step = svi_step(model, guide, ADAM, Trace_ELBO())
        _, metrics = jax.jit(step)(initial(step, KEY, batch), jax.random.key(1), batch)
        losses.append(metrics["loss"])
    chex.assert_trees_all_close(losses, [losses[0]] * len(ways), rtol=1e-6)


MEANS = 3.0 * jnp.arange(8.0)


def local(x):
    with numpyro.plate("N", 8):
        numpyro.sample("x", dist.Normal(numpyro.sample("z", dist.Normal(0, 1)), 1), obs=x)


def local_guide(x, unseen=False):
    """A point for each row; in a pytree its length says nothing."""
    z = (
        numpyro.param("z_loc", {"z": jnp.zeros(8)})["z"]
        if unseen
        else numpyro.param("z_loc", jnp.zeros(8))
    )
    with numpyro.plate("N", 8):
        numpyro.sample("z", dist.Delta(z))


def test_whole_data_keep_their_order():
    step = svi_step(local, local_guide, optax.sgd(0.2), Trace_ELBO())
    result = fit(step, initial(step, batch=whole(MEANS)), whole(MEANS), num_steps=60, batch_size=1)
    chex.assert_trees_all_close(step.params(result.state)["z_loc"], MEANS / 2, rtol=1e-5)


def test_the_step_uses_its_key_once():
    step = svi_step(local, local_guide, optax.sgd(0.2), Trace_ELBO())
    with jax.debug_key_reuse(True):
        key = jax.random.key(3)
        state = initial(step, batch=whole(MEANS))
        state, _ = jax.jit(step)(state, key, whole(MEANS))
        fit(step, state, whole(MEANS), key=jax.random.key(4), num_steps=3, batch_size=1)


def test_rows_in_random_order_would_be_seen():
    guide = functools.partial(local_guide, unseen=True)
    step = svi_step(local, guide, optax.sgd(0.2), Trace_ELBO())
    result = fit(step, initial(step, batch=MEANS), MEANS, num_steps=60, batch_size=8)
    assert jnp.abs(step.params(result.state)["z_loc"]["z"] - MEANS / 2).max() > 1


def in_plate_guide(x):
    with numpyro.plate("N", 8):
        numpyro.sample("z", dist.Normal(numpyro.param("loc", jnp.zeros(8), event_dim=0), 1))


def series(x):
    def body(z, x):
        z = numpyro.sample("z", dist.Normal(z, 1))
        numpyro.sample("x", dist.Normal(z, 1), obs=x)
        return z, None

    scan(body, 0.0, x)


def series_guide(x):
    numpyro.sample("z", dist.Normal(numpyro.param("loc", jnp.zeros(8)), 1).to_event(1))


class Joint(guides.AutoContinuous):
    """An automatic guide of no cost."""

    def _setup_prototype(self, *args, **kwargs):
        self.prototype_trace = {}

    def _get_posterior(self):
        raise NotImplementedError

    def __call__(self, x):
        self._setup_prototype()
        loc = numpyro.param("auto_loc", jnp.zeros(8))
        return numpyro.sample("z", dist.Normal(loc, 1).to_event(1))


@pytest.mark.parametrize(
    ("model", "guide", "named"),
    [
        (local, local_guide, "z_loc"),
        (local, in_plate_guide, "loc"),
        (local, Joint(local), "auto_loc, z"),
        (series, series_guide, "x"),
    ],
)
def test_rows_with_a_place_are_refused_in_random_order(model, guide, named):
    step = svi_step(model, guide, ADAM, Trace_ELBO())
    message = f"must be whole where a row has a place (got {named} for each of 8 rows); pass data"
    with pytest.raises(ValueError, match=re.escape(message)):
        initial(step, batch=MEANS)
    assert initial(step, batch=whole(MEANS)).step == 0


def test_a_network_inside_a_plate_of_data_has_no_rows():
    def guide(x):
        with numpyro.plate("N", 8):
            net = nnx_module("net", LINEAR)
            numpyro.sample("z", dist.Normal(net(jnp.stack([x, x, x], -1))[:, 0], 1))

    assert initial(svi_step(local, guide, ADAM, Trace_ELBO()), batch=MEANS).step == 0


def test_a_model_without_arguments_has_a_whole():
    def model():
        numpyro.sample("z", dist.Normal(3, 1))

    def guide():
        numpyro.sample("z", dist.Delta(numpyro.param("loc", 0.0)))

    step = svi_step(model, guide, optax.sgd(0.2), Trace_ELBO())
    result = fit(step, initial(step, batch=whole()), whole(), num_steps=60, batch_size=1)
    assert step.params(result.state)["loc"] == pytest.approx(3, abs=1e-4)


def test_a_model_may_subsample_whole_data():
    def model(x, y):
        rows = numpyro.plate("N", N, subsample_size=B)
        w = numpyro.sample("w", dist.Normal(jnp.zeros(3), 1).to_event(1))
        with rows as rows:
            numpyro.sample("y", dist.Normal(x[rows] @ w, 1), obs=y[rows])

    def guide(x, y):
        loc = numpyro.param("loc", jnp.zeros(3))
        numpyro.sample("w", dist.Normal(loc, 0.1).to_event(1))

    step = svi_step(model, guide, ADAM, Trace_ELBO())
    result = fit(step, initial(step, batch=whole(X, Y)), whole(X, Y), num_steps=200, batch_size=1)
    exact = np.linalg.solve(X.T @ X + np.eye(3), X.T @ Y)
    chex.assert_trees_all_close(step.params(result.state)["loc"], exact, atol=0.1)


def test_a_loss_for_models_of_many_draws_begins():
    def guide(x):
        loc = numpyro.param("loc", jnp.zeros(8))
        numpyro.sample("z", dist.Normal(loc, 1).expand([4, 8]).to_event(2))

    def model(x):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(8), 1).to_event(1))
        scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
        numpyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    step = svi_step(model, guide, ADAM, Trace_ELBO(multi_sample_guide=True))
    state = initial(step, batch=whole(MEANS))
    assert set(step.params(state)) == {"loc", "scale"}
    moved, _ = jax.jit(step)(state, KEY, whole(MEANS))
    assert moved.step == 1


# Refusals


def mixture(x):
    numpyro.sample("b", dist.Bernoulli(0.5))
    numpyro.sample("a", dist.Categorical(logits=numpyro.param("logits", jnp.zeros(3))))


def plain(x):
    numpyro.sample("z", dist.Normal(0, 1))


def other_state():
    return vi.training.init(jnp.zeros(3), ADAM)


def without_state():
    class Forgets(Trace_ELBO):
        def loss_with_mutable_state(self, *args, **kwargs):
            return super().loss_with_mutable_state(*args, **kwargs) | {"mutable_state": None}

    return svi_step(network, network_guide, ADAM, Forgets())


def per_site():
    return svi_step(linear, linear_guide, ADAM, Trace_ELBO(sum_sites=False))


REFUSED = {
    "a loss that is none": (
        lambda: svi_step(linear, linear_guide, ADAM, vi.gradients.reparam(vi.bounds.iwae)),
        "svi_step: loss must be a numpyro.infer.ELBO (got reparam(iwae)); pass for instance vi.num",
    ),
    "a class of losses": (
        lambda: svi_step(linear, linear_guide, ADAM, Trace_ELBO),
        "svi_step: loss must be a numpyro.infer.ELBO (got <class",
    ),
    "NumPyro's optimiser": (
        lambda: svi_step(linear, linear_guide, numpyro.optim.Adam(0.1), Trace_ELBO()),
        "svi_step: optimizer must be an optax transformation (got numpyro.optim.Adam); pass for",
    ),
    "a guide that is none": (
        lambda: svi_step(linear, None, ADAM, Trace_ELBO()),
        "svi_step: guide must be a function (got None); pass what SVI takes",
    ),
    "nothing to train": (
        lambda: initial(svi_step(plain, plain, ADAM, Trace_ELBO()), batch=X),
        "svi_step.init: guide must have parameters (got none in guide and model); use an automatic",
    ),
    "discrete latents": (
        lambda: initial(svi_step(mixture, mixture, ADAM, Trace_ELBO()), batch=X),
        "loss must infer discrete latents (got Trace_ELBO for a, b); use vi.numpyro.Loss with",
    ),
    "strange parameters": (
        lambda: STEP.init(KEY, ROWS, init_params={"lok": 0.0}),
        "init_params must be sites (got lok); name some of loc, noise_loc, noise_scale, width",
    ),
    "a legacy key": (
        lambda: STEP.init(jax.random.PRNGKey(0), ROWS),
        "svi_step.init: key must be a typed PRNG key",
    ),
    "too many arguments": (
        lambda: STEP.init(KEY, (X, Y, Y)),
        "svi_step: batch must fit the model (got too many positional arguments); a tuple holds",
    ),
    "an unknown argument": (
        lambda: STEP(start(), KEY, {"x": X, "z": Y}),
        "svi_step: batch must fit the model (got got an unexpected keyword argument 'z')",
    ),
    "another batch than at first": (
        lambda: STEP(start(), KEY, {"x": X, "y": Y}),
        "svi_step: batch must be as the one of init (got PyTreeDef({'x': *, 'y': *}) against",
    ),
    "a number in the whole": (
        lambda: whole(X, size=3),
        "whole: argument [1]['size'] must be an array (got 3); fix it with functools.partial",
    ),
    "another state": (
        lambda: STEP(other_state(), KEY, ROWS),
        "svi_step: state must be made by its init (got State); call step.init(key, batch)",
    ),
    "no state": (
        lambda: STEP.params({}),
        "svi_step: state must be made by its init (got dict); call step.init(key, batch)",
    ),
    "the states of many runs": (
        lambda: STEP.params(restarted()[1]),
        "svi_step.params: state must be that of one run (got step of shape [2]); jax.vmap(step",
    ),
    "a loss that drops the mutable state": (
        lambda: jax.jit(without_state())(initial_network(), KEY, ROWS),
        "svi_step: loss must return the mutable sites net$state (got none); use vi.numpyro.Loss",
    ),
    "a loss by site": (
        lambda: jax.jit(per_site())(start(), KEY, ROWS),
        "svi_step: loss must return a scalar (got a value per site); leave sum_sites at True",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    bad, message = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        bad()


def test_a_first_look_at_traced_data_is_refused():
    step = svi_step(random_network, guides.AutoNormal(random_network), ADAM, Trace_ELBO())
    with pytest.raises(ValueError, match=r"batch must be concrete at first \(got traced arrays\)"):
        jax.jit(step.init)(KEY, ROWS)
    assert step.guide.prototype_trace is None


def test_a_loss_of_discrete_latents_is_taken():
    step = svi_step(mixture, mixture, ADAM, TraceGraph_ELBO())
    assert initial(step, batch=X).params["logits"].shape == (3,)
