"""The ELBO with an analytic KL, where NumPyro's own is right, and where it is not."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer import ELBO, SVI, Trace_ELBO, TraceMeanField_ELBO
from numpyro.primitives import mutable

from tests.numpyro_models import PROGRAMS, Y, setup
from vi.numpyro import MeanFieldELBO


def value_and_gradient(loss, model, guide, args, params, key):
    run = lambda params, key: loss.loss(key, params, model, guide, *args)  # noqa: E731
    return jax.jit(jax.value_and_grad(run))(params, key)


def estimates(loss, model, guide, args, params, num=20_000):
    """ELBO and gradient at ``num`` keys, one row each."""

    @jax.jit
    @jax.vmap
    def run(key):
        value = lambda params: -loss.loss(key, params, model, guide, *args)  # noqa: E731
        elbo, gradient = jax.value_and_grad(value)(params)
        return jnp.concatenate([elbo[None], *(jnp.ravel(g) for g in jax.tree.leaves(gradient))])

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Failed to verify mean field")
        return np.asarray(run(jax.random.split(jax.random.key(1), num)), np.float64)


def agrees(rows, truth):
    """Whether the mean row is the truth, to 5 standard errors and float32's rounding."""
    error = 5 * rows.std(0) / len(rows) ** 0.5 + 1e-5 * np.abs(rows).mean(0) + 1e-6
    return np.all(np.abs(rows.mean(0) - truth) < error)


def exact(elbo, params):
    value, gradient = jax.value_and_grad(elbo)(params)
    leaves = jax.tree.leaves(gradient)
    return np.concatenate([np.ravel(leaf) for leaf in (value, *leaves)])


def is_quieter(rows, others):
    """Whether the ELBOs of the same keys vary less, at 5 standard errors."""
    less = (others[:, 0] - others[:, 0].mean()) ** 2 - (rows[:, 0] - rows[:, 0].mean()) ** 2
    return less.mean() > 5 * less.std() / len(less) ** 0.5


X = (np.random.default_rng(2).uniform(size=(6, 5)) > 0.5) * 1.0


def vae(x, size=None):
    decoder = numpyro.param("decoder", jnp.full((2, 5), 0.3))
    with numpyro.plate("N", len(x), subsample_size=size):
        batch = numpyro.subsample(jnp.asarray(x), event_dim=1)
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=z @ decoder).to_event(1), obs=batch)


def encoder(x, size=None):
    weights = numpyro.param("encoder", jnp.full((5, 4), 0.2))
    with numpyro.plate("N", len(x), subsample_size=size):
        loc, scale = jnp.split(numpyro.subsample(jnp.asarray(x), event_dim=1) @ weights, 2, -1)
        numpyro.sample("z", dist.Normal(loc, jnp.exp(scale)).to_event(1))


RIGHT = PROGRAMS | {
    "vae": (vae, encoder, (X,)),
    "vae, subsampled": (vae, encoder, (X, 4)),
}
FAST = ["hierarchy, subsampled", "walk", "vae, subsampled"]


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in RIGHT]
)
@pytest.mark.usefixtures("x64")
def test_it_is_trace_mean_field_elbo_where_that_is_right(name):
    model, guide, args = RIGHT[name]
    svi = SVI(model, guide, optax.sgd(0.1), Trace_ELBO())
    params = svi.get_params(svi.init(jax.random.key(3), *args))
    (value, gradient), (theirs, their_gradient) = (
        value_and_gradient(loss, model, guide, args, params, jax.random.key(0))
        for loss in (MeanFieldELBO(), TraceMeanField_ELBO())
    )
    largest = max([1.0, *(jnp.abs(g).max() for g in jax.tree.leaves(their_gradient))])
    np.testing.assert_allclose(value, theirs, rtol=1e-12)
    chex.assert_trees_all_close(gradient, their_gradient, atol=1e-12 * largest, rtol=0)


SIX = np.arange(6)
WEIGHTS = {  # scale and mask in the model, and in the guide; whether NumPyro's is right
    "the same": ((0.3, SIX > 2), (0.3, SIX > 2), True),
    "scale of the model": ((0.3, True), (1.0, True), False),
    "scale of the guide": ((1.0, True), (2.0, True), False),
    "scales by datum": ((0.1 + SIX, True), (2.0, True), False),
    "mask of the model": ((1.0, SIX > 2), (1.0, True), True),
    "mask of the guide": ((1.0, True), (1.0, SIX > 2), True),
    "two masks": ((0.3, SIX > 2), (2.0, SIX < 4), False),
}


def part(weight, i):
    return weight if np.ndim(weight) == 0 else jnp.asarray(weight)[i]


def weighted_model(y, weights, size):
    scale, mask = weights[0]
    with numpyro.plate("N", len(y), subsample_size=size) as i:
        with handlers.scale(scale=part(scale, i)), handlers.mask(mask=part(mask, i)):
            z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=y[i])


def weighted_guide(y, weights, size):
    scale, mask = weights[1]
    loc = numpyro.param("loc", 0.3)
    width = numpyro.param("width", 0.8, constraint=constraints.positive)
    with (
        numpyro.plate("N", len(y), subsample_size=size) as i,
        handlers.scale(scale=part(scale, i)),
        handlers.mask(mask=part(mask, i)),
    ):
        numpyro.sample("z", dist.Normal(loc * y[i], width))


@pytest.mark.parametrize(
    ("name", "size"), [*((name, None) for name in WEIGHTS), ("scales by datum", 2)]
)
def test_scales_and_masks_count_on_either_side(name, size):
    of_model, of_guide, theirs_right = WEIGHTS[name]
    params = {"loc": jnp.array(0.3), "width": jnp.array(0.8)}

    def elbo(params):
        loc, var = params["loc"] * Y, params["width"] ** 2
        log_p = -0.5 * (loc**2 + var + jnp.log(2 * jnp.pi))
        log_q = -0.5 * (1 + jnp.log(2 * jnp.pi * var))
        log_lik = -0.5 * ((Y - loc) ** 2 + var + jnp.log(2 * jnp.pi))
        weight_p, weight_q = (np.where(mask, scale, 0.0) for scale, mask in (of_model, of_guide))
        return (weight_p * log_p - weight_q * log_q + log_lik).sum()

    program = (weighted_model, weighted_guide, (Y, (of_model, of_guide), size), params)
    truth = exact(elbo, params)
    assert agrees(estimates(MeanFieldELBO(), *program), truth)
    assert agrees(estimates(TraceMeanField_ELBO(), *program), truth) == theirs_right


def chain_model(y):
    z1 = numpyro.sample("z1", dist.Normal(0, 1))
    z2 = numpyro.sample("z2", dist.Normal(z1, 1))
    numpyro.sample("y", dist.Normal(z2, 1), obs=y[0])


def chain_guide(y):
    loc, slope = numpyro.param("loc", 0.5), numpyro.param("slope", 0.7)
    z2 = numpyro.sample("z2", dist.Normal(loc, 0.6))
    numpyro.sample("z1", dist.Normal(slope * z2, 0.8))


def past_model(y):
    def step(past, scale):
        z = numpyro.sample("z", dist.Normal(past, scale))
        return z, z

    _, z = scan(step, 0.0, jnp.ones(2))
    numpyro.sample("y", dist.Normal(z[1], 1), obs=y[0])


def future_guide(y):
    loc, slope = numpyro.param("loc", 0.5), numpyro.param("slope", 0.7)

    def step(future, of):
        at, scale = of
        z = numpyro.sample("z", dist.Normal(future * at, scale))
        return z, None

    scan(step, loc, (jnp.stack([slope, jnp.ones(())]), jnp.array([0.8, 0.6])), reverse=True)


@pytest.mark.parametrize(
    ("model", "guide"),
    [(chain_model, chain_guide), (past_model, future_guide)],
    ids=["sites", "steps of a scan"],
)
def test_no_kl_is_taken_given_what_is_drawn_given_its_site(model, guide):
    params = {"loc": jnp.array(0.5), "slope": jnp.array(0.7)}

    def elbo(params):
        a, b = params["loc"], params["slope"]
        of_z1 = (a * b) ** 2 + (0.6 * b) ** 2 + 0.8**2
        of_z2 = ((1 - b) * a) ** 2 + (0.6 * (1 - b)) ** 2 + 0.8**2
        of_y = (Y[0] - a) ** 2 + 0.6**2
        entropy = jnp.log(0.6 * 0.8) + 1 + jnp.log(2 * jnp.pi)
        return entropy - 0.5 * (of_z1 + of_z2 + of_y) - 1.5 * jnp.log(2 * jnp.pi)

    program, truth = (model, guide, (Y,), params), exact(elbo, params)
    assert agrees(estimates(MeanFieldELBO(), *program), truth)
    assert not agrees(estimates(TraceMeanField_ELBO(), *program), truth)


def test_the_other_kls_are_taken_all_the_same():
    params, key = {"loc": jnp.array(0.5), "slope": jnp.array(0.7)}, jax.random.key(4)
    value = -MeanFieldELBO().loss(key, params, chain_model, chain_guide, Y)
    seeded = handlers.seed(chain_guide, jax.random.split(key)[1])
    trace = handlers.trace(handlers.substitute(seeded, params)).get_trace(Y)
    z1, z2 = trace["z1"]["value"], trace["z2"]["value"]
    kl = dist.kl_divergence(trace["z1"]["fn"], dist.Normal(0, 1))
    sampled = dist.Normal(z1, 1).log_prob(z2) - dist.Normal(0.5, 0.6).log_prob(z2)
    expected = dist.Normal(z2, 1).log_prob(Y[0]) + sampled - kl
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def gated_model(gate):
    def model(y):
        d = numpyro.sample("d", dist.Normal(0, 1))
        with gate(d):
            numpyro.sample("z", dist.Normal(0, 1))

    return model


def gated_guide(gate):
    def guide(y):
        with gate(1.0):
            z = numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.4), 0.7))
        numpyro.sample("d", dist.Normal(z, 0.6))

    return guide


def masked_by(d):
    return handlers.mask(mask=jnp.asarray(d > 0))


def scaled_by(d):
    return handlers.scale(scale=jax.nn.sigmoid(d))


def grandchild_model(y):
    e = numpyro.sample("e", dist.Normal(0, 1))
    numpyro.sample("d", dist.Normal(0, 1))
    numpyro.sample("z", dist.Normal(e, 1))


def grandchild_guide(y):
    z = numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.4), 0.7))
    d = numpyro.sample("d", dist.Normal(z, 0.6))
    numpyro.sample("e", dist.Normal(d, 0.6))


def repeated(fn, of_model):
    def program(y):
        loc = 0.0 if of_model else numpyro.param("loc", 0.4)
        numpyro.sample("z", fn(loc), sample_shape=(3,))

    return program


def wide(y):
    with handlers.scale(scale=jnp.array([0.1, 0.2])):
        numpyro.sample("z", dist.Normal(0, 1))


def narrow(y):
    numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.4), 0.7))


def half(loc, mask):
    return dist.Normal(jnp.zeros(2) + loc, 0.7).mask(jnp.array(mask)).to_event(1)


def kumaraswamy(y):
    numpyro.sample("z", dist.Kumaraswamy(4.6 + numpyro.param("loc", 0.4), 1.0))


def beta(y):
    numpyro.sample("z", dist.Beta(5.0, 10.0))


def of_normal(loc):
    return dist.Normal(loc, 0.7)


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        (grandchild_model, grandchild_guide),
        (gated_model(masked_by), gated_guide(masked_by)),
        (gated_model(scaled_by), gated_guide(scaled_by)),
        (repeated(of_normal, True), repeated(of_normal, False)),
        (wide, narrow),
        (
            lambda y: numpyro.sample("z", half(0.0, [True, True])),
            lambda y: numpyro.sample("z", half(numpyro.param("loc", 0.4), [True, False])),
        ),
        (beta, kumaraswamy),
    ],
    ids=[
        "a grandchild",
        "its mask",
        "its scale",
        "sample_shape",
        "a wide scale",
        "mask in an event",
        "series",
    ],
)
def test_it_has_the_mean_of_trace_elbo_where_numpyros_has_not(model, guide):
    """Paired: the same keys draw the same latents."""
    program = (model, guide, (Y,), {"loc": jnp.array(0.4)})
    truth = estimates(Trace_ELBO(), *program)
    assert agrees(estimates(MeanFieldELBO(), *program) - truth, 0.0)
    assert not agrees(estimates(TraceMeanField_ELBO(), *program) - truth, 0.0)


THREE = jnp.array([[1.0, 0.2, 0.1], [0.2, 1.0, 0.3], [0.1, 0.3, 1.0]])
RFFT = jnp.array([2.0, 1.5, 0.7])
KLS = {  # q with a parameter a, and p
    "normal": (lambda a: dist.Normal(a, 0.7), dist.Normal(-0.2, 1.3)),
    "gaussian": (
        lambda a: dist.MultivariateNormal(a * jnp.arange(3.0), THREE),
        dist.MultivariateNormal(jnp.zeros(3), 2 * THREE),
    ),
    "circulant": (
        lambda a: dist.Normal(a, 1 + 0.2 * jnp.arange(4.0)).to_event(1),
        dist.CirculantNormal(jnp.zeros(4), covariance_rfft=RFFT),
    ),
    "gamma": (lambda a: dist.Gamma(2 + a, 3.0), dist.Gamma(1.5, 0.8)),
    "beta": (lambda a: dist.Beta(2 + a, 3.0), dist.Beta(5.0, 2.0)),
    "dirichlet": (
        lambda a: dist.Dirichlet(2 + a * jnp.arange(3.0)),
        dist.Dirichlet(jnp.array([2.0, 1.7, 1.0])),
    ),
    "weibull": (lambda a: dist.Weibull(concentration=2 + a, scale=3.0), dist.Gamma(1.5, 0.8)),
}


@pytest.mark.slow
def test_every_kl_of_numpyros_is_that_of_the_draws():
    def model():
        for name, (_, p) in KLS.items():
            numpyro.sample(name, p)

    def guide():
        for name, (q, _) in KLS.items():
            numpyro.sample(name, q(0.5))

    @jax.jit
    @jax.vmap
    def run(key):
        return [loss.loss(key, {}, model, guide) for loss in (MeanFieldELBO(), Trace_ELBO())]

    ours, sampled = run(jax.random.split(jax.random.key(0), 4000))
    assert np.ptp(ours) == 0  # nothing is drawn
    assert agrees(np.asarray(sampled)[:, None], ours[0])
    for q, p in KLS.values():
        without = ours[0] - dist.kl_divergence(q(0.5), p)
        assert not agrees(np.asarray(sampled)[:, None], without)


def test_a_vae_is_quieter():
    svi = SVI(vae, encoder, optax.sgd(0.1), Trace_ELBO())
    program = (vae, encoder, (X,), svi.get_params(svi.init(jax.random.key(0), X)))
    ours, theirs = (estimates(loss, *program, num=2000) for loss in (MeanFieldELBO(), Trace_ELBO()))
    assert is_quieter(ours, theirs)
    assert not is_quieter(theirs, ours)


def test_particles_are_averaged_and_the_last_leaves_its_state():
    def model(y):
        z = numpyro.sample("z", dist.Normal(0, 1))
        mutable("seen", {"z": 0.0})["z"] = z
        numpyro.sample("y", dist.Normal(z, 1), obs=y[0])

    def guide(y):
        numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.4), 0.7))

    def run(num_particles, key):
        params = {"loc": jnp.array(0.4), "seen": {"z": jnp.zeros(())}}
        return MeanFieldELBO(num_particles).loss_with_mutable_state(key, params, model, guide, Y)

    key = jax.random.key(5)
    together = run(3, key)
    each = [run(1, k) for k in jax.random.split(jax.random.split(key)[1], 3)]
    np.testing.assert_allclose(together["loss"], np.mean([e["loss"] for e in each]), rtol=1e-6)
    chex.assert_trees_all_equal(together["mutable_state"], each[-1]["mutable_state"])
    assert each[-1]["mutable_state"]["seen"]["z"] != each[0]["mutable_state"]["seen"]["z"]


def test_particles_see_one_minibatch():
    def model():
        numpyro.sample("z", dist.Normal(0, 1))
        with numpyro.plate("N", 6, subsample_size=2) as i:
            numpyro.factor("seen", 10.0**i)

    def guide():
        numpyro.sample("z", dist.Normal(0, 1))

    pairs = [10**i + 10**j for i in range(6) for j in range(i)]
    seen = lambda loss, seed: round(-loss.loss(jax.random.key(seed), {}, model, guide) / 3)  # noqa: E731
    assert all(seen(MeanFieldELBO(3), seed) in pairs for seed in range(3))
    assert not all(seen(TraceMeanField_ELBO(3), seed) in pairs for seed in range(3))


def test_legacy_keys():
    model, guide, args, params = setup("local, subsampled")
    run = jax.jit(lambda key: MeanFieldELBO(2).loss(key, params, model, guide, *args))
    assert run(jax.random.PRNGKey(7)) == run(jax.random.key(7))


def test_forward_mode():
    model, guide, args, params = setup("hierarchy")
    run = lambda p: MeanFieldELBO(2).loss(jax.random.key(0), p, model, guide, *args)  # noqa: E731
    chex.assert_trees_all_close(jax.jit(jax.jacfwd(run))(params), jax.jit(jax.grad(run))(params))


def test_svi_reaches_the_posterior():
    model, guide, args, _ = setup("conjugate")
    loss = MeanFieldELBO(8)
    svi = SVI(model, guide, optax.adam(optax.exponential_decay(0.05, 100, 0.3)), loss)
    params = svi.run(jax.random.key(0), 600, *args, progress_bar=False).params
    np.testing.assert_allclose(params["loc"], Y.sum() / 7, atol=0.02)
    np.testing.assert_allclose(params["scale"], 7**-0.5, atol=0.02)
    assert isinstance(loss, ELBO)
    assert repr(loss) == "MeanFieldELBO(num_particles=8)"


def test_nothing_is_worth_nothing():
    assert MeanFieldELBO().loss(jax.random.key(0), {}, lambda: None, lambda: None) == 0.0


def test_a_site_may_have_any_name():
    def program(loc):
        return lambda: numpyro.sample("fn", dist.Normal(loc, 1))

    loss = MeanFieldELBO().loss(jax.random.key(0), {}, program(0.0), program(1.0))
    np.testing.assert_allclose(loss, 0.5)


def test_refusals():
    with pytest.raises(ValueError, match=r"MeanFieldELBO: num_particles must be .* at least 1"):
        MeanFieldELBO(0)

    def model():
        numpyro.sample("angle", dist.VonMises(0, 1))
        numpyro.sample("coin", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match=r"reparameterised \(got angle .*, coin .*\); use vimco"):
        MeanFieldELBO().loss(jax.random.key(0), {}, model, model)
    marked = handlers.infer_config(model, lambda _: {"enumerate": "parallel"})
    with pytest.raises(ValueError, match="marked for enumeration"):
        MeanFieldELBO().loss(jax.random.key(0), {}, model, marked)
