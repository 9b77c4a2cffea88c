"""One pass of a model forward and backward, as named arrays."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from evenkeel.errors import InputError, explain
from evenkeel.tools._adopt._draws import Draws
from evenkeel.tools._describe import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

#: (mode, layer, item) -> values in float64.
Results: TypeAlias = "dict[tuple[str, str, str], NDArray[Any]]"

MODES = {"training": True, "evaluation": False}


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """What a model is called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, example: object) -> Example:
        """A tensor, a tuple of positional arguments, or a dict of named ones."""
        if isinstance(example, Tensor):
            return cls((example,), {})
        if isinstance(example, tuple):
            return cls(tuple(example), {})
        if isinstance(example, dict):
            return cls((), dict(example))  # pyright: ignore[reportUnknownArgumentType] - whatever the model takes
        raise InputError(
            explain(
                asked="adopt a model, with a proof on an example",
                got=f"an example that is {describe(example)}",
                why="the model is called with a tensor, a tuple of arguments or a dict of them",
                do="pass a batch such as the model is trained with",
            )
        )

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Example:
        """The same with its floating tensors changed."""
        return Example(
            *pytree.tree_map_only(
                Tensor,
                lambda t: change(t) if t.is_floating_point() else t,
                (self.args, self.kwargs),
            )
        )


def double(model: nn.Module) -> nn.Module:
    """A float64 copy."""
    return copy.deepcopy(model).double()


def run(model: nn.Module, example: Example) -> Results:
    """Outputs, gradients and statistics of a model in both modes, from the same random numbers.

    Copies are run, since a pass may change statistics, their dtype, or anything else.
    """
    found: Results = {}
    draws = Draws()
    for mode, training in MODES.items():
        try:
            results = _run(copy.deepcopy(model).train(training), example)
            found |= {(mode, *key): _array(tensor) for key, tensor in results}
        finally:
            draws.undo()
    return found


def _run(model: nn.Module, example: Example) -> Iterator[tuple[tuple[str, str], Tensor]]:
    fed = example.mapped(lambda t: t.detach().clone().requires_grad_())
    # A copy: a block that starts with an activation in place may not write into a leaf.
    given = fed.mapped(torch.clone)
    output = model(*given.args, **given.kwargs)
    outputs = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
    for number, tensor in enumerate(outputs):
        yield ("", f"output {number}" if number else "output"), tensor
    inputs = [t for t in pytree.tree_leaves((fed.args, fed.kwargs)) if _has_gradient(t)]
    wanted = [((f"input {i}" if i else "input", ""), t) for i, t in enumerate(inputs)]
    wanted += [(_split(k), p) for k, p in model.named_parameters() if p.requires_grad]
    loss = _weighted_sum(outputs)
    if loss is not None and wanted:
        tensors = [t for _, t in wanted]
        gradients: Any = torch.autograd.grad(loss, tensors, allow_unused=True)
        for ((layer, name), _), gradient in zip(wanted, gradients, strict=True):
            if gradient is not None:
                yield (layer, f"gradient of {name}".removesuffix(" of ")), gradient
    for name, buffer in model.named_buffers():
        yield _split(name), buffer


def _has_gradient(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _weighted_sum(outputs: list[Tensor]) -> Tensor | None:
    """A loss whose gradient differs from element to element; its weights are float32."""
    generator = torch.Generator().manual_seed(0)
    total: Tensor | None = None
    for tensor in filter(_has_gradient, outputs):
        weights = torch.randn(tensor.shape, generator=generator).to(tensor)
        part = (tensor * weights).sum()
        total = part if total is None else total + part
    return total


def _split(name: str) -> tuple[str, str]:
    layer, _, item = name.rpartition(".")
    return layer, item


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().to("cpu", torch.float64).numpy()
