"""The short path of an ordinary training step gives the numbers of the general one, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import evenkeel as ek
from evenkeel.errors import EvenkeelError, NonFiniteWarning
from evenkeel.nn import _base, _quick

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = ((2, 4), (32, 64), (5, 3, 7), (4, 40, 3, 3), (8, 6, 12, 20), (2, 3, 2, 4, 5))


def _layer(shape: tuple[int, ...], *, counter: bool = True, **settings: Any) -> torch.nn.Module:
    rank = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}[len(shape)]
    kind = "BatchNormAct" if "activation" in settings else "BatchNorm"
    layer = getattr(ek.nn, kind + rank)(shape[1], **settings)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1.5, 2.0, shape[1]))
        layer.bias.copy_(torch.linspace(0.5, -0.5, shape[1]))
    if not counter:
        layer.num_batches_tracked = None
    return layer


def _steps(layer: torch.nn.Module, x: Tensor, residual: Tensor | None) -> list[Tensor]:
    """Three training steps: outputs, gradients, and what the layer holds afterwards."""
    found: list[Tensor] = []
    for scale in (1.0, 3.0, 0.5):
        inputs = [x.mul(scale).requires_grad_()]
        inputs += [] if residual is None else [residual.clone().requires_grad_()]
        y = layer(inputs[0], residual=inputs[1] if residual is not None else None)
        y.backward(torch.cos(y.detach()) if scale > 1 else torch.ones(()).expand_as(y))
        found += [y.detach(), *(t.grad for t in inputs if t.grad is not None)]
    grads = [p.grad for p in layer.parameters() if p.grad is not None]
    return [*found, *grads, *layer.buffers()]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "relu"},
        {"activation": "gelu", "momentum": None},
        {"activation": "silu", "counter": False},
        {"activation": "identity", "variance": "biased", "momentum": 0.7},
    ],
    ids=str,
)
def test_same_bits(
    shape: tuple[int, ...],
    with_residual: bool,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(len(shape))
    x = torch.randn(shape) * 2 + 5
    residual = torch.randn(shape) if with_residual else None
    taken = _count_quick(monkeypatch)
    quick = _steps(_layer(shape, **settings), x, residual)
    assert taken == [True, True, True]
    monkeypatch.setattr(_base, "train_step", lambda *_: None)
    general = _steps(_layer(shape, **settings), x, residual)
    assert len(quick) == len(general)
    for ours, theirs in zip(quick, general, strict=True):
        assert torch.equal(ours, theirs)


def _count_quick(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of a layer was served by the short path."""
    taken: list[bool] = []
    step: Callable[..., Tensor | None] = _quick.train_step

    def watched(*arguments: Any) -> Tensor | None:
        y = step(*arguments)
        taken.append(y is not None)
        return y

    monkeypatch.setattr(_base, "train_step", watched)
    return taken


def _with_bfloat16_weights(layer: torch.nn.Module) -> Tensor:
    layer.weight.data = layer.weight.data.bfloat16()
    layer.bias.data = layer.bias.data.bfloat16()
    return torch.randn(4, 3, 5, 5)


@pytest.mark.parametrize(
    "prepare",
    [
        lambda _: torch.randn(1, 3, 1, 1),  # one value per channel
        lambda _: torch.randn(4, 2, 5, 5),  # two channels instead of three
        lambda _: torch.randn(4, 3, 5),  # no such rank
        _with_bfloat16_weights,
    ],
)
def test_refusals_are_left_to_the_general_path(
    prepare: Callable[[torch.nn.Module], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = _count_quick(monkeypatch)
    layer = _layer((4, 3, 5, 5))
    x, before = prepare(layer), [b.clone() for b in layer.buffers()]
    with pytest.raises(EvenkeelError):
        layer(x)
    assert taken == [False]
    assert all(torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True))


def test_strides_that_differ_are_left_to_the_general_path(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = _count_quick(monkeypatch)
    layer = _layer((4, 3, 5, 5), activation="relu")
    residual = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 5, 5)
    y = layer(x, residual)
    assert taken == [False]
    assert torch.equal(y, _layer((4, 3, 5, 5), activation="relu")(x, residual.contiguous()))


def test_autograd_learns_of_written_statistics() -> None:
    layer = _layer((4, 3, 5, 5))
    held = layer.running_mean * torch.ones(3, requires_grad=True)
    layer(torch.randn(4, 3, 5, 5))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        held.sum().backward()


def test_no_graph_where_none_is_recorded() -> None:
    layer = _layer((4, 3, 5, 5))
    with torch.no_grad():
        y = layer(torch.randn(4, 3, 5, 5))
    assert y.grad_fn is None
    assert not y.requires_grad
    assert int(layer.num_batches_tracked) == 1


def test_a_batch_with_nan_is_reported_and_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = _count_quick(monkeypatch)
    layer, x = _layer((4, 3, 5, 5)), torch.randn(4, 3, 5, 5)
    x[0, 1, 0, 0] = torch.nan
    with pytest.warns(NonFiniteWarning, match="1 batch with NaN"):
        layer(x)
    assert taken == [True]
    assert int(layer.nonfinite_batches) == 1
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert int(layer.num_batches_tracked) == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("activation", "inplace"),
    [("identity", False), ("relu", False), ("gelu", False), ("identity", True), ("elu", True)],
)
def test_no_gradient_is_a_view(activation: str, inplace: bool, layout: torch.memory_format) -> None:
    """Autograd adds others to it in place only then; a view costs a tensor and a pass."""
    layer = _layer((4, 3, 5, 6), activation=activation, inplace=inplace)
    seen: list[bool] = []
    inputs: list[Tensor] = []
    for _ in range(1 if inplace else 2):
        inputs.append(torch.randn(4, 3, 5, 6).to(memory_format=layout).requires_grad_() * 1.0)
        inputs[-1].register_hook(lambda gradient: seen.append(gradient._is_view()))
    layer(*inputs).backward(torch.randn(4, 3, 5, 6).to(memory_format=layout))
    assert seen == [False] * len(inputs)
