from __future__ import annotations

import math
from dataclasses import replace

import pytest

from evenkeel.study import RunConfig, RunRecord, Scale
from evenkeel.study.sections.learning_rate import SECTION

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
    )


def made_up(config: RunConfig) -> RunRecord:
    """With batch norm rates up to 3 work, without up to 0.3; seeds differ a little."""
    limit = 3 if config.batch_norm else 0.3
    if not 0.01 <= config.rate <= limit:
        return record(config, 0.1, None, "diverged" if config.rate > limit else "slow")
    best = (0.99 if config.batch_norm else 0.97) + 0.001 * (config.seed - 2)
    return record(config, best, 20 if config.batch_norm else 120, "trained")


def found_from(make, scale: Scale = FULL):
    return SECTION.reduce([make(config) for config in SECTION.plan(scale)])


def verdict(found):
    return SECTION.judge({measure.name: measure for measure in found.measures})


def test_both_sides_get_the_same_rates_over_five_decades() -> None:
    plan = SECTION.plan(FULL)
    for optimizer in ("sgd", "adam"):
        for layers in (3, 8):
            rates = [
                sorted(
                    {
                        c.rate
                        for c in plan
                        if (c.optimizer, len(c.hidden), c.batch_norm) == (optimizer, layers, norm)
                    }
                )
                for norm in (True, False)
            ]
            assert rates[0] == rates[1]
            assert rates[0][-1] / rates[0][0] == pytest.approx(1e5)


def test_findings_follow_from_the_records() -> None:
    found = found_from(made_up)
    assert "SGD, 3 layers: batch norm raised the largest usable" in found.headline
    assert "10 times, from 0.3 to 3" in found.headline
    assert "99.0 ± 0.2%" in found.headline
    sgd, plain = found.summary.rows[:2]
    assert sgd == (
        "SGD, 3 layers",
        "yes",
        "99.0 ± 0.2%",
        0.01,
        "0.01\N{EN DASH}3",
        20.0,
        pytest.approx(2 / 9),
    )
    assert plain[4:6] == ("0.01\N{EN DASH}0.3", 120.0)
    assert [figure.name for figure in found.figures] == [
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


def test_gains_are_those_of_each_seed() -> None:
    measures = {m.name: m for m in found_from(made_up).measures}
    rate = measures["3-layers-sgd-rate"]
    assert rate.values == pytest.approx([1.0] * 5)  # from 0.3 to 3
    assert measures["3-layers-sgd-width"].values == pytest.approx([1.0] * 5)
    assert measures["3-layers-sgd-steps"].mean == pytest.approx(math.log2(6))
    # Five equally spaced values, 0.001 apart: deviation 0.001 sqrt(2.5), and Student's t(4).
    best = measures["3-layers-sgd-accuracy-with"]
    assert best.std == pytest.approx(0.001 * 2.5**0.5)
    assert best.high - best.mean == pytest.approx(2.776445 * 0.001 * 0.5**0.5, rel=1e-6)


def test_claim_holds_where_every_gain_is_clear() -> None:
    found = verdict(found_from(made_up))
    assert (found.kind, found.words) == ("holds", "holds here")
    assert found.reason.startswith("12 of 12")


def test_claim_fails_where_batch_norm_does_harm() -> None:
    def swapped(config: RunConfig) -> RunRecord:
        flipped = made_up(replace(config, batch_norm=not config.batch_norm))
        return replace(flipped, config=config)

    found = found_from(swapped)
    assert "lowered the largest usable learning rate from 3 to 0.3" in found.headline
    assert "decades narrower" in found.answer
    assert "-2.0 points" in found.answer
    assert verdict(found).kind == "fails"


@pytest.mark.parametrize(
    ("helps", "words"),
    [
        (lambda c: c.optimizer == "sgd", "depends on the optimizer"),
        (lambda c: len(c.hidden) == 8, "depends on the network"),
        (
            lambda c: len(c.hidden) == 8 or c.optimizer == "sgd",
            "depends on the network and the optimizer",
        ),
    ],
)
def test_claim_depends_on_where_it_helps(helps, words: str) -> None:
    def some(config: RunConfig) -> RunRecord:
        norm = config.batch_norm and helps(config)
        return replace(made_up(replace(config, batch_norm=norm)), config=config)

    assert verdict(found_from(some)).words == words


def test_claim_depends_on_what_is_counted() -> None:
    def slow(config: RunConfig) -> RunRecord:
        made = made_up(config)
        return replace(made, steps_to_target=made.steps_to_target and 50)

    found = verdict(found_from(slow))
    assert found.words == "depends on what is counted"
    assert "SGD, 3 layers: larger rates and a wider range" in found.reason


def test_one_seed_has_no_spread() -> None:
    found = found_from(made_up, Scale((0,), quick=True))
    assert found.summary.rows[0][2] == "98.8%"
    assert "±" not in found.headline + found.answer
    assert "one seed, so there is no spread" in found.answer
    assert {measure.std for measure in found.measures} == {None}
    assert "confidence" not in " ".join(figure.caption for figure in found.figures)


def test_findings_when_nothing_trains() -> None:
    found = found_from(lambda config: record(config, 0.1, None, "slow"), Scale((0,), quick=True))
    assert "no rate brought every run of either network to 90%" in found.headline
    assert found.highlights[1].value == "none"
    assert found.summary.rows[0][4] is None
    assert verdict(found).kind == "fails"
