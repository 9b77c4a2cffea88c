"""One provider, one case: every verb against the law, and the form of every result."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evenkeel import reference
from evenkeel.kernels._contract import Moments, Norm, Sums
from evenkeel.kernels.conformance._law import Law
from evenkeel.kernels.providers._reference import exact, moments_in, moments_out, sums_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from evenkeel.kernels._contract import Provider
    from evenkeel.kernels.conformance._cases import Case, Inputs


@dataclass(frozen=True, slots=True)
class Failure:
    """One result of one verb that broke its bound or the contract."""

    case: str
    verb: str
    what: str
    detail: str

    def __str__(self) -> str:
        return f"[{self.case}] {self.verb}: {self.what}: {self.detail}"


@dataclass(frozen=True, slots=True)
class _Judge:
    """Collects what is wrong with the results of one case."""

    case: Case
    inputs: Inputs
    law: Law

    def fail(self, verb: str, what: str, detail: str) -> Failure:
        return Failure(str(self.case), verb, what, detail)

    def within(
        self, verb: str, what: str, got: Tensor, want: NDArray[Any], bound: NDArray[Any]
    ) -> Iterator[Failure]:
        """Every element within its bound; where the law has no finite value, neither has got."""
        if tuple(got.shape) != want.shape:
            yield self.fail(verb, what, f"shape {tuple(got.shape)}, expected {want.shape}")
            return
        yield from self.compare(verb, what, exact(got), want, bound)

    def compare(
        self, verb: str, what: str, got: NDArray[Any], want: NDArray[Any], bound: NDArray[Any]
    ) -> Iterator[Failure]:
        """The same for arrays."""
        lost = ~np.isfinite(want)
        if np.isfinite(got[lost]).any():
            yield self.fail(verb, what, "finite where NaN or Inf entered the channel")
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.where(lost, 0.0, np.abs(got - want))
            bound = np.where(lost, math.inf, np.broadcast_to(bound, want.shape))
            bad = ~(error <= bound)  # NaN is never within a bound
        if bad.any():
            at = np.unravel_index(int(np.argmax(np.where(bad, error - bound, -1.0))), want.shape)
            place = tuple(int(i) for i in at)
            yield self.fail(
                verb,
                what,
                f"{int(bad.sum())} of {want.size} out of bounds, worst at {place}: got "
                f"{got[at]:.9g}, law {want[at]:.9g}, error {error[at]:.3g}, bound {bound[at]:.3g}",
            )

    def formed(self, verb: str, what: str, got: Tensor, like: Tensor) -> Iterator[Failure]:
        """A new tensor of the dtype and strides that the contract asks for."""
        if got.dtype != like.dtype:
            yield self.fail(verb, what, f"dtype {got.dtype}, contract says {like.dtype}")
        if got.dim() == 3 and got.numel() and got.stride() != torch.empty_like(like).stride():
            expected = torch.empty_like(like).stride()
            yield self.fail(verb, what, f"strides {got.stride()}, contract says {expected}")
        owned = {t.untyped_storage().data_ptr() for t in _tensors(self.inputs) if t.numel()}
        if got.numel() and got.untyped_storage().data_ptr() in owned:
            yield self.fail(verb, what, "shares memory with an input")

    def moments(self, verb: str, got: Moments) -> Iterator[Failure]:
        want, law = self.law.moments, self.law
        per_channel = torch.empty(0, dtype=law.acc)
        if int(got.count) != want.count:
            yield self.fail(verb, "count", f"{int(got.count)}, law {want.count}")
        for name, part in zip(("mean", "mean_lo", "var"), got[1:], strict=True):
            yield from self.formed(verb, name, part, per_channel)
        mean = moments_in(got, law.origin).mean
        yield from self.compare(verb, "mean", mean, want.mean, law.mean_bound())
        yield from self.within(verb, "var", got.var, want.var, law.var_bound())

    def output(self, verb: str, y: Tensor) -> Iterator[Failure]:
        yield from self.formed(verb, "y", y, self.inputs.x)
        yield from self.within(verb, "y", y, self.law.y, self.law.y_bound())

    def sums(self, verb: str, got: Sums) -> Iterator[Failure]:
        law = self.law
        per_channel = torch.empty(0, dtype=law.acc)
        for name, part in zip(("sum dz", "sum dz xhat"), got, strict=True):
            yield from self.formed(verb, name, part, per_channel)
        yield from self.within(verb, "sum dz", got.dz, law.sums.dz, law.dz_sum_bound())
        yield from self.within(
            verb, "sum dz xhat", got.dz_xhat, law.sums.dz_xhat, law.dz_xhat_sum_bound()
        )

    def gradients(
        self, verb: str, dx: Tensor, dresidual: Tensor | None, *, training: bool
    ) -> Iterator[Failure]:
        law, inputs = self.law, self.inputs
        want, want_residual = law.input_gradients(training=training)
        yield from self.formed(verb, "dx", dx, inputs.x)
        yield from self.within(verb, "dx", dx, want, law.dx_bound(training=training))
        if (dresidual is None) != (inputs.residual is None):
            yield self.fail(verb, "d residual", "is None exactly where there is no residual")
        elif dresidual is not None:
            yield from self.formed(verb, "d residual", dresidual, inputs.x)
            yield from self.within(
                verb, "d residual", dresidual, want_residual, law.dresidual_bound()
            )


def check_case(provider: Provider, case: Case) -> list[Failure]:
    """Hold every verb of ``provider`` against the law on one case."""
    inputs = case.build()
    judge = _Judge(case, inputs, Law(inputs))
    before = [t.clone() for t in _tensors(inputs)]
    with np.errstate(all="ignore"):
        failures = [*_forward(provider, judge), *_backward(provider, judge)]
        failures += _merge(provider, judge)
    for old, new in zip(before, _tensors(inputs), strict=True):
        if not torch.equal(old.nan_to_num(), new.nan_to_num()):
            failures.append(judge.fail("any", "inputs", "were written into"))
    return failures


def _forward(provider: Provider, judge: _Judge) -> Iterator[Failure]:
    i, norm = judge.inputs, judge.law.norm()
    yield from judge.moments("moments", provider.moments(i.x, i.mask))
    yield from judge.output("normalize", provider.normalize(i.x, norm, i.residual, i.mask))
    y, moments = provider.forward(i.x, i.weight, i.bias, i.eps, i.activation, i.residual, i.mask)
    yield from judge.moments("forward", moments)
    yield from judge.output("forward", y)


def _backward(provider: Provider, judge: _Judge) -> Iterator[Failure]:
    i, law, norm = judge.inputs, judge.law, judge.law.norm()
    dy, count = law.dy_tensor, law.moments.count
    rest = (i.residual, i.mask)
    yield from judge.sums("backward_reduce", provider.backward_reduce(dy, i.x, norm, *rest))
    sums = sums_out(law.sums, norm.mean)
    pair = provider.backward_input(dy, i.x, norm, sums, count, *rest)
    yield from judge.gradients("backward_input", *pair, training=True)
    pair = provider.backward_input(dy, i.x, norm, None, count, *rest)
    yield from judge.gradients("backward_input in inference", *pair, training=False)
    dx, own, dresidual = provider.backward(dy, i.x, _own_norm(provider, i), *rest)
    yield from judge.sums("backward", own)
    yield from judge.gradients("backward", dx, dresidual, training=True)


def _own_norm(provider: Provider, i: Inputs) -> Norm:
    """The statistics as the provider itself would save them for its backward pass."""
    return Norm(*provider.moments(i.x, i.mask)[1:], i.weight, i.bias, i.eps, i.activation)


def _merge(provider: Provider, judge: _Judge) -> Iterator[Failure]:
    """Cut the batch into unequal parts, one of them empty, and merge their moments."""
    law = judge.law
    size = law.x.shape[0]
    cuts = [0, min(1, size), min(1, size), size // 2 + (size > 1), size]
    parts = [
        reference.moments(law.x[a:b], None if law.mask is None else law.mask[a:b])
        for a, b in itertools.pairwise(cuts)
    ]
    carried = [moments_out(p, law.origin, judge.inputs.x) for p in parts]
    got = provider.merge(carried)
    want = reference.merge([moments_in(p, law.origin) for p in carried])
    if int(got.count) != want.count:
        yield judge.fail("merge", "count", f"{int(got.count)}, law {want.count}")
    yield from judge.compare(
        "merge", "mean", moments_in(got, law.origin).mean, want.mean, law.mean_bound()
    )
    yield from judge.within("merge", "var", got.var, want.var, law.var_bound())


def _tensors(inputs: Inputs) -> list[Tensor]:
    named = (inputs.x, inputs.dy, inputs.weight, inputs.bias, inputs.residual, inputs.mask)
    return [t for t in named if t is not None]
