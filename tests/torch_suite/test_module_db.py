"""The batch-norm entries of torch's `module_db`, with our classes in the place of torch's.

After the bodies of TestModule in PyTorch's test/test_modules.py, under their names; torch's
lazy classes, which `module_db` lacks, run with the inputs of the class that they become.
"""

from __future__ import annotations

import copy
import io
import pickle
from inspect import signature
from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.testing import assert_close

import evenkeel

from ._samples import MODULES, ModuleCase, module_cases

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = module_cases()
every_case = pytest.mark.parametrize("case", CASES, ids=str)
plain_case = pytest.mark.parametrize("case", [c for c in CASES if not c.lazy], ids=str)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def assert_floating_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """What TestModule asserts of all parameters and buffers; integers are left out."""
    for name, tensor in tensors_of(module).items():
        assert tensor.device.type == "cpu", name
        if tensor.dtype.is_floating_point:
            assert tensor.dtype == dtype, name


def passed(module: nn.Module, x: Tensor, dy: Tensor | None = None) -> list[Tensor]:
    """Output and all gradients."""
    y = module(x)
    inputs = [x, *module.parameters()]
    return [y, *torch.autograd.grad(y, inputs, torch.ones_like(y) if dy is None else dy)]


@every_case
def test_forward(case: ModuleCase) -> None:
    ours, theirs = (case.build(cls) for cls in (case.ours, case.theirs))
    assert_close(ours(case.x()), theirs(case.x()))
    assert_floating_dtype(ours, case.dtype)
    for convert, dtype in ((nn.Module.float, torch.float32), (nn.Module.double, torch.float64)):
        convert(ours)(case.x().to(dtype))
        assert_floating_dtype(ours, dtype)


@pytest.mark.parametrize("case", [c for c in CASES if c.lazy], ids=str)
def test_lazy_becomes_plain(case: ModuleCase) -> None:
    module = case.build(case.ours)
    module(case.x())
    assert type(module) is getattr(evenkeel.nn, case.name)
    assert isinstance(module, getattr(nn, case.name))
    assert module.num_features == case.x().shape[1]


@every_case
def test_factory_kwargs(case: ModuleCase) -> None:
    args, kwargs = case.arguments()
    module = case.ours(*args, **kwargs, device="cpu", dtype=case.dtype)
    assert_floating_dtype(module, case.dtype)
    expected = tensors_of(case.theirs(*args, **kwargs, device="cpu", dtype=case.dtype))
    found = tensors_of(module)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert type(tensor) is type(expected[name])
        assert is_lazy(tensor) or tensor.shape == expected[name].shape


@every_case
def test_repr(case: ModuleCase) -> None:
    ours, theirs = case.build(case.ours), case.build(case.theirs)
    assert repr(ours) == repr(theirs)
    assert str(ours) == str(theirs)


def _torch_save(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "torch.save": _torch_save,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "deepcopy": copy.deepcopy,
}


@every_case
def test_pickle(case: ModuleCase) -> None:
    module = case.build(case.ours)
    output = module(case.x())
    for how, duplicate in COPIES.items():
        twin = duplicate(module)
        assert type(twin) is type(module), how
        assert torch.equal(twin(case.x()), output), how


@every_case
def test_save_load(case: ModuleCase) -> None:
    """State goes to torch's module and back, with nothing missing and nothing left over."""
    ours, theirs = case.build(case.ours), case.build(case.theirs)
    for module in (ours, theirs):
        module.train()(case.x())
    for source, cls in ((ours, case.theirs), (theirs, case.ours)):
        target = case.build(cls)
        state = source.state_dict()
        target.load_state_dict(state, strict=True)
        target.train(case.training)
        source.train(case.training)
        loaded = target.state_dict()
        assert list(loaded) == list(state)
        assert loaded._metadata[""] == state._metadata[""]
        assert all(torch.equal(loaded[name], state[name]) for name in state)
        assert_close(target(case.x()), source(case.x()))


def test_check_inplace() -> None:
    """torch runs it where the constructor takes `inplace`, which no batch norm does."""
    for case in CASES:
        assert "inplace" not in signature(case.ours).parameters
        assert "inplace" not in signature(case.theirs).parameters


@plain_case
def test_non_contiguous_tensors(case: ModuleCase) -> None:
    def spread(t: Tensor) -> Tensor:
        wide = torch.repeat_interleave(t.detach(), 2, dim=-1)[..., ::2]
        return wide.requires_grad_(t.requires_grad)

    module = case.build(case.ours)
    x = case.x(requires_grad=True)
    dy = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    expected = passed(module, x, dy)
    for value, upstream in product((x, spread(x)), (dy, spread(dy))):
        for got, want in zip(passed(module, value, upstream), expected, strict=True):
            assert_close(got, want)


@plain_case
def test_memory_format(case: ModuleCase) -> None:
    x = case.x(requires_grad=True)
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    formats = [torch.contiguous_format] + ([last] if last else [])
    module = case.build(case.ours)
    expected = passed(module, x)
    for of_input, of_module in product(formats, [torch.preserve_format, *formats]):
        module.to(memory_format=of_module)
        value = x.detach().clone().to(memory_format=of_input).requires_grad_()
        found = passed(module, value)
        for got, want in zip(found, expected, strict=True):
            assert_close(got, want)
        y, dx, *_ = found
        assert y.is_contiguous(memory_format=of_input)
        assert dx.is_contiguous(memory_format=of_input)


@pytest.mark.parametrize("case", module_cases(modes=(True,)), ids=str)
def test_if_train_and_eval_modes_differ(case: ModuleCase) -> None:
    assert case.info.train_and_eval_differ
    module = case.build(case.ours)
    del module.training
    with pytest.raises(AttributeError, match="'training'"):
        module(case.x())


@every_case
def test_device_ctx_init(case: ModuleCase) -> None:
    args, kwargs = case.arguments()
    real = tensors_of(case.ours(*args, **kwargs))
    with torch.device("meta"):
        meta = tensors_of(case.ours(*args, **kwargs))
    assert meta.keys() == real.keys()
    for name, shadow in meta.items():
        assert shadow.is_meta
        if not is_lazy(shadow):
            assert shadow.shape == real[name].shape
            assert shadow.stride() == real[name].stride()
            assert shadow.dtype == real[name].dtype
            assert shadow.requires_grad == real[name].requires_grad


@plain_case
def test_to_empty(case: ModuleCase) -> None:
    args, kwargs = case.arguments()
    with torch.device("meta"):
        module = case.ours(*args, **kwargs)
    module.to_empty(device="cpu").to(case.dtype).train(case.training)
    assert_floating_dtype(module, case.dtype)
    source = case.build(case.theirs)
    module.load_state_dict(source.state_dict())
    assert_close(module(case.x()), source(case.x()))


@plain_case
def test_to(case: ModuleCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's modules: a parameter keeps its identity, except where that is not possible."""
    conversions = (nn.Module.double, nn.Module.float, lambda module: module.to("meta"))
    for swap, convert in product((False, True), conversions):
        monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", swap)
        kept = [_kept(case.build(cls), convert) for cls in (case.ours, case.theirs)]
        assert kept[0] == kept[1]


def _kept(
    module: nn.Module, convert: Callable[[nn.Module], object]
) -> dict[str, tuple[bool, torch.dtype, torch.device]]:
    """Of each tensor after a conversion: is it the same object, its dtype and its device."""
    before = tensors_of(module)
    convert(module)
    after = tensors_of(module)
    return {name: (t is before[name], t.dtype, t.device) for name, t in after.items()}


ERRORS = [
    (name, training, index)
    for name, info in MODULES.items()
    for training in (True, False)
    for index, _ in enumerate(
        info.module_error_inputs_func(info, "cpu", torch.float32, False, training)
    )
]


@pytest.mark.parametrize(("name", "training", "index"), ERRORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_errors(name: str, training: bool, index: int, dtype: torch.dtype) -> None:
    """As in torch, whose body never calls ``.train(training)``: the modules are in training."""
    info = MODULES[name]
    error = info.module_error_inputs_func(info, "cpu", dtype, False, training)[index]
    given = error.module_error_input
    case = ModuleCase(name, training, dtype, index)
    for cls in (case.theirs, case.ours):
        arguments = given.constructor_input
        module = cls(*arguments.args, **arguments.kwargs).to(dtype)
        with pytest.raises(error.error_type, match=error.error_regex):
            module(*given.forward_input.args, **given.forward_input.kwargs)
