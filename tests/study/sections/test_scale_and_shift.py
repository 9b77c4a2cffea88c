from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from evenkeel.study import Scale, load_dataset
from evenkeel.study._codec import decode, encode, key, short
from evenkeel.study._execute import isolated
from evenkeel.study._network import linear_layers, norm_layers
from evenkeel.study._samples import Samples
from evenkeel.study._training import Training
from evenkeel.study.sections.scale_and_shift import SECTION, _plan, _run, _verdict
from evenkeel.study.sections.scale_and_shift._arms import final_accuracy, sides_of
from evenkeel.study.sections.scale_and_shift._checks import checked_update
from evenkeel.study.sections.scale_and_shift._plan import STARTS, USUAL, ScaleConfig
from evenkeel.study.sections.scale_and_shift._records import Check, ScaleRecord, Trajectory

FULL = SECTION.plan(Scale((0, 1, 2, 3, 4), quick=False))
QUICK = SECTION.plan(Scale((0, 1, 2), quick=True))
TINY = ScaleConfig(section="test", seed=0, hidden=(8, 6), rate=0.3, max_steps=12, batch_size=32)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.load(load_dataset("digits"))


def run(config: ScaleConfig, samples: Samples) -> ScaleRecord:
    with isolated():
        return SECTION.run(config, samples)


# The plan.


@pytest.mark.parametrize("plan", [FULL, QUICK])
def test_every_start_and_choice_gets_the_same_rates_and_seeds(plan) -> None:
    assert len({key(config) for config in plan}) == len(plan)
    assert {config.section for config in plan} == {SECTION.name}
    for optimizer in ("sgd", "adam"):
        grids: dict[object, set[object]] = {}
        for c in (c for c in plan if c.optimizer == optimizer):
            grids.setdefault((c.learned, c.gamma, c.beta), set()).add((c.rate, c.seed, c.max_steps))
        assert ("others", *USUAL) in grids
        assert {(0, 0), (0.1, 0), (10, 0), (1, -1)} <= {(g, b) for _, g, b in grids}
        assert len(set(map(frozenset, grids.values()))) == 1


def test_quick_is_a_part_of_full_and_seeds_share_weights_and_batches() -> None:
    assert sum(c.max_steps for c in QUICK) < 0.15 * sum(c.max_steps for c in FULL)
    assert len({c.random_seed() for c in FULL}) == 5
    assert {(c.gamma, c.beta) for c in FULL} == {USUAL, *STARTS}


@pytest.mark.parametrize("total", [1, 2, 5, 60, 100])
def test_steps(total: int) -> None:
    recorded, checked = _plan.recorded_steps(total), _plan.checked_steps(total)
    for steps in (recorded, checked):
        assert list(steps) == sorted(set(steps))
        assert steps[-1] == total
    assert (recorded[0], checked[0]) == (0, 1)
    assert len(recorded) <= 12
    assert total < 20 or len([s for s in recorded if s >= 0.9 * total]) == 3


# The measurement.


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_looking_on_changes_nothing_and_the_record_is_true(samples, optimizer: str) -> None:
    config = replace(TINY, optimizer=optimizer, gamma=0.5, beta=0.25)
    record = run(config, samples)
    with isolated():
        training = Training(config, samples)
        losses = [training.update(x, y) for x, y in training.batches()]
    layers = norm_layers(training.network)
    for line in record.trajectories:
        start = {"gamma": 0.5, "beta": 0.25}[line.parameter]
        assert line.min[0] == line.max[0] == line.mean[0] == start
        name = {"gamma": "weight", "beta": "bias"}[line.parameter]
        values = getattr(layers[line.layer], name).detach().double().numpy()
        assert line.max[-1] == short(values.max())
        assert line.min[-1] == short(values.min())
        assert line.channels["0"][-1] == short(values[0])
        ends = {"low": 10, "median": 50, "high": 90}
        for column, percent in ends.items():
            expected = np.percentile(values, percent)
            assert getattr(line, column)[-1] == pytest.approx(expected, rel=1e-5, abs=1e-9)
        assert line.mean[-1] == pytest.approx(values.mean(), rel=1e-5)
        assert line.size[-1] == pytest.approx(math.sqrt((values**2).mean()), rel=1e-5)
        assert (values != start).any()
    assert len(record.trajectories) == 4
    last = losses[record.steps[-2] :]
    assert record.train_loss[-1] == pytest.approx(math.fsum(last) / len(last), rel=1e-5)
    assert decode(encode(record), ScaleRecord) == record
    assert run(config, samples) == record


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_gradients_and_updates_in_training_meet_the_formulas(samples, optimizer: str) -> None:
    record = run(replace(TINY, optimizer=optimizer, rate=0.05), samples)
    assert [(c.step, c.parameter) for c in record.checks] == [
        (step, parameter) for step in (1, 4, 8, 12) for parameter in ("gamma", "beta")
    ]
    for check in record.checks:
        assert (check.channels, check.outside) == (8 + 6, 0)
        # A comparison with itself would be exact; float32 is not.
        assert check.gradient is not None
        assert 0 < check.gradient <= 1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("fault", ["none", "gradient", "update"])
def test_a_planted_fault_is_found(samples, optimizer: str, fault: str) -> None:
    with isolated():
        training = Training(replace(TINY, optimizer=optimizer), samples)
        layer = norm_layers(training.network)["norm2"]
        if fault == "gradient":
            layer.weight.register_hook(lambda gradient: gradient * 1.001)
        if fault == "update":
            training.optimizer.param_groups[0]["lr"] *= 1.001
        x, y = next(iter(training.batches()))
        _, (gamma, beta) = checked_update(training, x, y, 1)
    worst = {
        "none": (False, False, False, False),
        "gradient": (True, False, False, False),
        "update": (False, True, False, True),
    }[fault]
    errors = (gamma.gradient, gamma.update, beta.gradient, beta.update)
    assert tuple(error > 1 for error in errors) == worst
    assert (gamma.outside > 0, beta.outside > 0) == (any(worst[:2]), any(worst[2:]))


def test_what_is_not_learned_stays(samples) -> None:
    for learned in ("all", "others", "affine"):
        with isolated():
            training = Training(replace(TINY, learned=learned), samples)
            _run.choose_learned(training.network, learned)
            before = {n: p.detach().clone() for n, p in training.network.named_parameters()}
            for x, y in training.batches(3):
                training.update(x, y)
        moved = {n for n, p in training.network.named_parameters() if not torch.equal(p, before[n])}
        affine = {n for n in before if n.startswith("norm")}
        expected = {"all": set(before), "others": set(before) - affine, "affine": affine}
        assert moved == expected[learned]
    assert len(affine) == 4
    assert len(linear_layers(training.network)) == 3


def test_fixed_gamma_and_beta_are_recorded_as_fixed_and_not_checked(samples) -> None:
    record = run(replace(TINY, learned="others"), samples)
    assert record.checks == ()
    for line in record.trajectories:
        start = {"gamma": 1.0, "beta": 0.0}[line.parameter]
        assert {*line.min, *line.max, *line.mean} == {start}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_from_zero_gamma_never_moves(samples, optimizer: str, beta: float) -> None:
    record = run(replace(TINY, gamma=0.0, beta=beta, optimizer=optimizer), samples)
    for line in record.trajectories:
        if line.parameter == "gamma":
            assert {*line.min, *line.max} == {0.0}
    assert record.finite
    assert all(check.outside == 0 for check in record.checks)


def test_run_that_breaks_stops_and_is_recorded_without_nan(samples) -> None:
    # 1e30 squares to more than float32 holds: gamma and beta overflow after one step.
    record = run(replace(TINY, rate=1e30), samples)
    assert not record.finite
    assert record.steps[-1] < 12
    assert record.train_loss[-1] is None
    assert decode(encode(record), ScaleRecord) == record


# Findings and verdict.

STEPS = (0, 10, 90, 95, 100)
#: Deviations of five seeds with mean 0; the interval of their mean is 0.001 wide on each side.
NOISE = (-0.001, -0.0005, 0.0, 0.0005, 0.001)


def line(layer: str, parameter: str, start: float, end: float) -> Trajectory:
    values = tuple(start + (end - start) * step / STEPS[-1] for step in STEPS)
    names = ("mean", "min", "low", "median", "high", "max")
    size = tuple(map(abs, values))
    return Trajectory(
        layer=layer,
        parameter=parameter,
        size=size,
        channels={"0": values},
        **dict.fromkeys(names, values),
    )


def made_up(config: ScaleConfig, accuracy: float, moved: float = 0.1) -> ScaleRecord:
    rate_cost = 0.05 if config.rate in {0.1, 0.001} else 0.0  # the larger rate is the better one
    end = accuracy - rate_cost + NOISE[config.seed] * (1 if config.learned == "all" else -1)
    check = Check(step=1, parameter="gamma", gradient=0.1, update=0.9, channels=10, outside=0)
    return ScaleRecord(
        config=config,
        steps=STEPS,
        test_accuracy=(0.1, 0.5, end, end, end),
        train_loss=(None, 1.0, 0.2, 0.1, 0.1),
        finite=True,
        trajectories=tuple(
            line(f"norm{number}", parameter, start, start + moved)
            for number in (1, 2, 3)
            for parameter, start in (("gamma", config.gamma), ("beta", config.beta))
        ),
        checks=() if config.learned == "others" else (check, replace(check, parameter="beta")),
    )


def found_on(plan, fixed=0.96, costs=None, usual=0.98):
    """Findings and verdict where fixing costs accuracy, and some starts do."""
    costs = costs or {}

    def accuracy(config: ScaleConfig) -> float:
        if config.learned == "others":
            return fixed
        return usual - costs.get((config.optimizer, config.gamma, config.beta), 0.0)

    found = SECTION.reduce([made_up(config, accuracy(config)) for config in plan])
    return found, SECTION.judge({m.name: m for m in found.measures})


def everywhere(cost: float, *starts: tuple[float, float]) -> dict[tuple[str, float, float], float]:
    return {(o, *start): cost for o in ("sgd", "adam") for start in starts or STARTS}


@pytest.mark.parametrize(
    ("fixed", "costs", "words"),
    [
        (0.96, {}, "holds here"),
        (0.96, everywhere(0.005), "holds here"),
        (0.98, {}, "does not hold here"),
        (0.99, {}, "does not hold here"),
        (0.96, everywhere(0.2), "does not hold here"),
        (0.96, everywhere(0.2, (0.0, 0.0)), "depends on the start"),
        (0.96, {("sgd", *s): 0.2 for s in STARTS}, "depends on the optimizer"),
        (0.96, {("sgd", 0.0, 0.0): 0.2}, "depends on the start and the optimizer"),
        # At the margin the interval decides, and it reaches below.
        (0.96, everywhere(0.01, (0.0, 1.0)), "depends on the start"),
    ],
)
def test_verdicts(fixed: float, costs: dict, words: str) -> None:
    found, verdict = found_on(FULL, fixed, costs)
    assert verdict.words == words
    kind = {"holds": "holds", "does": "fails", "depends": "depends"}[words.split(maxsplit=1)[0]]
    assert verdict.kind == kind
    assert f"{100 * (0.98 - fixed):+.1f} points" in verdict.reason
    assert verdict == SECTION.judge({m.name: m for m in found.measures if "accuracy" not in m.name})


def test_gains_are_per_seed_differences_at_the_best_rate() -> None:
    found, _ = found_on(FULL, costs=everywhere(0.2, (0.1, 0.0)))
    known = {m.name: m for m in found.measures}
    expected = [0.02 + 2 * noise for noise in NOISE]
    assert known["sgd-learned"].values == pytest.approx(expected)
    assert known["adam-start-0.1-0"].values == pytest.approx([-0.2] * 5)
    assert known["sgd-outside"].values == (0,) * 5
    assert found.summary.rows[0] == ("SGD", "all", 1.0, 0.0, 0.5, "98.0 ± 0.1%", None)
    states = {row[2:4]: row[-1] for row in found.summary.rows if row[0] == "Adam"}
    assert states[0.1, 0.0] == "worse"
    assert states[10.0, 0.0] == "harmless"


def test_words_name_what_happened() -> None:
    found, _ = found_on(FULL, fixed=0.96, costs=everywhere(0.2, (10.0, 0.0)))
    first, second, *_, last = found.answer.split("\n\n")
    assert "learning gamma and beta raised the test accuracy" in first
    assert "starts that cost more than 1 point: gamma 10, beta 0 (-20.0 points)" in second
    assert "undecided" not in second
    assert "±" in last
    assert "lost from 1 with SGD (not from 5, undecided for 0) and from 1" in found.headline
    assert "went: from 1 to 1.1, 1.1, 1.1; from 0.1 to 0.2, 0.2, 0.2;" in found.answer
    lowered, _ = found_on(FULL, fixed=0.99)
    assert "lowered the test accuracy" in lowered.answer
    same, _ = found_on(FULL, fixed=0.98)
    assert "made no clear difference" in same.answer


def test_starts_from_which_gamma_never_moved_are_named() -> None:
    records = [made_up(c, 0.9, moved=0.0 if c.gamma == 0 else 0.1) for c in FULL]
    answer = SECTION.reduce(records).answer
    assert "no layer ever moved, at any rate: gamma 0, beta 0 (SGD, Adam); gamma 0, " in answer
    assert "No learning rate helps" in answer
    assert "ever moved" not in found_on(FULL)[0].answer


def test_formulas_that_are_not_met_are_reported() -> None:
    records = [made_up(config, 0.9) for config in FULL]
    broken = next(i for i, r in enumerate(records) if r.checks)
    bad = replace(records[broken].checks[0], gradient=3.5, outside=2)
    records[broken] = replace(records[broken], checks=(bad, *records[broken].checks[1:]))
    found = SECTION.reduce(records)
    assert (
        "2 differed by more than float32 may; the largest error of a gradient 3.5" in found.answer
    )
    assert found.highlights[2].value == "2"
    known = {m.name: m for m in found.measures}
    assert known["sgd-outside"].values == (2, 0, 0, 0, 0)
    assert known["sgd-gradient-error"].values[0] == 3.5
    records[broken] = replace(records[broken], checks=(replace(bad, gradient=None),))
    found = SECTION.reduce(records)
    assert "gradient not finite" in found.answer
    assert "sgd-gradient-error" not in {m.name for m in found.measures}


@pytest.mark.parametrize("quick", [True, False])
def test_one_seed_has_no_spread(quick: bool) -> None:
    found, verdict = found_on(SECTION.plan(Scale((0,), quick=quick)))
    assert verdict.words == "holds here"
    assert "±" not in found.headline + found.answer
    assert "one seed, so there is no spread" in found.answer
    assert {m.low for m in found.measures} == {None}


def test_nothing_trains_and_nothing_is_finite() -> None:
    def broken(config: ScaleConfig) -> ScaleRecord:
        whole = made_up(config, 0.1)
        lost = (None, None)
        lines = tuple(
            replace(
                t,
                **dict.fromkeys(("mean", "min", "low", "median", "high", "max"), (t.mean[0], None)),
                size=(abs(t.mean[0]), None),
                channels={"0": (t.mean[0], None)},
            )
            for t in whole.trajectories
        )
        return replace(
            whole,
            steps=(0, 3),
            test_accuracy=(0.1, 0.0),
            train_loss=lost,
            finite=False,
            trajectories=lines,
            checks=(),
        )

    found = SECTION.reduce([broken(config) for config in QUICK])
    verdict = SECTION.judge({m.name: m for m in found.measures})
    assert verdict.kind == "fails"
    assert "not finite" in found.answer
    assert found.summary.rows[0][5] == "0.0 ± 0.0%"
    assert final_accuracy(broken(QUICK[0])) == 0.0
    assert encode(found)


def test_figures_show_what_was_measured() -> None:
    found, _ = found_on(FULL, costs=everywhere(0.2, (0.0, 0.0)))
    by_name = {figure.name: figure for figure in found.figures}
    accuracy = by_name["accuracy-by-start"]
    assert len(accuracy.panels) == 4
    series = {s.name: s for s in accuracy.panels[0].series}
    assert series["gamma 0, beta 0"].y[-1] == pytest.approx(0.78)
    assert series["gamma and beta fixed at 1 and 0"].y[-1] == pytest.approx(0.96)
    gamma = by_name["gamma-over-steps"].panels
    assert [panel.title for panel in gamma] == ["layer 1", "layer 2", "layer 3"]
    sizes = by_name["gamma-by-start"].panels[0].series
    assert [s.y[-1] for s in sizes] == pytest.approx([1.1, 0.2, 10.1])
    formulas = by_name["formula-gradients"].panels[0].series
    assert [s.y for s in formulas] == [(0.1,), (0.1,), (1.0,)]
    names = {s.name for figure in [accuracy] for panel in figure.panels for s in panel.series}
    assert len(names) <= 8


def test_rule_names_its_numbers() -> None:
    assert f"-{100 * _verdict.MARGIN:g} percentage point" in SECTION.rule
    assert [side.name for side in sides_of([made_up(c, 0.9) for c in FULL])] == ["SGD", "Adam"]
