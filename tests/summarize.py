"""Turn pytest's JUnit files into a summary that is committed: ``summarize.py MARKDOWN XML...``."""

import json
import os
import platform
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import torch

import evenkeel

#: Outcomes of tests/checkpoints/test_fuzz.py.
OUTCOMES = ("refused", "same", "other")
FUZZING = """\
Accidents to real files, made by hypothesis: bits flipped, bytes inserted, cut out, swapped or
repeated, numbers and letters replaced. After a colon stands the entry of an archive that was
damaged and sealed again with a right checksum. *refused*: with evenkeel's error; *same*: all names,
shapes, element types and settings as in the intact file; *other*: something else was read, which
a format without a checksum cannot notice. No crash, no hang (20 s), at most 2 GiB of memory.
"""


def table(head: str, rows: list[tuple[object, ...]]) -> list[str]:
    columns = head.split(", ")
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def results(cases: list[ET.Element]) -> list[str]:
    rows: dict[str, Counter[str]] = {}
    for case in cases:
        folder = case.attrib["classname"].removeprefix("tests.").split(".")[0]
        kinds = [k for k in ("failure", "error", "skipped") if case.find(k) is not None]
        row = rows.setdefault(folder, Counter())
        row[kinds[0] if kinds else "passed"] += 1
        row["seconds"] += float(case.attrib["time"])
    figures = [
        (name, r["passed"], r["failure"] + r["error"], r["skipped"], round(r["seconds"]))
        for name, r in sorted(rows.items())
    ]
    return table("tests, passed, failed, skipped, seconds", figures)


def damages(cases: list[ET.Element]) -> list[str]:
    """A row for each damaged file; those of one folder are taken together."""
    rows: dict[str, Counter[str]] = {}
    for case in cases:
        found = case.find("properties/property[@name='outcomes']")
        if found is not None and not len(case.findall("failure")):
            name = case.attrib["name"].partition("[")[2].removesuffix("]")
            key = "orbax" if name.startswith("orbax:") else name
            rows.setdefault(key, Counter()).update(json.loads(found.attrib["value"]))
    figures = [
        (f"`{name}`", r.total(), *(f"{r[k]} ({r[k] / r.total():.1%})" for k in OUTCOMES))
        for name, r in sorted(rows.items())
    ]
    head = ["## Damaged checkpoints", "", FUZZING]
    return [*head, *table(f"file, accidents, {', '.join(OUTCOMES)}", figures)] if rows else []


def main(target: str, *sources: str) -> None:
    suites = [suite for source in sources for suite in ET.parse(source).getroot()]
    cases = [case for suite in suites for case in suite.findall("testcase")]
    name = Path(target).stem
    when = datetime.now(UTC).date().isoformat()
    lines = [
        {"test-all": "# The whole test suite", "fuzzing": "# Fuzzing of the readers"}[name],
        "",
        (
            f"`make {name}`, {when}: evenkeel {evenkeel.__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores."
        ),
        "",
        *results(cases),
        *damages(cases),
    ]
    Path(target).write_text("\n".join(lines).rstrip("\n") + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
