"""``adopt`` and ``release``: identity, proof, reports, and going back."""

from __future__ import annotations

import copy
import io
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn

import evenkeel as ek
from evenkeel.tools._adopt import _classes, _followed

from ._adopt_nets import BasicBlock, Other, ResNet, images, shaken


def state(model: nn.Module) -> dict:
    """Everything that makes a model what it is: objects, classes, modes, attributes, values."""
    return {
        name: (
            id(module),
            type(module),
            {k: v if k == "training" else id(v) for k, v in vars(module).items()},
            {k: (id(v), v.clone()) for k, v in module.named_parameters(recurse=False)},
            {k: (id(v), v.clone()) for k, v in module.named_buffers(recurse=False)},
        )
        for name, module in model.named_modules()
    }


def require_same_state(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for before, after in zip(one.values(), two.values(), strict=True):
        assert before[:3] == after[:3]
        for tensors, others in zip(before[3:], after[3:], strict=True):
            assert tensors.keys() == others.keys()
            for (place, value), (other_place, other) in zip(
                tensors.values(), others.values(), strict=True
            ):
                assert place == other_place
                assert torch.equal(value, other)


def require_close(one: torch.Tensor, two: torch.Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return shaken(ResNet())


@pytest.mark.parametrize("fuse", [False, True])
def test_a_model_keeps_its_objects_and_computes_the_same(net, fuse):
    original = copy.deepcopy(net)
    held = [*net.modules()], [*net.parameters()], [*net.buffers()]
    report = ek.adopt(net, images(), fuse=fuse)
    assert report.model is net
    assert report.proof.holds
    assert report.proof.quantities > 50
    now = [*net.modules()], [*net.parameters()], [*net.buffers()]
    assert all(
        a is b for one, two in zip(held, now, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert list(net.state_dict()) == list(original.state_dict())
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 6
    assert {type(m) for m in norms} == {ek.nn.BatchNorm2d}
    assert isinstance(net.layer1[0], BasicBlock)
    for mode in (True, False):
        require_close(net.train(mode)(images(1)), original.train(mode)(images(1)))
    for one, two in zip(net.buffers(), original.buffers(), strict=True):
        require_close(one, two)


def test_the_report_says_what_is_fused():
    report = ek.adopt(ResNet(), images(), fuse=True)
    fused = {row.layer: row.fused for row in report.layers}
    assert fused == {
        "bn1": ("relu",),
        "layer1.0.bn1": ("relu",),
        "layer1.0.bn2": ("add + relu",),
        "layer1.1.bn1": ("relu",),
        "layer1.1.bn2": ("add + relu",),
        "layer1.1.downsample.1": (),
    }
    assert "another batch norm" in report.layers[-1].left
    text = str(report)
    assert text.startswith("ResNet: 6 of 6 batch norms adopted, 5 fused\nproof: ")
    assert max(map(len, text.splitlines())) <= 80
    assert "in one pass: bn1 + relu; bn2 + add + relu" in repr(report.model)


def test_an_adopted_model_trains_as_before(net):
    original = copy.deepcopy(net)
    optimizers = [torch.optim.SGD(m.parameters(), 0.01, momentum=0.9) for m in (net, original)]
    ek.adopt(net, fuse=True)
    for step in range(3):
        for model, optimizer in zip((net, original), optimizers, strict=True):
            optimizer.zero_grad()
            model(images(step)).square().mean().backward()
            optimizer.step()
    for one, two in zip(net.state_dict().values(), original.state_dict().values(), strict=True):
        require_close(one, two)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("back", ["release", "undo"])
def test_going_back_restores_everything(net, fuse, back):
    before = state(net)
    report = ek.adopt(net, images(), fuse=fuse)
    if back == "undo":
        report.undo()
    else:
        ek.release(net)
    require_same_state(before, state(net))


def test_a_release_can_be_undone(net):
    ek.adopt(net, fuse=True)
    before = state(net)
    release = ek.release(net)
    assert [row.kind for row in release.modules].count("BatchNorm2d") == 6
    assert release.to_dict()["modules"][0] == {"module": "", "kind": "ResNet", "note": ""}
    assert str(release).startswith("ResNet: 9 modules with the original class")
    release.undo()
    require_same_state(before, state(net))


def numpy_draws() -> bytes:
    return np.random.get_state()[1].tobytes()  # noqa: NPY002 - what a model's code may use


def test_nothing_leaks_from_the_proof(net):
    net.train()
    net.layer1[0].eval()
    net(images()).sum().backward()
    gradients = {k: p.grad.clone() for k, p in net.named_parameters()}
    values = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    draws = random.getstate(), numpy_draws(), torch.get_rng_state()
    ek.adopt(net, images(), fuse=True)
    assert random.getstate() == draws[0]
    assert numpy_draws() == draws[1]
    assert torch.equal(torch.get_rng_state(), draws[2])
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(p.grad, gradients[k]) for k, p in net.named_parameters())
    assert all(torch.equal(v, values[k]) for k, v in net.state_dict().items())


def test_adopting_twice_and_fusing_later(net):
    plain = ek.adopt(net)
    assert not any(row.fused for row in plain.layers)
    assert all(row.adopted for row in plain.layers)
    first = ek.adopt(net, images(), fuse=True)
    adopted = state(net)
    again = ek.adopt(net, images(), fuse=True)
    assert again.layers == first.layers
    assert [type(m) for m in net.modules()] == [kind for _, kind, *_ in adopted.values()]
    ek.release(net)
    assert type(net) is ResNet


def broken(layer, x, then=None, residual=None, keep=False):
    """Forgets the residual."""
    return _followed.followed(layer, x, then)


def forgetful(layer, x, then=None, residual=None, keep=False):
    """Forgets the activation, as a fuser that knows nothing of it."""
    return layer(x, residual=residual)


@pytest.mark.parametrize("wrong", [broken, forgetful])
def test_a_wrong_fusion_is_noticed_and_undone(net, monkeypatch, wrong):
    from evenkeel.tools._adopt import _sites

    before = state(net)
    monkeypatch.setattr(_sites, "followed", wrong)
    with pytest.raises(ek.errors.InputError, match="without changing its results"):
        ek.adopt(net, images(), fuse=True)
    require_same_state(before, state(net))


def test_a_wrong_kernel_is_noticed_without_an_example(net, monkeypatch):
    from evenkeel.tools._adopt import _pairs

    before = state(net)
    monkeypatch.setattr(_pairs, "followed", broken)
    with pytest.raises(ek.errors.EvenkeelError, match=r"BatchNorm2d.* \+ add \+ relu"):
        ek.adopt(net, fuse=True)
    require_same_state(before, state(net))


def test_without_an_example_the_report_says_so(net):
    report = ek.adopt(net, fuse=True)
    assert report.proof is None
    assert report.pairs == 5  # three widths with relu or add + relu, the shortcut alone
    assert "proof: none of the whole model" in str(report)
    assert report.to_dict()["pairs"] == 5


@pytest.mark.parametrize("example", [images(), (images(),), {"x": images()}])
def test_forms_of_an_example(example):
    assert ek.adopt(ResNet(), example).proof.holds


def test_what_cannot_be_adopted_is_refused(net):
    before = state(net)
    with pytest.raises(ek.errors.InputError, match="got: a dict"):
        ek.adopt({})
    with pytest.raises(ek.errors.InputError, match="got: an int"):
        ek.release(3)
    with pytest.raises(ek.errors.InputError, match="an example that is a list"):
        ek.adopt(net, [images()])
    with pytest.raises(ek.errors.InputError, match="weight of size"):
        ek.adopt(net, images(channels=2), fuse=True)
    with pytest.raises(ek.errors.InputError, match="NaN or Inf"):
        ek.adopt(net, images() * float("nan"))
    net.lock = (i for i in ())
    del before[""]
    with pytest.raises(ek.errors.InputError, match="cannot be copied"):
        ek.adopt(net, images())
    now = state(net)
    del now[""]
    require_same_state(before, now)


def test_a_model_without_batch_norm():
    report = ek.adopt(nn.Linear(2, 2), torch.randn(3, 2), fuse=True)
    assert report.layers == ()
    assert str(report).startswith("Linear: 0 of 0 batch norms adopted, 0 fused")


def test_a_layer_alone():
    layer = nn.BatchNorm1d(3)
    assert ek.adopt(layer, torch.randn(5, 3), fuse=True).layers[0].adopted
    assert type(layer) is ek.nn.BatchNorm1d
    ek.release(layer)
    assert type(layer) is nn.BatchNorm1d


def parametrized() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", nn.Softplus())
    return layer


def overridden() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    layer.forward = lambda x: x
    return layer


class FrozenBatchNorm2d(nn.Module):
    """As in torchvision and detectron2: four buffers."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(4))
        self.eps = 1e-5


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.SyncBatchNorm(4), "synchronized"),
        (nn.LazyBatchNorm2d, "lazy"),
        (parametrized, "parametrized"),
        (overridden, "another forward"),
        (FrozenBatchNorm2d, "frozen"),
        (lambda: Other(4), "_adopt_nets.Other may do more"),
        (lambda: torch.jit.script(nn.BatchNorm2d(4)), "torch.jit.script"),
        (lambda: ek.nn.BatchNormAct2d(4), "evenkeel's own"),
    ],
)
def test_layers_that_are_left(make, reason):
    layer = make()
    model = nn.Sequential(layer)
    kind = type(layer)
    report = ek.adopt(model, fuse=True)
    (row,) = report.layers
    assert not row.adopted
    assert reason in row.left
    assert type(layer) is kind


def test_an_fsdp_layer_is_left():
    layer = nn.BatchNorm2d(4)
    layer._is_fsdp_managed_module = True  # what FSDP writes into the modules that it manages
    (row,) = ek.adopt(nn.Sequential(layer)).layers
    assert "FSDP" in row.left


def test_release_takes_layers_that_were_built_as_ours():
    net = nn.Sequential(ek.nn.BatchNorm2d(4, nonfinite="raise"), ek.nn.BatchNorm1d(4))
    ek.release(net)
    assert [type(m) for m in net] == [nn.BatchNorm2d, nn.BatchNorm1d]
    assert not {"nonfinite", "_skipped"} & vars(net[0]).keys()


def test_release_refuses_what_torch_cannot_say():
    net = nn.Sequential(ek.nn.BatchNorm2d(4), ek.nn.BatchNorm2d(4, variance="biased"))
    with pytest.raises(ek.errors.UnsayableError, match="release '1'"):
        ek.release(net)
    assert type(net[0]) is ek.nn.BatchNorm2d


def test_release_narrows_statistics_and_says_so():
    net = nn.Sequential(nn.BatchNorm2d(4)).to(torch.bfloat16)
    x = torch.randn(4, 4, 3, 3).to(torch.bfloat16)
    ek.adopt(net)
    net(x)
    assert net[0].running_mean.dtype == torch.float32
    report = ek.release(net)
    assert report.modules[0].note == "statistics rounded to bfloat16"
    assert "rounded to bfloat16" in str(report)
    assert net(x).dtype == torch.bfloat16


def test_a_state_dict_and_a_pickle_travel(net):
    ek.adopt(net, fuse=True)
    saved = io.BytesIO()
    torch.save(net.state_dict(), saved)
    saved.seek(0)
    other = ResNet()
    other.load_state_dict(torch.load(saved))
    require_close(net.eval()(images()), other.eval()(images()))
    pickled = pickle.dumps(net)
    for twin in (copy.deepcopy(net), pickle.loads(pickled)):
        assert type(twin) is type(net)
        assert type(twin.layer1[0]) is type(net.layer1[0])
    _classes._rewritten.cache_clear()  # as in another process
    loaded = pickle.loads(pickled)
    assert type(loaded) is not type(net)
    for twin in (copy.deepcopy(net), loaded):
        assert "in one pass: bn1 + relu" in repr(twin)
        assert torch.equal(twin(images()), net(images()))
        ek.release(twin)
        assert type(twin) is ResNet
        assert type(twin.layer1[0]) is BasicBlock
