"""Runs a live torch model once, and leaves it as it was."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from evenkeel.dialects._network import Call
from evenkeel.dialects.torch._layouts import RECURRENT
from evenkeel.dialects.torch._tensors import to_numpy
from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from evenkeel.dialects.torch._parts import Part

_IMAGE_RANKS: Final = (4, 5)


def channels_last(array: NDArray[Any], *, channels_first: bool) -> NDArray[Any]:
    """Move axis 1 to the end where it is that of the channels."""
    if not channels_first or array.ndim < 3:
        return array
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def is_channels_first(part: Part, rank: int) -> bool:
    """Whether axis 1 of the part's features is that of the channels."""
    return rank in _IMAGE_RANKS if part.channels_first is None else part.channels_first


@contextmanager
def kept_modes(model: nn.Module) -> Generator[None]:
    """Give every module its mode again, and the process its random state."""
    import torch

    modes = {module: module.training for module in model.modules()}
    devices = {tensor.get_device() for tensor in model.parameters() if tensor.is_cuda}
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class Recorder:
    """Hooks on the layers of a model: their calls in the order in which they ended.

    Args:
        parts: the layers.
        values: whether to keep inputs and outputs; without, only the last layout is kept.
    """

    def __init__(self, parts: Sequence[Part], *, values: bool) -> None:
        self.calls: list[Call] = []
        self._values = values
        self._last: tuple[tuple[int, ...], bool] | None = None
        self._inputs: dict[nn.Module, list[NDArray[Any] | None]] = {}
        self._parts: dict[nn.Module, list[Part]] = {}
        for part in parts:
            self._parts.setdefault(part.module, []).append(part)
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for module in self._parts:
            self._handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            inner = _end_of_normalization(module)
            if inner is None:
                self._handles.append(module.register_forward_hook(self._leave))
            else:
                self._handles.append(inner.register_forward_pre_hook(partial(self._end, module)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def output(self, output: Any) -> Tensor:
        """The model's output, if it is one tensor."""
        import torch

        if isinstance(output, torch.Tensor):
            return output
        raise InputError(
            explain(
                asked="run a torch model",
                got=f"an output of type {type(output).__name__}",
                why="one tensor is compared",
                do="wrap the model in a module that returns the tensor in question",
            )
        )

    def is_channels_first(self, output: Tensor) -> bool:
        """Whether axis 1 of the model's output is that of the channels.

        An output with the shape of the last layer's output has that layer's layout; an image
        has torch's.
        """
        if self._last is not None and self._last[0] == tuple(output.shape):
            return self._last[1]
        return output.dim() in _IMAGE_RANKS

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Copied now: the layer itself or one behind it may work in place.
        value = _first_tensor((*args, *kwargs.values())) if self._values else None
        kept = None if value is None else to_numpy(value, "an input")
        self._inputs.setdefault(module, []).append(kept)

    def _end(self, module: nn.Module, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._leave(module, (), args[0])

    def _leave(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        before = self._inputs[module].pop()
        result, parts = _first_tensor((output,)), self._parts[module]
        if result is None:
            return
        self._last = (tuple(result.shape), is_channels_first(parts[0], result.dim()))
        if before is None:
            return
        if parts[0].kind in RECURRENT:
            self.calls += _recurrent_calls(parts, before, result)
            return
        after = to_numpy(result, "an output")
        for part in parts:
            self.calls.append(
                Call(
                    part.name,
                    channels_last(before, channels_first=is_channels_first(part, before.ndim)),
                    channels_last(after, channels_first=is_channels_first(part, after.ndim)),
                )
            )


def _first_tensor(values: tuple[Any, ...]) -> Tensor | None:
    import torch

    for value in values:
        if isinstance(value, torch.Tensor):
            return value
        if isinstance(value, tuple | list) and (found := _first_tensor(tuple(value))) is not None:  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - any model's value
            return found
    return None


def _end_of_normalization(module: nn.Module) -> nn.Module | None:
    """The module right behind the normalization inside timm's layers with an activation."""
    is_timm = type(module).__module__.startswith("timm.")
    return getattr(module, "drop", None) if is_timm and hasattr(module, "act") else None


def _recurrent_calls(parts: Sequence[Part], before: NDArray[Any], result: Tensor) -> list[Call]:
    """One call per layer and direction of a recurrent module."""
    module: Any = parts[0].module
    after = to_numpy(result, "an output")
    if not module.batch_first and before.ndim == 3:
        before, after = before.swapaxes(0, 1), after.swapaxes(0, 1)
    directions = 2 if module.bidirectional else 1
    outputs = [after] if module.num_layers == 1 else _inner_outputs(module, before)
    calls: list[Call] = []
    for index, part in enumerate(parts):
        depth, direction = divmod(index, directions)
        given = outputs[depth - 1] if depth else before
        made = np.split(outputs[depth], directions, -1)[direction]
        calls.append(Call(part.name, given, made))
    return calls


def _inner_outputs(module: Any, before: NDArray[Any]) -> list[NDArray[Any]]:
    """Outputs of all layers of a recurrent module, (N, T, u), which itself shows the last only."""
    import torch

    weight = module.weight_ih_l0
    x = torch.as_tensor(before, dtype=weight.dtype, device=weight.device)
    outputs: list[NDArray[Any]] = []
    for index in range(module.num_layers):
        single = type(module)(
            x.shape[-1],
            module.hidden_size,
            bias=module.bias,
            batch_first=True,
            bidirectional=module.bidirectional,
            **({"nonlinearity": module.nonlinearity} if hasattr(module, "nonlinearity") else {}),
        )
        for name, _ in list(single.named_parameters()):
            setattr(single, name, getattr(module, name.replace("_l0", f"_l{index}")))
        x = single(x)[0]
        outputs.append(to_numpy(x, "an output"))
    return outputs
