"""Section ``gradients``: do they vanish or explode on their way through a deep network?"""

from __future__ import annotations

from typing import Final

from evenkeel.report import Paper
from evenkeel.study._network import INITIALISATION
from evenkeel.study.sections._section import Section
from evenkeel.study.sections.gradients._plan import NAME, RATE, START_BATCHES, WIDTH, plan
from evenkeel.study.sections.gradients._run import GradientRecord, run
from evenkeel.study.sections.gradients._verdict import RULE, judge
from evenkeel.study.sections.gradients._words import reduce

SECTION: Final = Section(
    name=NAME,
    title="Vanishing and exploding gradients",
    claim=(
        "Batch normalization keeps gradients from vanishing and exploding in deep plain networks."
    ),
    method=(
        (
            f"Plain networks (no skip connections) of hidden layers with {WIDTH} units each, with "
            "sigmoid, tanh and ReLU, with batch norm between each linear layer and its activation "
            f"and without. Both start from the same weights ({INITIALISATION}) and see the same "
            "batches of 64."
        ),
        (
            "A layer's gradient is the root mean square, over its weights, of the derivative of "
            "the loss. The hidden layers after the first start with weights of one size, so "
            "dividing by the size of the weights would change little. At the start it is the "
            f"geometric mean over {START_BATCHES} batches; in training, over the updates that led "
            "to the recorded steps. The ratio of two gradients is followed over 40 decades, more "
            "than float32 has; a gradient that is exactly zero counts as that far below, one that "
            "is not finite as that far above."
        ),
        (
            f"All networks train with SGD at rate {RATE:g}, without momentum, for the same few "
            "epochs. A run has learned if its last recorded training loss is below 90% of the "
            "loss of the best constant prediction. The rate is the same for all, and not the best "
            "for each: this part asks what the gradients do to a usual rate, not how well a "
            "network can be tuned."
        ),
    ),
    rule=RULE,
    papers=(
        Paper(
            cite="Glorot & Bengio 2010",
            title="Understanding the difficulty of training deep feedforward neural networks",
            where="AISTATS",
            says="Sigmoid saturates deep networks, and an initialisation that keeps the variance "
            "of activations and gradients alike over the layers lets deep tanh networks train.",
        ),
        Paper(
            cite="He et al. 2015",
            title="Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet "
            "Classification",
            where="ICCV, arXiv:1502.01852",
            says="Weights of variance 2 / inputs keep the size of gradients constant over the "
            "layers of a ReLU network, and 30 layers train without any normalization.",
        ),
        Paper(
            cite="Ioffe & Szegedy 2015",
            title="Batch Normalization: Accelerating Deep Network Training by Reducing Internal "
            "Covariate Shift",
            where="ICML, arXiv:1502.03167",
            says="Introduced batch norm; it made an Inception network with sigmoid train, which "
            "did not without, and was said to help gradients to flow.",
        ),
        Paper(
            cite="Balduzzi et al. 2017",
            title="The Shattered Gradients Problem: If resnets are the answer, then what is the "
            "question?",
            where="ICML, arXiv:1702.08591",
            says="The size of gradients is not all: in plain deep ReLU networks gradients at "
            "neighbouring inputs lose their correlation exponentially with depth and come to look "
            "like white noise.",
        ),
        Paper(
            cite="Yang et al. 2019",
            title="A Mean Field Theory of Batch Normalization",
            where="ICLR, arXiv:1902.08129",
            says="Proved for wide plain networks at the start that batch norm itself makes "
            "gradients grow exponentially with depth, whatever the activation and the variance of "
            "the weights; observed that one step of training already narrows their range.",
        ),
    ),
    plan=plan,
    run=run,
    record=GradientRecord,
    reduce=reduce,
    judge=judge,
)
