"""Transformers against other implementations, autoregressive networks, and what is refused."""

import chex
import equinox as eqx
import flowjax.bijections
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import paramax
import pytest
import scipy.optimize
from flax import nnx
from flows import C, D, context_of, make, normal, perturbed, points

import vi
from vi.flows import affine, autoregressive, composed, continuous, coupling, planar, spline

RNGS = nnx.Rngs(0)
SPLINE = spline(num_bins=5, bound=3.0, min_derivative=1e-2)
PARAMS = np.random.default_rng(0).normal(size=(40, SPLINE.num_params))


def softmax(a):
    return np.exp(a) / np.exp(a).sum(-1, keepdims=True)


def theirs(params):
    """Flowjax's spline at the knots that our parameters mean, from their definition."""
    n = SPLINE.num_bins
    sizes = [6 * (1e-2 + (1 - n * 1e-2) * softmax(p)) for p in (params[:n], params[n : 2 * n])]
    x, y = (np.concatenate([[-3.0], -3.0 + np.cumsum(size)]) for size in sizes)
    inner = 1e-2 + np.log1p(np.exp(params[2 * n :]) * np.expm1(1 - 1e-2))
    derivatives = np.concatenate([[1.0], inner, [1.0]])
    other = paramax.unwrap(flowjax.bijections.RationalQuadraticSpline(knots=n, interval=3.0))
    where = lambda s: (s.x_pos, s.y_pos, s.derivatives)  # noqa: E731
    return eqx.tree_at(where, other, tuple(map(jnp.asarray, (x, y, derivatives))))


@pytest.mark.usefixtures("x64")
def test_the_spline_is_flowjaxs():
    x = np.random.default_rng(1).uniform(-4, 4, (40,))
    others = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(theirs, PARAMS))
    at = jax.jit(lambda s, p, x: (
        (SPLINE.forward(x, p), SPLINE.inverse(x, p)),
        jax.vmap(lambda s, x: (s.transform_and_log_det(x), s.inverse_and_log_det(x)))(s, x),
    ))  # fmt: skip
    ours, others = at(others, PARAMS, x)
    chex.assert_trees_all_close(ours, others, rtol=1e-10, atol=1e-10)
    assert abs(ours[0][0] - x).max() > 0.1


@pytest.mark.usefixtures("x64")
def test_the_inverse_is_the_root():
    forward = jax.jit(SPLINE.forward)
    y = np.linspace(-2.9, 2.9, 7)
    for i, target in enumerate(y):
        root = scipy.optimize.brentq(
            lambda x, i=i, target=target: float(forward(x, PARAMS[i])[0]) - target,
            -3, 3, xtol=1e-13, rtol=1e-13,
        )  # fmt: skip
        np.testing.assert_allclose(SPLINE.inverse(target, PARAMS[i])[0], root, atol=1e-11)


def test_a_spline_is_monotone_and_finite_everywhere_gradients_included():
    """Far outside, on the ends and on the knots, at parameters that saturate the softmax."""
    knots = jnp.linspace(-3.0, 3.0, 6)
    x = jnp.sort(
        jnp.concatenate([knots, jnp.array([-1e30, -3.1, 3.1, 1e30]), jnp.linspace(-3, 3, 301)])
    )
    for params in (jnp.zeros(SPLINE.num_params), jnp.asarray(30 * PARAMS[0], jnp.float32)):
        for direction in (SPLINE.forward, SPLINE.inverse):

            def both(x, params, direction=direction):
                return jnp.stack(direction(x, params))

            image, log_slope = jax.jit(jax.vmap(both, (0, None), 1))(x, params)
            assert (jnp.diff(image) >= 0).all()
            assert jnp.isfinite(log_slope).all()
            slopes = jax.jit(jax.vmap(jax.jacrev(both, (0, 1)), (0, None)))(x, params)
            chex.assert_tree_all_finite(slopes)
            assert (slopes[0][jnp.array([0, 1, -2, -1])] == jnp.array([1.0, 0.0])).all()


@pytest.mark.parametrize("transformer", [affine(), SPLINE, composed(SPLINE, affine())], ids=repr)
def test_a_transformer_of_zeros_is_the_identity(transformer):
    x = jnp.linspace(-4.0, 4.0, 33)
    zeros = jnp.zeros((33, transformer.num_params))
    for direction in (transformer.forward, transformer.inverse):
        y, log_slope = direction(x, zeros)
        chex.assert_trees_all_close((y, log_slope), (x, jnp.zeros(33)), atol=1e-6)


def test_flows_made_alike_share_one_program():
    """Their structure is compared by value, transformers and solvers included."""
    for make_one in (
        lambda: coupling(2, num_layers=2, transformer=composed(spline(), affine()), hidden=(8,),
                         rngs=RNGS),
        lambda: continuous(2, hidden=(8,), rngs=RNGS),
    ):  # fmt: skip
        first, second = jax.tree.structure(make_one()), jax.tree.structure(make_one())
        assert first == second
        assert hash(first) == hash(second)


def test_inverted_exchanges_and_sequence_composes():
    flow = perturbed(make("coupling-affine", C), 1)
    x, context = jnp.ones((5, D)), context_of(C)
    chex.assert_trees_all_equal(
        vi.flows.inverted(flow).forward(x, context), flow.inverse(x, context)
    )
    back = vi.flows.sequence(flow, vi.flows.inverted(flow))
    y, log_det = jax.jit(back.forward)(x, context)
    chex.assert_trees_all_close((y, log_det), (x, jnp.zeros(5)), atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_planar_layers_stay_invertible(monkeypatch):
    """The Jacobian keeps its sign with u against w, beyond the constraint; without it, it flips."""
    flow = make("planar")
    w = flow.free[:, D : 2 * D]
    flow.free[...] = flow.free[...].at[:, :D].set(-3 * w / (w**2).sum(-1, keepdims=True))

    def signs():
        jacobian = jax.vmap(jax.jacfwd(lambda x: flow.forward(x)[0]))(points(200))
        return jnp.linalg.slogdet(jacobian)[0]

    assert (jax.jit(signs)() == 1).all()
    unconstrained = lambda u, w: (u, (u * w).sum(-1, keepdims=True))  # noqa: E731
    monkeypatch.setattr("vi.flows._planar._constrained", unconstrained)
    assert (jax.jit(lambda: signs())() == -1).any()


def test_a_step_controller_solves_each_entry_by_itself():
    import diffrax

    controller = diffrax.PIDController(rtol=1e-5, atol=1e-5)
    adaptive = continuous(2, hidden=(8,), controller=controller, rngs=nnx.Rngs(0))
    fixed = continuous(2, hidden=(8,), num_steps=8, rngs=nnx.Rngs(0))
    x = jnp.array([[1.0, -2.0], [40.0, 3.0]])

    def at(flow, x):
        return flow.forward(x)

    a, b = jax.jit(at)(perturbed(adaptive, 0, 1.0), x), jax.jit(at)(perturbed(fixed, 0, 1.0), x)
    chex.assert_trees_all_close(a, b, atol=1e-3)
    alone = jax.jit(at)(perturbed(adaptive, 0, 1.0), x.at[1].set(0.0))
    chex.assert_trees_all_equal(alone[0][0], a[0][0])


def test_what_does_not_fit_is_refused_by_name():
    layers = {"num_layers": 2, "transformer": affine(), "hidden": (8,), "rngs": RNGS}
    plain, conditional = coupling(2, **layers), coupling(2, **layers, context_size=3)
    base, context = normal(size=2), jnp.ones(3)
    inverse = planar(2, num_layers=2, rngs=RNGS)
    for message, call in {
        r"coupling: size must be even \(got 3\); use vi.flows.autoregressive, or pad":
            lambda: coupling(3, **layers),
        r"coupling: num_layers must be an integer of at least 1 \(got 0\)":
            lambda: coupling(2, **(layers | {"num_layers": 0})),
        r"coupling: transformer must be a transformer \(got <function affine":
            lambda: coupling(2, **(layers | {"transformer": affine})),
        r"autoregressive: hidden must name at least one layer \(got \(\)\)":
            lambda: autoregressive(2, **(layers | {"hidden": ()})),
        r"autoregressive: hidden must be at least 4 wide \(got \(8, 3\)\); with fewer units than":
            lambda: autoregressive(5, **(layers | {"hidden": (8, 3)})),
        r"autoregressive: hidden must be at least 5 wide \(got \(4,\)\)":
            lambda: autoregressive(5, **(layers | {"hidden": (4,)}), context_size=2),
        r"coupling: rngs must be where initial weights come from \(got 0\); pass flax.nnx.Rngs\(se":
            lambda: coupling(2, **(layers | {"rngs": 0})),
        r"autoregressive: rngs must be where": lambda: autoregressive(2, **(layers | {"rngs": 0})),
        r"planar: rngs must be where": lambda: planar(2, num_layers=2, rngs=jax.random.key(0)),
        r"continuous: rngs must be where": lambda: continuous(2, hidden=(8,), rngs=None),
        r"coupling: base must be a NumPyro .* event shape \[2\] \(got event shape \[\]\)":
            lambda: plain(dist.Normal(jnp.zeros(2), 1.0)),
        r"coupling: base must be a NumPyro .* event shape \[2\] \(got event shape \[3\]\)":
            lambda: plain(normal(size=3)),
        r"coupling: context must be None \(got shape \[3\]\); make it with context_size=C":
            lambda: plain(base, context),
        r"coupling: context must be given, with a last axis of 3 \(got None\)":
            lambda: conditional(base),
        r"coupling: context must have a last axis of 3 \(got shape \[4\]\)":
            lambda: conditional(base, jnp.ones(4)),
        r"context must have the batch of the base \(got \[5\] against \[\]\); base.expand\(batch":
            lambda: conditional(base, jnp.ones((5, 3))),
        r"coupling: context must have the batch of the base \(got \[\] against \[5\]\)":
            lambda: conditional(normal((5,), 2), context),
        r"coupling: x must have a last axis of 2 \(got shape \[3\]\)":
            lambda: plain.forward(jnp.ones(3)),
        r"coupling: context must have the batch of y \(got \[5\] against \[4\]\)":
            lambda: conditional.inverse(jnp.ones((4, 2)), jnp.ones((5, 3))),
        r"planar: has no inverse in closed form, so that given points have no log_prob":
            lambda: inverse(base).log_prob(jnp.ones(2)),
        r"inverted: flow must be a flow \(got Normal\)":
            lambda: vi.flows.inverted(dist.Normal(0, 1)),
        r"sequence: flows must have one size \(got \[2, 4\]\)":
            lambda: vi.flows.sequence(plain, make("coupling-affine")),
        r"sequence: flows must be at least one": vi.flows.sequence,
        r"sequence: flows must have one context size, or 0 \(got \[3, 2\]\)":
            lambda: vi.flows.sequence(conditional, coupling(2, **layers, context_size=2)),
        r"spline: num_bins must be an integer of at least 2": lambda: spline(num_bins=1),
        r"spline: bound must be one positive number \(got -1\)": lambda: spline(bound=-1),
        r"spline: min_width must be below 0.125 \(got 0.2\)": lambda: spline(min_width=0.2),
        r"affine: max_log_scale must be one positive number": lambda: affine(max_log_scale=0.0),
        r"composed: transformers must be at least one": composed,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()


def test_a_flow_that_is_not_called_is_refused_as_q():
    flow = make("coupling-affine")
    for estimator in (vi.gradients.dreg, vi.gradients.vimco):
        message = f"{estimator.__name__}: q must have sample and log_prob .got Coupling.*flow.base"
        with pytest.raises(ValueError, match=message):
            estimator(vi.bounds.elbo)(jax.random.key(0), flow, lambda z: z[..., 0], 2)


@pytest.mark.parametrize(("size", "context_size"), [(1, 0), (1, 2), (2, 0), (5, 0), (5, 2)])
def test_the_narrowest_networks_taken_see_all_that_comes_before(size, context_size):
    """And one unit fewer does not."""

    def seen(width):
        net = vi.networks.MaskedMLP(size, (width, width), 1, context_size=context_size, rngs=RNGS)
        context = context_of(context_size)
        slopes = jax.jacobian(lambda x, c: net(x, c)[..., 0], (0, 1)[: 1 + bool(context_size)])
        of_x, *of_context = slopes(jnp.linspace(-1.0, 1.0, size), context)
        return (
            all((np.asarray(s) != 0).all() for s in of_context)
            and ((np.asarray(of_x) != 0) == np.tri(size, k=-1, dtype=bool)).all()
        )

    least = vi.networks.MaskedMLP.least_width(size, context_size)
    assert seen(least)
    assert least == 1 or not seen(least - 1)


def test_one_coupling_layer_is_the_base_and_a_law_given_it():
    """So that it is a building block: the first half is not moved, the second is."""
    layers = {"num_layers": 1, "transformer": affine(), "hidden": (8,), "rngs": RNGS}
    x = points(20)
    y, log_det = perturbed(coupling(D, **layers), 0).forward(x)
    np.testing.assert_array_equal(y[:, : D // 2], x[:, : D // 2])
    assert abs(y - x)[:, D // 2 :].min() > 1e-4
    assert jnp.abs(log_det).max() > 1e-3


def test_without_diffrax_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffrax", None)
    with pytest.raises(ImportError, match=r"continuous: needs diffrax; pip install 'vi\[ode\]'"):
        continuous(2, hidden=(8,), rngs=RNGS)


def test_planars_log_determinant_keeps_its_digits_where_a_layer_nearly_folds():
    """At w^T u = -18, on the plane: log softplus(-18 + log(e - 1)) = -17.4587."""
    flow = planar(2, num_layers=1, rngs=RNGS)
    flow.free[...] = jnp.array([[-18.0, 0.0, 1.0, 0.0, 0.0]])
    value, gradient = jax.value_and_grad(lambda x: flow.forward(x)[1])(jnp.zeros(2))
    np.testing.assert_allclose(value, -17.4587, atol=1e-4)
    assert jnp.isfinite(gradient).all()


def test_a_base_is_continuous_and_has_a_path_where_one_is_asked_for():
    flow = planar(2, num_layers=1, rngs=RNGS)
    bits = vi.families.bernoulli(jnp.zeros(2))
    with pytest.raises(ValueError, match="planar: base must be continuous"):
        flow(bits)
    components = normal((3,), size=2)
    mixed = dist.MixtureSameFamily(dist.Categorical(logits=jnp.zeros(3)), components)
    with pytest.raises(ValueError, match="flow: base must be reparameterised"):
        flow(mixed).rsample_and_log_prob(jax.random.key(0), (2,))
