"""The training study: what does batch normalization do to a network on real data?

``run_study(StudySettings(...))`` trains, measures and writes the report; the experiments are in
``evenkeel.study.sections``, one file each.
"""

from __future__ import annotations

from evenkeel.study._conduct import Study
from evenkeel.study._data import Dataset, load_dataset
from evenkeel.study._network import build_network
from evenkeel.study._plan import RunConfig, Scale
from evenkeel.study._records import RunRecord
from evenkeel.study._run import train
from evenkeel.study._store import STORE
from evenkeel.study._study import StudySettings, run_study

__all__ = [
    "STORE",
    "Dataset",
    "RunConfig",
    "RunRecord",
    "Scale",
    "Study",
    "StudySettings",
    "build_network",
    "load_dataset",
    "run_study",
    "train",
]
