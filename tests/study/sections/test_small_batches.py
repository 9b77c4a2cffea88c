from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from evenkeel.study import Scale, load_dataset
from evenkeel.study._codec import decode, encode, key
from evenkeel.study._execute import isolated
from evenkeel.study._network import build_network, norm_layers
from evenkeel.study._samples import Samples
from evenkeel.study._statistics import Spread, measure
from evenkeel.study._training import Training
from evenkeel.study.sections.small_batches import SECTION
from evenkeel.study.sections.small_batches._laws import mean_law, slope, variance_law
from evenkeel.study.sections.small_batches._layers import (
    GroupedBatchNorm,
    freeze,
    group_statistics,
    recalibrated,
    ungroup,
)
from evenkeel.study.sections.small_batches._plan import FULL, Config, rate_at
from evenkeel.study.sections.small_batches._run import Noise, Record, Score, noise_of, own_accuracy

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.report import Findings, Verdict

SEEDS = (0, 1, 2, 3, 4)
PLAN = SECTION.plan(Scale(SEEDS, quick=False))


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.load(load_dataset("digits"))


def network(seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return build_network(5, 3, hidden=(6, 4), generator=generator)


def statistics(layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Running mean and variance."""
    state = layer.state_dict()
    return state["running_mean"].numpy(), state["running_var"].numpy()


def values(count: int, width: int = 5) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(7)) * 2 + 3


# --- the plan


def test_both_sides_get_the_same_steps_and_rates_at_every_batch_size() -> None:
    def settings(size: int, **wanted: Any) -> set[tuple[float, int, int]]:
        runs = [c for c in PLAN if c.batch_size == size]
        kept = [c for c in runs if all(getattr(c, k) == v for k, v in wanted.items())]
        return {(c.rate, c.max_steps, c.seed) for c in kept}

    sizes = {c.batch_size for c in PLAN}
    assert sizes == {2, 4, 8, 16, 32, 64, 128, 256}
    for size in sizes:
        plain = settings(size, batch_norm=False)
        assert len(plain) == len(FULL.rates) * len(SEEDS)
        assert settings(size, batch_norm=True, statistics="batch") == plain
        if size in FULL.frozen:
            assert settings(size, statistics="frozen") == plain
    for group in FULL.groups:
        assert settings(256, group=group) == settings(256, batch_norm=False)


def test_runs_are_named_once_and_a_quick_look_makes_fewer_steps() -> None:
    quick = SECTION.plan(Scale((0, 1, 2), quick=True))
    assert len({key(config) for config in PLAN}) == len(PLAN)
    assert sum(c.max_steps for c in quick) < sum(c.max_steps for c in PLAN) / 5


def test_small_batches_see_as_many_samples_as_large_ones_at_least_steps() -> None:
    seen = {c.batch_size: c.batch_size * c.max_steps for c in PLAN}
    assert {seen[2], seen[4], seen[8]} == {FULL.samples}
    assert all(seen[size] == 64 * size for size in (16, 32, 64, 128, 256))
    assert rate_at(64, 0.3) == pytest.approx(0.3)
    assert rate_at(4, 0.3) == pytest.approx(0.3 / 4)


# --- the layers


def test_grouped_statistics_equal_torchs_layer_on_each_group() -> None:
    x = values(12, 6).double().requires_grad_()
    layer = norm_layers(network())["norm1"].double()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, 6))
        layer.bias.copy_(torch.linspace(-1, 1, 6))
    expected_layers = [nn.BatchNorm1d(6).double() for _ in range(3)]
    for expected in expected_layers:
        expected.load_state_dict(layer.state_dict())
    wanted = torch.cat([e(part) for e, part in zip(expected_layers, x.split(4), strict=True)])
    [wanted_gradient] = torch.autograd.grad(wanted.square().sum(), x)

    got = GroupedBatchNorm(layer, 4)(x)
    [gradient] = torch.autograd.grad(got.square().sum(), x)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(gradient, wanted_gradient)
    expected = np.mean([statistics(e) for e in expected_layers], axis=0)
    np.testing.assert_allclose(statistics(layer), expected, rtol=1e-12)


def test_grouping_one_whole_batch_changes_nothing_and_is_undone() -> None:
    plain, grouped = network(), network()
    group_statistics(grouped, 8)
    x = values(8)
    torch.testing.assert_close(grouped(x), plain(x))
    torch.testing.assert_close(grouped.eval()(x), plain.eval()(x))
    ungroup(grouped)
    assert grouped.state_dict().keys() == plain.state_dict().keys()


def test_recalibration_finds_the_population_and_leaves_the_network_alone() -> None:
    x = values(300)
    trained = network()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    better = norm_layers(recalibrated(trained, x))["norm1"]
    inputs = trained.get_submodule("linear1")(x).detach().double().numpy()
    mean, variance = statistics(better)
    np.testing.assert_allclose(mean, inputs.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance, inputs.var(axis=0, ddof=1), rtol=1e-5)
    assert all(torch.equal(before[name], now) for name, now in trained.state_dict().items())


def test_recalibration_averages_over_batches() -> None:
    x = values(512)
    trained = network()
    better = norm_layers(recalibrated(trained, x))["norm1"]
    inputs = trained.get_submodule("linear1")(x).detach().double().numpy()
    variances = [half.var(axis=0, ddof=1) for half in np.split(inputs, 2)]
    np.testing.assert_allclose(statistics(better)[1], np.mean(variances, axis=0), rtol=1e-5)


def test_frozen_layers_predict_like_the_recalibrated_network_and_never_move() -> None:
    x = values(300)
    frozen = network()
    expected = recalibrated(frozen, x).eval()(x)
    freeze(frozen, x)
    torch.testing.assert_close(frozen.train()(x), expected)
    torch.testing.assert_close(frozen.train()(x[:2]), expected[:2])
    names = {name for name, _ in frozen.named_parameters()}
    assert not any("norm" in name for name in names)


# --- the noise


def test_noise_follows_the_exact_laws_of_sampling() -> None:
    generator = torch.Generator().manual_seed(3)
    count, size = 1000, 5
    drawn = torch.rand(count, 400, generator=generator, dtype=torch.float64) ** 3  # skewed
    found = noise_of(drawn, "norm1", size, generator)
    centred = (drawn - drawn.mean(dim=0)).numpy()
    variance = np.mean(centred**2, axis=0)
    kurtosis = np.mean(centred**4, axis=0) / variance**2
    # Variance of the unbiased variance of `size` independent draws, over the squared variance.
    of_variance = (kurtosis - (size - 3) / (size - 1)) / size
    # 100 draws in 400 channels: the sampling error of the root mean square is below 2 %.
    assert found.mean == pytest.approx(1 / math.sqrt(size), rel=0.02)
    assert found.variance == pytest.approx(math.sqrt(of_variance.mean()), rel=0.04)


def test_constant_channels_have_no_noise_to_speak_of() -> None:
    generator = torch.Generator().manual_seed(3)
    assert noise_of(torch.ones(50, 3), "norm1", 4, generator) == Noise(
        layer="norm1", batch_size=4, mean=None, variance=None
    )
    varied = torch.cat([torch.ones(50, 3), torch.randn(50, 3, generator=generator)], dim=1)
    found = noise_of(varied, "norm1", 4, generator)
    assert found.mean == pytest.approx(0.5, rel=0.2)


def test_the_laws_as_exponents() -> None:
    assert slope([2, 4, 64], mean_law) == pytest.approx(-0.5)
    assert slope([1000, 100000], variance_law) == pytest.approx(-0.5, abs=1e-3)
    assert slope([2, 3], variance_law) == pytest.approx(math.log(1 / math.sqrt(2)) / math.log(1.5))


# --- the run


def test_a_run_repeats_and_scores_every_kind_of_statistics(samples: Samples) -> None:
    short = Config(section="s", seed=0, hidden=(16, 8), batch_size=64, max_steps=10)
    with isolated():
        record = SECTION.run(short, samples)
        assert SECTION.run(short, samples) == record
    assert decode(encode(record), SECTION.record) == record
    assert set(record.scores) == {"running", "recalibrated", "own"}
    assert {n.layer for n in record.noise} == {"norm1", "norm2"}
    assert {n.batch_size for n in record.noise} == set(FULL.sizes)
    assert record.steps[-1] == 10
    assert record.finite


@pytest.mark.parametrize(
    ("extra", "scores"),
    [
        ({"batch_norm": False}, {"running"}),
        ({"statistics": "frozen"}, {"running"}),
        ({"statistics": "groups", "group": 4}, {"running", "recalibrated", "own"}),
    ],
)
def test_other_runs(samples: Samples, extra: dict[str, Any], scores: set[str]) -> None:
    config = Config(section="s", seed=0, hidden=(16, 8), batch_size=32, max_steps=40, **extra)
    with isolated():
        record = SECTION.run(config, samples)
    assert set(record.scores) == scores
    assert record.noise == ()
    assert record.scores["running"].train > 0.3  # a tenth is guessing
    assert record.test_accuracy[-1] == pytest.approx(record.scores["running"].test)


def test_groups_on_a_training_set_smaller_than_the_batch(samples: Samples) -> None:
    config = Config(
        section="s", seed=0, hidden=(8,), samples=50, batch_size=256, statistics="groups", group=16,
        epochs=9, max_steps=3,
    )  # fmt: skip
    with isolated():
        record = SECTION.run(config, samples)
    assert record.steps[-1] == 3
    assert record.finite


def test_a_run_that_breaks_down_is_recorded(samples: Samples) -> None:
    config = Config(section="s", seed=0, batch_norm=False, batch_size=16, max_steps=40, rate=1e20)
    with isolated():
        record = SECTION.run(config, samples)
    assert not record.finite
    assert record.steps[-1] < 40
    assert record.scores["running"].test < 0.2


def test_own_statistics_of_one_batch_of_all_samples(samples: Samples) -> None:
    x, y = samples.test
    config = Config(section="s", seed=0, hidden=(16,), batch_size=len(y))
    training = Training(config, samples)
    layer = norm_layers(training.network)["norm1"]
    before = statistics(layer)[0].copy()
    got = own_accuracy(training, (x, y))
    weights = {n: t.detach().double().numpy() for n, t in training.network.state_dict().items()}
    inside = x.double().numpy() @ weights["linear1.weight"].T
    normal = (inside - inside.mean(axis=0)) / np.sqrt(inside.var(axis=0) + 1e-5)
    logits = np.maximum(normal, 0) @ weights["output.weight"].T + weights["output.bias"]
    assert got == pytest.approx(float(np.mean(logits.argmax(axis=1) == y.numpy())), abs=1 / len(y))
    np.testing.assert_array_equal(before, statistics(layer)[0])


# --- the findings, on made-up records


def record(config: Config, running: float, recalibrated: float | None = None) -> Record:
    ordinary = config.batch_norm and config.statistics != "frozen"
    worse = config.rate > rate_at(config.batch_size, 0.1)  # the smaller rate is the best one
    shift = 0.001 * (config.seed - 2) - 0.1 * worse
    better = running if recalibrated is None else recalibrated
    scores: dict[Any, Score] = {"running": Score(train=running + shift, test=running + shift)}
    if ordinary:
        scores["recalibrated"] = Score(train=better + shift, test=better + shift)
        scores["own"] = Score(train=0.5 + shift, test=0.5 + shift)
    noise = [
        Noise(layer=layer, batch_size=n, mean=mean_law(n), variance=variance_law(n))
        for layer in ("norm1", "norm2")
        for n in FULL.sizes
    ]
    measured = ordinary and config.group is None and config.batch_size == 64
    return Record(
        config=config,
        steps=(0, 5, 10),
        test_accuracy=(0.1, running / 2, running + shift),
        finite=True,
        scores=scores,
        noise=tuple(noise) if measured else (),
    )


def judged(
    accuracy: Callable[[Config], tuple[float, float]], scale: Scale | None = None
) -> tuple[Findings, Verdict]:
    plan = SECTION.plan(scale or Scale(SEEDS, quick=False))
    found = SECTION.reduce([record(config, *accuracy(config)) for config in plan])
    return found, SECTION.judge({m.name: m for m in found.measures})


def fails_at(*sizes: int, still: tuple[int, ...] = ()) -> Callable[[Config], tuple[float, float]]:
    """With batch norm 70 % at some sizes and 97 % elsewhere, 95 % without."""

    def accuracy(config: Config) -> tuple[float, float]:
        if not config.batch_norm or config.statistics == "frozen":
            return 0.95, 0.95
        size = config.group or config.batch_size
        return 0.7 if size in sizes else 0.97, 0.7 if size in still else 0.97

    return accuracy


@pytest.mark.parametrize(
    ("failing", "still", "kind", "words"),
    [
        ((2, 4, 8), (2, 4, 8), "holds", "holds here"),
        ((), (), "fails", "does not hold here"),
        ((32,), (32,), "fails", "does not hold here"),
        ((2,), (2,), "depends", "depends on the batch size"),
        ((2, 4, 8), (2,), "depends", "depends on the batch size"),
        ((2, 4), (), "depends", "depends on the statistics used in inference"),
    ],
)
def test_verdicts(failing: tuple[int, ...], still: tuple[int, ...], kind: str, words: str) -> None:
    _, verdict = judged(fails_at(*failing, still=still))
    assert (verdict.kind, verdict.words) == (kind, words)


def test_the_verdict_needs_a_clear_interval() -> None:
    """A mean below zero whose interval reaches above it is no failure."""
    known = {
        f"{way}-{size}": measure(f"{way}-{size}", "", [-0.2, -0.1, 0.05])
        for way in ("running", "recalibrated")
        for size in (2, 4, 8)
    }
    assert Spread.of([-0.2, -0.1, 0.05]).high > 0
    assert SECTION.judge(known).kind == "fails"


def test_findings_follow_from_the_records() -> None:
    found, _ = judged(fails_at(2, still=(2,)))
    assert found.headline.startswith(
        "At batch size 2 the network with batch norm reached 70.0 ± 0.2% test accuracy, the one "
        "without 95.0 ± 0.2%. Batch norm was clearly worse than none at batch size 2, clearly "
        "better than none at batch sizes 4, 8, 16, 32, 64, 128 and 256."
    )
    assert found.summary.rows[0] == (
        2, "95.0 ± 0.2%", "70.0 ± 0.2%", "50.0 ± 0.2%", "70.0 ± 0.2%", "95.0 ± 0.2%"
    )  # fmt: skip
    assert found.summary.rows[-1][-1] is None
    known = {m.name: m for m in found.measures}
    assert known["running-2"].mean == pytest.approx(-0.25)
    assert known["frozen-gain-2"].mean == pytest.approx(0.25)
    assert known["groups-2"].mean == pytest.approx(-0.27)
    assert known["groups-beside-2"].mean == pytest.approx(0, abs=1e-9)
    assert known["noise-mean"].mean == pytest.approx(-0.5)
    assert "to the power -0.50 (by the law 1 / √n -0.50)" in found.answer
    assert found.highlights[2].value == "2"
    errors = found.figures[0].panels[0].series
    assert errors[1].y[:2] == pytest.approx((0.3, 0.03))
    assert found.figures[-1].panels[0].series[0].x == (2, 4, 16, 64, 256)


def test_one_seed_has_no_spread() -> None:
    found, verdict = judged(fails_at(2, still=(2,)), Scale((3,), quick=True))
    assert verdict.words == "depends on the batch size"
    text = found.headline + found.answer + verdict.reason
    assert "±" not in text
    assert "clearly" not in text
    assert "interval" not in text
    assert all("One seed" in figure.caption for figure in found.figures)
    assert found.summary.rows[0][1] == "85.1%"  # a quick look has the larger rate alone


def test_findings_when_nothing_trains_and_every_run_breaks_down() -> None:
    broken = [
        Record(
            config=config,
            steps=(0, 1 + config.seed),
            test_accuracy=(0.1, 0.0),
            finite=False,
            scores=record(config, 0.0, 0.0).scores,
            noise=tuple(
                Noise(layer="norm1", batch_size=n, mean=None, variance=None) for n in FULL.sizes
            )
            if config.batch_norm and config.batch_size == 64
            else (),
        )
        for config in PLAN
    ]
    found = SECTION.reduce(broken)
    assert "could not be measured" in found.answer
    assert "noise-mean" not in {m.name for m in found.measures}
    assert SECTION.judge({m.name: m for m in found.measures}).kind == "fails"
    assert "largest batch size" in found.highlights[2].label
    assert found.highlights[2].value == "none"


def test_networks_without_any_error_leave_a_gap() -> None:
    plan = SECTION.plan(Scale((0,), quick=True))
    perfect = {"running": Score(train=1.0, test=1.0)}
    made = [record(config, 0.9) for config in plan]
    spotless = [m if m.config.batch_norm else replace(m, scores=perfect) for m in made]
    without, running, *_ = SECTION.reduce(spotless).figures[0].panels[0].series
    assert set(without.y) == {None}
    assert None not in running.y
