"""The in-place mode: what it saves, the bounds of docs/numerics.md section 10, what it refuses."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F  # noqa: N812 - the name everybody uses
from torch.utils.checkpoint import checkpoint

import evenkeel as ek
from evenkeel import reference
from evenkeel.errors import InputError, TransformError
from evenkeel.spec import Activation

U32 = 2.0**-24
ACTIVATIONS = ["identity", ("leaky_relu", 0.01), ("leaky_relu", 1.0), "elu", ("elu", 0.3)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
PROVIDERS = ["cpu", "aten", "reference"]


def channels_last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": channels_last,
    "width before height": lambda x: x.mT.contiguous().mT,
}


def fused(channels=4, activation="leaky_relu", dtype=torch.float32, **extras):
    """A layer in place and its twin that is not."""
    layer = ek.nn.BatchNormAct2d(channels, activation=activation, inplace=True, **extras)
    if dtype == torch.float64:
        layer.double()
    twin = copy.deepcopy(layer)
    twin.inplace = False
    return layer, twin


def image(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (6, 4, 5, 3), generator=generator, dtype=torch.float64).to(dtype)


def wide(tensor):
    return tensor.detach().double().numpy()


def largest(values):
    return np.abs(values).max((0, 2), initial=0.0)


def bounds(x, dy, weight, bias, eps, activation, mask, dtype):
    """Exact gradients of x, weight and bias in float64, each with its bound."""
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


def set_affine(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight))
        layer.bias.copy_(torch.as_tensor(bias))


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


@pytest.mark.parametrize(
    "activation", ["relu", "relu6", "silu", "gelu", "hardswish", ("leaky_relu", 0.0),
                   ("leaky_relu", -0.1), ("elu", -1.0), ("leaky_relu", math.nan)], ids=str,
)  # fmt: skip
def test_what_cannot_be_undone_is_refused(activation):
    with pytest.raises(InputError, match=r"(?s)inplace=True.*identity, leaky_relu, elu"):
        ek.nn.BatchNormAct2d(3, activation=activation, inplace=True)
    layer = ek.nn.BatchNormAct2d(3, activation=activation)
    layer.inplace = True
    with pytest.raises(InputError, match="inplace=True"):
        layer(image(2, 3, 4, 4))


def test_a_residual_and_a_leaf_are_refused():
    layer, _ = fused()
    x = image()
    for mode in (True, False):
        with pytest.raises(InputError, match=r"(?s)inplace=True with a residual.*inplace=False"):
            layer.train(mode)(x * 1, residual=x)
    leaf = image().requires_grad_()
    with pytest.raises(InputError, match=r"(?s)a leaf of shape \(6, 4, 5, 3\).*x\.clone\(\)"):
        layer.train()(leaf)
    assert torch.equal(leaf, x)
    assert int(layer.num_batches_tracked) == 0


def test_a_second_derivative_is_refused():
    layer, _ = fused()
    leaf = image().requires_grad_()
    with pytest.raises(TransformError, match=r"(?s)create_graph=True.*inplace=False"):
        torch.autograd.grad(layer(leaf * 1).sum(), leaf, create_graph=True)
    with pytest.raises(TransformError, match="batch of backward passes"):
        torch.autograd.grad(
            layer(leaf * 1), leaf, torch.ones(2, *leaf.shape), is_grads_batched=True
        )


@pytest.mark.parametrize("change", ["weight", "bias", "output", "input"])
def test_autograd_notices_what_has_changed(change):
    layer, _ = fused()
    source = image().requires_grad_()
    own = source.sigmoid() if change == "input" else source * 1  # sigmoid needs its output
    y = layer(own)
    with torch.no_grad():
        if change == "output":
            y.add_(1.0)
        elif change != "input":
            getattr(layer, change).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_two_calls_before_one_backward_pass():
    layer, twin = fused()
    results = []
    for one in (layer, twin):
        leaf = image().requires_grad_()
        (one(leaf * 1).square().sum() + one(leaf * 2 + 1).sum()).backward()
        results.append((leaf.grad, one.weight.grad, one.running_var))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def elsewhere():
    """Name -> (layer, x) -> y and the tensor that stood for x; in all of them x stays as it is."""

    def recorded(layer, x):
        return layer(x), x

    def checkpointed(reentrant):
        return lambda layer, x: (checkpoint(layer, x, use_reentrant=reentrant), x)

    def below_hooks(layer, x):
        def run(x):
            with saved_tensors_hooks(lambda t: t, lambda t: t):
                return layer(x)

        return checkpoint(run, x, use_reentrant=False), x

    def compiled(layer, x):
        torch._dynamo.reset()
        run = torch.compile(lambda x: (layer(y := x * 1), y), backend="aot_eager", fullgraph=True)
        return run(x.detach().requires_grad_())

    def dual(layer, x):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            return forward_ad.unpack_dual(layer(dual)).primal, x

    def without_graph(layer, x):
        with torch.no_grad():
            return layer(x), x

    def view(layer, x):
        return recorded(layer, x.view(x.shape))

    def expanded(layer, x):
        x = x[:1].expand(x.shape)
        return recorded(layer, x)

    def strided(layer, x):
        return recorded(layer, torch.cat([x, x], 3)[..., ::2])

    def overlapping(layer, x):
        own = torch.empty_strided(x.shape, (0, *x.stride()[1:]))
        own[0].copy_(x[0].detach())
        return recorded(layer, own)

    def evaluation(layer, x):
        return layer.eval()(x), x

    def transformed(layer, x):
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = None
        return torch.func.vjp(layer, x)[0], x

    return {
        "checkpoint": checkpointed(reentrant=False), "reentrant": checkpointed(reentrant=True),
        "checkpoint below hooks": below_hooks, "compile": compiled, "forward mode": dual,
        "no graph": without_graph, "view": view, "expanded": expanded, "strided": strided,
        "overlapping": overlapping, "evaluation": evaluation,
        "vjp": transformed,
    }  # fmt: skip


@pytest.mark.parametrize("name", elsewhere())
def test_elsewhere_it_is_the_ordinary_layer(name):
    results = []
    for one in fused(activation="elu"):
        source = image().requires_grad_()
        y, x = elsewhere()[name](one, source * 1)
        assert y.data_ptr() != x.data_ptr()
        if y.requires_grad:
            y.square().sum().backward()
        results.append([y, x, source.grad, one.weight.grad, *one.buffers()])
    for a, b in zip(*results, strict=True):
        assert (a is None and b is None) or torch.equal(a, b), name


def test_an_inference_tensor_is_torchs_own_error():
    layer, _ = fused()
    with torch.inference_mode():
        x = image() * 1
    before = x.clone()
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        layer(x)
    assert torch.equal(x, before)


def test_the_hooks_of_others_are_left_in_place():
    seen = []
    layer, _ = fused()
    leaf = image().requires_grad_()
    with saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        y = layer(leaf * 1)
        count = len(seen)
        z = y.exp()
    assert count
    assert len(seen) == count + 1
    z.sum().backward()


def saved_bytes(run, *parameters):
    """Bytes of the distinct memory that a forward pass saves, but for the parameters."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda t: t):
        run()
    owned = {p.untyped_storage().data_ptr() for p in parameters}
    return sum(size for address, size in storages.items() if address not in owned)


def chain(norms):
    """Convolution, norm, activation, three times: what is saved in between is what counts."""
    layers = []
    for norm in norms:
        layers += [torch.nn.Conv2d(16, 16, 3, padding=1, bias=False), *norm]
    return torch.nn.Sequential(*layers, torch.nn.Conv2d(16, 16, 1))


@pytest.mark.parametrize("activation", ["leaky_relu", "elu"])
def test_it_saves_40_percent_and_more(activation):
    theirs = {"leaky_relu": torch.nn.LeakyReLU, "elu": torch.nn.ELU}[activation]
    x = image(16, 16, 24, 24)
    size = x.numel() * x.element_size()
    alone, chained = {}, {}
    kinds = {
        "torch": lambda: [torch.nn.BatchNorm2d(16), theirs()],
        "torch, activation in place": lambda: [torch.nn.BatchNorm2d(16), theirs(inplace=True)],
        "ours": lambda: [ek.nn.BatchNormAct2d(16, activation=activation)],
        "in place": lambda: [ek.nn.BatchNormAct2d(16, activation=activation, inplace=True)],
    }
    for name, make in kinds.items():
        pair = torch.nn.Sequential(*make())
        source = x.clone().requires_grad_()
        own = source * 1
        alone[name] = saved_bytes(lambda pair=pair, own=own: pair(own), *pair.parameters())
        net = chain([make() for _ in range(3)])
        saved = saved_bytes(lambda net=net: net(x), *net.parameters(), x)
        chained[name] = saved
    assert alone["in place"] <= 0.6 * alone["torch"]
    assert alone["in place"] <= 1.01 * size
    for name in ("torch", "torch, activation in place", "ours"):
        assert chained["in place"] <= 0.6 * chained[name], (name, chained)


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3)])
def test_empty_batches(shape):
    for activation in ACTIVATIONS:
        layer, _ = fused(shape[1], activation)
        leaf = torch.zeros(shape, requires_grad=True)
        y = layer(own := leaf * 1)
        y.sum().backward()
        assert y is own
        assert leaf.grad.shape == shape
        assert not layer.weight.grad.any()
        assert int(layer.num_batches_tracked) == 0


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_a_batch_that_is_not_finite_is_kept_out(activation):
    layer, _ = fused(activation=activation)
    leaf = image()
    leaf[0, 1, 0, 0] = math.nan
    leaf.requires_grad_()
    with pytest.warns(ek.errors.NonFiniteWarning):
        y = layer(leaf * 1)
    y.sum().backward()
    assert layer.running_mean.isfinite().all()
    for value in (y, leaf.grad):
        assert value[:, 1].isnan().all()
        assert value[:, [0, 2, 3]].isfinite().all()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_layers_without_weight_or_bias(activation):
    for extras in ({"affine": False}, {"bias": False}):
        layer, twin = fused(activation=activation, dtype=torch.float64, **extras)
        results = []
        for one in (layer, twin):
            leaf = image(dtype=torch.float64).requires_grad_()
            one(leaf * 1).square().sum().backward()
            results.append([leaf.grad, *(p.grad for p in one.parameters())])
        for a, b in zip(*results, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_training_goes_the_same_way():
    torch.manual_seed(0)
    nets = [
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), ek.nn.BatchNormAct2d(8, activation="elu", inplace=inplace),
            torch.nn.Conv2d(8, 8, 3), ek.nn.BatchNormAct2d(8, activation="elu", inplace=inplace),
            torch.nn.Flatten(), torch.nn.Linear(8 * 4 * 4, 1),
        ).double()
        for inplace in (True, False)
    ]  # fmt: skip
    nets[0].load_state_dict(nets[1].state_dict())
    for net in nets:
        optimizer = torch.optim.SGD(net.parameters(), 0.01)
        for step in range(5):
            x = image(8, 3, 8, 8, seed=step, dtype=torch.float64)
            optimizer.zero_grad()
            F.mse_loss(net(x).flatten(), x.mean((1, 2, 3))).backward()
            optimizer.step()
    for a, b in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


def test_it_is_shown_and_survives_a_copy():
    layer, twin = fused()
    assert "inplace=True" in repr(layer)
    assert "inplace" not in repr(twin)
    assert copy.deepcopy(layer).inplace
    state = {k: v for k, v in layer.__getstate__().items() if k != "inplace"}
    old = ek.nn.BatchNormAct2d.__new__(ek.nn.BatchNormAct2d)
    old.__setstate__(state)  # pickled before the setting existed
    assert not old.inplace
    assert layer.activation == Activation("leaky_relu", 0.01)
