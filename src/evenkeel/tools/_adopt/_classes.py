"""Classes that a module is given while it is adopted; each remembers the original one.

A module stays the same object with the same tensors and hooks: only its class changes. Pickle
finds a class that is made here through what it is made of.
"""

from __future__ import annotations

import functools
import linecache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import (
    _NormBase,  # pyright: ignore[reportPrivateUsage] - the base of torch's own layers
)

from evenkeel import nn as ours
from evenkeel.nn._base import NormCore
from evenkeel.tools._adopt._activations import is_watched
from evenkeel.tools._adopt._timm import NormAct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: (training mode, all arguments are tensors) -> source of a function ``forward``.
Sources: TypeAlias = tuple[tuple[tuple[bool, bool], str], ...]

_OURS: Final[dict[type, type]] = {
    nn.BatchNorm1d: ours.BatchNorm1d,
    nn.BatchNorm2d: ours.BatchNorm2d,
    nn.BatchNorm3d: ours.BatchNorm3d,
}
_TORCH: Final = {our: their for their, our in _OURS.items()}
_HALF: Final = (torch.bfloat16, torch.float16)
#: What evenkeel's layers hold beyond torch's.
_EXTRAS: Final = ("variance", "nonfinite", "weight_init", "bias_init", "_skipped", "_reported")
#: Attributes of a block whose values its trace takes for granted, beside its children.
_FLAGS: Final = (bool, int, float, str, type(None))
_TAKEN: Final = "_evenkeel_taken"


def is_torch_norm(layer: nn.Module) -> bool:
    """Whether it is one of torch's own plain layers, and no subclass."""
    return type(layer) in _OURS


def original_class(module: nn.Module) -> type[nn.Module] | None:
    """The class that an adopted module goes back to; None for any other module."""
    return getattr(type(module), "_evenkeel_original", None) or _TORCH.get(type(module))


def become_ours(layer: nn.Module) -> None:
    """Let evenkeel's kernels serve a batch norm of torch's, or timm's with its activation."""
    kept: Any = dict(vars(layer))
    layer.__class__ = _OURS.get(type(layer)) or _with_our_norm(type(layer))
    layer.__setstate__(kept)  # as a layer that was pickled without evenkeel's own attributes


def become_rewritten(
    block: nn.Module, sources: Sources, sites: tuple[str, ...], inlined: Iterable[nn.Module]
) -> None:
    """Let a block run other code, as long as it is what it is now.

    Args:
        block: its class changes.
        sources: the code.
        sites: what the block's text says.
        inlined: the children whose own code is in it.
    """
    kind = _rewritten(type(block), sources, sites)
    taken = [(None, *_taken_for_granted(block))]
    vars(block)[_TAKEN] = (*taken, *((part, *_taken_for_granted(part)) for part in inlined))
    block.__class__ = kind


def own_attributes(module: nn.Module) -> tuple[str, ...]:
    """What evenkeel may keep in a module of this kind."""
    return _EXTRAS if isinstance(module, _NormBase) else (_TAKEN,)


def _taken_for_granted(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Children, with those that are None, and plain attributes, by name."""
    own = vars(module)
    flags = {k: v for k, v in own.items() if isinstance(v, _FLAGS) and k != "training"}
    return dict(own["_modules"]), flags


def _is_still(module: nn.Module, children: dict[str, Any], flags: dict[str, Any]) -> bool:
    own = vars(module)  # twice as fast as attributes, as every call of a block comes here
    now = own["_modules"]
    if len(now) != len(children):  # such as a Sequential with another child
        return False
    for name, child in children.items():
        if name not in now or now[name] is not child:
            return False
    return all(name in own and own[name] == flag for name, flag in flags.items())


def become_original(module: nn.Module) -> str:
    """Give an adopted module its class back; what else had to change, in words."""
    module.__class__ = original_class(module) or type(module)
    for name in own_attributes(module):
        vars(module).pop(name, None)
    return narrow_statistics(module)


def narrow_statistics(layer: nn.Module) -> str:
    """Give 16-bit parameters of torch's own layers the statistics of the same dtype they need."""
    own, weight = vars(layer)["_buffers"], vars(layer)["_parameters"].get("weight")
    if isinstance(layer, NormCore) or not isinstance(layer, _NormBase):
        return ""
    statistics = {name: own[name] for name in ("running_mean", "running_var")}
    if weight is None or weight.dtype not in _HALF:
        return ""
    wide = {k: v for k, v in statistics.items() if v is not None and v.dtype != weight.dtype}
    own.update({name: value.to(weight.dtype) for name, value in wide.items()})
    return f"statistics rounded to {str(weight.dtype).removeprefix('torch.')}" if wide else ""


@functools.cache
def _with_our_norm(original: type[nn.Module]) -> type[nn.Module]:
    """A subclass of timm's ``BatchNormAct2d`` over evenkeel's training step."""
    return _subclass(original, (NormAct, original), (_with_our_norm, original), {})


@functools.cache
def _rewritten(
    original: type[nn.Module], sources: Sources, sites: tuple[str, ...]
) -> type[nn.Module]:
    """A subclass of a block's class whose forward is generated code."""
    forwards = {key: _compiled(source, original) for key, source in sources}

    @functools.wraps(original.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any block's
        fused = None if kwargs else _forward_for(self, args, forwards)
        return fused(self, *args) if fused else original.forward(self, *args, **kwargs)

    def extra_repr(self: nn.Module) -> str:
        told = original.extra_repr(self)
        return "\n".join([*filter(None, [told]), f"in one pass: {'; '.join(sites)}"])

    body = {"forward": forward, "extra_repr": extra_repr}
    return _subclass(original, (original,), (_rewritten, original, sources, sites), body)


def _forward_for(
    block: nn.Module, args: tuple[Any, ...], forwards: dict[tuple[bool, bool], Callable[..., Any]]
) -> Callable[..., Any] | None:
    """The code for these arguments; None where nothing is known about them, or the block changed.

    A stand-in of ``torch.fx`` gets the block's own code, so that tools that transform graphs
    (feature extraction, folding, quantization) see the network as its author wrote it.
    """
    tensors = [isinstance(arg, Tensor) for arg in args]
    fused = forwards.get((block.training, all(tensors)))
    if fused is None or len(args) != fused.__code__.co_argcount - 1:
        return None
    if any(tensors) != all(tensors) or any(isinstance(arg, fx.Proxy) for arg in args):
        return None
    if _TAKEN not in vars(block):  # a slice of a Sequential
        return None
    for part, children, flags in vars(block)[_TAKEN]:
        if not _is_still(block if part is None else part, children, flags):
            return None
        if part is not None and is_watched(part):
            return None
    return fused


def _subclass(
    original: type[nn.Module],
    bases: tuple[type, ...],
    recipe: tuple[Any, ...],
    body: dict[str, Any],
) -> type[nn.Module]:
    def reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:  # noqa: ANN401 - an index
        return _empty, recipe, *object.__reduce_ex__(self, max(protocol, 2))[2:]

    names = {key: getattr(original, key) for key in ("__module__", "__qualname__", "__doc__")}
    own = {"_evenkeel_original": original, "__reduce_ex__": reduce}
    made: Any = type(original.__name__, bases, {**names, **own, **body})
    return made


def _empty(make: Callable[..., type[nn.Module]], *recipe: Any) -> nn.Module:  # noqa: ANN401 - of any class
    """An object of a class that is made again, for pickle to fill."""
    made: Any = make(*recipe)
    return made.__new__(made)


def _compiled(source: str, original: type) -> Callable[..., Any]:
    name = f"<{original.__name__}.forward, fused by evenkeel {hash(source):x}>"
    lines = source.splitlines(keepends=True)
    linecache.cache[name] = (len(source), None, lines, name)  # tracebacks show it
    namespace: dict[str, Any] = {}
    exec(compile(source, name, "exec"), namespace)  # noqa: S102 - written by torch.fx from its graph
    return namespace["forward"]
