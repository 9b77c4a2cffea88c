"""Writes the golden state dict with the torch that is installed; run it from this folder."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent


def build() -> nn.Sequential:
    """One of each: a convolution, both kinds of missing arrays, a recurrent layer."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4, eps=1e-3, momentum=0.2),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, bias=False),
        nn.ConvTranspose2d(4, 2, 2),
        nn.Linear(2, 3),
        nn.GRU(3, 2),
    )


def main() -> None:
    """Write the file and what it should say."""
    torch.manual_seed(0)
    model = build()
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.5
        else:
            tensor.fill_(7)
    torch.save(model.state_dict(), HERE / "model.pt")
    sums = {name: float(tensor.double().sum()) for name, tensor in model.state_dict().items()}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    text = json.dumps({"versions": versions, "sums": sums}, indent=1)
    (HERE / "model.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
