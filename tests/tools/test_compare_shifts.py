"""A bias in front of batch norm that only one of two networks has."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from evenkeel.dialects._open import open_network
from evenkeel.tools._compare import compare
from evenkeel.tools._compare._inference import compare_inference
from evenkeel.tools._compare._sides import opened_sides

IMAGES = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def network():
    """Two convolutions with batch norm; the bias of the second is large beside its outputs."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
    second = nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(64, 3))
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(model[3].bias, 5, 6)
    return model


def without_bias(model, place):
    """The same function: the bias of a convolution taken off the running mean after it."""
    twin = copy.deepcopy(model)
    conv, norm = twin[place], twin[place + 1]
    with torch.no_grad():
        norm.running_mean -= conv.bias
    conv.bias = None
    return twin


@pytest.mark.parametrize("only_in_b", [False, True])
def test_a_bias_before_batch_norm_that_one_side_lacks_is_no_difference(network, only_in_b):
    pair = without_bias(network, 3), network
    result = compare(*(pair if only_in_b else pair[::-1]), IMAGES, steps=2, optimizer="adam")
    assert result.equal, str(result)
    compared = {(row.layer, row.item) for row in result.rows if row.stage == "inference"}
    assert {("3", "output"), ("4", "input"), ("4", "output")} <= compared


@pytest.mark.parametrize("only_in_b", [False, True])
def test_beside_an_absorbed_bias_the_true_cause_is_found(network, only_in_b):
    plain = without_bias(network, 3)
    plain[4].eps = 1e-3
    pair = (plain, network) if only_in_b else (network, plain)
    result = compare(*pair, IMAGES)
    assert [(cause.code, cause.layer) for cause in result.causes] == [("eps", "4")]


def test_another_bias_without_batch_norm_behind_it_differs(network):
    plain = copy.deepcopy(network)
    plain[7].bias = None
    result = compare(plain, network, IMAGES)
    assert result.first_difference.layer == "7"
    assert not result.equal


@pytest.mark.parametrize("wrong", [1e-5, 1e-3])
@pytest.mark.parametrize("only_in_b", [False, True])
def test_a_mean_that_took_the_bias_in_inexactly_is_found(network, only_in_b, wrong):
    plain = without_bias(network, 3)
    pair = (plain, network) if only_in_b else (network, plain)
    with torch.no_grad():
        pair[1][4].running_mean *= 1 + wrong
    result = compare(*pair, IMAGES)
    assert result.first_difference.layer == "4"
    assert result.first_difference.item == "output"


def test_the_source_gives_the_bias_that_is_taken_off(network):
    plain = without_bias(network, 3)
    bias = network[3].bias.detach().double().numpy()
    with opened_sides(open_network(network), open_network(plain), IMAGES, None) as sides:
        ours, theirs = compare_inference(sides).shifts
    assert np.array_equal(ours.of_output("3"), bias)
    assert np.array_equal(ours.of_input("4"), bias)
    assert ours.of_input("3") is None
    assert theirs.found == ()
