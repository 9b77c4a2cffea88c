"""Writes the files beside it with real Flax: ``python tests/dialects/goldens/flax/make.py``.

Each model is saved with random statistics and scales; ``<name>_expected.npz`` holds an input,
the output in inference, the output in training, and the statistics after that batch.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx, serialization

HERE = Path(__file__).parent


class LinenNet(linen.Module):
    """Convolutions, batch norm without an offset, a recurrent layer, a layer norm."""

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(4, (3, 3), strides=2, use_bias=False, name="stem")(x)
        norm = linen.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-3)
        x = linen.relu(norm(x))
        x = linen.Conv(4, (3, 3), feature_group_count=4)(x)
        x = linen.BatchNorm(use_running_average=not train, use_bias=False, name="second")(x)
        x = linen.RNN(linen.OptimizedLSTMCell(5))(x.mean(1))
        x = linen.LayerNorm()(x)
        return linen.Dense(3, name="head")(x[:, -1])


class NnxNet(nnx.Module):
    """As above in NNX, with a list and a Sequential."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norms = nnx.List(
            [
                nnx.BatchNorm(4, momentum=0.9, epsilon=1e-3, rngs=rngs),
                nnx.BatchNorm(4, use_bias=False, rngs=rngs),
            ]
        )
        self.body = nnx.Sequential(nnx.Conv(4, 4, (3, 3), feature_group_count=4, rngs=rngs))
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(4, 5, rngs=rngs))
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norms[0](self.stem(x)))
        x = self.norms[1](self.body(x)).mean(1)
        x = self.rnn(x, rngs=nnx.Rngs(0))
        return self.head(self.drop(x[:, -1]))


def example() -> np.ndarray:
    return np.random.default_rng(0).normal(1, 2, (6, 8, 8, 3)).astype(np.float32)


def randomized(tree):
    """Every array of a tree replaced by random numbers; positive, so that variances are."""
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda array: jnp.asarray(generator.uniform(0.1, 0.9, array.shape), array.dtype), tree
    )


def make_linen() -> None:
    module, x = LinenNet(), example()
    variables = randomized(module.init(jax.random.key(0), x, train=False))
    (HERE / "linen.msgpack").write_bytes(serialization.to_bytes(variables))
    output = module.apply(variables, x, train=False)
    trained, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    stats = updated["batch_stats"]
    np.savez(
        HERE / "linen_expected.npz",
        x=x,
        output=output,
        trained=trained,
        **{f"{layer}/{name}": stats[layer][name] for layer in stats for name in stats[layer]},
    )


def make_nnx() -> None:
    model, x = NnxNet(nnx.Rngs(0)), example()
    weights = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    nnx.update(model, randomized(weights))
    pure = jax.tree.map(without_keys, nnx.to_pure_dict(nnx.state(model)))
    (HERE / "nnx.msgpack").write_bytes(serialization.to_bytes(pure))
    save_orbax(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)), HERE / "nnx_orbax")
    model.drop.rate = 0.0
    model.eval()
    output = model(x)
    model.train()
    trained = model(x)
    stats = {f"norms/{i}/{k}": getattr(n, k)[...] for i, n in enumerate(model.norms)
             for k in ("mean", "var")}  # fmt: skip
    np.savez(HERE / "nnx_expected.npz", x=x, output=output, trained=trained, **stats)


def without_keys(array):
    """msgpack cannot hold random keys, only their bits."""
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(array) if is_key else array


def save_orbax(state, folder: Path) -> None:
    from orbax import checkpoint

    shutil.rmtree(folder, ignore_errors=True)
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(folder.resolve(), state)
    # It names the folder on the machine that wrote it.
    (folder / "commit_success.txt").unlink(missing_ok=True)


def main() -> None:
    make_linen()
    make_nnx()
    names = ("flax", "jax", "orbax-checkpoint", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
