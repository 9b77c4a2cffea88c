"""A live torch model as a :class:`~evenkeel.dialects._network.Network`."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.dialects._network import Step, Trace, no_such_part
from evenkeel.dialects.torch._parts import Part, find_parts
from evenkeel.dialects.torch._quiet import without_randomness
from evenkeel.dialects.torch._run import (
    Recorder,
    channels_last,
    kept_modes,
)
from evenkeel.dialects.torch._settings import configure
from evenkeel.dialects.torch._tensors import to_numpy
from evenkeel.errors import InputError, ShapeError, explain

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from evenkeel.dialects._layers import Layer, Values
    from evenkeel.dialects._network import Loss
    from evenkeel.dialects._unsayable import Unsayable
    from evenkeel.spec import Spec

_STATISTICS: Final = ("running_mean", "running_var", "batches")


def open_network(model: nn.Module) -> TorchNetwork:
    """The network interface of a live torch model; the model stays the same object.

    Raises:
        InputError: its ``forward`` needs more than one argument.
        UnsaidError: a lazy layer has no shapes yet.
    """
    # A compiled model runs the same modules; their hooks fire in the original only.
    original = vars(model).get("_modules", {}).get("_orig_mod", model)
    needed = _required_arguments(original)
    if len(needed) > 1:
        raise InputError(
            explain(
                asked=f"open a {type(original).__name__} as a network",
                got=f"forward({', '.join(needed)})",
                why="a network is run on one array",
                do="wrap it in a module whose forward takes one tensor and fills in the rest",
            )
        )
    return TorchNetwork(original)


class TorchNetwork:
    """A live network, as ``dialects/_network.py`` describes it.

    A model in evaluation mode takes a training step in training mode (``.train()``). In a model
    that is in training mode, modules that stand in evaluation mode stay so.
    """

    framework = "torch"

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._by_name = {part.name: part for part in find_parts(model)}

    def layers(self) -> tuple[Layer, ...]:
        """All layers in code order; arrays are read when asked for."""
        return tuple(part.layer() for part in self._by_name.values())

    def canonical_inputs(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Images (N, C, *S), and (N, C, L) where the first layer takes them, channels last."""
        inputs = np.asarray(inputs)
        first = next(iter(self._by_name.values()), None)
        if first is not None and first.kind == "conv":
            _require_channels(first, inputs)
        return channels_last(inputs, channels_first=self._takes_channels_first(inputs.ndim))

    def trace(self, inputs: NDArray[Any]) -> Trace:
        """Run in evaluation mode, without gradients."""
        import torch

        parts = tuple(self._by_name.values())
        with kept_modes(self.model), torch.no_grad(), Recorder(parts, values=True) as recorder:
            for module in self.model.modules():
                module.training = False
            output = recorder.output(self.model(self._native(inputs)))
            first = recorder.is_channels_first(output)
        return Trace(
            tuple(recorder.calls), channels_last(to_numpy(output, "output"), channels_first=first)
        )

    def write(self, values: Values) -> None:
        """Copy canonical arrays into the tensors in place, after all were checked."""
        import torch

        planned = [
            pair
            for name, arrays in values.items()
            for role, array in arrays.items()
            for pair in self._planned(name, role, array)
        ]
        with torch.no_grad():
            for tensor, array in planned:
                tensor.copy_(torch.as_tensor(np.ascontiguousarray(array)).reshape(tensor.shape))

    def configure(self, layer: str, spec: Spec) -> tuple[Unsayable, ...]:
        """Set eps, momentum and variance convention of a batch norm.

        A layer of ``torch.nn`` that has to store the biased variance becomes evenkeel's in
        place: the same object with the same parameters and buffers.
        """
        part = self._part(layer)
        if part.spec is None:
            raise no_such_part("torch", f"the batch norm {layer!r}", f"a layer of kind {part.kind}")
        found = configure(part.module, spec)
        self._by_name = {part.name: part for part in find_parts(self.model)}
        return found

    def step(self, inputs: NDArray[Any], loss: Loss) -> Step:
        """One pass in training mode; ``.grad`` of every parameter stays as it is."""
        import torch

        parts = tuple(self._by_name.values())
        with kept_modes(self.model), Recorder(parts, values=False) as recorder:
            if not self.model.training:
                self.model.train()
            with without_randomness(self.model) as remarks, torch.enable_grad():
                output = recorder.output(self.model(self._native(inputs)))
            first = recorder.is_channels_first(output)
            value, cotangent = loss(channels_last(to_numpy(output, "output"), channels_first=first))
            gradients = self._gradients(output, _as_output(cotangent, output, channels_first=first))
        statistics = {
            part.name: {role: array.read() for role, array in part.layer().arrays.items()}
            for part in parts
            if part.spec is not None
        }
        return Step(
            float(value),
            channels_last(to_numpy(output, "output"), channels_first=first),
            gradients,
            {
                name: {role: arrays[role] for role in _STATISTICS if role in arrays}
                for name, arrays in statistics.items()
            },
            tuple(remarks),
        )

    def double(self) -> TorchNetwork:
        """A deep copy in float64."""
        return TorchNetwork(copy.deepcopy(self.model).double())

    def close(self) -> None:
        """Nothing is held beside the model."""

    def _part(self, name: str) -> Part:
        if name not in self._by_name:
            known = ", ".join(map(repr, self._by_name)) or "no layers"
            raise no_such_part("torch", f"the layer {name!r}", f"a model with {known}")
        return self._by_name[name]

    def _planned(
        self, name: str, role: str, array: NDArray[Any]
    ) -> list[tuple[Tensor, NDArray[Any]]]:
        part = self._part(name)
        if role not in part.roles:
            raise no_such_part(
                "torch", f"{role!r} of the layer {name!r}", f"a layer with {sorted(part.roles)}"
            )
        held, tensors = part.roles[role], part.tensors(role)
        shape = held.shape(*(tuple(tensor.shape) for tensor in tensors))
        array = np.asarray(array)
        # torch loads a counter of shape (1,), too.
        if array.shape != shape and not (role == "batches" and array.size == 1):
            raise ShapeError(
                explain(
                    asked=f"write {role!r} of the layer {name!r}",
                    got=f"shape {array.shape}",
                    why=f"the layer holds {shape} there",
                    do="write into a layer of the same size",
                )
            )
        return list(zip(tensors, held.write(array), strict=True))

    def _gradients(self, output: Tensor, cotangent: Tensor) -> Values:
        import torch

        held = {
            (part.name, role): part.tensors(role)
            for part in self._by_name.values()
            for role in part.roles
        }
        trained = {key: tensors for key, tensors in held.items() if _are_trained(tensors)}
        flat = list(dict.fromkeys(tensor for tensors in trained.values() for tensor in tensors))
        if not flat:
            return {}
        found = torch.autograd.grad(output, flat, cotangent, allow_unused=True)
        by_tensor = {
            tensor: np.zeros(tuple(tensor.shape), to_numpy(tensor, "a parameter").dtype)
            if gradient is None  # pyright: ignore[reportUnnecessaryComparison] - of an unused one
            else to_numpy(gradient, "a gradient")
            for tensor, gradient in zip(flat, found, strict=True)
        }
        gradients: dict[str, dict[str, NDArray[Any]]] = {}
        for (name, role), tensors in trained.items():
            layout = self._by_name[name].roles[role]
            value = layout.gradient(*(by_tensor[tensor] for tensor in tensors))
            gradients.setdefault(name, {})[role] = value
        return gradients

    def _takes_channels_first(self, rank: int) -> bool:
        """Images always; of rank 3 only what a 1-d convolution or a batch norm takes first."""
        first = next(iter(self._by_name.values()), None)
        takes = first is not None and (
            (first.kind == "conv" and len(first.settings["strides"]) == 1)
            or first.kind == "batch_norm"
        )
        return rank > 3 or (rank == 3 and takes)

    def _native(self, inputs: NDArray[Any]) -> Tensor:
        """Channels-last inputs as the model takes them, in its dtype and on its device."""
        import torch

        inputs = np.asarray(inputs)
        if self._takes_channels_first(inputs.ndim):
            inputs = np.ascontiguousarray(np.moveaxis(inputs, -1, 1))
        tensors = [*self.model.parameters(), *self.model.buffers()]
        own = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
        tensor = torch.tensor(inputs)
        if own is None:
            return tensor
        return tensor.to(own.device, own.dtype if tensor.is_floating_point() else tensor.dtype)


def _required_arguments(model: nn.Module) -> list[str]:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward that is no Python function
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind in positional]


def _are_trained(tensors: list[Tensor]) -> bool:
    return all(tensor.requires_grad for tensor in tensors)


def _as_output(cotangent: NDArray[Any], output: Tensor, *, channels_first: bool) -> Tensor:
    """The gradient in the output, channels last, as one in the model's own output."""
    import torch

    array = np.asarray(cotangent)
    if channels_first and array.ndim > 2:
        array = np.moveaxis(array, -1, 1)
    if array.shape != tuple(output.shape):
        raise ShapeError(
            explain(
                asked="the gradient of a loss in the output",
                got=f"shape {np.shape(cotangent)}",
                why=f"the output, channels last, has as many values as {tuple(output.shape)}",
                do="return a gradient of the shape of the output",
            )
        )
    return torch.tensor(np.ascontiguousarray(array), dtype=output.dtype, device=output.device)


def _require_channels(first: Part, inputs: NDArray[Any]) -> None:
    """Refuse images that are channels last already, which the model itself would not take."""
    kernel = first.tensors("kernel")[0]
    rank, channels = kernel.dim(), kernel.shape[1] * first.settings["groups"]
    if inputs.ndim == rank and channels != inputs.shape[1] and inputs.shape[-1] == channels:
        raise ShapeError(
            explain(
                asked="inputs of a torch model",
                got=f"shape {inputs.shape}",
                why=f"its first convolution takes {channels} channels at axis 1",
                do="pass inputs as the model itself takes them, channels first",
            )
        )
