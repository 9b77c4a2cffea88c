"""Weights go from one torch network into another, with a proof; other frameworks are slow."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evenkeel.errors import EvenkeelWarning, InputError, UnsayableError
from evenkeel.tools._port import port
from evenkeel.tools._port._records import Proof

X = np.random.default_rng(3).standard_normal((4, 3, 10, 10)).astype(np.float32)


def network(seed: int, *, bias: bool = False, **norm: Any) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=bias),
        nn.BatchNorm2d(6, **norm),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, bias=bias),
        nn.BatchNorm2d(6, **norm),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 36, 7),
    )
    generator = torch.Generator().manual_seed(seed)
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def is_as(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = model.state_dict()
    return before.keys() == now.keys() and all(torch.equal(before[k], now[k]) for k in now)


def test_outputs_are_equal_and_the_source_is_not_changed() -> None:
    source, target = network(0), network(1)
    before = state(source)
    done = port(source, target, X)
    assert done.model is target
    assert done.proof.holds
    assert is_as(source, before)
    with torch.no_grad():
        torch.testing.assert_close(source(torch.tensor(X)), target(torch.tensor(X)))


def test_undo_gives_the_target_back() -> None:
    target = network(1, affine=True)
    before = state(target)
    done = port(network(0, affine=False), target, X)
    assert not is_as(target, before)
    assert not target[1].weight.requires_grad
    done.undo()
    assert is_as(target, before)
    assert target[1].weight.requires_grad


def test_what_is_made_is_frozen() -> None:
    done = port(network(0, affine=False), network(1), X)
    assert set(done.frozen) == {"1.weight", "1.bias", "4.weight", "4.bias"}
    assert "must stay frozen" in str(done)


def test_biases_are_absorbed() -> None:
    done = port(network(0, bias=True), network(1), X)
    assert done.proof.holds
    assert "minus 0.bias" in str(done)


def test_another_eps_fails_the_proof_and_leaves_the_target() -> None:
    target = network(1, eps=1e-5)
    before = state(target)
    with pytest.raises(InputError, match=r"eps is 0\.001 in the source and 1e-05") as caught:
        port(network(0, eps=1e-3), target, X)
    assert "settings='source'" in str(caught.value)
    assert is_as(target, before)
    assert target[1].eps == 1e-5


def test_settings_of_the_source_are_taken_over_and_undone() -> None:
    target = network(1)
    done = port(network(0, eps=1e-3, momentum=0.01), target, X, settings="source")
    assert (target[1].eps, target[1].momentum) == (1e-3, 0.01)
    assert all(item.repaired for item in done.differences)
    assert {item.field for item in done.differences} == {"eps", "momentum"}
    done.undo()
    assert (target[1].eps, target[1].momentum) == (1e-5, 0.1)


def test_a_biased_source_makes_the_target_biased_and_undo_gives_the_class_back() -> None:
    from evenkeel.nn import BatchNorm2d

    source = network(0)
    for index in (1, 4):
        ours = BatchNorm2d(6, variance="biased").eval()
        ours.load_state_dict(source[index].state_dict())
        source[index] = ours
    target = network(1)
    kept, keys = target[1], set(vars(target[1]))
    done = port(source, target, X, settings="source")
    assert target[1] is kept
    assert kept.variance == "biased"
    done.undo()
    assert type(kept) is nn.BatchNorm2d
    assert set(vars(kept)) == keys


def test_another_momentum_is_one_warning() -> None:
    with pytest.warns(EvenkeelWarning, match=r"momentum is 0\.01 .* 0.1 .*1, 4") as caught:
        done = port(network(0, momentum=0.01), network(1), X)
    assert len(caught) == 1
    assert not any(item.repaired for item in done.differences)
    assert "changes training" in str(done)


@pytest.mark.parametrize("choice", [{"settings": "target"}, {"purpose": "inference"}])
def test_the_warning_can_be_declined(choice: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = port(network(0, momentum=0.01), network(1), X, **choice)
    assert [item.field for item in done.differences] == ["momentum", "momentum"]


def test_a_warning_that_raises_leaves_the_target() -> None:
    target = network(1)
    before = state(target)
    # Warnings are errors in this suite.
    with pytest.raises(EvenkeelWarning):
        port(network(0, momentum=0.01), target, X)
    assert is_as(target, before)


def test_another_activation_names_the_first_layer_and_leaves_the_target() -> None:
    target = network(1)
    target[2] = nn.Tanh()
    before = state(target)
    with pytest.raises(InputError, match=r"the input of '3' .*agrees is '1'"):
        port(network(0), target, X)
    assert is_as(target, before)


class Clipped(nn.Module):
    """Differs from the identity on the largest values only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.abs() > 5, 1.01 * x, x)


def test_a_difference_that_only_the_example_shows_fails_the_proof() -> None:
    example = X.copy()
    example[0, 0, 4, 4] = 30
    target = nn.Sequential(*network(1)[:2], Clipped(), *network(1)[2:])
    before = state(target)
    with pytest.raises(InputError, match="does not compute what the source computes"):
        port(network(0), target, example)
    assert is_as(target, before)


def test_what_torch_cannot_say_is_refused_or_listed() -> None:
    class Special(nn.BatchNorm2d):
        """Someone's own layer, whose class cannot be changed."""

    from evenkeel.nn import BatchNorm2d

    source = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4, eps=1e-2, variance="biased")).eval()
    target = nn.Sequential(nn.Conv2d(3, 4, 3), Special(4)).eval()
    before = state(target)
    with pytest.raises(UnsayableError, match="variance"):
        port(source, target, X, settings="source")
    assert is_as(target, before)
    assert target[1].eps == 1e-5
    done = port(source, target, X, settings="source", purpose="inference")
    assert {item.field: item.repaired for item in done.differences} == {
        "eps": True,
        "variance": False,
    }


def test_the_report_fits_and_is_json() -> None:
    done = port(network(0, bias=True), network(1), X)
    assert max(map(len, str(done).splitlines())) <= 80
    record = json.loads(json.dumps(done.to_dict()))
    assert record["proof"]["holds"]
    assert record["layers"][0]["source"] == "0"
    assert {"bias": "0", "into": "1"} in record["absorbed"]


@pytest.mark.parametrize("choice", [{"settings": "both"}, {"purpose": "fun"}])
def test_an_unknown_choice_is_refused(choice: dict[str, str]) -> None:
    with pytest.raises(InputError, match="known are"):
        port(network(0), network(1), X, **choice)


def test_nan_is_no_proof() -> None:
    assert not Proof(0.0, float("nan"), 1.0, 1.0).holds
    assert not Proof(0.0, 1.0, float("nan"), 1.0).holds


def test_an_example_that_the_network_does_not_take_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(InputError, match=r"float32 of shape \(2, 8, 8, 5\).*RuntimeError") as found:
        port(network, copy.deepcopy(network), np.zeros((2, 5, 8, 8), np.float32))
    assert "do:" in str(found.value)


def test_nan_is_named_as_such():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1))
    images = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken[2].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="NaN or Inf in the output of '2'"):
        port(broken, network, images)
    with pytest.raises(InputError, match="an example with NaN"):
        port(network, copy.deepcopy(network), np.full_like(images, np.nan))
