"""Put the accuracy table of the README together from results/accuracy.csv."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
README: Final = HERE.parent / "README.md"
BEGIN: Final = "<!-- accuracy: begin (written by benchmarks/readme.py) -->"
END: Final = "<!-- accuracy: end -->"
MEANS: Final = ("mean/std 0", "mean/std 1e2", "mean/std 1e4", "mean/std 1e6")
ROWS: Final = {
    "torch eager, contiguous": ("torch eager", ("contiguous",)),
    "torch eager, channels last": ("torch eager", ("channels_last",)),
    "torch.compile, channels last": ("torch.compile", ("channels_last",)),
    "evenkeel, the worse of both": ("evenkeel cpu", ("contiguous", "channels_last")),
}


def table() -> str:
    """The table in Markdown, and a line that names the machine."""
    with (HERE / "results" / "accuracy.csv").open(newline="") as file:
        records = [r for r in csv.DictReader(file) if r["rank"] == "4" and r["threads"] == "2"]
    lines = ["| | " + " | ".join(MEANS) + " |", "|---|" + "---:|" * len(MEANS)]
    for label, row in ROWS.items():
        cells = (_worst(records, *row, mean) for mean in MEANS)
        lines.append(f"| {label} | " + " | ".join(f"{cell:.0e}" for cell in cells) + " |")
    one = records[0]
    machine = f"torch {one['torch']}, {one['processor']}, 2 threads, input {one['shape']}"
    more = "Every layout, rank and gradient: [docs/numerics.md](docs/numerics.md)."
    return "\n".join([*lines, "", f"{machine}. {more}"])


def _worst(
    records: list[dict[str, str]], implementation: str, layouts: tuple[str, ...], values: str
) -> float:
    return max(
        float(r["output"])
        for r in records
        if r["implementation"] == implementation
        and r["layout"] in layouts
        and r["values"] == values
    )


def put(document: str) -> str:
    """The document with the table between its two marks."""
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(put(README.read_text()))
