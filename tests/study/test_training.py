from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from evenkeel.nn import BatchNorm1d
from evenkeel.study import RunConfig, build_network, load_dataset, train
from evenkeel.study._records import judge
from evenkeel.study._run import run_network
from evenkeel.study._samples import Samples
from evenkeel.study._training import Training, recorded_steps, total_steps

CONFIG = RunConfig(
    section="test", batch_norm=True, optimizer="sgd", rate=0.1, seed=0, hidden=(16, 8), max_steps=30
)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def test_network_has_norm_between_linear_and_relu() -> None:
    network = build_network(64, 10)
    kinds = [type(layer) for layer in network]
    assert kinds == [nn.Linear, BatchNorm1d, nn.ReLU] * 3 + [nn.Linear]
    assert [layer.bias is None for layer in network if isinstance(layer, nn.Linear)] == [
        True,
        True,
        True,
        False,
    ]
    assert not any(
        isinstance(layer, BatchNorm1d) for layer in build_network(4, 2, batch_norm=False)
    )


def test_baseline_is_initialised_by_he() -> None:
    generator = torch.Generator().manual_seed(0)
    network = build_network(400, 10, hidden=(500, 300), batch_norm=False, generator=generator)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, gain in zip(linear, (2, 2, 1), strict=True):
        expected = math.sqrt(gain / layer.in_features)
        # The deviation of n draws has a relative standard error of 1 / sqrt(2 n); five of them.
        margin = 5 / math.sqrt(2 * layer.weight.numel())
        assert layer.weight.std().item() == pytest.approx(expected, rel=margin)
        assert not layer.bias.any()


def test_both_networks_start_from_the_same_weights() -> None:
    pair = [
        build_network(6, 3, batch_norm=norm, generator=torch.Generator().manual_seed(1))
        for norm in (True, False)
    ]
    weights = [[m.weight for m in net if isinstance(m, nn.Linear)] for net in pair]
    for a, b in zip(*weights, strict=True):
        assert torch.equal(a, b)


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_network(6, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_saturating_networks_are_initialised_by_glorot(activation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    network = build_network(
        400, 10, hidden=(500, 300), activation=activation, dropout=0.5, generator=generator
    )
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Linear", "BatchNorm1d", activation.capitalize(), "Dropout"] * 2 + ["Linear"]
    for layer in list(network)[:-1:4]:
        expected = math.sqrt(2 / (layer.in_features + layer.out_features))
        margin = 5 / math.sqrt(2 * layer.weight.numel())
        assert layer.weight.std().item() == pytest.approx(expected, rel=margin)


def test_scale_and_shift_begin_where_they_are_told() -> None:
    norm = build_network(6, 3, gamma=0.25, beta=-1.0, momentum=0.5).norm1
    assert (norm.weight == 0.25).all()
    assert (norm.bias == -1).all()
    assert norm.momentum == 0.5


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_same_seed_same_bits(digits, optimizer: str, batch_norm: bool) -> None:
    config = replace(CONFIG, optimizer=optimizer, batch_norm=batch_norm, rate=0.01)
    samples = Samples.load(digits)
    (first, one), (second, two) = (run_network(config, samples) for _ in range(2))
    assert first == second
    states = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    assert train(replace(config, seed=1), digits).test_accuracy != first.test_accuracy


def test_training_leaves_torch_as_it_was(digits) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    record = train(replace(CONFIG, dropout=0.5), digits)
    assert record == train(replace(CONFIG, dropout=0.5), digits)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_runs_of_one_repetition_share_weights_samples_and_batches(digits) -> None:
    samples = Samples.load(digits)
    configs = [replace(CONFIG, samples=40), replace(CONFIG, samples=40, batch_norm=False, rate=3)]
    one, two = (Training(config, samples) for config in configs)
    assert torch.equal(one.network.linear1.weight, two.network.linear1.weight)
    assert torch.equal(one.train[0], two.train[0])
    assert len(one.train[1]) == 40
    batches = zip(one.batches(7), two.batches(7), strict=True)
    assert all(torch.equal(a, b) for (a, _), (b, _) in batches)
    other = Training(replace(CONFIG, samples=40, seed=1), samples)
    assert not torch.equal(one.train[0], other.train[0])


def test_seed_depends_on_section_and_repetition() -> None:
    others = [replace(CONFIG, seed=1), replace(CONFIG, section="other")]
    assert len({c.random_seed() for c in [CONFIG, *others]}) == 3
    assert replace(CONFIG, rate=0.2).random_seed() == CONFIG.random_seed()
    assert 0 <= CONFIG.random_seed() < 2**63


def test_record_of_a_run_that_trains(digits) -> None:
    record = train(replace(CONFIG, rate=0.3, max_steps=60, target=0.5), digits)
    assert record.steps == recorded_steps(60)
    assert record.outcome == "trained"
    lengths = {len(record.test_accuracy), len(record.train_loss), len(record.steps)}
    assert len(lengths) == 1
    assert record.best_accuracy == max(record.test_accuracy) > 0.6
    first = next(s for s, a in zip(record.steps, record.test_accuracy, strict=True) if a >= 0.5)
    assert record.steps_to_target == first


def test_run_that_diverges_stops_and_says_so(digits) -> None:
    record = train(replace(CONFIG, batch_norm=False, rate=1e30), digits)
    assert record.outcome == "diverged"
    assert not record.finite
    assert record.steps[-1] < 30
    assert record.final_accuracy < 0.2
    assert record.steps_to_target is None
    assert record.train_loss[-1] is None


def test_run_that_is_too_slow_has_not_diverged(digits) -> None:
    record = train(replace(CONFIG, rate=1e-12, max_steps=5), digits)
    assert record.outcome == "slow"


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        ({"accuracy": 0.21}, "trained"),
        ({"accuracy": 0.19}, "slow"),
        ({"accuracy": 0.19, "peak_loss": 4.7}, "diverged"),
        ({"accuracy": 0.9, "peak_loss": 50.0}, "trained"),
        ({"accuracy": 0.9, "finite": False}, "diverged"),
        ({"accuracy": 0.94, "majority": 0.9}, "slow"),
        ({"accuracy": 0.96, "majority": 0.9}, "trained"),
    ],
)
def test_rule_for_outcomes(case: dict[str, float], outcome: str) -> None:
    usual = {"majority": 0.1, "finite": True, "first_loss": 2.3, "peak_loss": 2.3}
    assert judge(**{**usual, **case}) == outcome


def test_steps() -> None:
    assert total_steps(CONFIG, 1347) == 30
    assert total_steps(replace(CONFIG, max_steps=10_000), 1347) == 15 * 21
    assert total_steps(replace(CONFIG, max_steps=10_000), 40) == 15
    assert recorded_steps(3) == (0, 3)
    steps = recorded_steps(315)
    assert steps[:3] == (0, 5, 10)
    assert steps[-1] == 315
    assert 100 in steps
    assert len(steps) < 45
