"""A training step of a whole network of torchvision: as it is, compiled, or with our layers."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

import evenkeel as ek

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor, nn

    from evenkeel.bench._networks import Network

_CLASSES = 1000


class TrainingStep:
    """Forward, loss, backward, and a step of SGD with momentum, always on the same batch.

    Args:
        network: what decides the batch.
        model: whose parameters learn.
        call: the model, or what was compiled from it.
    """

    def __init__(
        self, network: Network, model: nn.Module, call: Callable[[Tensor], Tensor]
    ) -> None:
        self.call = call
        self.images = torch.randn(network.batch, 3, network.pixels, network.pixels)
        if network.layout == "last":
            self.images = self.images.to(memory_format=torch.channels_last)
        self.labels = torch.randint(0, _CLASSES, (network.batch,))
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        self.own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self._loss().backward()
        self.optimizer.step()

    def saved_bytes(self) -> int:
        """Bytes that the forward pass saves for the backward pass; each storage counts once."""
        found: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.own:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = self._loss()  # held until the end: a freed storage's address may come again
        del loss
        return sum(found.values())

    def _loss(self) -> Tensor:
        return torch.nn.functional.cross_entropy(self.call(self.images), self.labels)


def prepare(network: Network, variant: str) -> TrainingStep:
    """The step of a network in one of the variants."""
    torch.manual_seed(0)
    model: Any = getattr(_models(), network.name)(num_classes=_CLASSES)
    if network.layout == "last":
        model = model.to(memory_format=torch.channels_last)
    if variant in {"adopted", "fused"}:
        ek.adopt(model, fuse=variant == "fused")
    if variant == "compiled":
        return TrainingStep(network, model, torch.compile(model, dynamic=False))
    return TrainingStep(network, model, model)


def _models() -> Any:
    with _without_fakes():  # by name: torchvision is none of evenkeel's extras
        return importlib.import_module("torchvision.models")


@contextmanager
def _without_fakes() -> Generator[None]:
    """Let torchvision load without its compiled operators; the networks here use none of them.

    Its import describes them to torch.compile, which fails where the build for this torch is not
    installed; there are none for torch without a GPU on every platform.
    """
    register = torch.library.register_fake
    torch.library.register_fake = _leave
    try:
        yield
    finally:
        torch.library.register_fake = register


def _leave(*_: object, **__: object) -> Callable[[Any], Any]:
    return lambda function: function
