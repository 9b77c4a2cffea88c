"""What a run of the section leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.study.sections.train_vs_inference._plan import (
    ModeConfig,  # noqa: TC001 - read from JSON by its types
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOfOne:
    """What a batch of one sample does, seen on the network at the end of a run.

    Args:
        refusal: evenkeel's message when a batch of one is trained on; None if it was taken.
        torch_refusal: torch's message for the same.
        beyond_beta: largest difference of a layer's output from beta, were one sample normalized
            with its own statistics (by the reference), over a few samples.
        constant_accuracy: test accuracy of the answer that the network then gives to any sample.
        difference: in inference, largest difference of a sample's logits alone from those in one
            large batch, relative to the largest logit; None if not finite.
        same_answers: share of those samples that get the same answer alone.
        samples: number of samples that were tried alone in inference.
    """

    refusal: str | None
    torch_refusal: str | None
    beyond_beta: float | None
    constant_accuracy: float
    difference: float | None
    same_answers: float
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRecord:
    """Test accuracy of one network over its training, by the statistics it is normalized with.

    Each list belongs to ``steps``: ``batch`` uses the statistics of each test batch (of the
    training's size), ``running`` has a row for each of the configuration's momenta, ``whole``
    uses those of the whole training set in one batch. ``majority`` is the share of the commonest
    class, which needs no network; ``single`` is None where training broke.
    """

    config: ModeConfig
    steps: tuple[int, ...]
    batch: tuple[float, ...]
    running: tuple[tuple[float, ...], ...]
    whole: tuple[float, ...]
    majority: float
    finite: bool
    single: BatchOfOne | None
