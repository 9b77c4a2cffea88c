"""The inputs of the conformance suite: named, seeded, on every layout, rank and dtype.

A case is data only. Each varies one thing against a plain base, so that the name of a failing
case says what a provider cannot do.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch

from evenkeel.kernels._view import canonical
from evenkeel.kernels.conformance._values import GRADIENTS, LAYOUTS, MASKS, VALUES
from evenkeel.spec import ACTIVATIONS, Activation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

DTYPES: Final = ("float32", "float64", "bfloat16", "float16")
#: float16 ends at 65504 and holds nothing below 6e-8: these values would be other cases there.
_TOO_WIDE_FOR_FLOAT16: Final = {
    "mean/std 1e6", "std 1e-12", "std 1e12", "variance 1e-30", "std 1e-5", "mean -3000 std 0.01",
    "outlier first", "std 1e17",
}  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """The tensors of one case, on the canonical view of the contract."""

    x: Tensor
    dy: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    mask: Tensor | None
    eps: float
    activation: Activation


@dataclass(frozen=True)
class Case:
    """A named recipe; :meth:`build` gives the same tensors every time."""

    name: str
    dtype: str = "float32"
    shape: tuple[int, ...] = (8, 5, 6, 7)
    values: str = "standard"
    layout: str = "contiguous"
    gradient: str = "random"
    activation: Activation = field(default_factory=Activation)
    mask: str = "none"
    residual: str = "none"
    affine: str = "both"
    eps: float = 1e-5

    def __str__(self) -> str:
        return f"{self.dtype}: {self.name}"

    def build(self) -> Inputs:
        """Make the tensors; random numbers depend on the name and the dtype only."""
        random = torch.Generator().manual_seed(zlib.crc32(str(self).encode()))
        dtype = getattr(torch, self.dtype)
        arrange = LAYOUTS[self.layout]
        x = arrange(VALUES[self.values](self.shape, random).to(dtype))
        dy = arrange(GRADIENTS[self.gradient](x.double(), random).to(dtype))
        residual = self._residual(random)
        if residual is not None:
            residual = canonical(arrange(residual.to(dtype)))
        mask = MASKS[self.mask](canonical(x), random)
        affine = self._affine(random)
        x, dy = canonical(x), canonical(dy)
        if self.values == "NaN where masked" and mask is not None:
            x, dy = _poison(x, mask), _poison(dy, mask)
            residual = None if residual is None else _poison(residual, mask)
        return Inputs(x, dy, *affine, residual, mask, self.eps, self.activation)

    def _affine(self, random: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
        channels = self.shape[1]
        dtype = torch.float64 if self.dtype == "float64" else torch.float32
        weight = (torch.rand(channels, generator=random) + 0.5).to(dtype)
        weight[::3] *= -1
        bias = torch.randn(channels, generator=random).to(dtype)
        return {
            "both": (weight, bias),
            "weight": (weight, None),
            "bias": (None, bias),
            "none": (None, None),
            "zero": (weight * 0, bias * 0),
            "16 bit": (weight.bfloat16(), bias.bfloat16()),
        }[self.affine]

    def _residual(self, random: torch.Generator) -> Tensor | None:
        if self.residual == "none":
            return None
        if self.residual == "kinks":  # exact in every dtype, and on every kink of eq. (12)
            kinks = torch.tensor([-4.0, -3.0, -1.0, 0.0, 1.0, 3.0, 5.0, 6.0, 7.0])
            return kinks[torch.randint(9, self.shape, generator=random)]
        return torch.randn(self.shape, generator=random, dtype=torch.float64)


def _poison(value: Tensor, mask: Tensor) -> Tensor:
    return torch.empty_like(value).copy_(
        torch.where(mask[:, None, :], value, value.new_tensor(float("nan")))
    )


def cases(dtypes: tuple[str, ...] = DTYPES) -> Iterator[Case]:
    """Every case of the suite in the given dtypes."""
    for dtype in dtypes:
        for case in _plain_cases():
            if dtype != "float16" or case.values not in _TOO_WIDE_FOR_FLOAT16:
                yield replace(case, dtype=dtype)


def _plain_cases() -> Iterator[Case]:
    """Small cases first: most mistakes show in them."""
    yield Case("base")
    for affine in ("weight", "bias", "none", "16 bit", "zero"):
        yield Case(f"affine {affine}", affine=affine)
    for eps in (1e-3, 1e-12, 0.5):
        yield Case(f"eps {eps:g}", eps=eps)
    yield from _mask_cases()
    yield from _epilogue_cases()
    yield from _gradient_cases()
    yield from _value_cases()
    yield from _shape_cases()


def _shape_cases() -> Iterator[Case]:
    for shape in ((33, 17), (5, 7, 19), (4, 19, 7, 9), (2, 3, 4, 5, 3)):
        for layout in LAYOUTS:
            yield Case(f"rank {len(shape)} {layout}", shape=shape, layout=layout)
    for channels in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 257):
        yield Case(f"C={channels} rows", shape=(6, channels))
        yield Case(f"C={channels} channels last", shape=(2, channels, 3, 3), layout="channels last")
        yield Case(f"C={channels} planes", shape=(2, channels, 5))
    for size in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 255, 257, 1025):
        yield Case(f"S={size}", shape=(3, 3, size))
        yield Case(f"N={size} rows", shape=(size + 1, 3))
    for shape in ((17, 23, 7, 7), (300, 11, 4), (2, 60, 9), (16, 9, 63), (300, 3, 196), (300, 520)):
        yield Case(f"tiles {shape}", shape=shape)
    for size in (2047, 4096, 4097, 8191, 16385, 65537):
        yield Case(f"block edge S={size}", shape=(1, 2, size))
        yield Case(f"block edge N={size}", shape=(size, 2))
        yield Case(f"block edge N={size} mean 1e4", shape=(size, 2), values="mean/std 1e4")
    for shape in ((0, 3, 4), (2, 3, 0), (2, 0, 4), (0, 0, 0), (0, 5)):
        yield Case(f"empty {shape}", shape=shape)
    yield Case("one value per channel", shape=(1, 6, 1))
    yield Case("one value per channel, mean 1e6", shape=(1, 6), values="mean/std 1e6")
    yield Case("two values per channel", shape=(2, 6))
    yield Case("C=1000003", shape=(2, 1000003))


def _value_cases() -> Iterator[Case]:
    for values in VALUES:
        for layout in ("contiguous", "channels last", "sliced"):
            yield Case(f"{values}, {layout}", shape=(16, 4, 9, 5), values=values, layout=layout)
        yield Case(f"{values}, rows", shape=(301, 3), values=values)


def _gradient_cases() -> Iterator[Case]:
    for gradient in GRADIENTS:
        for values in ("standard", "mean/std 1e4", "outlier first", "std 1e-5"):
            yield Case(f"dy {gradient}, x {values}", values=values, gradient=gradient)
            yield Case(f"dy {gradient}, x {values}, rows", shape=(517, 3), values=values,
                       gradient=gradient)  # fmt: skip


def _epilogue_cases() -> Iterator[Case]:
    chosen = [Activation.parse(name) for name in ACTIVATIONS]
    chosen += [Activation("leaky_relu", 0.3), Activation("elu", 0.5)]
    for activation in chosen:
        label = f"{activation.name} {activation.parameter:g}"
        for residual in ("none", "random"):
            yield Case(f"{label}, residual {residual}", activation=activation, residual=residual)
            yield Case(
                f"{label}, residual {residual}, channels last, masked",
                activation=activation, residual=residual, layout="channels last", mask="random",
            )  # fmt: skip
        yield Case(f"{label}, kinks", activation=activation, affine="zero", residual="kinks")
        yield Case(f"{label}, large z", activation=activation, eps=1e-3, residual="random",
                   values="mean/std 1e2", shape=(40, 3, 11))  # fmt: skip
        for values in ("constant", "NaN in one channel", "Inf in one channel"):
            yield Case(f"{label}, {values}", activation=activation, values=values)


def _mask_cases() -> Iterator[Case]:
    for mask in MASKS:
        for values in ("standard", "mean/std 1e4", "NaN where masked"):
            if values != "NaN where masked" or mask != "none":
                yield Case(f"mask {mask}, {values}", mask=mask, values=values)
                yield Case(f"mask {mask}, {values}, residual", mask=mask, values=values,
                           residual="random", layout="channels last",
                           activation=Activation("relu"))  # fmt: skip
