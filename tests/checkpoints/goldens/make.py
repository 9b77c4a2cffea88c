"""Writes the checkpoints beside this file, each with the framework whose format it is.

Run it as ``python tests/checkpoints/goldens/make.py`` from the repository; it takes a minute.
Values come from a fixed seed, and ``versions.json`` records who wrote what.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
C = 3


def arrays() -> dict[str, np.ndarray]:
    """A convolution and a batch norm, as torch names them."""
    rng = np.random.default_rng(7)
    return {
        "conv.weight": rng.standard_normal((C, 2, 3, 3)).astype(np.float32),
        "bn.weight": rng.uniform(0.5, 2, C).astype(np.float32),
        "bn.bias": rng.standard_normal(C).astype(np.float32),
        "bn.running_mean": rng.standard_normal(C).astype(np.float32),
        "bn.running_var": rng.uniform(0.5, 2, C).astype(np.float32),
        "bn.num_batches_tracked": np.array(17),
    }


def write_arrays() -> dict[str, str]:
    import safetensors
    import torch
    from safetensors.torch import save_file

    tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays().items()}
    save_file(tensors, HERE / "model.safetensors", {"format": "pt"})
    torch.save({"state_dict": tensors, "epoch": 3}, HERE / "model.pt")
    np.savez(HERE / "plain.npz", **arrays())
    np.savez_compressed(HERE / "packed.npz", **arrays())
    return {
        "model.safetensors": f"safetensors {safetensors.__version__}",
        "model.pt": f"torch {torch.__version__}",
        "plain.npz": f"numpy {np.__version__}",
        "packed.npz": f"numpy {np.__version__}",
    }


def write_flax() -> dict[str, str]:
    import flax
    import orbax.checkpoint as ocp

    values = arrays()
    tree = {
        "params": {
            "Conv_0": {"kernel": values["conv.weight"].transpose(2, 3, 1, 0)},
            "BatchNorm_0": {"scale": values["bn.weight"], "bias": values["bn.bias"]},
        },
        "batch_stats": {
            "BatchNorm_0": {"mean": values["bn.running_mean"], "var": values["bn.running_var"]}
        },
    }
    (HERE / "model.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    folder = HERE / "orbax"
    shutil.rmtree(folder, ignore_errors=True)
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(folder.resolve(), tree)
    # It only matters on file systems that cannot rename, and names a folder of this machine.
    (folder / "commit_success.txt").unlink()
    return {
        "model.msgpack": f"flax {flax.__version__}",
        "orbax": f"orbax-checkpoint {ocp.__version__}",
    }


def write_onnx() -> dict[str, str]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    values = {n: v for n, v in arrays().items() if n != "bn.num_batches_tracked"}
    norm = ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["c", *norm], ["y"], name="bn", epsilon=1e-3),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", C, 4, 4])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, HERE / "model.onnx")
    return {"model.onnx": f"onnx {onnx.__version__}"}


def write_keras() -> dict[str, str]:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(C, 3, name="conv", use_bias=False),
            keras.layers.BatchNormalization(name="norm", epsilon=2e-3, momentum=0.9),
            keras.layers.Dense(2, name="out", dtype="bfloat16"),
        ],
        name="net",
    )
    rng = np.random.default_rng(7)
    model.set_weights([rng.uniform(0.5, 2, w.shape) for w in model.get_weights()])
    model.save(HERE / "keras3.keras")
    model.save_weights(HERE / "keras3.weights.h5")
    model.save(HERE / "keras3.h5")
    model.compile("sgd", "mse")
    model.save(HERE / "compiled.keras")
    names = ("keras3.keras", "keras3.weights.h5", "keras3.h5", "compiled.keras")
    return dict.fromkeys(names, f"keras {keras.__version__}")


def write_keras2() -> dict[str, str]:
    import tf_keras

    model = tf_keras.Sequential(
        [
            tf_keras.layers.Conv2D(C, 3, name="conv", use_bias=False, input_shape=(6, 6, 2)),
            tf_keras.layers.BatchNormalization(name="norm", epsilon=2e-3, momentum=0.9),
            tf_keras.layers.Dense(2, name="out"),
        ],
        name="net",
    )
    rng = np.random.default_rng(7)
    model.set_weights([rng.uniform(0.5, 2, w.shape) for w in model.get_weights()])
    model.save(HERE / "keras2.h5")
    model.save_weights(HERE / "keras2.weights.h5")
    model.save_weights(HERE / "keras2_old.h5", save_format="h5")
    names = ("keras2.h5", "keras2.weights.h5", "keras2_old.h5")
    return dict.fromkeys(names, f"tf_keras {tf_keras.__version__}")


WRITERS = (write_arrays, write_flax, write_onnx, write_keras, write_keras2)


def main() -> None:
    """Run every writer in a process of its own: a process has one Keras backend."""
    if len(sys.argv) > 1:
        writer = next(w for w in WRITERS if w.__name__ == sys.argv[1])
        sys.stdout.write(json.dumps(writer()))
        return
    versions: dict[str, str] = {}
    for writer in WRITERS:
        done = subprocess.run(
            [sys.executable, __file__, writer.__name__], check=True, capture_output=True, text=True
        )
        versions |= json.loads(done.stdout.splitlines()[-1])
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
