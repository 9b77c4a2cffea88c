"""The sample inputs of torch's batch-norm entries in `op_db`, with our function in torch's place.

After the bodies of TestCommon in PyTorch's test/test_ops.py: test_compare_cpu,
test_noncontiguous_samples, test_dtypes, and TestMathBits (negative views), TestFakeTensor.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ._adapters import OURS
from ._bounds import bounds, within
from ._samples import HALF, OPS, OpCase, fresh, op_cases, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.testing._internal.opinfo.core import SampleInput

    from ._samples import Call

CASES = op_cases()
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def call(op: Callable[..., Any], sample: SampleInput) -> tuple[Tensor, ...]:
    """All results of an operator."""
    results = op(sample.input, *sample.args, **sample.kwargs)
    return results if isinstance(results, tuple) else (results,)


def in_double(sample: SampleInput) -> SampleInput:
    """The same values in float64, as new leaves."""
    return sample.transform(partial(fresh, dtype=torch.float64))


def upstream(y: Tensor) -> Tensor:
    """A gradient of the output, the same for equal shapes, exact in every dtype."""
    generator = torch.Generator().manual_seed(y.numel())
    return (torch.randint(-64, 65, y.shape, generator=generator) / 32).to(y.dtype)


def compare(ours: Results, theirs: Results, exact: Results, source: Call, dy: Tensor) -> None:
    """Hold our results against torch's in float64, and in the dtype of the sample."""
    near, folded = bounds(source, dy), bounds(source, dy, torchs=True)
    assert ours.keys() == theirs.keys() == exact.keys()
    for name, value in ours.items():
        bound, torchs = getattr(near, name), getattr(folded, name)
        assert value.dtype == theirs[name].dtype, name
        within(f"{name} against float64", value, exact[name], bound)
        within(f"{name} against {value.dtype}", value, theirs[name], bound + torchs, times=2)


Results = dict[str, Tensor]


def run(op: Callable[..., Any], entry: str, sample: SampleInput, dy: Tensor | None) -> Results:
    """Output, saved statistics, running statistics, and gradients where ``dy`` is given."""
    y, *saved = call(op, sample)
    source = read(entry, sample)
    results = {"y": y}
    results |= {
        name: value
        for name, value in zip(("mean", "inv_std"), saved, strict=False)
        if source.training
    }
    if source.mean is not None and source.var is not None:
        results |= {"running_mean": source.mean, "running_var": source.var}
    if dy is not None:
        tensors = {"dx": source.x, "dweight": source.weight, "dbias": source.bias}
        leaves = {k: t for k, t in tensors.items() if t is not None and t.requires_grad}
        gradients = torch.autograd.grad(y, list(leaves.values()), dy.to(y.dtype))
        results |= dict(zip(leaves, gradients, strict=True))
    return results


@pytest.mark.parametrize("requires_grad", [False, True], ids=["no_grad", "grad"])
@every_case
def test_results_are_torchs(case: OpCase, requires_grad: bool) -> None:
    ours, theirs = (case.sample(requires_grad=requires_grad) for _ in range(2))
    exact = in_double(ours)
    before = read(case.entry, case.sample())
    torchs = OPS[case.entry].op
    dy = upstream(ours.input.detach())
    results = [
        run(op, case.entry, sample, dy if requires_grad else None)
        for op, sample in ((OURS[case.entry], ours), (torchs, theirs), (torchs, exact))
    ]
    assert results[0]["y"].requires_grad is requires_grad
    if before.x.numel() == 0 or not before.training:
        assert results[0].keys() == results[1].keys()
        for name, value in results[0].items():
            assert torch.equal(value, results[1][name]), name
    else:
        compare(*results, before, dy)


@every_case
def test_number_shape_and_dtype_of_results(case: OpCase) -> None:
    ours, theirs = (
        call(op, case.sample(requires_grad=True)) for op in (OURS[case.entry], OPS[case.entry].op)
    )
    for mine, torchs in zip(ours, theirs, strict=True):
        if read(case.entry, case.sample()).training:
            assert mine.shape == torchs.shape
        assert mine.dtype == torchs.dtype
        assert mine.requires_grad == torchs.requires_grad


def _interleaved(t: Tensor) -> Tensor:
    return t.repeat_interleave(2, -1)[..., ::2]


def _transposed(t: Tensor) -> Tensor:
    return t.movedim(0, -1).contiguous().movedim(-1, 0)


def _channels_last(t: Tensor) -> Tensor:
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if t.dim() > 1 else t


def _offset(t: Tensor) -> Tensor:
    padded = torch.full((t.numel() + 3,), 1e4, dtype=t.dtype)
    padded[3:] = t.flatten()
    return padded[3:].view(t.shape)


def _negative_view(t: Tensor) -> Tensor:
    return torch._neg_view(-t)


LAYOUTS = {
    "interleaved": _interleaved,
    "transposed": _transposed,
    "channels_last": _channels_last,
    "offset": _offset,
    "negative_view": _negative_view,
}


def _laid_out(layout: Callable[[Tensor], Tensor], value: object) -> object:
    if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0:
        changed = layout(value.detach())
        assert torch.equal(changed, value)
        return changed.requires_grad_(value.requires_grad)
    return value


@every_case
def test_memory_layout_changes_nothing(case: OpCase) -> None:
    """Sample, statistics, parameters and upstream gradient in each layout."""
    source, dy = read(case.entry, case.sample()), upstream(case.sample().input)
    wide = in_double(case.sample(requires_grad=True))
    exact = run(OPS[case.entry].op, case.entry, wide, dy)
    bound = bounds(source, dy)._asdict() if source.x.numel() else dict.fromkeys(exact, 0.0)
    for layout, lay_out in LAYOUTS.items():
        sample = case.sample(requires_grad=True).transform(partial(_laid_out, lay_out))
        ours = run(OURS[case.entry], case.entry, sample, lay_out(dy))
        assert ours.keys() == exact.keys()
        for name, value in ours.items():
            within(f"{name}, {layout}", value, exact[name], bound[name])


@every_case
def test_torchs_own_noncontiguous_sample(case: OpCase) -> None:
    plain = case.sample(requires_grad=True)
    strided = case.sample(requires_grad=True).noncontiguous()
    source, dy = read(case.entry, case.sample()), upstream(plain.input.detach())
    if source.x.numel() > 1:
        assert not strided.input.is_contiguous()
    ours = run(OURS[case.entry], case.entry, strided, dy)
    same = run(OURS[case.entry], case.entry, plain, dy)
    bound = bounds(source, dy)._asdict() if source.x.numel() else dict.fromkeys(ours, 0.0)
    for name, value in ours.items():
        within(name, value, same[name], 2 * bound[name], times=2)


@every_case
def test_zero_tensor_as_upstream_gradient(case: OpCase) -> None:
    """Forward-mode AD and conjugation hand such tensors, which have no memory, to a backward."""
    sample = case.sample(requires_grad=True)
    y, *_ = call(OURS[case.entry], sample)
    leaves = read(case.entry, sample).leaves()
    zero = torch._efficientzerotensor(y.shape, dtype=y.dtype)
    for gradient in torch.autograd.grad(y, leaves, zero):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@every_case
def test_one_differentiable_argument_at_a_time(case: OpCase) -> None:
    sample = case.sample(requires_grad=True)
    y, *_ = call(OURS[case.entry], sample)
    dy = upstream(y)
    together = torch.autograd.grad(y, read(case.entry, sample).leaves(), dy)
    for index, gradient in enumerate(together):
        sample = case.sample(requires_grad=True)
        leaves = read(case.entry, sample).leaves()
        for leaf in leaves:
            leaf.requires_grad_(leaf is leaves[index])
        y, *_ = call(OURS[case.entry], sample)
        (alone,) = torch.autograd.grad(y, leaves[index], dy)
        assert torch.equal(alone, gradient)


@every_case
def test_fake_tensors_foretell_shape_dtype_and_strides(case: OpCase) -> None:
    real = call(OURS[case.entry], case.sample())
    mode = FakeTensorMode()
    fake = case.sample().transform(lambda v: mode.from_tensor(v) if isinstance(v, Tensor) else v)
    with mode:
        foretold = call(OURS[case.entry], fake)
    for value, shadow in zip(real, foretold, strict=True):
        assert value.shape == shadow.shape
        assert value.dtype == shadow.dtype
        assert value.stride() == shadow.stride()


@pytest.mark.parametrize("entry", OURS)
def test_refuses_the_dtypes_that_torch_refuses(entry: str) -> None:
    op = OPS[entry]
    for dtype in (torch.int64, torch.bool, torch.complex64):
        assert dtype not in op.supported_dtypes("cpu")
        sample = OpCase(entry, torch.float32, 0).sample()
        sample.input = sample.input.to(dtype)
        for function in (op.op, OURS[entry]):
            with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
                call(function, sample)


def test_torch_ships_no_error_or_reference_inputs() -> None:
    """Should a release bring them, they belong into this suite."""
    for name, op in OPS.items():
        assert op.error_inputs_func is None, name
        assert op.reference_inputs_func is None, name


ARGUMENTS_THAT_TORCH_REFUSES = {
    "one value per channel": (ValueError, (1, 3), {}),
    "eps of 0 in training": (ValueError, (4, 3), {"eps": 0.0}),
    "negative eps in training": (ValueError, (4, 3), {"eps": -1.0}),
    "negative eps in inference": (ValueError, (4, 3), {"eps": -1.0, "training": False}),
    "running mean too short": (RuntimeError, (4, 3), {"running_mean": torch.zeros(2)}),
    "running variance too long": (RuntimeError, (4, 3), {"running_var": torch.ones(4)}),
    "weight too short": (RuntimeError, (4, 3), {"weight": torch.ones(2)}),
    "bias too long": (RuntimeError, (4, 3), {"bias": torch.ones(4)}),
}


@pytest.mark.parametrize("what", ARGUMENTS_THAT_TORCH_REFUSES)
def test_refuses_what_torch_refuses(what: str) -> None:
    kind, shape, changes = ARGUMENTS_THAT_TORCH_REFUSES[what]
    arguments = {
        "running_mean": torch.zeros(3),
        "running_var": torch.ones(3),
        "training": True,
    } | changes
    for function in (torch.nn.functional.batch_norm, OURS["nn.functional.batch_norm"]):
        with pytest.raises(kind):
            function(torch.ones(shape), **arguments)


def test_half_samples_are_there() -> None:
    assert {case.dtype for case in CASES} == {torch.float32, torch.float64, *HALF}
