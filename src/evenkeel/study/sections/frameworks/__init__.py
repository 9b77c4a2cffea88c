"""Section ``frameworks``: one network trained in PyTorch, Keras and Flax."""

from __future__ import annotations

from typing import Final

from evenkeel.report import Paper
from evenkeel.study.sections._section import Section
from evenkeel.study.sections.frameworks._plan import NAME, RATE, plan
from evenkeel.study.sections.frameworks._records import FrameworkRecord
from evenkeel.study.sections.frameworks._run import run
from evenkeel.study.sections.frameworks._verdict import RULE, judge
from evenkeel.study.sections.frameworks._words import reduce

SECTION: Final = Section(
    name=NAME,
    title="Three frameworks",
    claim=(
        "A network with batch norm trains on as before in another framework if eps and momentum "
        "are copied."
    ),
    method=(
        (
            "One network (two hidden layers of 64 and 32 units, batch norm before each ReLU) is "
            f"trained by plain SGD at rate {RATE:g} in batches of 32, in PyTorch, in Keras and in "
            "Flax, each by its own means. All arms of a seed start from the same weights and see "
            "the same batches in the same order."
        ),
        (
            "The settings of batch norm come from PyTorch's defaults or from Keras's. Translated, "
            "they keep their meaning: which of old and new the momentum weighs, and whether the "
            "running variance is stored biased or unbiased, for which evenkeel has a layer in "
            "each framework. Copied, eps and momentum are the same numbers in the other "
            "framework's own layer. Keras and Flax share one convention, so that between them "
            "nothing has to be translated. At recorded steps each network is tested in inference."
        ),
    ),
    rule=RULE,
    papers=(
        Paper(
            cite="Ioffe & Szegedy 2015",
            title="Batch Normalization: Accelerating Deep Network Training by Reducing Internal "
            "Covariate Shift",
            where="ICML, algorithm 2, arXiv:1502.03167",
            says="Inference uses population statistics with the unbiased variance; the moving "
            "averages that track them in training are left to the implementation, which is where "
            "the frameworks part.",
        ),
    ),
    plan=plan,
    run=run,
    record=FrameworkRecord,
    reduce=reduce,
    judge=judge,
)
