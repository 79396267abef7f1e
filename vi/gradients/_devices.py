"""K split over the devices of one mesh axis, inside ``jax.shard_map``."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vi._check import refusal


class Split(NamedTuple):
    """How many of the K draws are this device's, and how their results meet.

    Without an axis there is one device, and every method hands on what it is given.
    """

    axis_name: str | None
    num_devices: int
    size: int

    def first_chunk(self, chunks: int):
        """The number of this device's first chunk, each of them having so many."""
        return 0 if self.axis_name is None else jax.lax.axis_index(self.axis_name) * chunks

    def spread(self, key):
        """The key with a type that differs between devices, as what is folded into it does."""
        if self.axis_name is None or self.axis_name in _varying(key):
            return key
        return jax.lax.pcast(key, self.axis_name, to="varying")

    def gather(self, log_w):
        """The log-weights of all devices, ``[K, *batch]``, the same on each.

        A sum of blocks that are 0 elsewhere: an all-gather is not known to agree on all devices.
        """
        if self.axis_name is None:
            return log_w
        everywhere = jnp.zeros((self.num_devices, *log_w.shape), log_w.dtype)
        mine = everywhere.at[jax.lax.axis_index(self.axis_name)].set(log_w)
        return jax.lax.psum(mine, self.axis_name).reshape(-1, *log_w.shape[1:])

    def own(self, coefficients):
        """This device's rows of what was computed from all log-weights."""
        if self.axis_name is None:
            return coefficients
        start = jax.lax.axis_index(self.axis_name) * self.size
        return jax.tree.map(
            lambda c: jax.lax.dynamic_slice_in_dim(c, start, self.size), coefficients
        )

    def total(self, tangent):
        """The sum over devices."""
        return tangent if self.axis_name is None else jax.lax.psum(tangent, self.axis_name)


def split_over(name: str, axis_name: str | None, num_samples: int) -> Split:
    """Divide K by the size of the mesh axis; refuse what cannot be divided."""
    if axis_name is None:
        return Split(None, 1, num_samples)
    remedy = "call it inside jax.shard_map over a mesh with that axis"
    try:
        num_devices = jax.lax.axis_size(axis_name)
    except NameError:
        rule = "name an axis of the mesh around the call"
        raise refusal(name, "axis_name", rule, repr(axis_name), remedy) from None
    if axis_name not in _varying(jax.lax.axis_index(axis_name)):
        rule = "be an axis of a jax.shard_map that knows what differs between devices"
        remedy = "leave check_vma on; vmap and pmap axes do not qualify"
        raise refusal(name, "axis_name", rule, repr(axis_name), remedy)
    if num_samples % num_devices:
        rule = f"be a multiple of the {num_devices} devices of axis {axis_name!r}"
        more = -(-num_samples // num_devices) * num_devices
        raise refusal(name, "num_samples", rule, num_samples, f"draw {more}")
    if num_devices == 1:
        return Split(None, 1, num_samples)
    return Split(axis_name, num_devices, num_samples // num_devices)


def _varying(value) -> frozenset[str]:
    """The mesh axes along which a value differs between devices."""
    return jax.typeof(value).mat.varying
