"""Turn pytest's JUnit file into the summary that is committed: ``summarize.py XML MARKDOWN``."""

import os
import platform
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import torch

import evenkeel


def main(source: str, target: str) -> None:
    suites = ET.parse(source).getroot().findall("testsuite")
    rows: dict[str, Counter[str]] = {}
    for case in (case for suite in suites for case in suite.findall("testcase")):
        folder = case.attrib["classname"].removeprefix("tests.").split(".")[0]
        kinds = [k for k in ("failure", "error", "skipped") if case.find(k) is not None]
        row = rows.setdefault(folder, Counter())
        row[kinds[0] if kinds else "passed"] += 1
        row["seconds"] += float(case.attrib["time"])
    when = datetime.now(UTC).date().isoformat()
    lines = [
        "# The whole test suite",
        "",
        (
            f"`make test-all`, {when}: evenkeel {evenkeel.__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores."
        ),
        "",
        "| tests | passed | failed | skipped | seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in sorted(rows.items()):
        failed = row["failure"] + row["error"]
        figures = (row["passed"], failed, row["skipped"], round(row["seconds"]))
        lines.append(f"| {name} | " + " | ".join(map(str, figures)) + " |")
    Path(target).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
