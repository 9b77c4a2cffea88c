"""Which code is fused, which is left, and what happens when a fused model is changed."""

from __future__ import annotations

import copy
import operator
import random
import warnings

import pytest
import torch
import torch.fx.experimental.optimization
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from torch.nn.utils.fusion import fuse_conv_bn_eval

import evenkeel as ek
from evenkeel.tools._adopt._activations import activation_of

from ._adopt_nets import Dense, Inverted, Masked, ResNet, Written, images, shaken


def small(seed: int = 0) -> torch.Tensor:
    return images(seed, channels=4)


def rows(model: nn.Module, example: torch.Tensor | None = None) -> dict:
    report = ek.adopt(model, small() if example is None else example, fuse=True)
    assert report.proof.holds
    return {row.layer: row for row in report.layers}


def require_close(one, two) -> None:
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def add_in_place_after(m, x):
    z = m.bn(x)
    z += x
    return z + x  # the residual is read again, and was never written to


def add_method(m, x):
    return m.bn(x).add_(x).relu_()


def residual_computed_later(m, x):
    z = m.bn(x * 2)
    return m.relu(z + m.bn2(x))


def leaky(m, x):
    return F.leaky_relu(m.bn(x), 0.3, inplace=True)


def counts(m, x):
    many = x.size(1)
    more = many
    more += 1
    return m.relu(m.bn(x)) * (more / many)


FUSED = [
    (counts, "relu"),
    (lambda m, x: m.relu(m.bn(x)), "relu"),
    (lambda m, x: F.relu(m.bn(x), True), "relu"),
    (lambda m, x: torch.relu(m.bn(x)), "relu"),
    (lambda m, x: m.bn(x).relu(), "relu"),
    (lambda m, x: F.relu6(m.bn(x)), "relu6"),
    (lambda m, x: F.silu(m.bn(x), inplace=True), "silu"),
    (lambda m, x: F.gelu(m.bn(x)), "gelu"),
    (lambda m, x: F.hardswish(m.bn(x)), "hardswish"),
    (leaky, "leaky_relu"),
    (lambda m, x: m.bn(x) + x, "add"),
    (lambda m, x: x + m.bn(x), "add"),
    (lambda m, x: torch.add(x, m.bn(x)), "add"),
    (lambda m, x: m.relu(m.bn(x) + x), "add + relu"),
    (add_method, "add + relu"),
    (add_in_place_after, "add"),
    (residual_computed_later, "add + relu"),
]


@pytest.mark.parametrize(("code", "partners"), FUSED)
def test_code_that_is_fused(code, partners):
    net = shaken(Written(code))
    original = copy.deepcopy(net)
    assert rows(net)["bn"].fused == (partners,)
    assert type(net) is not Written
    for mode in (True, False):
        require_close(net.train(mode)(small(1)), original.train(mode)(small(1)))


def used_twice(m, x):
    z = m.bn(x)
    return m.relu(z) + z


def into_the_residual(m, x):
    y = x * 1
    z = y
    y += m.bn(x)
    return z


def broadcast_operator(m, x):
    return operator.mul(m.bn(x), 2.0)


def writes_between(m, x):
    y = x * 1
    z = m.bn(y)
    y.mul_(0.0)
    return m.relu(z) + y


LEFT = [
    (used_twice, "2 places"),
    (into_the_residual, "operator.iadd follows"),
    (broadcast_operator, "mul follows"),
    (lambda m, x: m.bn(x) + m.bn(x).mean(), "mean follows"),
    (lambda m, x: m.bn(x) + 1.0, "add follows"),
    (lambda m, x: torch.add(m.bn(x), x, alpha=2), "add follows"),
    (lambda m, x: F.gelu(m.bn(x), approximate="tanh"), "gelu follows"),
    (lambda m, x: torch.tanh(m.bn(x)), "tanh follows"),
    (lambda m, x: m.bn(x), "the block's caller"),
    (lambda m, x: x, "no code of its block calls it"),
    (lambda m, x: m.relu(m.bn(x)) if x.sum() > 0 else x, "cannot trace"),
    (lambda m, x: m.relu(m.bn(x)) * random.random(), "random numbers"),
    (lambda m, x: m.relu(m.bn(x)) + torch.ones(1), "tensors of its own"),
    (lambda m, x: setattr(m, "seen", 1) or m.relu(m.bn(x)), "changes attributes"),
]


@pytest.mark.parametrize(("code", "reason"), LEFT)
def test_code_that_is_left(code, reason):
    torch.manual_seed(0)
    net = Written(code)
    kept = dict(vars(net))
    report = ek.adopt(net, fuse=True)
    row = next(row for row in report.layers if row.layer == "bn")
    assert row.adopted
    assert reason in row.left
    if not row.fused:
        assert type(net) is Written
        assert vars(net) == kept


def test_no_batch_norm_runs_after_its_input_was_written_to():
    net = Written(writes_between).eval()
    assert "in place" in rows_without_proof(net)["bn"].left
    with torch.no_grad():
        wanted = Written(writes_between).eval()(small())
        torch.testing.assert_close(net(small()), wanted)


def rows_without_proof(net: nn.Module) -> dict:
    return {row.layer: row for row in ek.adopt(net, fuse=True).layers}


def test_activations_are_known_by_what_they_compute():
    known = [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.3), nn.SiLU(), nn.GELU(), nn.Hardswish()]
    x = torch.linspace(-8, 8, 101)[:, None].repeat(1, 2)
    for module in known:
        activation = activation_of(module)
        layer = ek.nn.BatchNormAct1d(2, activation=activation, affine=False, eps=1e-30).eval()
        torch.testing.assert_close(layer(x), module(x))
    for module in (nn.GELU("tanh"), nn.Tanh(), nn.Softplus()):
        assert activation_of(module) is None


def test_a_sequential_that_ends_in_a_norm_goes_with_the_code_around_it():
    net = shaken(Inverted())
    original = copy.deepcopy(net)
    found = rows(net)
    assert found["conv.0.1"].fused == ("relu6",)
    assert found["conv.2"].fused == ("add",)
    require_close(net(small()), original(small()))
    require_close(net.conv(small()), original.conv(small()))  # alone it adds nothing


def test_a_slice_of_a_sequential_ends_where_it_is_cut():
    net = shaken(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())).eval()
    wanted = net[:2](small())
    assert rows(net)["1"].fused == ("relu",)
    require_close(net[:2](small()), wanted)
    require_close(net[1](net[0](small())), wanted)
    assert wanted.min() < 0
    assert net(small()).min() == 0


def test_a_tensor_and_a_list_of_tensors():
    net = shaken(Dense())
    original = copy.deepcopy(net)
    assert rows(net)["norm"].fused == ("relu",)
    require_close(net(small()), original(small()))
    require_close(net([small(), small()[:, :0]]), original([small(), small()[:, :0]]))


def test_arguments_with_a_default_take_the_code_that_was_written():
    net = shaken(Masked())
    original = copy.deepcopy(net)
    x, scale = torch.randn(5, 4), torch.rand(5, 4)
    assert rows(net, x)["bn"].fused == ("relu",)
    require_close(net(x), original(x))
    require_close(net(x, scale), original(x, scale))
    require_close(net(x=x, scale=scale), original(x=x, scale=scale))


def test_a_residual_that_broadcasts_or_widens_is_added_as_before():
    net = shaken(Written(lambda m, x: m.relu(m.bn(x) + m.other(x)), other=nn.Identity())).eval()
    original = copy.deepcopy(net)
    ek.adopt(net, fuse=True)
    for module in (net, original):
        module.other = nn.AdaptiveAvgPool2d(1)
    require_close(net(small()), original(small()))
    codes = {
        lambda m, x: m.bn(x).add_(x.float()): torch.bfloat16,
        lambda m, x: operator.iadd(m.bn(x), x.float()): torch.bfloat16,
        lambda m, x: m.bn(x) + x.float(): torch.float32,
    }
    for code, dtype in codes.items():
        model = shaken(Written(code)).eval()
        wanted = copy.deepcopy(model)
        ek.adopt(model, fuse=True)
        x = small().to(torch.bfloat16)
        assert model(x).dtype == wanted(x).dtype == dtype
        torch.testing.assert_close(model(x), wanted(x))


def replaced(net):
    net.layer1[0].relu = nn.Tanh()


def hooked_norm(net):
    net.bn1.register_forward_hook(lambda module, args, output: output * 2)


def hooked_activation(net):
    net.layer1[1].relu.register_forward_hook(lambda module, args, output: output + 1)


def without_shortcut(net):
    net.layer1[0].downsample = nn.Conv2d(8, 8, 1, bias=False).requires_grad_(False)
    nn.init.constant_(net.layer1[0].downsample.weight, 0.1)


def appended(net):
    net.layer1.append(nn.Tanh())
    net.layer1[1].downsample.append(nn.Tanh())


def hooked_shortcut(net):
    net.layer1[1].downsample.register_forward_hook(lambda module, args, output: output * 0)


@pytest.mark.parametrize(
    "change",
    [replaced, hooked_norm, hooked_activation, without_shortcut, appended, hooked_shortcut],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_changed_model_computes_what_the_original_would(change, when):
    net = shaken(ResNet())
    original = copy.deepcopy(net)
    change(original)
    if when == "before":
        change(net)
    ek.adopt(net, fuse=True)
    if when == "after":
        change(net)
    for mode in (False, True):
        require_close(net.train(mode)(images()), original.train(mode)(images()))


def test_hooks_are_a_reason():
    net = ResNet()
    hooked_norm(net)
    hooked_activation(net)
    found = {row.layer: row for row in ek.adopt(net, fuse=True).layers}
    assert "hooks" in found["bn1"].left
    assert found["layer1.1.bn2"].fused == ("add",)
    assert "ReLU 'relu' has hooks" in found["layer1.1.bn1"].left


def test_torch_converts_a_fused_model_without_dropping_its_activations():
    net = shaken(ResNet()).eval()
    wanted = net(images())
    ek.adopt(net, images(), fuse=True)
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    assert type(synchronized.layer1[0].bn1) is nn.SyncBatchNorm
    require_close(synchronized(images()), wanted)
    folded = copy.deepcopy(net)
    block = folded.layer1[0]
    block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
    require_close(folded(images()), wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        require_close(torch.fx.experimental.optimization.fuse(copy.deepcopy(net))(images()), wanted)


def test_torch_traces_compiles_and_exports_a_fused_model():
    net = shaken(ResNet()).eval()
    names = [node.name for node in torch.fx.symbolic_trace(net).graph.nodes]
    wanted = net(images())
    ek.adopt(net, fuse=True)
    traced = torch.fx.symbolic_trace(net)
    assert [node.name for node in traced.graph.nodes] == names  # as the author wrote it
    require_close(traced(images()), wanted)
    exported = torch.export.export(net, (images(),))
    assert not [n for n in exported.graph.nodes if "evenkeel" in str(n.target)]
    require_close(exported.module()(images()), wanted)
    require_close(torch.jit.trace(net, images())(images()), wanted)
    with pytest.raises(ek.errors.TransformError, match=r"ek\.release"):
        torch.jit.script(net)


def test_torch_compiles_a_fused_model_in_training():
    net = shaken(Inverted())
    original = copy.deepcopy(net)
    ek.adopt(net, fuse=True)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for model in (compiled, original):
        model(small()).square().sum().backward()
    for one, two in zip(net.parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-3)
    for one, two in zip(net.buffers(), original.buffers(), strict=True):
        require_close(one, two)


def test_autocast():
    net = shaken(ResNet())
    original = copy.deepcopy(net)
    ek.adopt(net, fuse=True)
    with torch.autocast("cpu", torch.bfloat16):
        one, two = net(images()), original(images())
    assert one.dtype == two.dtype == torch.bfloat16
    torch.testing.assert_close(one, two, rtol=0.05, atol=0.05)


def test_a_layer_called_in_two_places():
    def code(m, x):
        return m.relu(m.bn(x)) + F.silu(m.bn(x * 2))

    net = shaken(Written(code))
    original = copy.deepcopy(net)
    assert rows(net)["bn"].fused == ("relu", "silu")
    require_close(net(small()), original(small()))
    require_close(net.bn.running_mean, original.bn.running_mean)


def test_a_module_list_calls_nothing_itself():
    net = Written(
        lambda m, x: m.relu(m.norms[1](x)), norms=nn.ModuleList([nn.ReLU(), nn.BatchNorm2d(4)])
    )
    assert rows(net)["norms.1"].fused == ("relu",)
    net.norms[1] = nn.Identity()
    torch.testing.assert_close(net(small()), small().relu())
