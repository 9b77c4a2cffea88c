"""One provider, one case: every verb against the law, and the form of every result."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from evenkeel import reference
from evenkeel.kernels._contract import Moments, Norm, Sums
from evenkeel.kernels._providers._reference import exact, moments_in, moments_out, sums_out
from evenkeel.kernels.conformance._law import Law, law_of
from evenkeel.spec import IDENTITY, Activation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from evenkeel.kernels._contract import Provider
    from evenkeel.kernels.conformance._cases import Case, Inputs

#: Cases of more elements are made anew each time, since together they would fill the memory.
_REMEMBERED: Final = 20_000
#: Counts of a large data set: beyond 32 bits, and exact in float64.
_LARGE: Final = 2**33


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
        self,
        verb: str,
        what: str,
        got: Tensor,
        want: NDArray[Any],
        bound: NDArray[Any],
        *,
        open_where_poisoned: bool = False,
    ) -> Iterator[Failure]:
        """Every element within its bound; where the law has no finite value, neither has got."""
        if tuple(got.shape) != want.shape:
            yield self.fail(verb, what, f"shape {tuple(got.shape)}, expected {want.shape}")
            return
        values = exact(got)
        if open_where_poisoned:
            poisoned = ~np.isfinite(self.law.moments.var)
            poisoned = poisoned[None, :, None] if want.ndim == 3 else poisoned
            values, want = (np.where(poisoned, 0.0, v) for v in (values, want))
            bound = np.where(poisoned, 0.0, bound)
        yield from self.compare(verb, what, values, want, bound)

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
        yield from self.compare(verb, "mean", mean, want.mean, law.mean_bound)
        yield from self.within(verb, "var", got.var, want.var, law.var_bound)

    def output(self, verb: str, y: Tensor) -> Iterator[Failure]:
        yield from self.formed(verb, "y", y, self.inputs.x)
        yield from self.within(verb, "y", y, self.law.y, self.law.y_bound)

    def sums(self, verb: str, got: Sums) -> Iterator[Failure]:
        law = self.law
        per_channel = torch.empty(0, dtype=law.acc)
        names = ("sum dz", "sum dz xhat")
        for name, part in zip(names, got, strict=True):
            yield from self.formed(verb, name, part, per_channel)
        bounds = (law.dz_sum_bound, law.dz_xhat_sum_bound)
        for name, part, want, bound in zip(names, got, law.sums, bounds, strict=True):
            yield from self.within(verb, name, part, want, bound, open_where_poisoned=True)

    def gradients(
        self, verb: str, dx: Tensor, dresidual: Tensor | None, *, training: bool
    ) -> Iterator[Failure]:
        law, inputs = self.law, self.inputs
        if training:
            (want, want_residual), bound = law.training_gradients, law.training_dx_bound
        else:
            (want, want_residual), bound = law.inference_gradients, law.inference_dx_bound
        yield from self.formed(verb, "dx", dx, inputs.x)
        yield from self.within(verb, "dx", dx, want, bound)
        if (dresidual is None) != (inputs.residual is None):
            yield self.fail(verb, "d residual", "is None exactly where there is no residual")
        elif dresidual is not None:
            yield from self.formed(verb, "d residual", dresidual, inputs.x)
            yield from self.within(
                verb,
                "d residual",
                dresidual,
                want_residual,
                law.dresidual_bound,
                open_where_poisoned=True,
            )


def check_case(provider: Provider, case: Case) -> list[Failure]:
    """Hold every verb of ``provider`` against the law on one case."""
    law = law_of(case) if math.prod(case.shape) <= _REMEMBERED else Law(case.build())
    inputs = law.inputs
    judge = _Judge(case, inputs, law)
    before = [t.clone() for t in _tensors(inputs)]
    with np.errstate(all="ignore"):
        failures = [f for verbs in _VERBS for f in _attempt(verbs, provider, judge)]
    for old, new in zip(before, _tensors(inputs), strict=True):
        if not torch.equal(old.nan_to_num(), new.nan_to_num()):
            failures.append(judge.fail("any", "inputs", "were written into"))
            law_of.cache_clear()  # the next provider gets them whole
    return failures


def _attempt(verbs: str, provider: Provider, judge: _Judge) -> Iterator[Failure]:
    """What the verbs got wrong; an exception on a valid case is a failure like any other."""
    try:
        yield from _VERBS[verbs](provider, judge)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's provider may raise
        yield judge.fail(verbs, "raised", f"{type(error).__name__}: {str(error)[:200]}")


def _forward(provider: Provider, judge: _Judge) -> Iterator[Failure]:
    i, norm = judge.inputs, judge.law.norm
    yield from judge.moments("moments", provider.moments(i.x, i.mask))
    yield from judge.output("normalize", provider.normalize(i.x, norm, i.residual, i.mask))
    y, moments = provider.forward(i.x, i.weight, i.bias, i.eps, i.activation, i.residual, i.mask)
    yield from judge.moments("forward", moments)
    yield from judge.output("forward", y)
    own = torch.empty_like(i.x).copy_(i.x)
    y, moments = provider.forward(
        own, i.weight, i.bias, i.eps, i.activation, i.residual, i.mask, out=own
    )
    yield from judge.moments("forward in place", moments)
    yield from judge.output("forward in place", y)
    if y.data_ptr() != own.data_ptr():
        yield judge.fail("forward in place", "y", "is not in the memory of out")


def _backward(provider: Provider, judge: _Judge) -> Iterator[Failure]:
    i, law, norm = judge.inputs, judge.law, judge.law.norm
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


def _backward_undone(provider: Provider, judge: _Judge) -> Iterator[Failure]:
    """From y of a leaky ReLU of slope 1/2, made so that z is x, and dz is dy, without rounding."""
    i, dy = judge.inputs, judge.law.dy_tensor
    if i.residual is not None or i.activation != IDENTITY:
        return
    if ((i.x / 2 * 2 != i.x) & ~i.x.isnan()).any():  # half of a subnormal number may be none
        return
    y, dy = torch.where(i.x > 0, i.x, i.x / 2), torch.where(i.x > 0, dy, dy * 2)
    norm = _own_norm(provider, i)._replace(activation=Activation("leaky_relu", 0.5))
    dx, sums, dresidual = provider.backward(dy, y, norm, None, i.mask, undo=True)
    yield from judge.sums("backward, undone", sums)
    yield from judge.gradients("backward, undone", dx, dresidual, training=True)


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
    for scale, kind in ((1, int), (_LARGE, int), (_LARGE, torch.tensor)):
        carried = [
            moments_out(p._replace(count=scale * p.count), law.origin, judge.inputs.x)
            for p in parts
        ]
        want = reference.merge([moments_in(p, law.origin) for p in carried])
        got = provider.merge([p._replace(count=kind(p.count)) for p in carried])
        if int(got.count) != want.count:
            yield judge.fail("merge", "count", f"{int(got.count)}, law {want.count}")
        mean = moments_in(got, law.origin).mean
        yield from judge.compare("merge", "mean", mean, want.mean, law.mean_bound)
        yield from judge.within("merge", "var", got.var, want.var, law.var_bound)


_VERBS: Final = {
    "forward": _forward,
    "backward": _backward,
    "backward, undone": _backward_undone,
    "merge": _merge,
}


def _tensors(inputs: Inputs) -> list[Tensor]:
    named = (inputs.x, inputs.dy, inputs.weight, inputs.bias, inputs.residual, inputs.mask)
    return [t for t in named if t is not None]
