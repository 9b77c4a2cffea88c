"""Layers of two torch networks are matched, whatever their names and order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evenkeel.dialects._open import open_network
from evenkeel.errors import InputError
from evenkeel.tools._matching import Matching, match
from evenkeel.tools._matching._pairs import state_of


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics, scales and offsets at which nothing hides."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


class Branches(nn.Module):
    """Two branches of equal layers, run in either order, added or side by side."""

    def __init__(self, *, swapped: bool = False, join: str = "cat", bias: bool = False) -> None:
        super().__init__()
        self.swapped, self.join = swapped, join
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 8, 3, padding=1, bias=bias)
        self.left_norm = nn.BatchNorm2d(8)
        self.right = nn.Conv2d(8, 8, 3, padding=1, bias=bias)
        self.right_norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(16 if join == "cat" else 8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        if self.swapped:
            right = self.right_norm(self.right(x))
            left = self.left_norm(self.left(x))
        else:
            left = self.left_norm(self.left(x))
            right = self.right_norm(self.right(x))
        both = torch.cat([left, right], 1) if self.join == "cat" else left + right
        return self.last(torch.relu(both))


def run(source: nn.Module, target: nn.Module, **options: Any) -> Matching:
    shape = options.pop("shape", (2, 3, 8, 8))
    rng = np.random.default_rng(1)
    one, two = open_network(source), open_network(target)
    example = one.canonical_inputs(rng.standard_normal(shape).astype(np.float32))
    return match(one, two, example, **options)


def names(matching: Matching) -> dict[str, str]:
    return {pair.source.name: pair.target.name for pair in matching.pairs}


def outputs_agree(source: nn.Module, target: nn.Module, matching: Matching) -> bool:
    one, two = open_network(source), open_network(target)
    two.write(matching.to_target(state_of(one.layers())))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return torch.allclose(source(x), target(x), rtol=1e-4, atol=1e-5)


def silence(model: nn.Module) -> None:
    """Scales of zero, as at the start of many residual networks: the branches have no effect."""
    with torch.no_grad():
        model.left_norm.weight.zero_()
        model.right_norm.weight.zero_()


def test_branches_in_another_order_are_settled_by_the_data() -> None:
    source, target = randomized(Branches()), randomized(Branches(swapped=True), 1)
    matching = run(source, target)
    assert matching.agrees
    assert names(matching)["left"] == "left"
    assert names(matching)["right_norm"] == "right_norm"
    assert outputs_agree(source, target, matching)


def test_branches_that_are_added_are_interchangeable() -> None:
    source = randomized(Branches(join="add"))
    target = randomized(Branches(join="add", swapped=True), 1)
    matching = run(source, target)
    assert matching.agrees
    assert outputs_agree(source, target, matching)


def test_two_branches_without_effect_are_refused_by_name() -> None:
    source, target = randomized(Branches()), randomized(Branches(swapped=True), 1)
    silence(source)
    with pytest.raises(InputError) as caught:
        run(source, target)
    message = str(caught.value)
    assert all(f"'{name}'" in message for name in ("left", "right"))
    assert "mapping={" in message


def test_a_hand_written_map_settles_them() -> None:
    source, target = randomized(Branches()), randomized(Branches(swapped=True), 1)
    silence(source)
    known = {name: name for name in ("left", "right", "left_norm", "right_norm")}
    assert run(source, target, mapping=known).agrees


def test_the_target_is_left_as_it_was() -> None:
    source, target = randomized(Branches()), randomized(Branches(swapped=True), 1)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    run(source, target)
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


def test_a_bias_before_batch_norm_is_absorbed() -> None:
    source, target = randomized(Branches(bias=True)), randomized(Branches(), 1)
    matching = run(source, target)
    assert set(matching.absorbed) == {("left", "left_norm"), ("right", "right_norm")}
    mean = matching.to_target(state_of(open_network(source).layers()))["left_norm"]["running_mean"]
    wanted = source.left_norm.running_mean - source.left.bias.detach()
    np.testing.assert_allclose(mean, wanted.numpy(), rtol=1e-6)
    assert outputs_agree(source, target, matching)


def test_a_bias_that_nothing_absorbs_is_refused() -> None:
    source = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    target = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU()).eval()
    with pytest.raises(InputError, match="no batch norm follows"):
        run(source, target)


def test_a_missing_scale_and_offset_are_made_without_effect() -> None:
    source = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)))
    target = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 1)
    matching = run(source, target)
    assert set(matching.made) == {"1.weight", "1.bias"}
    values = matching.to_target(state_of(open_network(source).layers()))
    assert values["1"]["weight"].tolist() == [1] * 4
    assert values["1"]["bias"].tolist() == [0] * 4
    assert outputs_agree(source, target, matching)


def test_a_batch_norm_on_one_side_only_is_refused() -> None:
    source = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    target = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    with pytest.raises(InputError, match="a batch norm that only one network has"):
        run(source, target)
    with pytest.raises(InputError, match=r"'1' \(batch_norm 4\)"):
        run(target, source)


def test_another_width_is_refused_with_both_layers() -> None:
    source, target = nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Conv2d(3, 5, 3))
    with pytest.raises(InputError, match=r"3x3x3x4.*3x3x3x5"):
        run(source, target)


class LastFlatten(nn.Module):
    """Flattens channels last, as Keras and Flax do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def flattening(flatten: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), flatten, nn.Linear(4 * 36, 5))


@pytest.mark.parametrize("order", [(nn.Flatten, LastFlatten), (LastFlatten, nn.Flatten)])
def test_rows_after_a_flatten_are_reordered(order: tuple[type[nn.Module], type[nn.Module]]) -> None:
    source, target = (randomized(flattening(kind()), i) for i, kind in enumerate(order))
    matching = run(source, target)
    pair = matching.pairs[-1]
    assert matching.agrees
    assert pair.order is not None
    assert outputs_agree(source, target, matching)
    array = np.random.default_rng(0).standard_normal((144, 5))
    np.testing.assert_array_equal(pair.to_source("kernel", pair.to_target("kernel", array)), array)


class Joined(nn.Module):
    """Concatenates two branches in one order or the other."""

    def __init__(self, *, turned: bool) -> None:
        super().__init__()
        self.turned = turned
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 3)
        self.norm, self.depth = nn.BatchNorm2d(10), nn.Conv2d(10, 20, 3, groups=10)
        self.last = nn.Conv2d(20, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.a(x), self.b(x)]
        x = torch.cat(parts[::-1] if self.turned else parts, 1)
        return self.last(torch.tanh(self.depth(torch.tanh(self.norm(x)))))


def test_channels_that_are_concatenated_in_another_order_are_followed() -> None:
    source, target = randomized(Joined(turned=False)), randomized(Joined(turned=True), 1)
    matching = run(source, target)
    assert matching.agrees
    assert outputs_agree(source, target, matching)


def test_a_dense_layer_and_a_convolution_of_size_one_are_the_same() -> None:
    pool = nn.AdaptiveAvgPool2d(1)
    source = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.Conv2d(4, 5, 1), nn.Flatten()))
    target = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.Flatten(), nn.Linear(4, 5)), 1)
    matching = run(source, target)
    assert matching.agrees
    assert outputs_agree(source, target, matching)


def test_another_padding_is_named_where_the_data_part() -> None:
    def build(padding: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=padding),
            nn.BatchNorm2d(4),
            nn.AdaptiveAvgPool2d(1),
        )

    matching = run(randomized(build(1)), randomized(build(0), 1))
    assert not matching.agrees
    assert "'0' ('0' in the source) (padding" in matching.difference
    assert names(matching) == {"0": "0", "1": "1"}


def test_a_softmax_on_one_side_only_is_named() -> None:
    layers = [nn.Flatten(), nn.Linear(192, 5)]
    source = randomized(nn.Sequential(*layers, nn.Softmax(-1)))
    matching = run(source, randomized(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), 1))
    assert "softmax" in matching.difference


def test_another_eps_hides_nothing() -> None:
    def build(eps: float) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=eps), nn.ReLU())

    assert run(randomized(build(1e-1)), randomized(build(1e-5), 1)).agrees


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ({"nowhere": "left"}, "the source has no such layer"),
        ({"left": "nowhere"}, "the target has no such layer"),
        ({"left": "left", "right": "left"}, "'left' twice"),
        ({"left": "stem"}, "kind or shape differ"),
    ],
)
def test_a_wrong_map_is_refused(mapping: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        run(Branches().eval(), Branches().eval(), mapping=mapping)


def test_an_example_of_zeros_is_enough() -> None:
    one, two = (open_network(randomized(Branches(swapped=s), int(s))) for s in (False, True))
    matching = match(one, two, np.zeros((1, 8, 8, 3), np.float32))
    assert matching.agrees
    assert names(matching)["left"] == "left"


def test_token_numbers_are_matched() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), nn.Linear(30, 3))

    one, two = open_network(randomized(build())), open_network(randomized(build(), 1))
    matching = match(one, two, np.arange(10).reshape(2, 5))
    assert matching.agrees
    assert names(matching) == {"0": "0", "2": "2"}


def test_layers_that_never_run_are_named() -> None:
    source, target = randomized(Branches()), randomized(Branches(), 1)
    target.unused = nn.Linear(2, 2)
    matching = run(source, target)
    assert matching.agrees
    assert any("'unused'" in remark for remark in matching.remarks)
