"""Live torch models through the network interface."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from evenkeel import nn as ours
from evenkeel.dialects import torch as dialect
from evenkeel.dialects._open import open_network
from evenkeel.errors import InputError
from evenkeel.spec import Momentum, Renorm, Spec

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 3, 6, 6)).astype(np.float32)


def half_square(output):
    """A loss whose gradient is the output itself."""
    return float((output.astype(np.float64) ** 2).sum() / 2), output


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(36, 5)

    def forward(self, x):
        x = torch.relu_(self.bn(self.conv(x)))
        x = nn.functional.dropout(x, 0.5, self.training)
        return self.fc(self.drop(x.flatten(1)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_unchanged(model, before):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_layers_say_what_the_modules_are(net):
    conv, norm, dense = open_network(net).layers()
    assert (conv.kind, norm.kind, dense.kind) == ("conv", "batch_norm", "dense")
    assert conv.settings == {
        "strides": (2, 2),
        "dilation": (1, 1),
        "groups": 1,
        "padding": ((1, 1), (1, 1)),
    }
    kernel = net.conv.weight.detach().numpy()
    np.testing.assert_array_equal(conv.arrays["kernel"].read(), kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(dense.arrays["kernel"].read(), net.fc.weight.detach().numpy().T)
    assert norm.spec == dialect.read_spec(net.bn, "bn")
    assert norm.shapes["batches"] == ()


def test_a_trace_gives_calls_in_order_and_changes_nothing(net):
    net.train()
    net.drop.eval()
    before, seed = snapshot(net), torch.random.get_rng_state()
    network = open_network(net)
    trace = network.trace(network.canonical_inputs(IMAGES))
    assert [call.layer for call in trace.calls] == ["conv", "bn", "fc"]
    assert [call.output.shape for call in trace.calls] == [(4, 3, 3, 4), (4, 3, 3, 4), (4, 5)]
    # The model's own ReLU works in place on what batch norm gave; the trace has it from before.
    assert (trace.calls[1].output < 0).any()
    assert [module.training for module in net.modules()] == [True, True, True, False, True]
    assert torch.equal(seed, torch.random.get_rng_state())
    assert not any(module._forward_hooks for module in net.modules())
    assert_unchanged(net, before)
    with torch.no_grad():
        expected = net.eval()(torch.tensor(IMAGES)).numpy()
    np.testing.assert_array_equal(trace.output, expected)


def test_a_failing_model_is_left_as_it_was(net):
    net.train()
    network = open_network(net)
    with pytest.raises(RuntimeError):
        network.trace(np.zeros((4, 6, 6, 7), np.float32))
    assert all(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("training", [True, False])
def test_a_step_is_torchs_own_without_dropout(net, training):
    twin = copy.deepcopy(net).train()
    twin.drop.eval()
    net.train(training)
    network = open_network(net)
    step = network.step(network.canonical_inputs(IMAGES), half_square)
    x = torch.relu(twin.bn(twin.conv(torch.tensor(IMAGES))))
    output = twin.fc(x.flatten(1))
    (output.square().sum() / 2).backward()
    np.testing.assert_allclose(step.output, output.detach().numpy(), rtol=1e-6, atol=1e-6)
    gradients = step.gradients
    assert {name: set(roles) for name, roles in gradients.items()} == {
        "conv": {"kernel", "bias"},
        "bn": {"weight", "bias"},
        "fc": {"kernel", "bias"},
    }
    np.testing.assert_allclose(
        gradients["conv"]["kernel"], twin.conv.weight.grad.permute(2, 3, 1, 0).numpy(), atol=1e-5
    )
    np.testing.assert_allclose(gradients["fc"]["kernel"], twin.fc.weight.grad.T.numpy(), atol=1e-5)
    np.testing.assert_array_equal(step.statistics["bn"]["running_var"], twin.bn.running_var)
    assert step.statistics["bn"]["batches"] == 1
    assert int(net.bn.num_batches_tracked) == 1
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.training is training
    assert any("dropout" in remark for remark in step.remarks)


def test_a_step_leaves_frozen_layers_and_random_numbers_alone(net):
    net.train()
    net.bn.eval()
    net.conv.requires_grad_(requires_grad=False)
    before, seed = snapshot(net), torch.random.get_rng_state()
    network = open_network(net)
    step = network.step(network.canonical_inputs(IMAGES), half_square)
    assert "conv" not in step.gradients
    assert_unchanged(net, before)
    assert torch.equal(seed, torch.random.get_rng_state())
    assert not net.bn.training


def test_randomness_that_cannot_be_switched_off_is_remarked():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.randn(2)

    network = open_network(nn.Sequential(Noisy(3, 2)))
    step = network.step(np.ones((2, 3), np.float32), half_square)
    assert any("random numbers" in remark for remark in step.remarks)


def test_the_dropout_inside_recurrent_layers_and_attention_is_off():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(4, 4, num_layers=2, dropout=0.5, batch_first=True)
            self.mix = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)

        def forward(self, x):
            x = self.rnn(x)[0]
            return self.mix(x, x, x, need_weights=False)[0]

    torch.manual_seed(0)
    network = open_network(Both())
    x = RNG.normal(size=(2, 5, 4)).astype(np.float32)
    one, two = (network.step(x, half_square) for _ in range(2))
    np.testing.assert_array_equal(one.output, two.output)
    assert network.model.rnn.dropout == network.model.mix.dropout == 0.5
    assert not any("random numbers" in remark for remark in one.remarks)


def test_writing_is_in_place_and_all_or_nothing(net):
    network = open_network(net)
    weight, before = net.conv.weight, snapshot(net)
    kernel = RNG.normal(size=(3, 3, 3, 4)).astype(np.float32)
    for bad in (
        {"fc": {"kernel": np.zeros((5, 36))}},
        {"fc": {"weight": np.zeros((36, 5))}},
        {"none": {"kernel": np.zeros(1)}},
    ):
        with pytest.raises(InputError):
            network.write({"conv": {"kernel": kernel}, **bad})
        assert_unchanged(net, before)
    network.write({"conv": {"kernel": kernel}, "bn": {"batches": np.asarray(7)}})
    assert net.conv.weight is weight
    np.testing.assert_array_equal(weight.detach().numpy(), kernel.transpose(3, 2, 0, 1))
    assert int(net.bn.num_batches_tracked) == 7
    assert torch.equal(net.fc.weight, before["fc.weight"])


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(4, 6, 3, groups=2),
        nn.Conv3d(2, 3, 2, bias=False),
        nn.ConvTranspose1d(4, 6, 3),
        nn.ConvTranspose2d(4, 6, 3, groups=2, output_padding=1, stride=2),
        nn.Linear(3, 4, bias=False),
        nn.Embedding(5, 3),
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.PReLU(4),
        nn.LSTM(3, 4, num_layers=2, bidirectional=True),
        nn.GRU(3, 4, bias=False),
        nn.RNN(3, 4, nonlinearity="relu"),
        nn.BatchNorm1d(4, affine=False),
        nn.MultiheadAttention(4, 2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_what_is_read_and_written_back_computes_the_same(module):
    model = nn.ModuleDict({"m": module})
    for tensor in model.parameters():
        nn.init.normal_(tensor)
    network = open_network(model)
    layers = network.layers()
    assert layers
    values = {la.name: {role: a.read() for role, a in la.arrays.items()} for la in layers}
    for layer in layers:
        for role, array in values[layer.name].items():
            assert array.shape == layer.shapes[role]
    before = snapshot(model)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.zero_()
    network.write(values)
    # torch has two biases where Keras's LSTM has their sum.
    summed = isinstance(module, nn.LSTM | nn.RNN) and not isinstance(module, nn.GRU)
    for name, tensor in model.state_dict().items():
        if not (summed and "bias" in name):
            assert torch.equal(tensor, before[name]), name
    again = {la.name: {r: a.read() for r, a in la.arrays.items()} for la in network.layers()}
    for name, roles in values.items():
        for role, array in roles.items():
            np.testing.assert_array_equal(again[name][role], array)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (nn.utils.parametrizations.spectral_norm, "other"),
        (nn.utils.parametrizations.weight_norm, "other"),
        (lambda m: m, "dense"),
    ],
)
def test_computed_weights_are_not_taken_for_plain_ones(change, kind):
    model = nn.Sequential(change(nn.Linear(3, 2)))
    assert {layer.kind for layer in open_network(model).layers()} == {kind}


def test_parameters_of_the_model_itself_are_other():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.ones(1, 2))
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(x) + self.token

    own, dense = open_network(Own()).layers()
    assert (own.name, own.kind, own.shapes) == ("", "other", {"token": (1, 2)})
    assert dense.kind == "dense"


def test_configure_changes_eps_and_momentum_in_place(net):
    network = open_network(net)
    spec = Spec(4, eps=1e-3, momentum=Momentum(0.99, "old"))
    assert network.configure("bn", spec) == ()
    assert (net.bn.eps, net.bn.momentum) == (1e-3, 0.01)
    assert type(net.bn) is nn.BatchNorm2d
    assert network.layers()[1].spec.eps == 1e-3


def test_configure_makes_the_biased_variance_without_another_object(net):
    norm, weight = net.bn, net.bn.weight
    network = open_network(net)
    assert network.configure("bn", Spec(4, variance="biased")) == ()
    assert net.bn is norm
    assert net.bn.weight is weight
    assert type(norm) is ours.BatchNorm2d
    assert network.layers()[1].spec.variance == "biased"
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    norm(x)
    expected = 0.9 + 0.1 * x.numpy().var((0, 2, 3))
    np.testing.assert_allclose(norm.running_var.numpy(), expected, rtol=1e-6)
    norm(torch.full((2, 4, 3, 3), torch.nan))  # enters, as it did before
    assert norm.running_mean.isnan().all()
    assert network.configure("bn", Spec(4, variance="unbiased")) == ()
    assert norm.variance == "unbiased"


@pytest.mark.parametrize(
    ("module", "spec", "field"),
    [
        (nn.SyncBatchNorm(4), Spec(4, variance="biased", eps=0.1), "variance"),
        (nn.BatchNorm2d(4), Spec(4, renorm=Renorm(Momentum(0.9, "old")), eps=0.1), "renorm"),
        (nn.BatchNorm2d(4), Spec(4, eps=0.0, momentum=Momentum(0.5, "old")), "eps"),
    ],
)
def test_configure_refuses_what_a_layer_cannot_mean(module, spec, field):
    network = open_network(nn.Sequential(module))
    (found,) = network.configure("0", spec)
    assert found.field == field
    assert (module.eps, module.momentum) == (1e-5, 0.1)


def test_double_is_an_independent_copy(net):
    network = open_network(net)
    wide = network.double()
    x = network.canonical_inputs(IMAGES)
    assert wide.trace(x).output.dtype == np.float64
    wide.step(x, half_square)
    assert int(net.bn.num_batches_tracked) == 0
    assert net.conv.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "shape", "canonical"),
    [
        (nn.Conv1d(3, 4, 1), (2, 3, 5), (2, 5, 3)),
        (nn.BatchNorm1d(3), (2, 3, 5), (2, 5, 3)),
        (nn.Linear(5, 2), (2, 3, 5), (2, 3, 5)),
        (nn.Conv3d(3, 4, 1), (2, 3, 5, 6, 7), (2, 5, 6, 7, 3)),
        (nn.Linear(5, 2), (3, 5), (3, 5)),
    ],
)
def test_inputs_are_channels_last(model, shape, canonical):
    network = open_network(nn.Sequential(model))
    inputs = RNG.normal(size=shape).astype(np.float32)
    there = network.canonical_inputs(inputs)
    assert there.shape == canonical
    trace = network.trace(there)
    with torch.no_grad():
        expected = model.eval()(torch.tensor(inputs)).numpy()
    first = not isinstance(model, nn.Linear) and expected.ndim > 2
    np.testing.assert_array_equal(trace.output, np.moveaxis(expected, 1, -1) if first else expected)


def test_token_numbers_stay():
    network = open_network(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)))
    tokens = np.array([[0, 1, 4]])
    trace = network.trace(network.canonical_inputs(tokens))
    np.testing.assert_array_equal(trace.calls[0].input, tokens)
    assert trace.output.shape == (1, 3, 2)


def test_images_that_are_channels_last_already_are_refused(net):
    with pytest.raises(InputError, match="channels at axis 1"):
        open_network(net).canonical_inputs(np.moveaxis(IMAGES, 1, -1))


def test_several_inputs_or_outputs_are_refused():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(InputError, match="forward\\(x, y\\)"):
        open_network(Two())
    with pytest.raises(InputError, match="output of type tuple"):
        open_network(Pair(2, 2)).trace(np.ones((1, 2), np.float32))


def test_lazy_layers_have_no_shapes_yet():
    with pytest.raises(InputError, match="lazy"):
        open_network(nn.Sequential(nn.LazyLinear(3)))


def test_a_shared_layer_is_one_layer_with_several_calls():
    layer = nn.Linear(2, 2)
    network = open_network(nn.Sequential(layer, layer))
    assert len(network.layers()) == 1
    assert len(network.trace(np.ones((1, 2), np.float32)).calls) == 2
