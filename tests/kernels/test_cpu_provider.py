from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import torch

from evenkeel.errors import DTypeError, EvenkeelError, ProviderError, ShapeError
from evenkeel.kernels import conformance, load
from evenkeel.kernels._contract import Moments, Norm, Problem
from evenkeel.spec import ACTIVATIONS, Activation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

_BUILT = find_spec("evenkeel._cpu") is not None
if not _BUILT and not shutil.which("c++"):
    pytest.skip("no C++ compiler, no extension", allow_module_level=True)

#: Shapes with more elements than three threads need to start, on every path of the kernels.
THREADED = {
    "planes": lambda: torch.randn(4, 37, 1200),
    "few channels": lambda: torch.randn(3, 2, 40011),
    "channels last": lambda: torch.randn(7, 150, 300).movedim(1, 2),
    "rows": lambda: torch.randn(1111, 300, 1),
    "wide rows": lambda: torch.randn(2, 90001, 1),
    "narrow rows": lambda: torch.randn(70001, 3, 1),
    "several rows in one": lambda: torch.randn(10007, 12, 1),
    "small planes": lambda: torch.randn(133, 70, 49),
    "tiny planes": lambda: torch.randn(2001, 60, 9),
    "middling planes": lambda: torch.randn(33, 70, 196),
    "strided": lambda: torch.randn(5, 23, 2801)[:, ::2, ::3],
}


@pytest.fixture(params=["avx512", "avx2", "neon", "baseline"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    from evenkeel import _cpu

    best = _cpu.isa()
    if not _cpu.select(request.param):
        pytest.skip(f"this machine has {', '.join(_cpu.isas())}")
    yield request.param
    assert _cpu.select(best)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _everything(x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    """All results of all verbs on seeded companions of x, composed verbs first."""
    random = torch.Generator().manual_seed(7)
    dy, residual = (
        torch.empty_like(x).copy_(torch.randn(x.shape, generator=random)) for _ in range(2)
    )
    weight, bias = (torch.randn(x.shape[1], generator=random) for _ in range(2))
    activation = Activation.parse("silu")
    provider = load("cpu")
    moments = provider.moments(x, mask)
    norm = Norm(*moments[1:], weight, bias, 1e-5, activation)
    y = provider.normalize(x, norm, residual, mask)
    sums = provider.backward_reduce(dy, x, norm, residual, mask)
    dx, dresidual = provider.backward_input(dy, x, norm, sums, moments.count, residual, mask)
    composed = [*moments[1:], y, *sums, dx, dresidual]
    y, moments = provider.forward(x, weight, bias, 1e-5, activation, residual, mask)
    dx, sums, dresidual = provider.backward(dy, x, norm, residual, mask)
    return [*composed, *moments[1:], y, *sums, dx, dresidual]


def test_extension_was_built() -> None:
    assert _BUILT, "a C++ compiler is here, but evenkeel was installed without its extension"


def test_every_isa_is_within_the_bounds(isa: str) -> None:
    report = conformance.check(load("cpu"), list(conformance.cases())[::7])
    assert report.passed, str(report)


@pytest.mark.parametrize("name", THREADED)
def test_results_do_not_depend_on_the_number_of_threads(name: str, restore_threads: None) -> None:
    torch.manual_seed(0)
    x = THREADED[name]()
    mask = torch.rand(x.shape[0], x.shape[2]) < 0.8
    torch.set_num_threads(1)
    expected = [_everything(x), _everything(x, mask)]
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for want, got in zip(expected, (_everything(x), _everything(x, mask)), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_tensors_are_read_alike_with_and_without_the_exchange_interface() -> None:
    from evenkeel import _cpu

    torch.manual_seed(4)
    half = torch.randn(4, 9, 20).bfloat16()
    inputs = [torch.randn(4, 9, 20).double(), half, torch.randn(5, 23, 280)[:, ::2, ::3]]
    want = [_everything(x, torch.rand(x.shape[0], x.shape[2]) < 2) for x in inputs]
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    assert _cpu.use_exchange(None)
    try:
        got = [_everything(x, torch.rand(x.shape[0], x.shape[2]) < 2) for x in inputs]
        with pytest.raises(ShapeError, match="weight"):
            load("cpu").forward(inputs[0], torch.ones(4), None, 1e-5)
    finally:
        assert _cpu.use_exchange(capsule)
    for a, b in zip(want, got, strict=True):
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def test_a_foreign_capsule_is_not_used() -> None:
    import datetime as dt

    from evenkeel import _cpu

    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    try:
        assert not _cpu.use_exchange(dt.datetime_CAPI)  # type: ignore[attr-defined] - no stub has it
        assert load("cpu").moments(torch.ones(2, 3)).count == 2
    finally:
        assert _cpu.use_exchange(capsule)


@pytest.mark.parametrize("lazy", ["negation", "zeros"])
def test_lazy_values_are_read_as_they_are_meant(lazy: str) -> None:
    values = torch.randn(5, 3, 4)
    if lazy == "negation":
        odd, plain = torch._neg_view(values), -values
    else:
        odd, plain = torch._efficientzerotensor(values.shape), torch.zeros(5, 3, 4)
    provider, ones = load("cpu"), torch.ones(3)
    want = provider.forward(plain, ones, ones, 1e-5)
    got = provider.forward(odd, ones, ones, 1e-5)
    assert torch.equal(got[0], want[0])
    norm = Norm(*want[1][1:], ones, None, 1e-5)
    for dy, x in ((odd, values), (values, odd)):
        fresh = [t.clone() if t is odd else t for t in (dy, x)]
        assert torch.equal(provider.backward(dy, x, norm)[0], provider.backward(*fresh, norm)[0])


@pytest.mark.parametrize("kind", ["cropped", "transposed", "cropped channels last", "5-d"])
def test_fused_verbs_take_any_spatial_dimensions(kind: str) -> None:
    torch.manual_seed(6)
    shape = (3, 9, 4, 6, 5) if kind == "5-d" else (3, 9, 8, 6)
    whole = torch.randn(shape)
    if kind.endswith("channels last"):
        whole = whole.to(memory_format=torch.channels_last)
    x = {"transposed": whole.transpose(2, 3), "5-d": whole}.get(kind, whole[:, :, 1:7, 2:5])
    weight, bias, dy = torch.randn(9), torch.randn(9), torch.randn(x.shape)
    mask = torch.rand(x.shape[0], *x.shape[2:]) < 0.7
    for kept in (None, mask):
        flat = None if kept is None else kept.flatten(1)
        results = []
        for tensors, m in (((x, dy), kept), ((x.flatten(2), dy.flatten(2)), flat)):
            provider, relu = load("cpu"), Activation("relu")
            y, moments = provider.forward(tensors[0], weight, bias, 1e-5, relu, tensors[1], m)
            norm = Norm(*moments[1:], weight, bias, 1e-5, relu)
            dx, sums, dresidual = provider.backward(tensors[1], tensors[0], norm, tensors[1], m)
            assert dresidual is not None
            results.append([y, dx, dresidual, *moments[1:], *sums])
        for got, want in zip(*results, strict=True):
            assert torch.allclose(got.flatten(2) if got.dim() > 2 else got, want, atol=1e-5)
        assert results[0][0].shape == x.shape
        assert not results[0][0]._is_view()


@pytest.mark.parametrize("name", THREADED)
def test_fused_verbs_equal_the_composition_to_the_last_bit(name: str) -> None:
    torch.manual_seed(1)
    results = _everything(THREADED[name]())
    half = len(results) // 2
    assert all(torch.equal(a, b) for a, b in zip(results[:half], results[half:], strict=True))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", THREADED)
def test_y_in_the_memory_of_x_has_the_same_bits(
    name: str, masked: bool, restore_threads: None
) -> None:
    torch.manual_seed(0)
    x = THREADED[name]()
    x = torch.empty_like(x).copy_(x)  # dense
    weight, bias = torch.randn(2, x.shape[1])
    mask = torch.rand(x.shape[0], x.shape[2]) < 0.8 if masked else None
    how = weight, bias, 1e-5, Activation("elu", 1.0), None, mask
    y, moments = load("cpu").forward(x, *how)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        own = torch.empty_like(x).copy_(x)
        got, own_moments = load("cpu").forward(own, *how, out=own)
        assert got is own
        assert torch.equal(own, y)
        assert all(torch.equal(a, b) for a, b in zip(moments[1:], own_moments[1:], strict=True))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", THREADED)
def test_backward_from_the_output(name: str, masked: bool, isa: str, restore_threads: None) -> None:
    """Within the bound of the law with z for x, and the same bits on any number of threads."""
    torch.manual_seed(0)
    y = THREADED[name]()
    dy = torch.empty_like(y).normal_()
    mean, lo, weight = torch.randn(3, y.shape[1])
    var = torch.rand(y.shape[1]) + 0.5
    norm = Norm(mean, lo * 2**-26, var, weight, None, 0.0, Activation("leaky_relu", 0.2))
    mask = torch.rand(y.shape[0], y.shape[2]) < 0.8 if masked else None
    torch.set_num_threads(1)
    dx, sums, dresidual = load("cpu").backward(dy, y, norm, None, mask, undo=True)
    assert dresidual is None
    for threads in (2, 3):
        torch.set_num_threads(threads)
        again, its_sums, _ = load("cpu").backward(dy, y, norm, None, mask, undo=True)
        assert torch.equal(again, dx)
        assert all(torch.equal(a, b) for a, b in zip(its_sums, sums, strict=True))
    exact, exact_sums, _ = load("reference").backward(
        dy.double(), y.double(), Norm(*(t.double() for t in norm[:4]), *norm[4:]), None, mask,
        undo=True,
    )  # fmt: skip
    bent = torch.where(y > 0, 1.0, 0.2).double()
    kept = torch.ones_like(bent) if mask is None else mask[:, None].double().expand(y.shape)
    dz, z = (dy * bent).abs() * kept, y.double() / bent
    xhat = ((z - mean[:, None]) / var.double().sqrt()[:, None]).abs() * kept
    n, unit = kept[:, 0].sum(), 2.0**-24
    assert ((sums.dz - exact_sums.dz).abs() <= 16 * unit * dz.sum((0, 2))).all()
    shift = 16 * unit * dz.sum((0, 2)) * (mean.abs() / var.sqrt())  # rounding z moves xhat
    of_weight = 16 * unit * (dz * xhat).sum((0, 2)) + shift
    assert ((sums.dz_xhat - exact_sums.dz_xhat).abs() <= of_weight).all()
    h = xhat.amax((0, 2)) + mean.abs() / var.sqrt()
    size = dz.amax((0, 2)) + exact_sums.dz.abs() / n + h * exact_sums.dz_xhat.abs() / n
    bound = 16 * unit * (weight.abs() / var.sqrt()) * (size + h * (dz * xhat).sum((0, 2)) / n)
    assert ((dx - exact).abs() <= bound[:, None]).all()


def test_exactly_one_openmp_runtime_is_loaded() -> None:
    done = _python(
        "from evenkeel.kernels import load\n"
        "import torch\n"
        "load('cpu').moments(torch.randn(8, 64, 4000))\n"
        "print({line.split()[-1] for line in open('/proc/self/maps') if 'omp' in line\n"
        "       and '.so' in line})\n"
    )
    assert done.returncode == 0, done.stderr
    runtimes = {path for path in eval(done.stdout) if "gomp" in path or "iomp" in path}
    assert len(runtimes) == 1, runtimes


def test_the_isa_variable_chooses(isa: str) -> None:
    code = "from evenkeel.kernels import load; from evenkeel import _cpu; load('cpu')\n"
    done = _python(code + "print(_cpu.isa())", EVENKEEL_ISA=isa)
    assert done.stdout.strip() == isa, done.stderr


def test_an_unknown_isa_is_refused_with_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from evenkeel.kernels._providers._cpu import CpuProvider

    monkeypatch.setenv("EVENKEEL_ISA", "sse9")
    with pytest.raises(ProviderError, match=r"(?s)EVENKEEL_ISA=sse9.*baseline"):
        CpuProvider()


def _far_first_block(n: int) -> Tensor:
    return torch.cat([torch.full((1024,), 1e6), torch.zeros(n - 1024)])


def _far_half(n: int) -> Tensor:
    return torch.cat([torch.zeros(n // 2), torch.full((n - n // 2,), 1e6)])


def _far_first_value(n: int) -> Tensor:
    return torch.cat([torch.full((1,), 1e8), torch.zeros(n - 1)])


#: Data whose blocks have means far apart: a shift by the wrong one would cost all digits.
FAR = (_far_first_block, _far_half, _far_first_value, lambda n: torch.linspace(0, 1e6, n))


@pytest.mark.parametrize("layout", ["planes", "small planes", "rows", "masked"])
@pytest.mark.parametrize("means", FAR)
def test_moments_survive_blocks_that_lie_far_apart(
    means: Callable[[int], Tensor], layout: str, isa: str
) -> None:
    n, channels = 100_008, 9
    torch.manual_seed(2)
    values = (torch.randn(channels, n, dtype=torch.float64) + means(n).double()).float()
    mask = torch.ones(n, dtype=torch.bool)
    if layout == "masked":  # hardly anything is left of the first blocks
        mask = torch.rand(n) < torch.where(torch.arange(n) < 3000, 0.002, 0.9)
    x = values[None]
    if layout == "rows":
        x = values.t().contiguous()[..., None]
    elif layout == "small planes":
        x = values.view(channels, -1, 9).transpose(0, 1).contiguous()
    moments = load("cpu").moments(x, mask[None] if layout == "masked" else None)
    kept = values[:, mask].double()
    var, mean = torch.var_mean(kept, dim=1, correction=0)
    unit = 2.0**-24
    assert ((moments.var - var).abs() <= 1.01 * unit * var).all()
    error = (moments.mean.double() + moments.mean_lo.double() - mean).abs()
    assert (error <= 2 * unit**2 * mean.abs() + 1e-5 * unit * var.sqrt()).all()


#: As planes, as planes of 9 that make long rows, and as rows.
LAYOUTS = {
    "planes": lambda x: x.t().contiguous()[None],
    "small planes": lambda x: x.view(-1, 9, x.shape[1]).transpose(1, 2).contiguous(),
    "rows": lambda x: x[..., None],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("means", FAR)
def test_moments_of_sixteen_bits_are_those_of_float32(
    means: Callable[[int], Tensor], dtype: torch.dtype, layout: str, isa: str
) -> None:
    torch.manual_seed(2)
    far = means(100_008).double()[:, None] * 1e-4  # float16 ends at 65504
    x = (torch.randn(100_008, 9, dtype=torch.float64) + far).to(dtype)
    moments = load("cpu").moments(LAYOUTS[layout](x))
    var, mean = torch.var_mean(x.double(), dim=0, correction=0)
    unit = 2.0**-24
    assert ((moments.var - var).abs() <= 16 * unit * var).all()
    error = (moments.mean.double() + moments.mean_lo.double() - mean).abs()
    assert (error <= 16 * unit * var.sqrt()).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_squares_of_bfloat16_may_leave_the_range_of_float32(layout: str, isa: str) -> None:
    """Their sum, or their mean, is in it: outliers of 1e21, and all sizes down to 1e-21."""
    torch.manual_seed(5)
    scale = torch.tensor([1.0, 1e18, 1e-15, 1e-18, 1e-21, 3e-23, 0.0, 1.0, 1.0]).double()
    x = torch.randn(72_000, 9, dtype=torch.float64) * scale
    x[50_000, 7] = 1e21
    x[:, 8] = 3.0
    x = x.bfloat16()
    moments = load("cpu").moments(LAYOUTS[layout](x))
    var, mean = torch.var_mean(x.double(), dim=0, correction=0)
    unit, least = 2.0**-24, 2.0**-149
    assert ((moments.var - var).abs() <= 16 * unit * var + least).all()
    error = (moments.mean.double() + moments.mean_lo.double() - mean).abs()
    assert (error <= 16 * unit * var.sqrt() + least).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["silu", "gelu", "elu"])
def test_smooth_activations_are_right_at_every_size(
    name: str, dtype: torch.dtype, isa: str
) -> None:
    sizes = torch.logspace(-30, 30, 601, dtype=torch.float64)
    special = torch.tensor([0.0, math.inf, math.nan], dtype=torch.float64)
    z = torch.cat([sizes, -sizes, torch.linspace(-100, 100, 4001), special, -special]).to(dtype)
    one = torch.ones(1, dtype=dtype)
    norm = Norm(0 * one, 0 * one, one, None, None, 0.0, Activation.parse(name))
    got = load("cpu").normalize(z.view(1, 1, -1), norm).flatten().double()
    if name in {"silu", "elu"}:
        exact = getattr(torch.nn.functional, name)(z.double())
    else:
        exact = z.double() * (0.5 * torch.special.erfc(-z.double() / math.sqrt(2)))
    unit = torch.finfo(dtype).eps / 2
    assert torch.equal(got.isnan(), exact.isnan())
    # Relative to z: the far negative tail is small against any other output.
    close = (got - exact).abs() <= 8 * unit * z.double().abs() + torch.finfo(dtype).tiny
    assert (close | (got == exact) | exact.isnan()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_numbers_survive_the_round_trip(dtype: torch.dtype, isa: str) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = every.view(1, 1, -1)
    zero, one = torch.zeros(1), torch.ones(1)
    y = load("cpu").normalize(x, Norm(zero, zero, one, None, None, 0.0))
    assert torch.equal(y.isnan(), x.isnan())
    assert torch.equal(y.nan_to_num(), x.nan_to_num())
    assert torch.equal(y.isinf(), x.isinf())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_results_are_rounded_as_torch_rounds(dtype: torch.dtype, isa: str) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = every[every.isfinite()].repeat(9, 1).t().contiguous()[..., None]
    weight = torch.tensor([1.5, 1.25, 0.75, 1 / 3, 0.5, 2.0, 2.0**-10, 1.0009765625, 1.00390625])
    zero, one = torch.zeros(9), torch.ones(9)
    y = load("cpu").normalize(x, Norm(zero, zero, one, weight, None, 0.0))
    assert torch.equal(y, (x.double() * weight.double()[:, None]).float().to(dtype))


@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_variance_does_not_overflow_before_it_has_to(layout: str) -> None:
    shape = (4000, 8, 1) if layout == "rows" else (2, 8, 2000)
    signs = torch.ones(shape)
    signs.view(-1)[: signs.numel() // 2] = -1
    moments = load("cpu").moments(signs * 1e19)  # the sum of squares is 4e41, the variance 1e38
    assert torch.allclose(moments.var, torch.tensor(1e38), rtol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_kinks_are_those_of_torch(name: str) -> None:
    """With weight 0 the residual is z, so that every kink is met exactly."""
    z = torch.tensor([-4.0, -3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 5.0, 6.0, 7.0])
    z = z.double().view(1, 1, -1).requires_grad_()
    functions = torch.nn.functional
    y = z * 1 if name == "identity" else getattr(functions, name)(z)
    (want,) = torch.autograd.grad(y.sum(), z)
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    norm = Norm(zero, zero, one, zero, None, 0.0, Activation.parse(name))
    x, residual = torch.ones_like(z), z.detach()
    provider = load("cpu")
    assert torch.allclose(provider.normalize(x, norm, residual), y, rtol=1e-14, atol=1e-15)
    _, got = provider.backward_input(torch.ones_like(x), x, norm, None, 10, residual)
    assert torch.allclose(got, want, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("kind", ["channels last", "expanded", "transposed"])
def test_gradient_and_residual_may_have_another_layout(kind: str) -> None:
    torch.manual_seed(2)
    x, residual = torch.randn(6, 9, 20), torch.randn(6, 9, 20)
    dy = torch.randn(1, 9, 20).expand(6, 9, 20) if kind == "expanded" else torch.randn(6, 9, 20)
    order = (0, 2, 1) if kind == "channels last" else (2, 1, 0)
    moved = [t.permute(order).contiguous().permute(order) for t in (dy, residual)]
    other = dy if kind == "expanded" else moved[0]
    provider = load("cpu")
    norm = Norm(*provider.moments(x)[1:], None, None, 1e-5, Activation("relu"))
    want = provider.backward(dy.contiguous(), x, norm, residual)
    got = provider.backward(other, x, norm, moved[1])
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1].dz_xhat, want[1].dz_xhat)
    assert torch.equal(got[2], want[2])


def test_merge_ignores_empty_parts_and_takes_tensor_counts() -> None:
    torch.manual_seed(3)
    x = torch.randn(30, 4, 5, dtype=torch.float64) + 1e6
    provider = load("cpu")
    empty = Moments(0, *(torch.full((4,), math.nan, dtype=torch.float64) for _ in range(3)))
    first = provider.moments(x[:3])
    parts = [empty, first._replace(count=torch.tensor(first.count)), provider.moments(x[3:]), empty]
    merged, whole = provider.merge(parts), provider.moments(x)
    assert merged.count == whole.count == 150
    centre = x - whole.mean[:, None]
    mean = centre.mean((0, 2))
    assert torch.allclose((merged.mean - whole.mean) + merged.mean_lo, mean, atol=1e-15)
    assert torch.allclose(merged.var, whole.var, rtol=16 * 2**-53)
    assert provider.merge([empty]).count == 0


def test_reasons_name_device_dtype_and_the_missing_extension(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = load("cpu")
    assert provider.reasons_against(Problem("cpu", "bfloat16")) == []
    assert "cuda" in provider.reasons_against(Problem("cuda", "float32"))[0]
    assert "int8" in provider.reasons_against(Problem("cpu", "int8"))[0]
    monkeypatch.setattr("evenkeel.kernels._providers._cpu._missing", "no such module")
    assert "C++20 compiler" in provider.reasons_against(Problem("cpu", "float32"))[0]


@pytest.mark.parametrize(
    ("error", "change"),
    [
        (DTypeError, {"x": torch.ones(2, 3, 4, dtype=torch.int32)}),
        (ShapeError, {"x": torch.ones(2)}),
        (ShapeError, {"mask": torch.ones(2, 3, dtype=torch.bool)}),
        (ShapeError, {"mask": torch.ones(2, 4)}),
        (ShapeError, {"weight": torch.ones(4)}),
        (ShapeError, {"bias": torch.ones(3, dtype=torch.int64)}),
        (ShapeError, {"residual": torch.ones(2, 3, 5)}),
        (ShapeError, {"residual": torch.ones(2, 3, 4, dtype=torch.float64)}),
    ],
)
def test_what_would_read_foreign_memory_is_refused(
    error: type[EvenkeelError], change: dict[str, Tensor]
) -> None:
    arguments = {"x": torch.ones(2, 3, 4), "weight": None, "bias": None, "eps": 1e-5, **change}
    with pytest.raises(error, match="why"):
        load("cpu").forward(**arguments)
