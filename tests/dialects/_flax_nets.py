"""Flax models that the tests of the dialect share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from evenkeel.dialects import flax as dialect

#: Unit round-off of float32.
U = 2.0**-24


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.up = nnx.ConvTranspose(4, 6, (3, 3), strides=(2, 2), rngs=rngs)
        self.group = nnx.GroupNorm(6, 3, rngs=rngs)
        self.slope = nnx.PReLU()
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.body = nnx.Sequential(nnx.Linear(6, 5, rngs=rngs), nnx.LayerNorm(5, rngs=rngs))
        self.more = nnx.List([nnx.Linear(5, 5, rngs=rngs)])
        self.gain = nnx.Param(jnp.ones(5))

    def __call__(self, x):
        x = self.up(nnx.relu(self.norm(self.stem(x))))
        x = self.drop(self.slope(self.group(x)))
        x = self.more[0](self.body(x.mean(1)))
        return self.more[0](x) * self.gain


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(4, (3, 3), strides=2, name="stem")(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = linen.ConvTranspose(6, (3, 3), strides=(2, 2), name="up")(linen.relu(x))
        x = linen.PReLU(name="slope")(linen.GroupNorm(3, name="group")(x))
        x = linen.Dropout(0.5, deterministic=not train)(x)
        x = linen.LayerNorm(name="body/1")(linen.Dense(5, name="body")(x.mean(1)))
        again = linen.Dense(5, name="more")
        return again(again(x)) * self.param("gain", linen.initializers.ones, (5,))


def picture(n: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(0.5, 2, (n, 8, 8, 3)).astype(np.float32)


def nnx_net():
    return NnxNet(nnx.Rngs(0))


def linen_net():
    module = LinenNet()
    return module, module.init(jax.random.key(0), picture(2), train=False)


NETS = pytest.mark.parametrize("make", [nnx_net, linen_net], ids=["nnx", "linen"])


def half_square(output):
    return 0.5 * float(np.square(output).sum()), output


def values(network) -> dict:
    return {x.name: {r: a.read() for r, a in x.arrays.items()} for x in network.layers()}


def opened(model):
    """The network after its first input, from which Linen's layers are known."""
    network = dialect.open_network(model)
    network.canonical_inputs(picture())
    return network


def randomized(network) -> None:
    """Nothing is as a fresh model has it; also what stands still in a fresh model shows."""
    generator = np.random.default_rng(1)
    new = {
        name: {
            role: array + generator.uniform(0.1, 0.4, array.shape).astype(array.dtype)
            for role, array in roles.items()
        }
        for name, roles in values(network).items()
    }
    for roles in new.values():
        if roles.get("bias", np.zeros(1)).ndim == 2:
            roles["bias"][1, 8:] = 0  # NNX's GRU cell has no such bias
    network.write(new)
