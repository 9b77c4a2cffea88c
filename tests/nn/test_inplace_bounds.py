"""The bounds of the in-place mode, docs/numerics.md section 10, for every provider."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evenkeel as ek
from evenkeel import reference
from evenkeel.errors import InputError

from ._twins import ACTIVATIONS, DTYPES, LAYOUTS, PROVIDERS, fused, image, set_affine

U32 = 2.0**-24


def wide(tensor):
    """Wider than float64, whose own law would be off by its rounding of the mean."""
    return tensor.detach().double().numpy().astype(np.longdouble)


def largest(values):
    return np.abs(values).max((0, 2), initial=0.0)


def bounds(x, dy, weight, bias, eps, activation, mask, dtype):
    """Exact gradients of x, weight and bias, each with its bound."""
    mean, var = (m := reference.moments(x, mask)).mean, m.var
    arguments = {
        "mean": mean, "var": var, "weight": weight, "bias": bias, "eps": eps,
        "activation": activation, "mask": mask,
    }  # fmt: skip
    sums = reference.backward_reduce(dy, x, **arguments)
    dx, _ = reference.backward_input(dy, x, sums=sums, count=m.count, **arguments)
    unit = torch.finfo(dtype).eps / 2
    v = 2 * unit if dtype in {torch.bfloat16, torch.float16} else 16 * unit
    r, n, gamma = 1 / np.sqrt(var + eps), max(m.count, 1), np.abs(weight)
    keep = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask[:, None], x.shape)
    xhat = np.where(keep, np.abs(x - mean[:, None]) * r[:, None], 0.0)
    dy = np.where(keep, np.abs(dy), 0.0)
    h, kappa = largest(xhat), np.abs(bias) / gamma
    elu = activation.name == "elu"
    alpha = activation.parameter
    factor = 1 + alpha * (1 + gamma * h + np.abs(bias)) if elu else np.ones_like(h)
    xi = v * (h + kappa + (1 / math.sqrt(unit) if elu else 0.0))
    shift = h + kappa + (alpha / gamma if elu else 0.0)
    of_weight = v * (dy * (factor[:, None] * xhat + shift[:, None])).sum((0, 2))
    size = v * (1 + factor) * (largest(dy) + dy.sum((0, 2)) / n)
    size += (xi + v * h) * np.abs(sums.dz_xhat) / n + (h + xi) * of_weight / n
    rounding = np.abs(dx) * unit + torch.finfo(dtype).smallest_normal * 2 * unit
    of_x = (gamma * r * size)[None, :, None] + rounding
    of_bias = v * factor * dy.sum((0, 2))
    return (dx, of_x), (sums.dz_xhat, of_weight), (sums.dz, of_bias)


def flat(tensor):
    return tensor.reshape(*tensor.shape[:2], -1)


def off_the_kink(x, dy, weight, bias, eps, activation, dtype):
    """dy with 0 where z is within its bound of 0, and the derivative may be either one."""
    if activation.name == "identity" or activation.parameter == 1:
        return dy
    exact = wide(flat(x))
    moments = reference.moments(exact)
    z = reference.normalize(exact, moments.mean, moments.var, wide(weight), wide(bias), eps)
    unit = torch.finfo(dtype)
    near = 64 * U32 * (np.abs(z).max() + np.abs(wide(bias)).max()) + unit.smallest_normal * unit.eps
    return dy.masked_fill(torch.from_numpy(np.abs(z) <= near).view(dy.shape), 0.0)


def assert_within(layer, x, dy, mask=None):
    """One step of the layer, from a copy of x, within the bounds."""
    weight, bias = layer.weight, layer.bias
    dy = off_the_kink(x, dy, weight, bias, layer.eps, layer.activation, x.dtype)
    leaf = x.detach().clone().requires_grad_()
    own = leaf * 1
    y = layer(own, mask=mask)
    assert y is own
    layer.weight.grad = layer.bias.grad = None
    y.backward(dy)
    bools = None if mask is None else flat(mask[:, None])[:, 0].numpy()
    exact = bounds(
        wide(flat(x)), wide(flat(dy)), wide(weight), wide(bias), layer.eps, layer.activation,
        bools, x.dtype,
    )  # fmt: skip
    for name, got, (want, bound) in zip(
        ("x", "weight", "bias"), (flat(leaf.grad), weight.grad, bias.grad), exact, strict=True
    ):
        error = np.abs(wide(got) - want)
        assert (error <= bound).all(), (name, (error / bound).max())
    return leaf.grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("provider", PROVIDERS)
@given(
    activation=st.sampled_from(ACTIVATIONS),
    layout=st.sampled_from(sorted(LAYOUTS)),
    spatial=st.sampled_from([(1, 1), (3, 5), (7, 7), (1, 40)]),
    samples=st.integers(2, 9),
    channels=st.integers(1, 17),
    offset=st.sampled_from([0.0, 3.0, -50.0]),
    masked=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=30)
def test_gradients_are_within_the_bounds(
    provider, dtype, activation, layout, spatial, samples, channels, offset, masked, seed
):
    layer, twin = fused(channels, activation, dtype)
    random = torch.Generator().manual_seed(seed)
    weight = (torch.rand(channels, generator=random) + 0.1) * 2
    weight[::3] *= -1
    for one in (layer, twin):
        set_affine(one, weight, torch.randn(channels, generator=random.manual_seed(seed + 1)))
    x = LAYOUTS[layout](image(samples, channels, *spatial, seed=seed) + offset).to(dtype)
    dy = image(samples, channels, *spatial, seed=seed + 1, dtype=dtype)
    mask = torch.rand(samples, *spatial, generator=random) < 0.7 if masked else None
    with ek.kernels.use(provider):
        expected = twin((x * 1).requires_grad_(), mask=mask)
        grad = assert_within(layer, x, dy, mask)
    own = x.clone().requires_grad_() * 1
    with ek.kernels.use(provider):
        assert torch.equal(layer(own, mask=mask), expected)
    assert grad.stride() == x.stride()
    if mask is not None:
        assert not grad.movedim(1, -1)[~mask].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_the_limit_of_the_weight(activation, provider, dtype):
    """Just above it the bounds hold, just below it nothing is touched."""
    layer, _ = fused(2, activation, dtype)
    root = math.sqrt(torch.finfo(dtype).eps / 2)
    x, dy = image(40, 2, 3, 3, dtype=dtype), image(40, 2, 3, 3, dtype=dtype, seed=1)
    with ek.kernels.use(provider):
        set_affine(layer, [-1.01 * root * 0.75, 1.0], [0.75, 0.0])
        assert_within(layer, x, dy)
        set_affine(layer, [1.0, 0.99 * root * 0.75], [0.0, 0.75])
        own, before = x.clone().requires_grad_() * 1, copy.deepcopy(layer.state_dict())
        with pytest.raises(InputError, match=r"(?s)weight .* beside bias 0\.75 in channel 1\n"):
            torch.nn.Sequential(layer)(own)
    assert torch.equal(own, x)
    assert own._version == 0
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("weight", [0.0, math.nan, 1e-30])
def test_no_weight_at_all(weight):
    layer, twin = fused(3)
    set_affine(layer, [1.0, weight, weight], [0.0, 0.0, 0.0])
    with pytest.raises(
        InputError, match=r"(?s)BatchNormAct2d\(3\) at '0'.*channel 1, and 1 more channels"
    ):
        torch.nn.Sequential(layer)(image(6, 3, 5, 3))
    layer.inplace = False  # the way out that the message names
    layer(image(6, 3, 5, 3))
    twin.weight.data.fill_(1e-18)  # small is not too small where y keeps its digits
    twin.inplace = True
    assert_within(twin, image(6, 3, 5, 3), image(6, 3, 5, 3, seed=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_elu_keeps_what_its_limit_swallows(layout, provider, dtype):
    """Half of the channels far below -17, where y is -1 and its logarithm -Inf."""
    layer, twin = fused(4, "elu", dtype)
    lowest = -60.0 if dtype == torch.float64 else -30.0
    x = LAYOUTS[layout](image(32, 4, 6, 5)).to(dtype)
    dy = image(32, 4, 6, 5, seed=1, dtype=dtype)
    # A dy in proportion to xhat makes dx depend on every xhat.
    dy = dy + 3 * x
    for one in (layer, twin):
        set_affine(one, [1.0, 2.0, -8.0, 4.0], [0.0, -12.0, -12.0, lowest])
    with ek.kernels.use(provider):
        got = assert_within(layer, x, dy)
        leaf = x.clone().requires_grad_()
        twin(leaf).backward(dy)
    assert got.isfinite().all()
    # Channel 3 is lost altogether in y, and kept altogether: as exact as out of place. Its dz is
    # as exact, relatively, as z is absolutely; a term of dx is at most 2 + h^2 times the largest.
    unit = 2.0**-53 if dtype == torch.float64 else U32
    h = 4.0  # of 960 values; weight 4
    close = 16 * unit * (1 + 4 * h - lowest) * (2 + h**2) + torch.finfo(dtype).eps
    difference = (got[:, 3] - leaf.grad[:, 3]).abs().max()
    assert difference <= close * leaf.grad[:, 3].abs().max() + torch.finfo(dtype).tiny
