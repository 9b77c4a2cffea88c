"""Two torch networks: equal ones, and one planted fault for every cause that is named."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

import evenkeel as ek
from evenkeel.dialects._open import open_network
from evenkeel.errors import EvenkeelError, InputError
from evenkeel.tools._compare import compare
from evenkeel.tools._compare._losses import draw_batch

IMAGES = np.random.default_rng(0).standard_normal((16, 3, 10, 10)).astype(np.float32)


def make_network(seed=0):
    """A small network with random statistics and gammas, so that nothing hides."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(200, 5),
    )
    ranges = {"running_mean": (-0.5, 0.5), "running_var": (0.5, 1.5), "weight": (0.5, 1.5)}
    for layer in model:
        for name, tensor in layer.state_dict().items():
            low, high = (-0.1, 0.1)
            if isinstance(layer, nn.BatchNorm2d):
                low, high = ranges.get(name, (-0.5, 0.5))
            if tensor.is_floating_point():
                tensor.uniform_(low, high, generator=generator)
    return model


@pytest.fixture
def network():
    return make_network()


def regrouped(model):
    """The same network with other names, in the other memory layout."""
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return nn.Sequential(nn.Sequential(*twin[:3]), nn.Sequential(*twin[3:]))


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(model, before):
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.fixture(scope="module")
def equal_comparison():
    model = make_network()
    return compare(model, regrouped(model), IMAGES, steps=3)


def test_the_same_network_is_equal_in_everything(equal_comparison):
    assert equal_comparison.equal
    assert (equal_comparison.cause, equal_comparison.first_difference) == (None, None)
    stages = {(row.stage, row.optimizer) for row in equal_comparison.rows}
    assert stages == {
        ("inference", None),
        ("step by step", "sgd"),
        ("step by step", "adam"),
        ("free run", "sgd"),
        ("free run", "adam"),
    }


def test_every_layer_and_role_is_compared(equal_comparison):
    items = {(r.layer, r.item) for r in equal_comparison.rows if r.stage == "step by step"}
    gradients = {
        (layer, f"gradient of {role}")
        for layer, roles in {
            "0": ("kernel", "bias"),
            "1": ("weight", "bias"),
            "3": ("kernel", "bias"),
            "4": ("weight", "bias"),
            "7": ("kernel", "bias"),
        }.items()
        for role in roles
    }
    statistics = {(n, s) for n in "14" for s in ("running_mean", "running_var", "batches")}
    assert items == gradients | statistics | {("", "loss"), ("", "output")}
    inference = [row.layer for row in equal_comparison.rows if row.item == "output"]
    assert inference[:6] == ["0", "1", "3", "4", "7", ""]


def test_a_bias_before_batch_norm_is_named_and_judged_as_zero(equal_comparison):
    zero = {r.layer for r in equal_comparison.rows if r.note == "mathematically zero"}
    assert zero == {"0", "3"}
    assert any("3.bias, 0.bias" in remark for remark in equal_comparison.remarks)


def test_errors_are_those_of_float32(equal_comparison):
    outputs = [r for r in equal_comparison.rows if r.stage == "inference"]
    # The images themselves are exact; at least four of the seven digits are left at the end.
    assert all(0 < row.error_a < 1e-4 for row in outputs if row.item == "output")
    assert all(0 < row.error_b <= row.bound for row in outputs if row.item == "output")


def test_the_table_is_narrow_and_the_record_is_json(equal_comparison):
    text = str(equal_comparison)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("a: torch, b: torch: equal in inference and over 3 steps")
    record = json.loads(json.dumps(equal_comparison.to_dict(), allow_nan=False))
    assert record["equal"] is True
    assert len(record["rows"]) == len(equal_comparison.rows)


def test_neither_network_is_changed(network):
    other = regrouped(network)
    network.train()
    other.eval()
    before = state_of(network), state_of(other)
    compare(network, other, IMAGES, steps=2, optimizer="sgd")
    assert_same_state(network, before[0])
    assert_same_state(other, before[1])
    assert (network.training, other.training) == (True, False)
    assert all(p.grad is None for m in (network, other) for p in m.parameters())


def test_neither_network_is_changed_by_an_exception(network):
    other = regrouped(network)
    before = state_of(network), state_of(other)
    calls = []

    def loss(output):
        calls.append(1)
        if len(calls) > 4:
            raise RuntimeError("the loss broke")
        return float(output.sum()), np.ones_like(output)

    with pytest.raises(RuntimeError, match="the loss broke"):
        compare(network, other, IMAGES, steps=3, loss=loss)
    assert len(calls) == 5
    assert_same_state(network, before[0])
    assert_same_state(other, before[1])


def test_training_starts_from_the_source_whatever_the_target_holds(network):
    other = regrouped(make_network(1))
    result = compare(network, other, IMAGES, steps=2, optimizer="sgd", inference=False)
    assert result.equal
    assert not compare(network, other, IMAGES).equal


def with_eps(model):
    model[4].eps = 1e-3
    return model


def with_momentum(value):
    def change(model):
        model[1].momentum = value
        return model

    return change


def with_biased_variance(model):
    layer = ek.nn.BatchNorm2d(8, variance="biased")
    layer.load_state_dict(model[4].state_dict())
    model[4] = layer
    return model


def with_padding_at_the_end(model):
    model[0].padding = (0, 0)
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), *model)


def with_other_padding(model):
    model[3].padding = (0, 0)
    return nn.Sequential(*model[:4], nn.ZeroPad2d(1), *model[4:])


def mirrored(model):
    with torch.no_grad():
        model[3].weight.copy_(model[3].weight.flip(-1, -2))
    return model


def swapped_inputs_and_outputs(model):
    with torch.no_grad():
        model[3].weight[:6].copy_(model[3].weight[:6].transpose(0, 1).clone())
    return model


def scaled(model):
    with torch.no_grad():
        model[3].weight.mul_(1.0001)
    return model


def without_activation(model):
    model[5] = nn.Identity()
    return model


def with_another_activation(model):
    model[2] = nn.GELU()
    return model


def with_one_more_activation(model):
    return nn.Sequential(*model, nn.ReLU())


def with_frozen_weight(model):
    model[4].weight.requires_grad_(False)
    return model


def frozen(model):
    model.train()
    model[4].eval()
    return model


class Forgetful(nn.BatchNorm2d):
    """Normalizes with the batch, and does not learn from it."""

    def forward(self, x):
        statistics = self.running_mean.clone(), self.running_var.clone()
        affine = self.weight, self.bias
        return nn.functional.batch_norm(x, *statistics, *affine, self.training, 0.1, self.eps)


def without_update(model):
    model[4].__class__ = Forgetful
    return model


FAULTS = {
    "eps": (with_eps, "eps", "4"),
    "momentum sense": (with_momentum(0.9), "momentum sense", "1"),
    "momentum value": (with_momentum(0.11), "momentum value", "1"),
    "cumulative momentum": (with_momentum(None), "momentum value", "1"),
    "variance": (with_biased_variance, "variance convention", "4"),
    "padding at the end": (with_padding_at_the_end, "padding", "0"),
    "padding of the output": (with_other_padding, "padding", "3"),
    "mirrored kernel": (mirrored, "layout", "3"),
    "swapped kernel": (swapped_inputs_and_outputs, "layout", "3"),
    "values": (scaled, "values", "3"),
    "no activation": (without_activation, "activation", "7"),
    "another activation": (with_another_activation, "activation", "3"),
    "one more activation": (with_one_more_activation, "activation", ""),
    "frozen weight": (with_frozen_weight, "frozen", "4"),
    "frozen statistics": (frozen, "frozen", "4"),
    "no update": (without_update, "missing statistics update", "4"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(network, name):
    plant, code, layer = FAULTS[name]
    other = plant(copy.deepcopy(network))
    result = compare(network, other, IMAGES, steps=1, optimizer="sgd")
    assert not result.equal
    assert [cause.code for cause in result.causes] == [code]
    first = result.first_difference
    assert first.layer == layer
    assert first.step in (None, 1)
    text = str(result)
    assert f"likely cause: {code}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_two_faults_are_both_named(network):
    other = with_momentum(0.9)(with_eps(copy.deepcopy(network)))
    result = compare(network, other, IMAGES, steps=2, optimizer="sgd")
    assert [cause.code for cause in result.causes] == ["eps", "momentum sense"]
    assert any("settings that differ" in remark for remark in result.remarks)


def test_what_has_no_evidence_is_called_unknown(network):
    class Odd(nn.Module):
        def forward(self, x):
            return x + 0.01 * torch.sin(3 * x)

    other = nn.Sequential(*copy.deepcopy(network)[:6], Odd(), *copy.deepcopy(network)[6:])
    result = compare(network, other, IMAGES, steps=1, optimizer="sgd")
    assert [cause.code for cause in result.causes] == ["unknown"]
    assert result.first_difference.layer == "7"


def test_a_difference_in_training_alone_is_called_unknown(network):
    class Noise(nn.Module):
        def forward(self, x):
            return 1.001 * x if self.training else x

    other = nn.Sequential(*copy.deepcopy(network)[:3], Noise(), *copy.deepcopy(network)[3:])
    result = compare(network, other, IMAGES, steps=1, optimizer="sgd")
    assert {row.equal for row in result.rows if row.stage == "inference"} == {True}
    assert [cause.code for cause in result.causes] == ["unknown"]


def test_nan_is_no_agreement(network):
    with torch.no_grad():
        network[3].bias[0] = torch.nan
    result = compare(network, copy.deepcopy(network), IMAGES)
    assert not result.equal
    assert result.cause.code == "non-finite"


def test_float32_that_is_less_exact_is_called_rounding(network):
    class Rounded(nn.Module):
        def forward(self, x):
            if x.dtype == torch.float64:
                return x
            return x.bfloat16().float()

    other = nn.Sequential(*copy.deepcopy(network)[:3], Rounded(), *copy.deepcopy(network)[3:])
    result = compare(network, other, IMAGES)
    assert [cause.code for cause in result.causes] == ["rounding"]
    assert result.first_difference.layer == "3"


def test_free_runs_see_what_single_steps_cannot(network):
    class Tired(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = 0

        def forward(self, x):
            self.steps += self.training
            return x * (1 + 1e-4 * (self.steps > 2))

    other = nn.Sequential(*copy.deepcopy(network)[:3], Tired(), *copy.deepcopy(network)[3:])
    result = compare(network, other, IMAGES, steps=2, optimizer="sgd")
    assert {row.equal for row in result.rows if row.stage == "step by step"} == {True}
    assert result.first_difference.stage == "free run"
    assert result.cause.code == "unknown"


@pytest.fixture
def at_the_kink():
    """A network, and samples of which one is within rounding of all its kinks, and which one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    weight, bias = (p.detach().double().numpy() for p in (model[0].weight, model[0].bias))
    x, one = np.random.default_rng(0).standard_normal((8, 64)), draw_batch(8, 0)[0]
    x[one] -= np.linalg.pinv(weight) @ (weight @ x[one] + bias)
    return model, x.astype(np.float32), one


def test_a_batch_at_a_kink_is_drawn_again(at_the_kink):
    model, x, _ = at_the_kink
    result = compare(model, copy.deepcopy(model), x, steps=3, optimizer="sgd")
    assert result.equal
    assert any("draws another batch" in remark for remark in result.remarks)


def test_where_every_batch_is_at_a_kink_it_is_named(at_the_kink):
    model, x, one = at_the_kink

    class Reordered(nn.Module):
        """Rounds otherwise than torch: it decides about zero for itself, in float32."""

        def forward(self, x):
            return x if x.dtype == torch.float64 else torch.where(x.abs() < 1e-6, -x, x)

    other = nn.Sequential(model[0], Reordered(), *model[1:])
    only = x[one : one + 1].repeat(3, 0)
    result = compare(model, other, only, steps=1, optimizer="sgd", inference=False)
    assert not result.equal
    assert [cause.code for cause in result.causes] == ["kink"]


def test_inputs_of_another_layout_come_as_a_pair(network):
    class ChannelsLast(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    pair = IMAGES, IMAGES.copy()
    assert compare(network, ChannelsLast(copy.deepcopy(network)), pair).equal
    with pytest.raises(InputError, match="16 and 15 samples"):
        compare(network, copy.deepcopy(network), (IMAGES, IMAGES[1:]))


def test_networks_that_are_open_already_are_taken_and_stay_open(network):
    one, two = open_network(network), open_network(copy.deepcopy(network))
    assert compare(one, two, IMAGES).equal
    assert one.trace(one.canonical_inputs(IMAGES)).output.shape == (16, 5)


def test_integer_targets_train_a_classifier(network):
    targets = np.arange(16) % 5
    result = compare(
        network, regrouped(network), IMAGES, steps=2, targets=targets, optimizer="adam"
    )
    assert result.equal


def test_a_side_without_float64_is_judged_by_the_other(network):
    class Single:
        framework = "single"

        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def double(self):
            raise EvenkeelError("no kernels in float64")

    single = Single(open_network(copy.deepcopy(network)))
    for a, b in ((network, single), (single, network)):
        result = compare(a, b, IMAGES)
        assert result.equal
        assert any("no kernels in float64" in remark for remark in result.remarks)
    with pytest.raises(InputError, match="neither with a float64 mode"):
        compare(single, single, IMAGES)
    with pytest.raises(InputError, match="without a float64 mode"):
        compare(network, single, IMAGES, steps=1)


def test_nothing_to_compare_is_refused(network):
    with pytest.raises(InputError, match="something to compare"):
        compare(network, network, IMAGES, inference=False)
    with pytest.raises(InputError, match="at least one"):
        compare(network, network, IMAGES[:0])
    with pytest.raises(InputError, match="open a network"):
        compare("weights.safetensors", network, IMAGES)
