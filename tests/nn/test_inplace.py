"""The in-place mode: what it saves, what it refuses, and where it is the ordinary layer."""

import copy
import functools
import math

import pytest
import torch
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F  # noqa: N812 - the name everybody uses
from torch.utils.checkpoint import checkpoint

import evenkeel as ek
from evenkeel.errors import InputError, TransformError
from evenkeel.spec import Activation

from ._twins import ACTIVATIONS, fused, image


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


def checkpointed(layer, x, *, use_reentrant=False):
    return checkpoint(layer, x, use_reentrant=use_reentrant), x


def checkpointed_below_hooks(layer, x):
    def run(x):
        with saved_tensors_hooks(lambda t: t, lambda t: t):
            return layer(x)

    return checkpoint(run, x, use_reentrant=False), x


def compiled(layer, x):
    torch._dynamo.reset()
    run = torch.compile(lambda x: (layer(y := x * 1), y), backend="aot_eager", fullgraph=True)
    return run(x.detach().requires_grad_())


def in_forward_mode(layer, x):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        return forward_ad.unpack_dual(layer(dual)).primal, x


def without_graph(layer, x):
    with torch.no_grad():
        return layer(x), x


def overlapping(layer, x):
    own = torch.empty_strided(x.shape, (0, *x.stride()[1:]))
    own[0].copy_(x[0].detach())
    return layer(own), own


def transformed(layer, x):
    layer.track_running_stats = False
    layer.running_mean = layer.running_var = None
    return torch.func.vjp(layer, x)[0], x


def after(change):
    def run(layer, x):
        return layer(x := change(x)), x

    return run


#: What gives y, and the tensor that was x and is to stay as it was.
ELSEWHERE = {
    "checkpoint": checkpointed,
    "reentrant checkpoint": functools.partial(checkpointed, use_reentrant=True),
    "checkpoint below hooks": checkpointed_below_hooks,
    "compile": compiled,
    "forward mode": in_forward_mode,
    "no graph": without_graph,
    "view": after(lambda x: x.view(x.shape)),
    "expanded": after(lambda x: x[:1].expand(x.shape)),
    "strided": after(lambda x: torch.cat([x, x], 3)[..., ::2]),
    "overlapping": overlapping,
    "evaluation": lambda layer, x: (layer.eval()(x), x),
    "vjp": transformed,
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_elsewhere_it_is_the_ordinary_layer(name):
    results = []
    for one in fused(activation="elu"):
        source = image().requires_grad_()
        y, x = ELSEWHERE[name](one, source * 1)
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
