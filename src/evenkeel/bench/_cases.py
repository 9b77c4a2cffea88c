"""What is timed: every batch-norm site of three networks, and tensors of other shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


Layout: TypeAlias = Literal["first", "last"]
Mode: TypeAlias = Literal["forward+backward", "forward"]
DType: TypeAlias = Literal["float32", "bfloat16"]

LAYOUTS: Final[tuple[Layout, ...]] = ("first", "last")
MODES: Final[tuple[Mode, ...]] = ("forward+backward", "forward")
DTYPES: Final[tuple[DType, ...]] = ("float32", "bfloat16")
BATCH: Final = 32
_BYTES: Final[dict[DType, int]] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One batch norm in training mode, with what follows it.

    Args:
        suite: network or group that it comes from.
        shape: (N, C, *S), whatever the layout.
        activation: name in :mod:`evenkeel.spec`.
        residual: whether a tensor is added before the activation.
        count: how often the network has this site.
        layout: channels ``first`` or ``last`` in memory.
        dtype: of input and output; parameters and statistics are float32.
        mode: ``forward+backward``, or ``forward`` without gradients.
    """

    suite: str
    shape: tuple[int, ...]
    activation: str
    residual: bool = False
    count: int = 1
    layout: Layout = "first"
    dtype: DType = "float32"
    mode: Mode = "forward+backward"

    @property
    def size(self) -> int:
        """Bytes of one tensor of the shape."""
        return prod(self.shape) * _BYTES[self.dtype]

    @property
    def compulsory_bytes(self) -> int:
        """Bytes that cannot be saved: every input read once, every output written once.

        Forward: x and the residual, y. Backward: x, dy and, under an activation, the residual, of
        which z is made again; dx and the residual's gradient.
        """
        tensors = 2 + self.residual
        if self.mode == "forward+backward":
            bent = self.residual and self.activation != "identity"
            tensors += 3 + self.residual + bent
        return tensors * self.size


def resnet50() -> Iterator[Case]:
    """The 53 sites of ResNet-50 at 224 pixels; the stride is in the 3x3 convolution."""
    yield _site("resnet50", 64, 112, "relu")
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width, size = 64 * 2**stage, 56 // 2**stage
        before = size if stage == 0 else 2 * size
        yield _site("resnet50", width, before, "relu")
        yield _site("resnet50", width, size, "relu", count=2 * blocks - 1)
        yield _site("resnet50", 4 * width, size, "relu", residual=True, count=blocks)
        yield _site("resnet50", 4 * width, size, "identity")


def mobilenet_v2() -> Iterator[Case]:
    """The 52 sites of MobileNetV2 at 224 pixels, without the last 1x1 convolution's pooling."""
    yield _site("mobilenet_v2", 32, 112, "relu6", count=2)
    yield _site("mobilenet_v2", 16, 112, "identity")
    inputs, size = 16, 112
    for expansion, channels, blocks, stride in (
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(blocks):
            hidden = expansion * inputs
            yield _site("mobilenet_v2", hidden, size, "relu6")
            size //= stride if block == 0 else 1
            yield _site("mobilenet_v2", hidden, size, "relu6")
            yield _site("mobilenet_v2", channels, size, "identity", residual=block > 0)
            inputs = channels
    yield _site("mobilenet_v2", 1280, size, "relu6")


def densenet121() -> Iterator[Case]:
    """The 121 sites of DenseNet-121 at 224 pixels."""
    yield _site("densenet121", 64, 112, "relu")
    channels, size = 64, 56
    for stage, layers in enumerate((6, 12, 24, 16)):
        for _ in range(layers):
            yield _site("densenet121", channels, size, "relu")
            yield _site("densenet121", 128, size, "relu")
            channels += 32
        last = stage == 3
        yield _site("densenet121", channels, size, "relu")
        if not last:
            channels, size = channels // 2, size // 2


def other() -> Iterator[Case]:
    """Layers of perceptrons and sequences, from 2 x 4 to 10^6 x 8 and 64 x 65536."""
    shapes = [(2, 4), (32, 64), (32, 256), (256, 1024), (4096, 512), (10**6, 8), (64, 65536)]
    shapes += [(32, 64, 100), (16, 512, 256), (8, 16, 16, 32, 32)]
    for shape in shapes:
        yield Case(suite="other", shape=shape, activation="relu")
    for activation in ("leaky_relu", "silu", "gelu", "hardswish"):
        yield Case(suite="other", shape=(32, 128, 28, 28), activation=activation)


SUITES: Final = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "densenet121": densenet121,
    "other": other,
}


def cases(
    suites: Sequence[str],
    layouts: Sequence[Layout],
    dtypes: Sequence[DType],
    modes: Sequence[Mode],
) -> tuple[Case, ...]:
    """All combinations; a (N, C) tensor has one layout only."""
    return tuple(
        replace(case, layout=layout, dtype=dtype, mode=mode)
        for suite in suites
        for mode in modes
        for dtype in dtypes
        for layout in layouts
        for case in _distinct(SUITES[suite]())
        if len(case.shape) > 2 or layout == layouts[0]
    )


def _site(
    suite: str,
    channels: int,
    size: int,
    activation: str,
    *,
    residual: bool = False,
    count: int = 1,
) -> Case:
    shape = (BATCH, channels, size, size)
    return Case(suite=suite, shape=shape, activation=activation, residual=residual, count=count)


def _distinct(sites: Iterable[Case]) -> list[Case]:
    """Equal sites as one, with their number."""
    counts: dict[Case, int] = {}
    for site in sites:
        one = replace(site, count=1)
        counts[one] = counts.get(one, 0) + site.count
    return [replace(site, count=count) for site, count in counts.items()]
