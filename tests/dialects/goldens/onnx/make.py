"""Writes golden models with the exporters that are installed; run it from this folder.

``opset9.onnx`` and ``opset17.onnx`` are of torch's TorchScript exporter, ``training.onnx`` is the
former in training mode, ``opset7.onnx`` is ``opset9.onnx`` with the version of that opset, under
which the nodes mean the same.
"""

from __future__ import annotations

import json
import platform
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

HERE = Path(__file__).parent


def build() -> nn.Sequential:
    """A convolution, its batch norm, and a fresh batch norm, whose arrays are stored once."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3, momentum=0.2), nn.BatchNorm2d(4)
    )
    for tensor in [*model[:2].parameters(), *model[:2].buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.5
    return model


def export(name: str, opset: int, *, training: bool = False) -> None:
    """One file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated; it keeps batch norm
        torch.onnx.export(
            build().train(training),
            (torch.ones(2, 3, 5, 5),),
            HERE / name,
            dynamo=False,
            opset_version=opset,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )


def main() -> None:
    """Write the files, an input and the output of torch for it."""
    export("opset9.onnx", 9)
    export("opset17.onnx", 17)
    export("training.onnx", 17, training=True)
    old = onnx.load(HERE / "opset9.onnx")
    old.opset_import[0].version = 7
    onnx.checker.check_model(old)
    onnx.save(old, HERE / "opset7.onnx")
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype(np.float32)
    with torch.no_grad():
        np.savez(HERE / "run.npz", x=x, y=build().eval()(torch.tensor(x)).numpy())
    versions = {
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "python": platform.python_version(),
    }
    (HERE / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()
