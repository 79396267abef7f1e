"""Networks: any leading axes, every parameter alive, and each layer what it says it is."""

import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vi.networks import (
    BidirectionalEncoder,
    ConvDecoder,
    ConvEncoder,
    GatedMLP,
    RecurrentDecoder,
    RecurrentEncoder,
    ResidualMLP,
)

SEED = 0


def rngs():
    return nnx.Rngs(SEED)


NETWORKS = {  # how to make it, how to call it, the input's own axes and the output's
    "gated": (lambda: GatedMLP(3, (6, 5), 2, rngs=rngs()), None, (3,), (2,)),
    "residual": (lambda: ResidualMLP(3, 6, 2, num_blocks=2, rngs=rngs()), None, (3,), (2,)),
    "encoder of images": (
        lambda: ConvEncoder((5, 6, 2), (4, 3), 2, rngs=rngs()), None, (5, 6, 2), (2,),
    ),
    "decoder of images": (
        lambda: ConvDecoder(3, (4, 3), (5, 6, 2), rngs=rngs()), None, (3,), (5, 6, 2),
    ),
    "states": (
        lambda: RecurrentEncoder(3, 4, rngs=rngs()), lambda net, x: net(x)[0], (5, 3), (5, 4),
    ),
    "last state": (
        lambda: RecurrentEncoder(3, 4, rngs=rngs()), lambda net, x: net(x)[1], (5, 3), (4,),
    ),
    "both ways": (
        lambda: BidirectionalEncoder(3, 4, rngs=rngs()), lambda net, x: net(x)[0], (5, 3), (5, 8),
    ),
    "both last states": (
        lambda: BidirectionalEncoder(3, 4, rngs=rngs()), lambda net, x: net(x)[1], (5, 3), (8,),
    ),
    "decoder of sequences": (
        lambda: RecurrentDecoder(3, 4, 2, rngs=rngs()), lambda net, x: net(x, 5), (3,), (5, 2),
    ),
}  # fmt: skip
each = pytest.mark.parametrize("name", NETWORKS)


def parts(name):
    make, call, inner, outer = NETWORKS[name]
    return make(), call or (lambda net, x: net(x)), inner, outer


@each
def test_leading_axes_are_mapped_over(name):
    net, call, inner, outer = parts(name)
    x = jax.random.normal(jax.random.key(1), (2, 3, *inner))
    out = jax.jit(call)(net, x)
    assert out.shape == (2, 3, *outer)
    mapped = jax.jit(jax.vmap(jax.vmap(call, (None, 0)), (None, 0)))(net, x)
    chex.assert_trees_all_close(mapped, out, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(call(net, x[0, 0]), out[0, 0], rtol=1e-5, atol=1e-6)
    assert jax.eval_shape(lambda: call(net, jnp.ones((7, 2, 3, *inner)))).shape[:3] == (7, 2, 3)


@each
def test_every_parameter_and_every_input_moves_every_output(name):
    net, call, inner, outer = parts(name)
    x = jax.random.normal(jax.random.key(1), (16, *inner))
    mix = jax.random.normal(jax.random.key(2), (16, *outer))
    gradient = jax.jit(jax.grad(lambda net, x: (mix * call(net, x)).sum()))(net, x)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert (leaf != 0).all(), jax.tree_util.keystr(path)
    if name in ("states", "both ways"):  # of the past or of the future: see below
        return
    jacobian = jax.jit(jax.jacobian(lambda x: call(net, x)))(x[0])
    assert (jacobian != 0).all()


@pytest.mark.usefixtures("x64")
@each
def test_float64_is_kept(name):
    net, call, inner, _ = parts(name)
    assert jax.eval_shape(lambda: call(net, jnp.ones(inner))).dtype == jnp.float64
    assert {leaf.dtype for leaf in jax.tree.leaves(net)} == {jnp.dtype(jnp.float64)}


def test_gates_by_hand():
    net = NETWORKS["gated"][0]()
    h = x = np.linspace(-2, 2, 12).reshape(4, 3)
    for value, gate in zip(net.values, net.gates, strict=True):
        through = h @ value.kernel[...] + value.bias[...]
        h = through / (1 + np.exp(-(h @ gate.kernel[...] + gate.bias[...])))
    by_hand = h @ net.last.kernel[...] + net.last.bias[...]
    np.testing.assert_allclose(net(jnp.asarray(x)), by_hand, rtol=1e-5)
    ungated = GatedMLP(3, (6, 5), 2, gate=jnp.ones_like, rngs=rngs())
    assert abs(ungated(jnp.asarray(x)) - by_hand).max() > 0.1


def test_residual_blocks_by_hand():
    net = ResidualMLP(3, 6, 2, num_blocks=2, activation=jnp.tanh, rngs=rngs())
    x = np.linspace(-2, 2, 12).reshape(4, 3)

    def affine(layer, h):
        return h @ layer.kernel[...] + layer.bias[...]

    h = affine(net.first, x)
    for inner, outer in net.blocks:
        h = h + affine(outer, np.tanh(affine(inner, np.tanh(h))))
    np.testing.assert_allclose(net(jnp.asarray(x)), affine(net.last, np.tanh(h)), rtol=1e-4)


def test_recurrence_is_flaxs_cell_unrolled():
    net = RecurrentEncoder(3, 4, rngs=rngs())
    cell = nnx.GRUCell(3, 4, rngs=nnx.Rngs(1))
    cell.dense_i.kernel[...], cell.dense_i.bias[...] = net.inward.kernel[...], jnp.arange(12.0)
    net.inward.bias[...] = jnp.arange(12.0)
    cell.dense_h.kernel[...] = net.recur.kernel[...]
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    state, states = jnp.zeros((2, 4)), []
    for t in range(5):
        state, out = cell(state, x[:, t])
        states.append(out)
    ours, final = net(x)
    chex.assert_trees_all_close(ours, jnp.stack(states, 1), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(final, state, rtol=1e-5, atol=1e-6)


def test_states_see_the_past_and_both_ways_see_all():
    """State t of the encoder is a function of the first t inputs, and of each of them."""
    x = jax.random.normal(jax.random.key(0), (5, 3))

    def seen(net):
        slopes = jax.jit(jax.jacobian(lambda x: net(x)[0]))(x)
        return (slopes != 0).all((1, 3))

    np.testing.assert_array_equal(seen(RecurrentEncoder(3, 4, rngs=rngs())), np.tri(5, dtype=bool))
    net = BidirectionalEncoder(3, 4, rngs=rngs())
    past, future = jnp.split(net(x)[0], 2, axis=-1)
    chex.assert_trees_all_close(past, net.forwards(x)[0])
    chex.assert_trees_all_close(future, net.backwards(x[::-1])[0][::-1])
    chex.assert_trees_all_close(net(x)[1], jnp.concatenate([past[-1], future[0]]))


def test_a_decoder_starts_from_its_input():
    net = RecurrentDecoder(3, 4, 2, rngs=rngs())
    z = jax.random.normal(jax.random.key(0), (3,))
    state = jnp.tanh(z @ net.start.kernel[...] + net.start.bias[...])
    inward = z @ net.inward.kernel[...] + net.inward.bias[...]
    outputs = []
    for _ in range(4):
        r, u, n = jnp.split(inward, 3)
        rh, uh, nh = jnp.split(state @ net.recur.kernel[...], 3)
        u = jax.nn.sigmoid(u + uh)
        state = (1 - u) * jnp.tanh(n + jax.nn.sigmoid(r + rh) * nh) + u * state
        outputs.append(net.last(state))
    chex.assert_trees_all_close(net(z, 4), jnp.stack(outputs), rtol=1e-5, atol=1e-6)


def test_every_pixel_is_seen_and_drawn():
    """Whatever the sides, each pixel moves the code, and each code every pixel."""
    for height, width in itertools.product((4, 7), repeat=2):
        image = jax.random.normal(jax.random.key(0), (height, width, 1))
        encoder = ConvEncoder((height, width, 1), (2, 2), 3, activation=jnp.tanh, rngs=rngs())
        decoder = ConvDecoder(3, (2, 2), (height, width, 1), activation=jnp.tanh, rngs=rngs())
        seen = jax.jit(jax.jacobian(encoder))(image)
        drawn = jax.jit(jax.jacobian(decoder))(jnp.ones(3))
        assert (seen != 0).all()
        assert (drawn != 0).all()


REFUSALS = {
    "a size of 0": (
        lambda: GatedMLP(3, (0,), 2, rngs=rngs()),
        "GatedMLP: hidden must be an integer of at least 1 (got 0)",
    ),
    "another input": (
        lambda: NETWORKS["gated"][0]()(jnp.ones((4, 2))),
        "GatedMLP: x must have a last axis of 3 (got shape [4, 2])",
    ),
    "no blocks": (
        lambda: ResidualMLP(3, 6, 2, num_blocks=0, rngs=rngs()),
        "ResidualMLP: num_blocks must be an integer of at least 1 (got 0)",
    ),
    "a flat image": (
        lambda: ConvEncoder((28, 28), (4,), 2, rngs=rngs()),
        "ConvEncoder: image_shape must be (H, W, C) (got (28, 28))",
    ),
    "an image without channels": (
        lambda: NETWORKS["encoder of images"][0]()(jnp.ones((7, 5, 6))),
        "ConvEncoder: x must have last axes [5, 6, 2] (got shape [7, 5, 6])",
    ),
    "a kernel that skips pixels": (
        lambda: ConvEncoder((5, 6, 2), (4,), 2, kernel_size=1, rngs=rngs()),
        "ConvEncoder: kernel_size must be an integer of at least 2 (got 1)",
    ),
    "no channels": (
        lambda: ConvDecoder(3, (), (5, 6, 2), rngs=rngs()),
        "ConvDecoder: channels must have at least one entry (got none)",
    ),
    "another code": (
        lambda: NETWORKS["decoder of images"][0]()(jnp.ones(4)),
        "ConvDecoder: x must have a last axis of 3 (got shape [4])",
    ),
    "no time": (
        lambda: RecurrentEncoder(3, 4, rngs=rngs())(jnp.ones(3)),
        "RecurrentEncoder: x must have an axis of time, of at least one step (got shape [3])",
    ),
    "no steps": (
        lambda: BidirectionalEncoder(3, 4, rngs=rngs())(jnp.ones((2, 0, 3))),
        "BidirectionalEncoder: x must have an axis of time, of at least one step",
    ),
    "other features": (
        lambda: RecurrentEncoder(3, 4, rngs=rngs())(jnp.ones((5, 2))),
        "RecurrentEncoder: x must have a last axis of 3 (got shape [5, 2])",
    ),
    "no steps to decode": (
        lambda: RecurrentDecoder(3, 4, 2, rngs=rngs())(jnp.ones(3), 0),
        "RecurrentDecoder: num_steps must be an integer of at least 1 (got 0)",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name):
    call, message = REFUSALS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
