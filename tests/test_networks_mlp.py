"""The perceptrons: by hand, masked, at every shape, and what they refuse."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vi.networks import MLP, MaskedMLP

X = jnp.asarray(np.random.default_rng(0).normal(size=(7, 4, 3)), jnp.float32)
CONTEXT = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5)), jnp.float32)


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_an_mlp_is_its_equation(hidden):
    net = MLP(3, hidden, 2, context_size=5, rngs=nnx.Rngs(0))
    h = X @ net.layers[0].kernel[...] + net.layers[0].bias[...] + CONTEXT @ net.project.kernel[...]
    for layer in net.layers[1:]:
        h = np.tanh(h) @ layer.kernel[...] + layer.bias[...]
    chex.assert_trees_all_close(net(X, CONTEXT), h, atol=1e-6)


@pytest.mark.parametrize("context_size", [0, 5])
@pytest.mark.parametrize(("size", "hidden"), [(1, (3,)), (3, (4, 7)), (6, (4,))])
def test_a_masked_mlp_is_autoregressive(size, hidden, context_size):
    """The outputs of dimension d follow x before d, all of them where there are units enough."""
    net = MaskedMLP(size, hidden, 2, context_size=context_size, rngs=nnx.Rngs(0))
    context = CONTEXT[0] if context_size else None
    x = jnp.linspace(-1.0, 1.0, size)
    jacobian = jax.jit(jax.jacobian(lambda x: net(x, context)))(x)
    assert jacobian.shape == (size, 2, size)
    reach = (jacobian != 0).any(1)
    before = np.tri(size, k=-1, dtype=bool)
    assert not (reach & ~before).any()
    if all(width >= size for width in hidden):
        assert (reach == before).all()
    if context_size:
        by_context = jax.jit(jax.jacobian(lambda c: net(x, c)))(context)
        assert (by_context != 0).any((1, 2)).all()


def test_one_dimension_at_a_time_is_the_whole():
    net = MaskedMLP(3, (6, 4), 2, context_size=5, rngs=nnx.Rngs(0))
    weights, biases = net.heads()
    each = jnp.einsum("...h,dhp->...dp", net.features(X, CONTEXT), weights) + biases
    chex.assert_trees_all_close(each, net(X, CONTEXT), atol=1e-6)


def test_an_unmasked_kernel_is_seen():
    """The twin: the same weights without masks reach dimensions that come after."""
    net = MaskedMLP(3, (6,), 1, rngs=nnx.Rngs(0))
    whole = jax.jacobian(
        lambda x: jnp.tanh(x @ net.layers[0].kernel[...]) @ net.layers[1].kernel[...]
    )
    assert (jnp.triu(whole(jnp.ones(3))) != 0).any()


def test_shapes_types_and_the_pytree():
    for net, tail in (
        (MLP(3, (6,), 2, context_size=5, rngs=nnx.Rngs(0)), (2,)),
        (MaskedMLP(3, (6,), 2, context_size=5, rngs=nnx.Rngs(0)), (3, 2)),
    ):
        y = jax.jit(lambda net, x, c: net(x, c))(net, X, CONTEXT)
        assert (y.shape, y.dtype) == ((7, 4, *tail), jnp.float32)
        mapped = jax.vmap(net, (1, 0), 1)(X, CONTEXT)
        chex.assert_trees_all_close(mapped, y, atol=1e-6)
        chex.assert_trees_all_close(net(X, CONTEXT), y, atol=1e-6)
        assert not jax.tree.leaves(nnx.state(net, nnx.Not(nnx.Param)))
    zero = MLP(3, (6,), 2, out_kernel_init=jax.nn.initializers.zeros, rngs=nnx.Rngs(0))
    assert (zero(X) == 0).all()


@pytest.mark.usefixtures("x64")
def test_parameters_have_the_default_float_type():
    for net in (MLP(3, (6,), 2, rngs=nnx.Rngs(0)), MaskedMLP(3, (6,), 2, rngs=nnx.Rngs(0))):
        assert {leaf.dtype for leaf in jax.tree.leaves(net)} == {jnp.dtype("float64")}


@pytest.mark.parametrize("kind", [MLP, MaskedMLP])
def test_what_does_not_fit_is_refused_by_name(kind):
    rngs, sizes = nnx.Rngs(0), (3, (6,), 2)
    plain, conditional = kind(*sizes, rngs=rngs), kind(*sizes, context_size=5, rngs=rngs)
    for message, call in {
        "hidden must ": lambda: kind(3, 6, 2, rngs=rngs),
        "hidden must be an integer": lambda: kind(3, (0,), 2, rngs=rngs),
        "x must have a last axis of 3": lambda: plain(jnp.ones(4)),
        "context must be None": lambda: plain(X, CONTEXT),
        "context must be given, with a last axis of 5": lambda: conditional(X),
        "context must have a last axis of 5": lambda: conditional(X, X[0]),
        r"context must have the batch of x \(got \[7, 1\] against":
            lambda: conditional(X, jnp.ones((7, 1, 5))),
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
            call()
