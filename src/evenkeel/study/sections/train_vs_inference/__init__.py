"""Section ``train-vs-inference``: what running averages give beside the statistics of batches."""

from __future__ import annotations

from typing import Final

from evenkeel.report import Paper
from evenkeel.study.sections._section import Section
from evenkeel.study.sections.train_vs_inference._plan import MOMENTA, NAME, RATE, SIZES, plan
from evenkeel.study.sections.train_vs_inference._records import ModeRecord
from evenkeel.study.sections.train_vs_inference._run import run
from evenkeel.study.sections.train_vs_inference._verdict import RULE, judge
from evenkeel.study.sections.train_vs_inference._words import reduce

SECTION: Final = Section(
    name=NAME,
    title="Training and inference",
    claim=(
        "The running averages that batch norm uses in inference give the same accuracy as the "
        "batch statistics that it is trained with."
    ),
    method=(
        (
            "The network of three hidden layers (256, 128 and 64 units, batch norm before each "
            f"ReLU) is trained by SGD at rate {RATE:g} in batches of "
            f"{', '.join(map(str, SIZES))}, for the same number of steps each. Again and again "
            "the same weights are tested in different ways: normalized with the running averages "
            f"under momenta of {', '.join(f'{m:g}' for m in MOMENTA)} (the weight of the new "
            "batch, as in torch); with the statistics of test batches as large as those in "
            "training, drawn in a random but fixed order; and with the statistics of the whole "
            "training set, taken in one batch."
        ),
        (
            "The running averages have no influence on training, so all momenta share one "
            "training, and every difference within a run is due to the statistics alone. Testing "
            "changes neither weights nor averages. Batch sizes should not be compared with each "
            "other here: they share rate and number of steps, and so saw different numbers of "
            "samples."
        ),
        (
            "At the end of each run a single sample is put through the network in training, where "
            "layers refuse it, through the formulas of the reference, which say what it would "
            "give, and through the network in inference, alone and within a larger batch."
        ),
    ),
    rule=RULE,
    papers=(
        Paper(
            cite="Ioffe & Szegedy 2015",
            title="Batch Normalization: Accelerating Deep Network Training by Reducing Internal "
            "Covariate Shift",
            where="ICML, section 3.1, arXiv:1502.03167",
            says="In inference the output should depend on the sample alone, so population "
            "statistics replace those of the batch; moving averages track them during training.",
        ),
        Paper(
            cite="Ioffe 2017",
            title="Batch Renormalization: Towards Reducing Minibatch Dependence in "
            "Batch-Normalized Models",
            where="NeurIPS, arXiv:1702.03275",
            says="With small batches, or batches that are not drawn independently, training and "
            "inference compute different things; a correction of the batch statistics towards "
            "the running averages narrows that gap.",
        ),
        Paper(
            cite="Singh & Shrivastava 2019",
            title="EvalNorm: Estimating Batch Normalization Statistics for Evaluation",
            where="ICCV, arXiv:1904.06031",
            says="Networks trained in small batches lose accuracy because of the statistics used "
            "in evaluation; corrected ones give 6.18 points more on ImageNet at batch size 2.",
        ),
        Paper(
            cite="Wu & Johnson 2021",
            title='Rethinking "Batch" in BatchNorm',
            where="arXiv:2105.07576",
            says="Running averages can be poor estimates of the population statistics, above all "
            "early in training; statistics computed anew over many samples (PreciseBN) are "
            "more reliable.",
        ),
    ),
    plan=plan,
    run=run,
    record=ModeRecord,
    reduce=reduce,
    judge=judge,
)
