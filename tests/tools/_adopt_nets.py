"""Networks for the tests of ``adopt``, at module level so that they can be pickled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention


class BasicBlock(nn.Module):
    """As in torchvision: one ReLU for both places, additions and activations in place."""

    def __init__(self, width: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """Stem, two residual blocks, head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 16, 2))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer1(x).mean((2, 3)))


class Inverted(nn.Module):
    """A Sequential that ends in a batch norm, and the addition in the code around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)),
            nn.Conv2d(8, 4, 1),
            nn.BatchNorm2d(4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Dense(nn.Module):
    """As torchvision's dense layer: takes a tensor or a list of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        inputs = [x] if isinstance(x, Tensor) else x
        return self.conv(self.relu(self.norm(torch.cat(inputs, 1))))


class Written(nn.Module):
    """Two batch norms over 4 channels and code of the test's choice."""

    def __init__(self, code: Any, **children: Any) -> None:
        super().__init__()
        self.bn, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.code = code
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x: Tensor) -> Any:
        return self.code(self, x)


class Masked(nn.Module):
    """An argument with a default, which decides about the code."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = F.relu(self.bn(x))
        return x if scale is None else x * scale


class Other(nn.BatchNorm2d):
    """A subclass, which may do anything."""


def images(seed: int = 0, channels: int = 3) -> Tensor:
    return torch.randn(4, channels, 10, 10, generator=torch.Generator().manual_seed(seed))


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random statistics, scales and offsets."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.dim() == 1 and tensor.is_floating_point():
                values = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(values + 0.5 if "bias" not in name else values - 0.5)
    return model
