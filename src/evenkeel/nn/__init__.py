"""Batch-norm layers for PyTorch: drop-in, exact, and safe against what poisons statistics."""

from evenkeel.nn import functional
from evenkeel.nn._batch_norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
)
from evenkeel.nn._frozen import FrozenBatchNorm
from evenkeel.nn._fused import BatchNormAct1d, BatchNormAct2d, BatchNormAct3d
from evenkeel.nn._strict import strict_torch

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "FrozenBatchNorm",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "functional",
    "strict_torch",
]
