from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from evenkeel.study import RunConfig, Scale, build_network, load_dataset
from evenkeel.study._codec import decode, encode, key
from evenkeel.study._samples import Samples
from evenkeel.study._training import Training
from evenkeel.study.sections.gradients import SECTION, _run
from evenkeel.study.sections.gradients._networks import FARTHEST, decades
from evenkeel.study.sections.gradients._run import GradientRecord, gradient_sizes
from evenkeel.study.sections.gradients._verdict import fate

FULL = Scale((0, 1, 2, 3, 4), quick=False)
ONE = Scale((0,), quick=True)
SMALL = RunConfig(section="test", seed=3, hidden=(9, 7, 5), activation="tanh", max_steps=12)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.load(load_dataset("digits"))


def made_up(config: RunConfig, start: float, training: float | None = None) -> GradientRecord:
    """A run whose first layer has 10**start times the gradient of the last, by equal factors."""
    count = len(config.hidden)
    start += 0.01 * config.seed
    later = start if training is None else training + 0.01 * config.seed

    def profile(ratio: float) -> tuple[float, ...]:
        return tuple(1e-3 * 10 ** (ratio * (count - 1 - k) / (count - 1)) for k in range(count))

    return GradientRecord(
        config=config,
        start=profile(start),
        training=profile(later),
        steps=(5, 10),
        first=(1e-3 * 10**later,) * 2,
        last=(1e-3,) * 2,
        train_loss=(2.0, 1.0 if abs(start) < 2 else 2.3),
        chance_loss=2.3,
        finite=True,
    )


def found_from(make, scale: Scale = FULL):
    found = SECTION.reduce([make(config) for config in SECTION.plan(scale)])
    return found, SECTION.judge({m.name: m for m in found.measures})


def saves_sigmoid(config: RunConfig) -> GradientRecord:
    """Without batch norm sigmoid vanishes; with it deep ReLU explodes at the start."""
    depth = len(config.hidden)
    if config.batch_norm:
        return made_up(config, 0.08 * depth if config.activation == "relu" else 0.1, 0.2)
    return made_up(config, -0.6 * depth if config.activation == "sigmoid" else 0.0)


def test_both_networks_get_the_same_settings() -> None:
    plan = SECTION.plan(FULL)
    sides = [
        [replace(c, batch_norm=True) for c in plan if c.batch_norm == norm]
        for norm in (True, False)
    ]
    assert sides[0] == sides[1]
    assert len({key(config) for config in plan}) == len(plan) == 2 * 3 * 4 * 5
    assert {len(c.hidden) for c in plan} == {5, 10, 20, 40}
    quick = SECTION.plan(Scale((0, 1, 2), quick=True))
    updates = [sum(c.max_steps * len(c.hidden) for c in p) for p in (plan, quick)]
    assert updates[1] < updates[0] / 10


@pytest.mark.parametrize("batch_norm", [True, False])
def test_gradient_sizes_equal_finite_differences(batch_norm) -> None:
    generator = torch.Generator().manual_seed(0)
    network = build_network(
        4, 3, hidden=(3, 2), activation="tanh", batch_norm=batch_norm, generator=generator
    ).double()
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    cross_entropy(network(x), y).backward()

    def difference(layer: torch.nn.Linear, place: tuple[int, int], step: float = 1e-5) -> float:
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                before = layer.weight[place].item()
                layer.weight[place] = before + sign * step
                losses.append(cross_entropy(network(x), y).item())
                layer.weight[place] = before
        return (losses[0] - losses[1]) / (2 * step)

    for layer, size in zip(
        (network.linear1, network.linear2), gradient_sizes(network), strict=True
    ):
        rows, columns = layer.weight.shape
        slopes = [difference(layer, (i, j)) for i in range(rows) for j in range(columns)]
        expected = math.sqrt(sum(slope**2 for slope in slopes) / len(slopes))
        # Central differences err by step^2 / 6 times a third derivative of order 1 to 100, and
        # by rounding of the loss over the step.
        assert size == pytest.approx(expected, abs=1e-8)


def test_a_vanished_gradient_is_not_rounded_to_zero() -> None:
    network = build_network(4, 3, hidden=(3, 2), batch_norm=False)
    network.linear1.weight.grad = torch.full((3, 4), 1e-30)  # its square is no float32
    network.linear2.weight.grad = torch.full((2, 3), 2.0)
    assert gradient_sizes(network) == pytest.approx([1e-30, 2.0], rel=1e-6, abs=0)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_measuring_does_not_change_the_training(samples, monkeypatch, batch_norm) -> None:
    config = replace(SMALL, batch_norm=batch_norm)
    kept: list[Training] = []

    def keep(*arguments: object) -> Training:
        kept.append(Training(*arguments))
        return kept[-1]

    monkeypatch.setattr(_run, "Training", keep)
    record = SECTION.run(config, samples)
    plain = Training(config, samples)
    losses, sizes = [], []
    for x, y in plain.batches():
        losses.append(plain.update(x, y))
        sizes.append(gradient_sizes(plain.network))
    measured = kept[0].network.state_dict()
    for name, value in plain.network.state_dict().items():
        assert torch.equal(measured[name], value), name
    assert record.steps == (5, 10, 12)
    assert record.train_loss == pytest.approx(
        (sum(losses[:5]) / 5, sum(losses[5:10]) / 5, sum(losses[10:]) / 2), rel=1e-5
    )
    assert record.first == pytest.approx([sizes[k][0] for k in (4, 9, 11)], rel=1e-5)
    assert record.last == pytest.approx([sizes[k][2] for k in (4, 9, 11)], rel=1e-5)
    middle = (sizes[4][1] * sizes[9][1] * sizes[11][1]) ** (1 / 3)
    assert record.training[1] == pytest.approx(middle, rel=1e-5)
    assert decode(encode(record), SECTION.record) == record


def test_gradients_at_the_start_are_those_of_the_first_network(samples) -> None:
    record = SECTION.run(SMALL, samples)
    fresh = Training(SMALL, samples)
    x, y = fresh.train
    generator = torch.Generator().manual_seed(SMALL.random_seed() + 1)
    order = torch.randperm(len(y), generator=generator)
    logs = torch.zeros(3, dtype=torch.float64)
    for k in range(4):
        chosen = order[64 * k : 64 * (k + 1)]
        loss = cross_entropy(fresh.network(x[chosen]), y[chosen])
        linear = [layer for layer in fresh.network if isinstance(layer, torch.nn.Linear)]
        weights = [layer.weight for layer in linear[:3]]
        found = torch.autograd.grad(loss, weights)
        logs += torch.tensor([g.double().pow(2).mean().sqrt().log() for g in found]) / 4
    assert record.start == pytest.approx(logs.exp().tolist(), rel=1e-5)
    shares = torch.unique(y, return_counts=True)[1] / len(y)
    assert record.chance_loss == pytest.approx(-(shares * shares.log()).sum().item(), rel=1e-5)


def test_a_run_that_is_not_finite_is_recorded(samples) -> None:
    config = replace(SMALL, batch_norm=False, activation="relu", rate=1e30)
    record = SECTION.run(config, samples)
    assert not record.finite
    assert record.steps == ()
    assert record.training == (None, None, None)
    assert all(value is not None and value > 0 for value in record.start)
    assert decode(encode(record), SECTION.record) == record


def test_decades_of_a_ratio() -> None:
    assert decades(1e-3, 1e-5) == pytest.approx(2)
    assert decades(1e-30, 1.0) == pytest.approx(-30)
    assert decades(1e-45, 1e30) == decades(0.0, 1.0) == decades(0.0, 0.0) == -FARTHEST
    assert decades(None, 1.0) == decades(1.0, None) == FARTHEST


def test_verdict_depends_on_the_activation() -> None:
    found, verdict = found_from(saves_sigmoid)
    assert (verdict.kind, verdict.words) == ("depends", "depends on the activation")
    # ReLU with 20 and 40 layers (1.6 and 3.2 decades) at the start; sigmoid everywhere without.
    assert "in 2 of 24 settings with batch norm and in 8 without" in verdict.reason
    assert "of the 10 settings that test the claim" in verdict.reason
    assert "in 2 of 12 networks with batch norm and in 4 of 12 without" in found.headline
    assert "in training in 0 and 4" in found.headline
    assert "sigmoid, narrower by" in found.answer
    assert "ReLU, wider by" in found.answer
    assert "tanh, wider by a factor of 1.26" in found.answer  # 10**0.1
    assert "Yang et al. 2019" in found.answer
    assert found.highlights[0].value == "2 of 12"
    assert found.summary.rows[-1] == ("ReLU", 40, "+3.2", "+0.0", "+0.2", "+0.0", "0, 5 of 5")


def test_verdict_holds_when_batch_norm_keeps_what_is_lost_without() -> None:
    _, verdict = found_from(lambda c: made_up(c, 0.1 if c.batch_norm else -0.5 * len(c.hidden)))
    assert (verdict.kind, verdict.words) == ("holds", "holds here")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda c: made_up(c, 0.1), id="nothing to prevent"),
        pytest.param(lambda c: made_up(c, 3.0 if c.batch_norm else 0.0), id="batch norm explodes"),
        pytest.param(lambda c: made_up(c, -2.0 if c.batch_norm else -9.0), id="only lessened"),
    ],
)
def test_verdict_does_not_hold(make) -> None:
    _, verdict = found_from(make)
    assert (verdict.kind, verdict.words) == ("fails", "does not hold here")


def test_verdict_names_all_factors_that_it_needs() -> None:
    def make(config: RunConfig) -> GradientRecord:
        if not config.batch_norm:
            return made_up(config, -5.0)
        deep = config.activation == "relu" and len(config.hidden) == 40
        return made_up(config, 4.0 if deep else 0.0, 0.0)

    _, verdict = found_from(make)
    assert verdict.words == "depends on the activation, the depth and the stage of training"


def test_an_interval_across_the_limit_is_unclear() -> None:
    found, _ = found_from(lambda c: made_up(c, 1.0 if c.seed % 2 else 0.9))
    assert {fate(measure) for measure in found.measures} == {"unclear"}
    assert "(unclear)" in found.answer


def test_one_seed_stands_for_its_interval() -> None:
    found, verdict = found_from(lambda c: made_up(c, 0.1 if c.batch_norm else -5.0), ONE)
    assert verdict.kind == "holds"
    assert {measure.low for measure in found.measures} == {None}
    assert "one seed" in found.answer
    assert all("One seed" in figure.caption for figure in found.figures)
    assert found.figures[0].panels[0].series[0].low == ()


def test_findings_when_nothing_is_finite() -> None:
    def broken(config: RunConfig) -> GradientRecord:
        nothing = (None,) * len(config.hidden)
        return GradientRecord(
            config=config,
            start=nothing,
            training=nothing,
            steps=(),
            first=(),
            last=(),
            train_loss=(),
            chance_loss=2.3,
            finite=False,
        )

    found, verdict = found_from(broken)
    assert verdict.kind == "fails"
    assert {value for measure in found.measures for value in measure.values} == {FARTHEST}
    assert "no depth" in found.answer
    assert found.highlights[2].value == "0 of 60"
