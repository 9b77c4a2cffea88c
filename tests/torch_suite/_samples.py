"""The batch-norm entries of torch's `op_db` and `module_db`, and the cases they make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import evenkeel as ek

if TYPE_CHECKING:
    from torch import Tensor
    from torch.testing._internal.common_modules import ModuleInfo, ModuleInput
    from torch.testing._internal.opinfo.core import OpInfo, SampleInput

SEED = 20150211  # the day batch normalization was published
HALF = (torch.bfloat16, torch.float16)


def _op_name(op: OpInfo) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


#: Every batch-norm entry of `op_db`, by name; an entry that torch adds shows up here.
OPS: dict[str, OpInfo] = {_op_name(op): op for op in op_db if "batch_norm" in op.name}
#: Every batch-norm entry of `module_db`, by the name of the class.
MODULES: dict[str, ModuleInfo] = {
    info.module_cls.__name__: info for info in module_db if "BatchNorm" in info.name
}


@dataclass(frozen=True)
class OpCase:
    """One sample input of one entry in one dtype."""

    entry: str
    dtype: torch.dtype
    index: int

    def sample(self, *, requires_grad: bool = False) -> SampleInput:
        """A fresh copy of the sample: the operators write into the statistics."""
        sample = op_samples(self.entry, self.dtype, requires_grad)[self.index]
        return sample.transform(fresh)

    def __str__(self) -> str:
        return f"{self.entry}-{str(self.dtype).removeprefix('torch.')}-{self.index}"


def fresh(value: object, dtype: torch.dtype | None = None) -> object:
    """A tensor as a new leaf with the same values, in ``dtype``; all else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    copy = value.detach().clone() if dtype is None else value.detach().to(dtype, copy=True)
    return copy.requires_grad_(value.requires_grad)


@cache
def op_samples(entry: str, dtype: torch.dtype, requires_grad: bool) -> list[SampleInput]:
    """All sample inputs that torch makes for an entry; not to be written into."""
    torch.manual_seed(SEED)
    return list(OPS[entry].sample_inputs("cpu", dtype, requires_grad))


def op_cases(*dtypes: torch.dtype) -> list[OpCase]:
    """Every sample of every entry, in those of its CPU dtypes that are in ``dtypes`` (or all)."""
    return [
        OpCase(entry, dtype, index)
        for entry, op in OPS.items()
        for dtype in sorted(op.supported_dtypes("cpu"), key=str)
        if not dtypes or dtype in dtypes
        for index in range(len(op_samples(entry, dtype, False)))
    ]


@dataclass(frozen=True)
class Call:
    """The arguments of a sample by their meaning, whatever the operator's order."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    var: Tensor | None
    training: bool
    momentum: float
    eps: float

    def leaves(self) -> list[Tensor]:
        """What a gradient is asked of."""
        return [t for t in (self.x, self.weight, self.bias) if t is not None and t.requires_grad]


def read(entry: str, sample: SampleInput) -> Call:
    """Read a sample of an entry."""
    x, args, kwargs = sample.input, sample.args, sample.kwargs
    if entry.startswith("nn.functional"):
        mean, var, weight, bias = args
        training = kwargs.get("training", False)
        momentum, eps = kwargs.get("momentum", 0.1), kwargs.get("eps", 1e-5)
        return Call(x, weight, bias, mean, var, training, momentum, eps)
    weight, bias, *rest = args
    if entry == "_batch_norm_with_update":
        rest.insert(2, True)
    if len(rest) == 3:
        rest = [None, None, *rest]
    return Call(x, weight, bias, *rest)


@dataclass(frozen=True)
class ModuleCase:
    """One module input of one class in one mode and dtype."""

    name: str
    training: bool
    dtype: torch.dtype
    index: int
    lazy: bool = False

    @property
    def info(self) -> ModuleInfo:
        """torch's own description; its error inputs ask for the class that it names."""
        return MODULES[self.name]

    @property
    def ours(self) -> type[torch.nn.Module]:
        """The class of evenkeel that stands in for torch's."""
        return getattr(ek.nn, f"Lazy{self.name}" if self.lazy else self.name)

    @property
    def theirs(self) -> type[torch.nn.Module]:
        """torch's class."""
        return getattr(torch.nn, f"Lazy{self.name}" if self.lazy else self.name)

    def input(self, *, requires_grad: bool = False) -> ModuleInput:
        """What torch gives to the constructor and to the forward pass."""
        return module_inputs(self.info, self.dtype, self.training, requires_grad)[self.index]

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the constructor; the lazy classes do without the number of channels."""
        given = self.input().constructor_input
        return (given.args[1:] if self.lazy else given.args), dict(given.kwargs)

    def build(self, cls: type[torch.nn.Module]) -> torch.nn.Module:
        """The module as the bodies of torch's tests build it."""
        args, kwargs = self.arguments()
        module = cls(*args, **kwargs).to("cpu").to(self.dtype)
        return module.train(self.training)

    def x(self, *, requires_grad: bool = False) -> Tensor:
        """The one input of the forward pass."""
        (x,) = self.input(requires_grad=requires_grad).forward_input.args
        return fresh(x)

    def __str__(self) -> str:
        mode = "train" if self.training else "eval"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{'Lazy' if self.lazy else ''}{self.name}-{mode}-{dtype}-{self.desc}"

    @property
    def desc(self) -> str:
        """torch's name of the input."""
        return self.input().desc or "default"


@cache
def module_inputs(
    info: ModuleInfo, dtype: torch.dtype, training: bool, requires_grad: bool
) -> list[ModuleInput]:
    """All inputs that torch makes for a module; not to be written into."""
    torch.manual_seed(SEED)
    return list(info.module_inputs_func(info, "cpu", dtype, requires_grad, training))


def module_cases(
    *dtypes: torch.dtype, modes: tuple[bool, ...] = (True, False), lazy: bool = True
) -> list[ModuleCase]:
    """Every input of every class, in torch's dtypes for it, or in ``dtypes``."""
    plain = [
        ModuleCase(name, training, dtype, index)
        for name, info in MODULES.items()
        for training in modes
        for dtype in (dtypes or info.supported_dtypes("cpu"))
        for index in range(len(module_inputs(info, dtype, training, False)))
    ]
    return plain + ([replace(case, lazy=True) for case in plain] if lazy else [])


@dataclass(frozen=True)
class StateCase:
    """A module input whose effect on the running statistics is compared; maybe with a NaN in it."""

    module: ModuleCase
    poisoned: bool

    def x(self) -> Tensor:
        """The input of the forward pass."""
        x = self.module.x()
        if self.poisoned:
            x[0, 0] = torch.nan
        return x

    def __str__(self) -> str:
        return f"{self.module}{'-with_nan' if self.poisoned else ''}"


def state_cases() -> list[StateCase]:
    """Every module input in all four dtypes, as it is, and with a NaN unless it is empty."""
    cases = module_cases(torch.float32, torch.float64, *HALF, lazy=False)
    return [
        StateCase(case, poisoned)
        for case in cases
        for poisoned in (False, True)
        if not (poisoned and case.x().numel() == 0)
    ]
