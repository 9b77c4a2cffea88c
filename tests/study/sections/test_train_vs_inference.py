from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from evenkeel.study import Scale, load_dataset
from evenkeel.study._codec import decode, encode, key
from evenkeel.study._execute import isolated
from evenkeel.study._network import build_network, norm_layers
from evenkeel.study._samples import Samples
from evenkeel.study._training import Training, accuracy
from evenkeel.study.sections.train_vs_inference import SECTION, _modes, _plan, _verdict
from evenkeel.study.sections.train_vs_inference._plan import MOMENTA, SIZES, ModeConfig
from evenkeel.study.sections.train_vs_inference._records import BatchOfOne, ModeRecord
from evenkeel.study.sections.train_vs_inference._run import share_right, shuffled
from evenkeel.study.sections.train_vs_inference._single import batch_of_one, normalized_alone

FULL = SECTION.plan(Scale((0, 1, 2, 3, 4), quick=False))
QUICK = SECTION.plan(Scale((0, 1, 2), quick=True))
U = 2.0**-24
TINY = ModeConfig(
    section="test",
    seed=0,
    hidden=(8, 6),
    rate=0.3,
    momentum=1.0,
    epochs=1000,
    max_steps=30,
    batch_size=8,
)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.load(load_dataset("digits"))


def run(config: ModeConfig, samples: Samples) -> ModeRecord:
    with isolated():
        return SECTION.run(config, samples)


def network(seed: int = 0) -> torch.nn.Sequential:
    """A network with gamma, beta and running statistics that are nothing special."""
    generator = torch.Generator().manual_seed(seed)
    built = build_network(5, 3, hidden=(7, 4), generator=generator)
    with torch.no_grad():
        for layer in norm_layers(built).values():
            layer.weight.normal_(generator=generator)
            layer.bias.normal_(generator=generator)
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return built


def inputs(count: int) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(1)) * 2 + 1


def states(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def unchanged(net: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_plan() -> None:
    for plan in (FULL, QUICK):
        assert len({key(config) for config in plan}) == len(plan)
        assert {config.batch_size for config in plan} == set(SIZES)
        assert {(c.section, c.rate, c.max_steps, c.momentum, c.momenta) for c in plan} == {
            (SECTION.name, _plan.RATE, plan[0].max_steps, 1.0, MOMENTA)
        }
    assert sum(c.max_steps for c in QUICK) < 0.2 * sum(c.max_steps for c in FULL)
    assert _plan.DEFAULT in MOMENTA
    assert f"between -{100 * _verdict.MARGIN:g} and +" in SECTION.rule
    assert f"up to step {_plan.EARLY} " in SECTION.rule


@pytest.mark.parametrize("total", [1, 2, 10, 30, 180, 800])
def test_recorded_steps(total: int) -> None:
    steps = _plan.recorded_steps(total)
    assert list(steps) == sorted(set(steps))
    assert steps[0] == 1
    assert steps[-1] == total
    if total >= 30:
        assert [s for s in steps if s >= 0.79 * total] == list(steps[-_plan.LATE :])
        assert max(s for s in steps if s <= _plan.EARLY) == 20


# The measurement, against torch's own layers or plain NumPy.


@pytest.mark.parametrize("size", [2, 3, 4, 12])
def test_test_batches_are_normalized_each_with_its_own_statistics(size: int) -> None:
    net, x = network(), inputs(12)
    before = states(net)
    got = _modes.with_batches(net, x, size)
    assert unchanged(net, before)
    with torch.no_grad():
        one_by_one = torch.cat([net.train()(part) for part in x.split(size)])
    # The rows of a matrix product may be summed in another order: n u times the sizes.
    assert torch.allclose(got, one_by_one, rtol=0, atol=64 * U * one_by_one.abs().max().item())
    whole = net.train()(x)
    assert size == 12 or not torch.allclose(got, whole, atol=1e-3)


def test_incomplete_last_batch_is_filled_with_the_first_samples() -> None:
    net, x = network(), inputs(7)
    got = _modes.with_batches(net, x, 4)
    with torch.no_grad():
        expected = torch.cat([net.train()(x[:4]), net.train()(torch.cat([x[4:], x[:1]]))[:3]])
    assert got.shape == (7, 3)
    assert torch.allclose(got, expected, rtol=0, atol=64 * U * expected.abs().max().item())


def test_given_statistics_are_used_as_in_inference() -> None:
    net, x = network(), inputs(9)
    kept = {n: (m.running_mean + 1, m.running_var * 2) for n, m in norm_layers(net).items()}
    before = states(net)
    got = _modes.with_statistics(net, x, kept)
    assert unchanged(net, before)
    for name, layer in norm_layers(net).items():
        layer.running_mean.copy_(kept[name][0])
        layer.running_var.copy_(kept[name][1])
    with torch.no_grad():
        assert torch.equal(got, net.eval()(x))


def test_statistics_of_the_whole_set_are_its_mean_and_unbiased_variance() -> None:
    net, x = network(), inputs(50)
    before = states(net)
    found = _modes.whole_statistics(net, x)
    assert unchanged(net, before)
    z = net.linear1(x).detach().double().numpy()
    mean, var = (part.double().numpy() for part in found["norm1"])
    # Promise 1: within 1e-6 of the largest value.
    assert np.allclose(mean, z.mean(0), rtol=0, atol=1e-6 * abs(z).max())
    assert np.allclose(var, z.var(0, ddof=1), rtol=1e-6)
    y = net.norm1.weight.detach().numpy() * (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
    weight, bias = net.linear2.weight.detach().numpy(), net.norm1.bias.detach().numpy()
    second = np.maximum(y + bias, 0) @ weight.T
    assert np.allclose(found["norm2"][0].numpy(), second.mean(0), atol=1e-5 * abs(second).max())


def test_averages_are_those_that_layers_with_these_momenta_keep(samples) -> None:
    """The training does not depend on the momentum, and each average is that of a real layer."""
    with isolated():
        training = Training(TINY, samples)
        averages = _modes.Averages(training.network, MOMENTA)
        for x, y in training.batches():
            training.update(x, y)
            averages.update()
        for number, momentum in enumerate(MOMENTA):
            real = Training(replace(TINY, momentum=momentum), samples)
            for x, y in real.batches():
                real.update(x, y)
            kept = averages.of(number)
            assert list(kept) == ["norm1", "norm2"]
            for name, layer in norm_layers(real.network).items():
                assert torch.equal(layer.weight, norm_layers(training.network)[name].weight)
                for got, expected in zip(
                    kept[name], (layer.running_mean, layer.running_var), strict=True
                ):
                    # Three roundings in each of 30 steps, of numbers not above the largest one.
                    largest = max(1.0, expected.abs().max().item())
                    assert (got - expected).abs().max() <= 100 * U * 4 * largest
        assert not torch.equal(averages.rows[0], averages.rows[1])


def test_measuring_alters_neither_training_nor_averages(samples) -> None:
    record = run(TINY, samples)
    with isolated():
        training = Training(replace(TINY, momentum=0.1), samples)
        for x, y in training.batches():
            training.update(x, y)
    # The network that nobody looked at has the accuracy that was recorded at the end.
    assert record.running[MOMENTA.index(0.1)][-1] == accuracy(training.network, training.test)
    test = shuffled(training.test, TINY.random_seed() + 1)
    assert record.batch[-1] == share_right(
        _modes.with_batches(training.network, test[0], 8), test[1]
    )
    assert run(TINY, samples) == record
    assert decode(encode(record), ModeRecord) == record
    lengths = {len(record.steps), len(record.batch), len(record.whole), *map(len, record.running)}
    assert lengths == {len(_plan.recorded_steps(30))}


def test_samples_are_shuffled_and_all_there() -> None:
    x = torch.arange(20.0)[:, None]
    mixed, y = shuffled((x, torch.arange(20)), 3)
    assert torch.equal(mixed[:, 0], y.float())
    assert sorted(y.tolist()) == list(range(20)) != y.tolist()
    assert torch.equal(shuffled((x, torch.arange(20)), 3)[1], y)


def test_logits_that_are_not_finite_count_as_wrong() -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, float("nan")], [2.0, 1.0], [float("inf"), 0.0]])
    assert share_right(logits, torch.tensor([1, 1, 0, 0])) == 0.5


def test_run_that_breaks_stops_and_is_recorded(samples) -> None:
    record = run(replace(TINY, rate=1e30), samples)
    assert not record.finite
    assert record.single is None
    assert len(record.steps) == len(record.whole) < 12
    assert decode(encode(record), ModeRecord) == record


# A batch of one.


def test_batch_of_one_is_refused_in_training_and_fine_in_inference() -> None:
    net, x = network(), inputs(30)
    y = torch.arange(30) % 3
    kept = {n: (m.running_mean, m.running_var) for n, m in norm_layers(net).items()}
    before = states(net)
    found = batch_of_one(net, (x, y), kept)
    assert unchanged(net, before)
    assert "BatchNorm1d(7) at 'norm1': Expected more than 1 value per channel" in found.refusal
    assert found.torch_refusal == (
        "Expected more than 1 value per channel when training, got input size torch.Size([1, 7])"
    )
    assert found.beyond_beta == 0.0
    assert found.constant_accuracy == pytest.approx(1 / 3)
    assert found.same_answers == 1.0
    assert found.samples == 30
    assert found.difference <= 64 * U


def test_a_sample_alone_becomes_beta_in_every_layer() -> None:
    net = network()
    expected = net.output(torch.relu(net.norm2.bias))
    for sample in inputs(3):
        logits, beyond = normalized_alone(net, sample[None])
        assert beyond == 0.0
        room = 64 * U * expected.abs().max().item()
        assert torch.allclose(logits[0], expected, rtol=0, atol=room)


def test_batch_of_one_that_is_taken_is_no_refusal(monkeypatch) -> None:
    """Were the layers to take it, the record would say so."""
    net, x = network().eval(), inputs(4)
    kept = {n: (m.running_mean, m.running_var) for n, m in norm_layers(net).items()}
    monkeypatch.setattr(net, "train", lambda: net)
    assert batch_of_one(net, (x, torch.zeros(4, dtype=torch.long)), kept).refusal is None


# Findings and verdict.

NOISE = (-0.001, -0.0005, 0.0, 0.0005, 0.001)
ONE = BatchOfOne(
    refusal="evenkeel refuses",
    torch_refusal="torch refuses",
    beyond_beta=0.0,
    constant_accuracy=0.1,
    difference=3e-7,
    same_answers=1.0,
    samples=64,
)


SIZE, MOMENTUM, STEP = "the batch size", "the momentum", "the training step"


def made_up(config: ModeConfig, gap) -> ModeRecord:
    """Batch statistics reach 0.8 at every step; running averages are off by ``gap``."""
    steps = _plan.recorded_steps(config.max_steps)

    def curve(momentum: float) -> tuple[float, ...]:
        return tuple(
            0.8 + gap(config.batch_size, momentum, step > 20) + NOISE[config.seed] for step in steps
        )

    return ModeRecord(
        config=config,
        steps=steps,
        batch=(0.8,) * len(steps),
        running=tuple(curve(m) for m in config.momenta),
        whole=(0.85,) * len(steps),
        majority=0.1,
        finite=True,
        single=ONE,
    )


def found_on(plan, gap):
    found = SECTION.reduce([made_up(config, gap) for config in plan])
    return found, SECTION.judge({m.name: m for m in found.measures})


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (lambda n, m, late: 0.0, "holds here"),
        (lambda n, m, late: -0.008, "holds here"),
        (lambda n, m, late: -0.1, "does not hold here"),
        # At the margin the interval decides, and it reaches beyond.
        (lambda n, m, late: 0.01, "does not hold here"),
        (lambda n, m, late: 0.1 * (n == 2), f"depends on {SIZE}"),
        (lambda n, m, late: -0.1 * (m == 0.01), f"depends on {MOMENTUM}"),
        (lambda n, m, late: -0.1 * (not late), f"depends on {STEP}"),
        (lambda n, m, late: 0.1 * (m < 0.1 and late), f"depends on {MOMENTUM} and {STEP}"),
        (
            lambda n, m, late: 0.1 * (m + n < 3 and late),
            f"depends on {SIZE}, {MOMENTUM} and {STEP}",
        ),
    ],
)
def test_verdicts(gap, words: str) -> None:
    found, verdict = found_on(FULL, gap)
    assert verdict.words == words
    assert verdict.kind == {"h": "holds", "o": "fails", "e": "depends"}[words.removeprefix("d")[0]]
    gaps = {m.name: m for m in found.measures if "momentum" in m.name}
    assert len(gaps) == len(SIZES) * len(MOMENTA) * 2
    learned = {m.name: m for m in found.measures if "learned" in m.name}
    assert SECTION.judge(gaps | learned) == verdict


def test_what_has_not_been_learned_does_not_count() -> None:
    records = [made_up(config, lambda n, m, late: 0.1 * (n > 2)) for config in FULL]
    untrained = [replace(r, majority=0.76) if r.config.batch_size == 2 else r for r in records]
    verdicts = [
        SECTION.judge({m.name: m for m in SECTION.reduce(made).measures})
        for made in (records, untrained, [replace(r, majority=0.9) for r in records])
    ]
    assert [v.kind for v in verdicts] == ["depends", "fails", "fails"]
    assert "0 of 24 settings" in verdicts[1].reason
    assert "No network learned enough" in verdicts[2].reason


def test_gaps_are_means_per_seed_over_the_early_and_the_last_steps() -> None:
    found, verdict = found_on(FULL, lambda n, m, late: 0.05 * (n == 2) if late else -m / 10)
    known = {m.name: m for m in found.measures}
    assert known["batch-2-momentum-0.1-end"].values == pytest.approx([0.05 + e for e in NOISE])
    assert known["batch-32-momentum-1-early"].values == pytest.approx([-0.1 + e for e in NOISE])
    assert known["batch-8-whole-end"].values == pytest.approx([0.05] * 5)
    assert known["batch-8-accuracy-early"].values == pytest.approx([0.8] * 5)
    # Of 16 settings at the end those of batch size 2 differ; early the momentum 0.01 is the same.
    assert "the same in 16 of 32 settings (4 of 16 over the first 20 steps," in verdict.reason
    assert "-10.0 points" in verdict.reason
    assert "+5.0 points (batch 2" in verdict.reason


def test_words_name_what_happened() -> None:
    found, _ = found_on(FULL, lambda n, m, late: 0.0 if late else -0.2 * (n == 32 and m == 0.5))
    first, *_, single, last = found.answer.split("\n\n")
    assert "in 15 of 16 over the first 20 steps and 16 of 16 at the end" in first
    assert "momentum 0.5 at batch size 32: -20.0 points" in found.headline
    assert "by evenkeel in 20 and by torch in 20 of 20 networks" in single
    assert "right in 10.0% of the test samples" in single
    assert "5 seeds" in last
    ahead, _ = found_on(FULL, lambda n, m, late: 0.1)
    assert "nowhere behind" in ahead.headline
    assert found.tables[-1].rows[0] == ("evenkeel.nn.BatchNorm1d", "evenkeel refuses")


def test_summary_and_figures_show_what_was_measured() -> None:
    found, _ = found_on(FULL, lambda n, m, late: m / 10 if late else -m / 10)
    assert len(found.summary.columns) == 7
    assert found.summary.rows[1] == (8, *map(pytest.approx, (0.8, 0.801, 0.81, 0.85, 0.9, 0.85)))
    accuracy_by, gap_over, by_momentum = found.figures
    assert [p.title for p in gap_over.panels] == [f"batch size {size}" for size in SIZES]
    lines = {s.name: s for s in gap_over.panels[2].series}
    assert lines["momentum 0.5"].y[-1] == pytest.approx(0.05)
    assert lines["momentum 0.5"].y[0] == pytest.approx(-0.05)
    assert lines["whole training set"].y[-1] == pytest.approx(0.05)
    assert accuracy_by.panels[0].series[0].y[-1] == pytest.approx(0.8)
    early, end = by_momentum.panels
    assert early.series[0].y == pytest.approx((-0.001, -0.01, -0.05, -0.1))
    assert end.series[0].y == pytest.approx((0.001, 0.01, 0.05, 0.1))


@pytest.mark.parametrize("quick", [True, False])
def test_one_seed_has_no_spread(quick: bool) -> None:
    found, verdict = found_on(SECTION.plan(Scale((0,), quick=quick)), lambda n, m, late: 0.0)
    assert verdict.words == "holds here"
    assert "±" not in found.headline + found.answer
    assert "one seed, so there is no spread" in found.answer
    assert {m.low for m in found.measures} == {None}


def test_nothing_is_finite() -> None:
    none = (0.0, 0.0)

    def broken(config: ModeConfig) -> ModeRecord:
        whole = made_up(config, lambda n, m, late: 0.0)
        lost = {"batch": none, "running": (none,) * len(MOMENTA), "whole": none}
        return replace(whole, steps=(1, 2), **lost, finite=False, single=None)

    found = SECTION.reduce([broken(config) for config in QUICK])
    assert SECTION.judge({m.name: m for m in found.measures}).kind == "fails"
    assert "batch of one" not in found.answer
    assert found.highlights[2].value == "0 of 0"
    assert encode(found)
