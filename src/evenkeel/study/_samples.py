"""The data of a study as tensors on the device where it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from evenkeel.study._data import DataInfo, Dataset

#: Inputs (N, features) in float32 and labels (N,) in int64.
Pairs: TypeAlias = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Samples:
    """Training and test samples, and what is known about them."""

    info: DataInfo
    train: Pairs
    test: Pairs

    @classmethod
    def load(cls, data: Dataset, device: str = "cpu") -> Samples:
        """Copy a data set to a device; its arrays may be read-only maps shared by all workers."""

        def tensors(x: object, y: object) -> Pairs:
            return torch.tensor(x, device=device), torch.tensor(y, device=device)

        train, test = tensors(data.train_x, data.train_y), tensors(data.test_x, data.test_y)
        return cls(data.info, train, test)

    @property
    def features(self) -> int:
        """Number of inputs of a network."""
        return self.train[0].shape[1]

    @property
    def classes(self) -> int:
        """Number of outputs of a network."""
        return len(self.info.classes)

    @property
    def device(self) -> torch.device:
        """Where the samples lie, and where networks have to be."""
        return self.train[0].device
