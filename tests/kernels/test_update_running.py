"""The verb that ends a training step: every provider against the law, and what autograd sees."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel import reference
from evenkeel.kernels import Moments, load
from evenkeel.spec import Momentum

PROVIDERS = ["cpu", "aten", "reference"]
WIDE = [torch.float32, torch.float64]


def statistics(channels, dtype, seed):
    random = torch.Generator().manual_seed(seed)
    mean = torch.randn(channels, generator=random, dtype=torch.float64) * 100
    var = torch.rand(channels, generator=random, dtype=torch.float64) * 10
    return mean.to(dtype), var.to(dtype)


@pytest.mark.parametrize("name", PROVIDERS)
@given(
    channels=st.integers(1, 70),
    held=st.sampled_from([*WIDE, torch.float16, torch.bfloat16]),
    batch=st.sampled_from(WIDE),
    momentum=st.none() | st.floats(0.0, 1.0),
    before=st.none() | st.integers(0, 50),
    n=st.integers(2, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_running_statistics_follow_the_law(name, channels, held, batch, momentum, before, n, seed):
    if momentum is None and before is None:
        before = 3
    mean, var = statistics(channels, held, seed)
    new_mean, new_var = statistics(channels, batch, seed + 1)
    batches = None if before is None else torch.tensor(before)
    law = reference.update_running(
        reference.Running(mean.double().numpy(), var.double().numpy(), before or 0),
        reference.Moments(n, new_mean.double().numpy(), new_var.double().numpy()),
        Momentum(momentum, "new"),
        "unbiased",
    )
    moments = Moments(n, new_mean, torch.zeros_like(new_mean), new_var)
    entered = load(name).update_running(
        mean, var, batches, moments, momentum, n / (n - 1), only_finite=True
    )
    assert entered
    assert batches is None or int(batches) == before + 1
    # The stored variance in the batch's type, a product and two sums in the wider of the two
    # types, then one rounding to the held one.
    unit = 4 * torch.finfo(batch).eps + torch.finfo(held).eps
    for got, want, old, new in ((mean, law.mean, 1e3, new_mean), (var, law.var, 2e1, new_var)):
        size = old + float(new.abs().max())
        assert np.abs(got.double().numpy() - want).max() <= unit * size


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("where", ["mean", "var"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_keeps_the_batch_out(name, where, value):
    mean, var = statistics(5, torch.float32, 0)
    old, batches = (mean.clone(), var.clone()), torch.tensor(7)
    moments = Moments(4, *(torch.ones(5) for _ in range(3)))
    getattr(moments, where)[3] = value
    update = load(name).update_running
    assert not update(mean, var, batches, moments, 0.1, 1.0, only_finite=True)
    assert torch.equal(mean, old[0])
    assert torch.equal(var, old[1])
    assert batches == 7
    assert update(mean, var, batches, moments, 0.1, 1.0, only_finite=False)
    assert not (mean if where == "mean" else var).isfinite().all()
    assert batches == 8


@pytest.mark.parametrize("name", PROVIDERS)
def test_numbers_whose_product_overflows_are_finite(name):
    mean, var = statistics(2, torch.float32, 0)
    moments = Moments(4, torch.tensor([3e38, 1.0]), torch.zeros(2), torch.tensor([3e38, 1.0]))
    assert load(name).update_running(mean, var, None, moments, 0.1, 1.0, only_finite=True)


@pytest.mark.parametrize("name", PROVIDERS)
def test_autograd_is_told_that_the_statistics_changed(name):
    mean, var = statistics(3, torch.float32, 0)
    x = torch.ones(3, requires_grad=True)
    y = x * var  # autograd saves var
    moments = Moments(4, *(torch.ones(3) for _ in range(3)))
    load(name).update_running(mean, var, None, moments, 0.1, 1.0, only_finite=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_statistics_with_gaps_are_written_in_place():
    both = torch.zeros(4, 2)
    moments = Moments(4, torch.ones(4), torch.zeros(4), 2 * torch.ones(4))
    load("cpu").update_running(both[:, 0], both[:, 1], None, moments, 0.5, 1.0, only_finite=True)
    assert torch.equal(both, torch.tensor([[0.5, 1.0]]).repeat(4, 1))
