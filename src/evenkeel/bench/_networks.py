"""Whole networks, of which a training step is timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from evenkeel.bench._cases import Layout

#: torchvision's names.
NETWORKS: Final = ("resnet50", "mobilenet_v2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A training step of one network, in float32.

    Args:
        name: one of :data:`NETWORKS`.
        batch: images.
        pixels: height and width of an image.
        layout: channels ``first`` or ``last`` in memory.
    """

    name: str
    batch: int = 32
    pixels: int = 224
    layout: Layout = "first"
