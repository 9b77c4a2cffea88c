"""Section ``small-batches``: what few samples per batch do to batch norm, and what helps."""

from __future__ import annotations

from typing import Final

from evenkeel.report import Paper
from evenkeel.study._network import INITIALISATION
from evenkeel.study.sections._section import Section
from evenkeel.study.sections.small_batches._plan import FULL, LARGE, NAME, QUICK, WARM_UP, plan
from evenkeel.study.sections.small_batches._run import Record, run
from evenkeel.study.sections.small_batches._verdict import RULE, judge
from evenkeel.study.sections.small_batches._words import reduce

SECTION: Final = Section(
    name=NAME,
    title="Small batches",
    claim="Batch normalization fails with small batches.",
    method=(
        (
            "A network of two hidden layers (128 and 64 units, ReLU) is trained by SGD without "
            f"momentum at batch sizes from {FULL.sizes[0]} to {FULL.sizes[-1]}, with batch norm "
            f"before each ReLU and without it. Every run sees {FULL.samples} samples, repeats "
            f"counted, but makes at least {FULL.steps} steps (in a quick look {QUICK.samples} and "
            f"{QUICK.steps}), since a handful of steps trains no network. So at one batch size "
            "all networks make the same number of steps, while large batches see more samples. "
            "A batch is never larger than the training set. "
            f"Initialisation: {INITIALISATION}."
        ),
        (
            "Both sides have the same learning rates to choose from: "
            f"{' and '.join(f'{rate:g}' for rate in FULL.rates)} at batch size 64 "
            f"({QUICK.rates[0]:g} alone in a quick look), scaled with the square root of the "
            "batch size. The rate with the highest final training accuracy, averaged over seeds, "
            "is taken, for each way to train and predict on its own."
        ),
        (
            "The trained networks predict in three ways: with the running averages (momentum "
            "0.1); recalibrated, that is, with population statistics estimated once more over the "
            "training set by a cumulative average over batches of 256 or more; and with the "
            "statistics of each test batch of the training batch size. In further runs the "
            f"statistics are frozen after {WARM_UP:.0%} of the steps: set to population "
            "statistics and fixed together with scale and offset. Ghost batches take the "
            f"statistics over groups of samples inside batches of {LARGE}."
        ),
        (
            "The noise of the statistics is measured on networks trained with batches of 64: mean "
            "and variance of 100 random batches, drawn with replacement, against those of the "
            "whole training set, at the input of each batch-norm layer."
        ),
    ),
    rule=RULE,
    papers=(
        Paper(
            cite="Ioffe 2017",
            title="Batch Renormalization: Towards Reducing Minibatch Dependence in "
            "Batch-Normalized Models",
            where="NeurIPS, arXiv:1702.03275",
            says="Blames the difference between batch and running statistics for the loss of "
            "accuracy with small batches, and corrects the batch statistics towards the running "
            "ones in training.",
        ),
        Paper(
            cite="Hoffer et al. 2017",
            title="Train longer, generalize better: closing the generalization gap in large batch "
            "training of neural networks",
            where="NeurIPS, arXiv:1705.08741",
            says="Introduced ghost batch norm: statistics over small groups of a large batch, "
            "which brought back some of the accuracy lost with large batches.",
        ),
        Paper(
            cite="Wu & He 2018",
            title="Group Normalization",
            where="ECCV, arXiv:1803.08494",
            says="On ImageNet the error of ResNet-50 with batch norm rose steeply below 16 images "
            "per worker; group normalization, which does not use the batch, kept its error.",
        ),
        Paper(
            cite="Singh & Shrivastava 2019",
            title="EvalNorm: Estimating Batch Normalization Statistics for Evaluation",
            where="ICCV, arXiv:1904.06031",
            says="Part of the loss with small batches comes from the statistics used in "
            "inference, and corrected statistics regain it without training again.",
        ),
        Paper(
            cite="Summers & Dinneen 2020",
            title="Four Things Everyone Should Know to Improve Batch Normalization",
            where="ICLR, arXiv:1906.03548",
            says="Ghost batch norm regularizes at small and medium batch sizes, too; letting the "
            "sample itself enter the statistics in inference narrows the gap to training; for "
            "very small batches it combines batch norm with group normalization.",
        ),
        Paper(
            cite="Wu & Johnson 2021",
            title='Rethinking "Batch" in BatchNorm',
            where="arXiv:2105.07576",
            says="Recommends population statistics recomputed over the training set rather than "
            "running averages, and shows where they differ.",
        ),
    ),
    plan=plan,
    run=run,
    record=Record,
    reduce=reduce,
    judge=judge,
)
