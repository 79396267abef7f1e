"""Steps, losses and evaluations that return the wrong thing are told so, in the house form."""

import jax
import jax.numpy as jnp
import optax
import pytest

from vi.training import fit, gradient_step, init, run

OPTIMIZER = optax.sgd(0.1)
DATA = jnp.arange(10.0)


def take(step, take_steps=run, **options):
    state = init(jnp.zeros(()), OPTIMIZER)
    return take_steps(jax.random.key(0), step, state, DATA, num_steps=4, batch_size=2, **options)


def quadratic(w, key, x):
    return ((w - x) ** 2).mean()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (None, r"step must be a function \(got None\); make one with gradient_step"),
        (lambda s, k, b: s, r"step: it must return \(state, metrics\) \(got State\)"),
        (lambda s, k, b: (s, None), r"step: metrics must contain loss \(got NoneType\)"),
        (lambda s, k, b: (s, {}), r"step: metrics must contain loss \(got names \[\]\)"),
        (gradient_step(lambda w, k, x: None, OPTIMIZER), r"loss must return a scalar \(got None\)"),
    ],
)
@pytest.mark.parametrize("take_steps", [run, fit], ids=["run", "fit"])
def test_wrong_steps(step, message, take_steps):
    with pytest.raises(ValueError, match=message):
        take(step, take_steps)


def test_an_evaluation_that_changes_its_names_is_refused_at_once():
    at = []

    def evaluate(key, state):
        at.append(int(state.step))
        return {f"score{len(at)}": 0.0}

    with pytest.raises(ValueError, match="evaluate must return the same names and shapes"):
        take(gradient_step(quadratic, OPTIMIZER), fit, evaluate=evaluate, eval_every=1)
    assert at == [1, 2]
