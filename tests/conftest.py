"""Settings of the whole suite."""

from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

# Two xdist workers share two cores: a thread pool each would only make them wait.
torch.set_num_threads(1)

# A shared machine may stop for a second in the middle of an example.
settings.register_profile("evenkeel", deadline=None)
settings.load_profile("evenkeel")


@pytest.fixture(scope="session")
def quick_study(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a quick study of all sections with one seed, made once for all workers."""
    from evenkeel.study import StudySettings, run_study

    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent
    out = shared / "quick_study"
    with FileLock(f"{out}.lock"):
        if not (out / "report.html").exists():
            run_study(StudySettings(quick=True, seeds=1, out=out, workers=1))
    return out
