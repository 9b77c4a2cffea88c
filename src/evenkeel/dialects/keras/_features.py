"""Layouts of features: Keras models may compute with the channels first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def first_to_last(features: NDArray[Any]) -> NDArray[Any]:
    """(N, C, *S) as (N, *S, C)."""
    return axis_to_last(features, 1)


def last_to_first(features: NDArray[Any]) -> NDArray[Any]:
    """(N, *S, C) as (N, C, *S)."""
    return features if features.ndim < 3 else np.moveaxis(features, -1, 1)


def axis_to_last(features: NDArray[Any], axis: int) -> NDArray[Any]:
    """Features with the channels on any axis as channels last."""
    if features.ndim < 3 or axis in {-1, features.ndim - 1}:
        return features
    return np.moveaxis(features, axis, -1)
