"""What every experiment on images does first."""

from typing import Any

from jaxtyping import Array, Float

from experiments._data import Images, load_images
from experiments._evaluate import held_out_bits


def bits_of(config: Any) -> tuple[Images, Float[Array, "M pixels"]]:
    """The images of ``--data``, and the fixed bits of those to score; refused by flag."""
    images = images_of(config)
    return images, held_out_bits(images, config.test_images)


def images_of(config: Any) -> Images:
    """The images of ``--data``, at least as many to train on as ``--batch-size``."""
    images = load_images(config.data, data_dir=config.data_dir, download=config.download)
    if config.batch_size > (most := len(images.train)):
        rule = f"be at most the {most} training images"
        raise ValueError(f"--batch-size must {rule} (got {config.batch_size}); try {most}")
    return images
