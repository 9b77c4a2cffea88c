from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from evenkeel.study import Scale, build_network, load_dataset
from evenkeel.study._codec import decode, encode, key
from evenkeel.study._samples import Samples
from evenkeel.study._training import Training
from evenkeel.study.sections.covariate_shift import SECTION, _run
from evenkeel.study.sections.covariate_shift._measure import Snapshot, drift, input_moments
from evenkeel.study.sections.covariate_shift._noise import Noise, add_noise, redraw
from evenkeel.study.sections.covariate_shift._plan import SIZES, ShiftConfig
from evenkeel.study.sections.covariate_shift._run import Point, ShiftRecord, start

FULL = Scale((0, 1, 2, 3, 4), quick=False)
ONE = Scale((0,), quick=True)
SMALL = ShiftConfig(section="test", seed=3, hidden=(9, 7), max_steps=17)
#: Relative rounding of a float32 loss or gradient over a few layers, with room to spare.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.load(load_dataset("digits"))


@pytest.fixture(params=["with", "without", "noisy"])
def network(request) -> torch.nn.Sequential:
    generator = torch.Generator().manual_seed(5)
    built = build_network(
        6, 3, hidden=(8, 5), batch_norm=request.param != "without", generator=generator
    )
    if request.param == "noisy":
        built = add_noise(built)
        redraw(built, generator)
    for name, parameter in built.named_parameters():
        if "norm" in name:  # away from 1 and 0, where a mistake with them would not show
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return built


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(32, 6, generator=generator)
    return x, torch.randint(3, (32,), generator=generator)


def activations(network: torch.nn.Sequential, x: np.ndarray) -> list[np.ndarray]:
    """The inputs of the linear layers, in plain NumPy."""
    inputs = []
    for name, layer in network.named_children():
        if name.startswith(("linear", "output")):
            inputs.append(x)
            x = x @ layer.weight.detach().double().numpy().T
            x = x if layer.bias is None else x + layer.bias.detach().double().numpy()
        elif name.startswith("norm"):
            gamma, beta = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
            x = gamma * (x - x.mean(0)) / np.sqrt(x.var(0) + layer.eps) + beta
        elif name.startswith("noise"):
            x = x * layer.scale.double().numpy() + layer.offset.double().numpy()
        else:
            x = np.maximum(x, 0)
    return inputs


def drift_by_numpy(before: np.ndarray, after: np.ndarray) -> float:
    moved = (after.mean(0) - before.mean(0)) ** 2 + (after.std(0) - before.std(0)) ** 2
    return math.sqrt(moved.sum() / before.var(0).sum())


def test_both_networks_get_the_same_rates_and_noise_the_common_one() -> None:
    plan = SECTION.plan(FULL)
    sides = [{c.rate for c in plan if c.batch_norm == norm} for norm in (True, False)]
    assert sides[0] == sides[1]
    assert {c.rate for c in plan if c.noise} == {0.1}
    assert len({key(config) for config in plan}) == len(plan) == (2 * 5 + 1) * 5
    quick = SECTION.plan(Scale((0, 1, 2), quick=True))
    assert len(quick) * quick[0].epochs < len(plan) * plan[0].epochs / 8


def test_input_moments_equal_those_by_numpy(network, batch) -> None:
    found = input_moments(network, batch[0])
    expected = activations(network, batch[0].double().numpy())[1:]
    assert len(found) == len(expected) == 2
    for (mean, std), x in zip(found, expected, strict=True):
        assert mean.numpy() == pytest.approx(x.mean(0), abs=1e-5)
        assert std.numpy() == pytest.approx(x.std(0), abs=1e-5)


def test_drift_of_known_moments() -> None:
    mean, std = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 4.0, 0.0])
    assert drift((mean, std), (mean, std)) == 0
    assert drift((mean, std), (mean + std, std)) == pytest.approx(1)
    assert drift((mean, std), (mean, 3 * std)) == pytest.approx(2)
    # sqrt((1 + 4 + 4 + 0) / 25): a unit that did not vary before may move, too.
    moved = mean + torch.tensor([1.0, 2.0, 2.0])
    assert drift((mean, std), (moved, std)) == pytest.approx(0.6)
    assert math.isnan(drift((mean, 0 * std), (moved, std)))


def test_gradient_changes_follow_the_definition(network, batch) -> None:
    x, y = batch
    rate = 0.7
    twin = copy.deepcopy(network)
    cross_entropy(twin(x), y).backward()
    old = {name: p.detach() for name, p in network.named_parameters()}
    slopes = {name: p.grad for name, p in twin.named_parameters()}
    found = Snapshot(network, x, y).gradient_changes(rate)
    targets = ["linear2.weight", "output.weight"]
    below = {"linear2.weight": ("1.",), "output.weight": ("1.", "2.")}
    for name, change in zip(targets, found, strict=True):
        mixed = {
            key: value - rate * slopes[key] if any(s in key for s in below[name]) else value
            for key, value in old.items()
        }
        leaf = mixed[name] = mixed[name].clone().requires_grad_()
        cross_entropy(functional_call(copy.deepcopy(network), mixed, (x,)), y).backward()
        before, after = slopes[name].flatten(), leaf.grad.flatten()
        size = (after - before).norm() / before.norm()
        assert change.relative == pytest.approx(size.item(), rel=ROUNDING)
        cosine = torch.cosine_similarity(before, after, dim=0)
        assert change.cosine == pytest.approx(cosine.item(), abs=ROUNDING)
        assert change.relative > 0.01  # else the test would see nothing


def test_smoothness_equals_that_of_real_steps(network, batch) -> None:
    x, y = batch

    def visited(size: float) -> tuple[float, torch.Tensor]:
        moved = copy.deepcopy(network)
        optimizer = torch.optim.SGD(moved.parameters(), lr=size)
        cross_entropy(moved(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = cross_entropy(moved(x), y)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in moved.parameters()])

    base, gradient = visited(0.0)
    there = [visited(size) for size in SIZES]
    losses = [base, *(loss for loss, _ in there)]
    distances = [(other - gradient).norm().item() for _, other in there]
    norm = gradient.norm().item()
    found = Snapshot(network, x, y).smoothness()
    assert found.range == pytest.approx(max(losses) - min(losses), rel=1e-3)
    assert found.change == pytest.approx(max(distances) / norm, rel=1e-3)
    betas = [d / (size * norm) for d, size in zip(distances, SIZES, strict=True)]
    assert found.beta == pytest.approx(max(betas), rel=1e-3)


def test_a_snapshot_measures_the_same_twice_and_leaves_the_network(network, batch) -> None:
    before = copy.deepcopy(network.state_dict())
    snapshot = Snapshot(network, *batch)
    first = snapshot.gradient_changes(0.3)
    assert snapshot.gradient_changes(0.3) == first
    assert snapshot.smoothness() == snapshot.smoothness()
    assert snapshot.gradient_changes(0.3) == first
    input_moments(network, batch[0])
    for name, value in network.state_dict().items():
        assert torch.equal(before[name], value), name
    assert all(parameter.grad is None for parameter in network.parameters())


def test_noise_is_shared_by_a_batch_and_gone_in_inference() -> None:
    noise = Noise(1000)
    x = torch.randn(4, 1000)
    assert torch.equal(noise(x), x)
    noise.redraw(torch.Generator().manual_seed(0))
    assert torch.equal(noise(x), x * noise.scale + noise.offset)
    assert noise.scale.min().item() == pytest.approx(0.5, abs=0.01)
    assert noise.scale.max().item() == pytest.approx(1.5, abs=0.01)
    assert noise.offset.min().item() == pytest.approx(-0.5, abs=0.01)
    assert noise.offset.max().item() == pytest.approx(0.5, abs=0.01)
    before = noise.scale.clone()
    noise.redraw(torch.Generator().manual_seed(1))
    assert not torch.equal(noise.scale, before)
    assert torch.equal(noise.eval()(x), x)


@pytest.mark.parametrize(("batch_norm", "noise"), [(True, False), (False, False), (True, True)])
def test_measuring_does_not_change_the_training(samples, monkeypatch, batch_norm, noise) -> None:
    config = replace(SMALL, batch_norm=batch_norm, noise=noise)
    kept: list[Training] = []

    def keep(*arguments: object) -> Training:
        kept.append(start(*arguments))
        return kept[-1]

    monkeypatch.setattr(_run, "start", keep)
    record = SECTION.run(config, samples)
    plain = Training(config, samples)
    plain.network = add_noise(plain.network) if noise else plain.network
    generator = torch.Generator().manual_seed(config.random_seed() + 1)
    probe = samples.test[0][torch.linspace(0, len(samples.test[1]) - 1, 256).long()]
    seen = {0: activations(plain.network, probe.double().numpy())}
    losses = []
    for step, (x, y) in enumerate(plain.batches(), start=1):
        redraw(plain.network, generator)
        losses.append(plain.update(x, y))
        seen[step] = activations(plain.network, probe.double().numpy())
    measured = kept[0].network.state_dict()
    for name, value in plain.network.state_dict().items():
        assert torch.equal(measured[name], value), name
    assert [point.step for point in record.points] == [5, 15, 17]
    for point in record.points:
        for layer in (1, 2):
            lately = drift_by_numpy(seen[point.step - 5][layer], seen[point.step][layer])
            since = drift_by_numpy(seen[0][layer], seen[point.step][layer])
            # float32 moments are off by 1e-6 of the spread, and drift is a difference of them
            assert point.drift[layer - 1] == pytest.approx(lately, abs=1e-5)
            assert point.drift_from_start[layer - 1] == pytest.approx(since, abs=1e-5)
    assert record.points[1].train_loss == pytest.approx(sum(losses[5:15]) / 10, rel=1e-5)
    assert record.mean_loss == pytest.approx(sum(losses) / 17, rel=1e-5)
    assert decode(encode(record), SECTION.record) == record


def test_a_run_that_is_not_finite_is_recorded(samples) -> None:
    config = replace(SMALL, batch_norm=False, rate=1e30)
    record = SECTION.run(config, samples)
    assert not record.finite
    assert (record.points, record.mean_loss) == ((), None)
    assert decode(encode(record), SECTION.record) == record


def made_up(
    config: ShiftConfig, *, drift: float, change: float, beta: float = 4.0, loss: float = 0.5
) -> ShiftRecord:
    """A run with the same values at every step; seeds differ by two percent."""
    near = 1 + 0.02 * (config.seed - 2)
    points = tuple(
        Point(
            step=step,
            drift=(drift * near,) * 3,
            drift_from_start=(3 * drift * near,) * 3,
            change=(change * near,) * 3,
            cosine=(0.9, 0.8, 0.7),
            loss_range=0.1 * near,
            gradient_change=beta * 0.4 * near,
            beta=beta * near,
            train_loss=loss,
        )
        for step in (5, 15, 17)
    )
    return ShiftRecord(
        config=config, points=points, mean_loss=loss * near, test_accuracy=0.9, finite=True
    )


def found_from(make, scale: Scale = FULL):
    found = SECTION.reduce([make(config) for config in SECTION.plan(scale)])
    return found, SECTION.judge({m.name: m for m in found.measures})


def helpful(config: ShiftConfig) -> ShiftRecord:
    """Both shifts are half with batch norm at any rate; noise drifts, and trains slowly."""
    loss = abs(math.log10(config.rate / 0.3)) + 0.2
    if config.noise:
        return made_up(config, drift=3.0, change=0.2, loss=2.0)
    if config.batch_norm:
        return made_up(config, drift=0.1, change=0.2, loss=loss / 2)
    return made_up(config, drift=0.2 + 0.01 * (config.seed % 2), change=0.4, loss=loss)


def test_verdict_holds_when_both_shifts_are_smaller() -> None:
    found, verdict = found_from(helpful)
    assert (verdict.kind, verdict.words) == ("holds", "holds here")
    assert "clearly smaller in 4 of 4 cases" in verdict.reason
    assert "does not refute" in verdict.reason
    assert "change of gradients caused by the layers below by 0.5" in found.headline
    assert (
        "Each at its best rate (0.3 with, 0.3 without), both shifts were clearly smaller"
        in found.answer
    )
    assert "batch norm trained faster" in found.answer
    assert found.summary.rows[1][:5] == ("with batch norm", 0.1, "0.1", "0.2", "0.80")
    assert found.summary.rows[-1][0] == "noisy batch norm"


def test_noise_that_drifts_and_trains_faster_refutes() -> None:
    def make(config: ShiftConfig) -> ShiftRecord:
        return made_up(config, drift=3.0, change=0.2, loss=0.1) if config.noise else helpful(config)

    found, verdict = found_from(make)
    assert (verdict.kind, verdict.words) == ("fails", "does not hold here")
    assert "which refutes the claim" in verdict.reason
    assert "less drift cannot be the reason" in found.answer


def test_verdict_fails_when_neither_shift_is_smaller() -> None:
    def make(config: ShiftConfig) -> ShiftRecord:
        return helpful(replace(config, batch_norm=not config.batch_norm or config.noise))

    found, verdict = found_from(lambda c: replace(make(c), config=c))
    assert (verdict.kind, verdict.words) == ("fails", "does not hold here")
    assert "clearly smaller in 0 of 4 cases" in verdict.reason
    assert "neither shift was clearly smaller, and batch norm trained slower" in found.answer


def test_verdict_depends_on_the_measure() -> None:
    def make(config: ShiftConfig) -> ShiftRecord:
        record = helpful(config)
        if not config.batch_norm or config.noise:
            return record
        return made_up(config, drift=0.1, change=0.8, loss=record.mean_loss or 0.0)

    found, verdict = found_from(make)
    assert verdict.words == "depends on how the shift is measured"
    assert "only the drift was clearly smaller" in found.answer


def test_verdict_depends_on_the_rate() -> None:
    def make(config: ShiftConfig) -> ShiftRecord:
        if config.batch_norm and not config.noise and config.rate == 0.3:
            return made_up(config, drift=0.5, change=0.8, loss=0.1)
        return helpful(config)

    _, verdict = found_from(make)
    assert verdict.words == "depends on the learning rate"


def test_one_seed_stands_for_its_interval() -> None:
    found, verdict = found_from(helpful, ONE)
    assert verdict.kind == "holds"
    assert {measure.low for measure in found.measures} == {None}
    assert "95% interval" not in found.answer
    assert all("One seed" in figure.caption for figure in found.figures)


def test_findings_when_nothing_is_finite() -> None:
    def broken(config: ShiftConfig) -> ShiftRecord:
        return ShiftRecord(
            config=config, points=(), mean_loss=None, test_accuracy=0.1, finite=False
        )

    found, verdict = found_from(broken)
    assert verdict.kind == "fails"
    assert all(math.isfinite(v) for measure in found.measures for v in measure.values)
    assert {row[-1] for row in found.summary.rows} == {"not finite"}
    assert len(found.figures[0].panels) == 3


def test_a_run_that_diverges_late_ends_its_line_only() -> None:
    def make(config: ShiftConfig) -> ShiftRecord:
        record = helpful(config)
        if config.batch_norm or config.seed != 1:
            return record
        return replace(record, points=record.points[:1], mean_loss=None, finite=False)

    found, _ = found_from(make)
    lines = {series.name: series for series in found.figures[0].panels[0].series}
    assert lines["without"].x == (5,)
    assert lines["with batch norm"].x == (5, 15, 17)
