"""Sprites of 16 x 16 bits, a full grid of five factors, rendered here: what was varied is known.

No shape is taken into itself by a rotation, and orientation spans a quarter turn, so that every
factor can be read off the image and none is a circle, which one code could not hold.
"""

import itertools
from typing import NamedTuple

import numpy as np

from experiments._data import Images

SIDE = 16
FINE = 8  # samples across a pixel; it is white where at least half of them are inside
FACTORS: dict[str, tuple] = {
    "shape": ("triangle", "half disc", "L"),
    "size": (3.0, 3.8, 4.7, 5.6),  # pixels, the radius of the circle around it
    "orientation": (-45.0, -22.5, 0.0, 22.5, 45.0),  # degrees
    "x": tuple(np.linspace(5.6, 10.4, 8)),  # pixels, the centre of that circle
    "y": tuple(np.linspace(5.6, 10.4, 8)),
}
TEST_SHARE = 5  # one image in so many is held out


class Sprites(NamedTuple):
    """The images to train and score on, and the whole grid that they are a split of."""

    images: Images
    grid: np.ndarray  # [N, 256], uint8 0 or 255
    factors: np.ndarray  # [N, 5], which value of each factor

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each factor has."""
        return tuple((self.factors.max(0) + 1).tolist())


def load_sprites(per_factor: int | None = None) -> Sprites:
    """The grid over the first ``per_factor`` values of each factor, all for None, and its split.

    One in five is held out, by a permutation that is always the same; a label is the shape.
    """
    values = [held[:per_factor] for held in FACTORS.values()]
    factors = np.array(list(itertools.product(*(range(len(held)) for held in values))))
    grid = render(*(np.array(held)[index] for held, index in zip(values, factors.T, strict=True)))
    order = np.random.default_rng(0).permutation(len(grid))
    test, train = np.split(order, [len(grid) // TEST_SHARE])
    labels = factors[:, 0]
    images = Images("sprites", grid[train], grid[test], labels[train], labels[test], (SIDE, SIDE))
    return Sprites(images, grid, factors)


def render(
    shape: np.ndarray, size: np.ndarray, orientation: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Sprites ``[N, 256]`` of 0 and 255, of the factors' values ``[N]``; y goes down."""
    at = (np.arange(SIDE * FINE) + 0.5) / FINE
    sprites = np.empty((len(shape), SIDE, SIDE), np.uint8)
    turn = np.deg2rad(orientation)
    for i, (name, radius) in enumerate(zip(shape, size, strict=True)):
        right, down = (at - x[i])[None, :] / radius, (at - y[i])[:, None] / radius
        u = np.cos(turn[i]) * right + np.sin(turn[i]) * down
        v = np.cos(turn[i]) * down - np.sin(turn[i]) * right
        share = _inside(name, u, v).reshape(SIDE, FINE, SIDE, FINE).mean((1, 3))
        sprites[i] = 255 * (share >= 0.5)
    return sprites.reshape(len(shape), -1)


def _inside(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points are in the shape that a unit circle surrounds, v down."""
    if name == "triangle":
        return (v <= 0.8) & (np.abs(u) <= 0.7 * (v + 1) / 1.8)
    if name == "half disc":
        return (u**2 + v**2 <= 1) & (v <= 0)
    legs = (np.abs(u) <= 0.7) & (np.abs(v) <= 0.7)
    return legs & ~((u > -0.1) & (v < 0.1))
