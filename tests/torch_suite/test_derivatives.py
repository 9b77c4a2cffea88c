"""Derivatives of every order on torch's own inputs, by torch's own gradcheck.

After TestBwdGradients and TestFwdGradients in PyTorch's test/test_ops_gradients.py, test_grad
and test_gradgrad in test/test_modules.py, and TestOperators and TestVmapOperators in
test/functorch/. torch's wrappers of gradcheck also check batched gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, func, nn
from torch.testing import assert_close
from torch.testing._internal.common_utils import gradcheck, gradgradcheck

from evenkeel.nn.functional import batch_norm

from ._adapters import OURS
from ._samples import OPS, Call, ModuleCase, OpCase, module_cases, op_cases, read

if TYPE_CHECKING:
    from collections.abc import Callable

OP_CASES = op_cases(torch.float64)
#: Forms with an input of at least two dimensions, whose batches and tangents can be varied.
PURE_CASES = [case for case in OP_CASES if case.sample().input.dim() > 1]
every_op = pytest.mark.parametrize("case", OP_CASES, ids=str)
pure_op = pytest.mark.parametrize("case", PURE_CASES, ids=str)
every_module = pytest.mark.parametrize("case", module_cases(torch.float64, lazy=False), ids=str)


def of_leaves(
    op: Callable[..., object], case: OpCase
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The operator as a function of what a sample differentiates, and these tensors."""
    sample = case.sample(requires_grad=True)
    given = [sample.input, *sample.args]
    places = [i for i, t in enumerate(given) if isinstance(t, Tensor) and t.requires_grad]

    def function(*leaves: Tensor) -> Tensor:
        arguments = list(given)
        for place, leaf in zip(places, leaves, strict=True):
            arguments[place] = leaf
        result = op(*arguments, **sample.kwargs)
        return result[0] if isinstance(result, tuple) else result

    return function, [given[i] for i in places]


@every_op
def test_fn_grad(case: OpCase) -> None:
    function, leaves = of_leaves(OURS[case.entry], case)
    assert gradcheck(function, leaves, check_batched_grad=OPS[case.entry].check_batched_grad)


@every_op
def test_forward_mode_ad(case: OpCase) -> None:
    function, leaves = of_leaves(OURS[case.entry], case)
    assert gradcheck(
        function,
        leaves,
        check_forward_ad=True,
        check_backward_ad=False,
        check_undefined_grad=False,
        check_batched_grad=False,
        check_batched_forward_grad=OPS[case.entry].check_batched_forward_grad,
    )


@every_op
def test_fn_gradgrad(case: OpCase) -> None:
    function, leaves = of_leaves(OURS[case.entry], case)
    batched = OPS[case.entry].check_batched_gradgrad
    assert gradgradcheck(function, leaves, check_batched_grad=batched)
    assert gradgradcheck(
        function, leaves, check_batched_grad=batched, gen_non_contig_grad_outputs=True
    )


@every_op
def test_fn_fwgrad_bwgrad(case: OpCase) -> None:
    function, leaves = of_leaves(OURS[case.entry], case)
    assert gradgradcheck(
        function,
        leaves,
        check_fwd_over_rev=True,
        check_rev_over_rev=False,
        check_undefined_grad=False,
        check_batched_grad=False,
    )


@every_module
def test_grad(case: ModuleCase) -> None:
    _check_module(case, gradcheck)


@every_module
def test_gradgrad(case: ModuleCase) -> None:
    assert case.info.supports_gradgrad
    _check_module(case, gradgradcheck)


def _check_module(case: ModuleCase, check: Callable[..., bool]) -> None:
    """The total derivative, and that of the input with one parameter at a time."""
    module = case.build(case.ours)
    x, parameters = case.x(requires_grad=True), list(module.parameters())

    def function(x: Tensor, *_: Tensor) -> Tensor:
        return module(x)

    assert check(function, (x, *parameters))
    for parameter in parameters:
        for other in parameters:
            other.requires_grad_(other is parameter)
        assert check(function, (x, *parameters))


def pure(call: Call) -> Callable[..., Tensor]:
    """Our function of input, weight and bias; statistics are neither captured nor written."""

    def function(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return batch_norm(
            x, call.mean, call.var, weight, bias, call.training, call.momentum, call.eps
        ).output

    return function


def torchs(call: Call) -> Callable[..., Tensor]:
    """torch's, without running statistics in training: it cannot write into captured ones."""
    mean, var = (None, None) if call.training else (call.mean, call.var)

    def function(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return nn.functional.batch_norm(
            x, mean, var, weight, bias, call.training, call.momentum, call.eps
        )

    return function


def stacked(t: Tensor | None) -> Tensor | None:
    """Three variations of a tensor, on a new first dimension."""
    return None if t is None else torch.stack([t, t.flip(0) * 0.5, t + 1])


@pure_op
def test_vmap(case: OpCase) -> None:
    """Over every argument alone and all together, against a loop over torch's function."""
    call = read(case.entry, case.sample())
    arguments = (call.x, call.weight, call.bias)
    present = [i for i, t in enumerate(arguments) if t is not None]
    for places in [*([i] for i in present), present]:
        dims = tuple(0 if i in places else None for i in range(3))
        given = [stacked(t) if d == 0 else t for t, d in zip(arguments, dims, strict=True)]
        for index, value in enumerate(func.vmap(pure(call), dims)(*given)):
            pairs = zip(given, dims, strict=True)
            alone = [t[index] if d == 0 and t is not None else t for t, d in pairs]
            assert_close(value, torchs(call)(*alone))


@pytest.mark.parametrize(
    "case", [c for c in PURE_CASES if read(c.entry, c.sample()).mean is not None], ids=str
)
def test_vmap_over_the_statistics(case: OpCase) -> None:
    """An ensemble: each member has its own input and its own running statistics."""
    call = read(case.entry, case.sample())
    assert call.mean is not None
    assert call.var is not None
    settings = (call.weight, call.bias, call.training, call.momentum, call.eps)
    members = [stacked(t) for t in (call.x, call.mean, call.var.abs())]
    found = func.vmap(lambda *own: tuple(batch_norm(*own, *settings)))(*members)
    for index in range(3):
        x, mean, var = (t[index].clone() for t in members)
        y = nn.functional.batch_norm(x, mean, var, *settings)
        for value, expected in zip(found, (y, mean, var), strict=True):
            assert_close(value[index], expected)


@pure_op
def test_vjp_jvp_and_their_vmap(case: OpCase) -> None:
    call = read(case.entry, case.sample())
    arguments = [t for t in (call.x, call.weight, call.bias) if t is not None]
    missing = 3 - len(arguments)
    results = []
    for make in (pure, torchs):
        whole = make(call)

        def function(*given: Tensor, whole: Callable[..., Tensor] = whole) -> Tensor:
            return whole(*given, *[None] * missing)

        y, pullback = func.vjp(function, *arguments)
        dys = torch.stack([torch.ones_like(y), y.detach().flip(0), y.detach() ** 2])
        tangents = tuple(t.flip(0) + 1 for t in arguments)
        many = tuple(torch.stack([t, -2 * t]) for t in tangents)

        def pushforward(*directions: Tensor, function: Callable[..., Tensor] = function) -> Tensor:
            return func.jvp(function, tuple(arguments), directions)[1]

        results.append(
            [
                y,
                *pullback(dys[0]),
                *func.vmap(pullback)(dys),
                pushforward(*tangents),
                func.vmap(pushforward)(*many),
            ]
        )
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)
