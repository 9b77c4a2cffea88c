"""In this suite nothing may be skipped: what torch runs on a CPU runs here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip, and an expected failure, into a failure."""
    report = yield
    if report.skipped and item.path.is_relative_to(HERE):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped or expected to fail, neither of which may be"
    return report
