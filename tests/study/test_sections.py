from __future__ import annotations

import inspect
from dataclasses import replace

import pytest

from evenkeel.errors import InputError
from evenkeel.study import RunConfig, RunRecord, Scale, sections
from evenkeel.study.sections import SECTIONS, learning_rate, select

FULL = Scale((0, 1, 2, 3, 4), quick=False)


def record(config: RunConfig, best: float, steps: int | None, outcome: str) -> RunRecord:
    return RunRecord(
        config=config,
        steps=(0, 5, 10),
        test_accuracy=(0.1, best / 2, best),
        train_loss=(None, 2.0, 1.0),
        steps_to_target=steps,
        best_accuracy=best,
        final_accuracy=best,
        final_train_accuracy=best,
        first_loss=2.0,
        peak_loss=2.0,
        finite=True,
        outcome=outcome,
        trajectories=(),
    )


def made_up(config: RunConfig) -> RunRecord:
    """With batch norm rates up to 3 work, without up to 0.3; seeds differ a little."""
    limit = 3 if config.batch_norm else 0.3
    if not 0.01 <= config.rate <= limit:
        return record(config, 0.1, None, "diverged" if config.rate > limit else "slow")
    best = (0.99 if config.batch_norm else 0.97) + 0.001 * (config.seed - 2)
    return record(config, best, 20 if config.batch_norm else 120, "trained")


def test_every_section_is_complete_and_named_once() -> None:
    names = [section.name for section in SECTIONS]
    assert len(set(names)) == len(names)
    for section in SECTIONS:
        plan = section.plan(FULL)
        assert {config.section for config in plan} == {section.name}
        assert len({config.random_seed() for config in plan}) == len(plan)
        assert len(section.plan(Scale((0, 1, 2), quick=True))) < len(plan)
        assert section.claim
        assert section.method


def test_both_networks_get_the_same_rates_over_five_decades() -> None:
    plan = SECTIONS[0].plan(FULL)
    for optimizer in ("sgd", "adam"):
        rates = [
            sorted({c.rate for c in plan if c.optimizer == optimizer and c.batch_norm == norm})
            for norm in (True, False)
        ]
        assert rates[0] == rates[1]
        assert rates[0][-1] / rates[0][0] == pytest.approx(1e5)


def test_findings_follow_from_the_records() -> None:
    found = learning_rate.SECTION.reduce([made_up(config) for config in SECTIONS[0].plan(FULL)])
    assert "raised the largest usable learning rate 10 times, from 0.3 to 3" in found.headline
    assert "99.0 ± 0.2%" in found.headline
    sgd, plain = found.summary.rows[:2]
    assert sgd == ("SGD", "with", "99.0 ± 0.2%", 0.01, "0.01 to 3", 20.0, pytest.approx(3 / 11))
    assert plain[4:6] == ("0.01 to 0.3", 120.0)
    names = [figure.name for figure in found.figures]
    assert names[:4] == [
        "accuracy-over-steps",
        "accuracy-by-rate",
        "diverged-by-rate",
        "steps-by-rate",
    ]
    by_rate = found.figures[1].panels[0].series[0]
    best = dict(zip(by_rate.x, by_rate.y, strict=True))
    assert best[1.0] == pytest.approx(0.99)
    assert best[10.0] == pytest.approx(0.1)
    steps = found.figures[3].panels[0].series[1]
    assert dict(zip(steps.x, steps.y, strict=True))[1.0] is None


def test_findings_when_batch_norm_does_harm() -> None:
    def swapped(config: RunConfig) -> RunRecord:
        flipped = made_up(replace(config, batch_norm=not config.batch_norm))
        return replace(flipped, config=config)

    found = learning_rate.SECTION.reduce([swapped(config) for config in SECTIONS[0].plan(FULL)])
    assert "lowered the largest usable learning rate from 3 to 0.3" in found.headline
    assert "-2.0 points, more than the spread" in found.answer


def test_one_seed_has_no_spread() -> None:
    plan = SECTIONS[0].plan(Scale((0,), quick=True))
    found = SECTIONS[0].reduce([made_up(config) for config in plan])
    assert found.summary.rows[0][2] == "98.8%"
    assert "±" not in found.headline + found.answer
    assert "spread over seeds" not in found.answer
    assert "one seed, so there is no spread" in found.answer
    assert [measure.std for measure in found.measures] == [None] * 4


def test_answer_has_a_paragraph_for_each_optimizer_and_numbers_beside_it() -> None:
    found = SECTIONS[0].reduce([made_up(config) for config in SECTIONS[0].plan(FULL)])
    assert [text.partition(":")[0] for text in found.answer.split("\n\n")[:2]] == ["SGD", "Adam"]
    first = found.measures[0]
    assert (first.label, first.count) == ("best test accuracy, SGD with batch norm", 5)
    # Five equally spaced values, 0.001 apart: the deviation is 0.001 * sqrt(2.5).
    assert first.mean == pytest.approx(0.99)
    assert first.std == pytest.approx(0.001 * 2.5**0.5)


def test_findings_when_nothing_trains() -> None:
    plan = SECTIONS[0].plan(Scale((0,), quick=True))
    found = SECTIONS[0].reduce([record(config, 0.1, None, "slow") for config in plan])
    assert (
        "With SGD, neither network reached 90%; the best test accuracy was 10.0% with and 10.0% "
        "without batch norm." in found.headline
    )
    assert found.highlights[1].value == "none"
    assert found.summary.rows[0][4] is None


def test_unknown_section() -> None:
    assert select(()) == SECTIONS
    assert [section.name for section in select(("learning-rate",))] == ["learning-rate"]
    with pytest.raises(InputError, match=r"unknown section 'magic'"):
        select(("learning-rate", "magic"))


def test_a_section_file_says_how_to_add_one() -> None:
    assert "To add one" in (inspect.getdoc(sections) or "")
