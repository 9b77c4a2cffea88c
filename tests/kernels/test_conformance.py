"""Every provider within the bounds on every case; every instruction set; every fault caught."""

import pytest
import torch

from evenkeel import _cpu, kernels
from evenkeel.kernels import conformance
from evenkeel.nn import functional

from .faults._blind import BLIND_FAULTS
from .faults._exact import ExactProvider
from .faults._known import KNOWN_FAULTS

FAULTS = (*KNOWN_FAULTS, *BLIND_FAULTS)
#: 16-bit types before float64: their faults are met at once, and float64 is the slowest.
ORDERED = list(conformance.cases(("float32", "bfloat16", "float16", "float64")))
#: The others run in the slow tier; test_cpu_provider has a share of all of them.
EVERY_DTYPE = [
    "float32",
    *(pytest.param(d, marks=pytest.mark.slow) for d in ("bfloat16", "float64", "float16")),
]


@pytest.mark.parametrize("dtype", conformance.DTYPES)
@pytest.mark.parametrize("name", kernels.providers())
def test_provider_is_within_the_bounds(name, dtype):
    report = conformance.check(kernels.load(name), conformance.cases((dtype,)))
    assert report.cases > 300
    assert report.passed, str(report)


@pytest.mark.parametrize("isa", _cpu.isas()[1:])
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_every_other_instruction_set_of_this_machine(isa, dtype):
    best = _cpu.isa()
    assert _cpu.select(isa)
    try:
        report = conformance.check(kernels.load("cpu"), conformance.cases((dtype,)))
    finally:
        _cpu.select(best)
    assert report.passed, str(report)


def test_the_exact_provider_under_the_faults_passes():
    report = conformance.check(ExactProvider(), conformance.cases(("float32", "float64")))
    assert report.passed, str(report)


def easy():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(32, 4, 256, generator=generator)
    dy = torch.randn(32, 4, 256, generator=generator)
    weight = 1 + 0.1 * torch.randn(4, generator=generator)
    return x, dy, weight, 0.1 * torch.randn(4, generator=generator)


def results(provider):
    """What a test with torch.allclose(atol=1e-3) on easy numbers would look at."""
    x, dy, weight, bias = easy()
    y, moments = provider.forward(x, weight, bias, 1e-5)
    norm = kernels.Norm(*moments[1:], weight, bias, 1e-5)
    dx, sums, _ = provider.backward(dy, x, norm)
    size = x.shape[0] * x.shape[2]  # gradients of parameters as those of a mean loss
    return [y, moments.mean, moments.var, dx, sums.dz / size, sums.dz_xhat / size]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_fault_is_rejected(fault):
    provider = fault()
    for got, want in zip(results(provider), results(ExactProvider()), strict=True):
        assert (got - want).abs().max() < 1e-3, "a fault that an easy test sees proves nothing"
    for case in ORDERED:
        failures = conformance.check_case(provider, case)
        if failures:
            assert all(f.case == str(case) for f in failures)
            return
    pytest.fail(f"{fault.name} passed the whole suite: {fault.harm}")


def test_names_are_unique_and_half_were_written_blind():
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 12
    assert len(BLIND_FAULTS) >= len(KNOWN_FAULTS)
    labels = [str(case) for case in conformance.cases()]
    assert len(set(labels)) == len(labels)


def test_a_report_without_cases_has_not_passed():
    assert not conformance.check(kernels.load("aten"), []).passed


def test_the_suite_judges_any_function():
    def ours(x, weight, bias, eps):
        return functional.batch_norm(x, None, None, weight, bias, training=True, eps=eps).output

    def torchs(x, weight, bias, eps):
        return torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=eps)

    hard = next(c for c in conformance.cases() if c.name == "mean/std 1e4, channels last")
    good = conformance.check_function(ours, hard)
    assert set(good) == {"y", "dx", "dweight", "dbias"}
    assert max(good.values()) <= 1
    assert conformance.check_function(torchs, hard)["y"] > 10
