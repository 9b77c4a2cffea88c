"""Write the timings into README.md and docs/performance.md, and draw the plots of the latter.

    python benchmarks/performance.py

All of it follows from ``results/bench.csv`` and, where it is there, ``results/steps.csv``: of each
group the last commit's run. The plots need playwright and Chromium, the texts do not. An SVG file
ends with a digest of its figure, by which a test sees that it was drawn from these records.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from evenkeel import bench
from evenkeel.bench._page import figures, report
from evenkeel.report import render_html

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from evenkeel.bench import Ratio, Record, StepRecord
    from evenkeel.report import Figure

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent
IMAGES: Final = ROOT / "docs" / "images" / "performance"
BEGIN: Final = "<!-- performance: begin (written by benchmarks/performance.py) -->"
END: Final = "<!-- performance: end -->"
#: What README and plots show: how most networks are trained.
USUAL: Final = ("float32", "forward+backward")
#: "No case slower" allows for this much noise.
SLOWER: Final = 1.05
PEERS: Final = {
    "torch": "torch",
    "compile": "torch.compile",
    "keras-tf": "Keras, TF",
    "keras-jax": "Keras, JAX",
    "flax": "Flax",
    "floor": "floor",
}


_One = TypeVar("_One")


def sites() -> list[Record]:
    return in_order(bench.latest(bench.read(HERE / "results" / "bench.csv")))


def in_order(records: Iterable[Record]) -> list[Record]:
    """Groups as the bench names them, whichever of them was timed last."""
    suites = list(bench.SUITES)

    def place(one: Record) -> tuple[int, ...]:
        kind = bench.DTYPES.index(one.dtype), bench.MODES.index(one.mode)
        return suites.index(one.suite), *kind, bench.LAYOUTS.index(one.layout)

    return sorted(records, key=place)


def steps() -> list[StepRecord]:
    path = HERE / "results" / "steps.csv"
    return bench.latest(bench.read(path, bench.StepRecord)) if path.exists() else []


def put(document: str, text: str) -> str:
    """The document with the text between its two marks."""
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}"


def readme(records: Sequence[Record]) -> str:
    """The table of the README, and a line that says where it comes from."""
    shown = usual(records)
    one = shown[0]
    where = f"{one.machine}, {one.threads} threads, {pages(one)}; {one.versions}."
    more = "How it is measured, every group and what is slower: [docs/performance.md]"
    return "\n".join([*ratio_table(shown), "", f"{where} {more}(docs/performance.md)."])


def page(records: Sequence[Record], whole: Sequence[StepRecord]) -> str:
    """What stands between the marks of docs/performance.md."""
    parts = [*plots(usual(records)), "### Ratios {#ratios}", INTRODUCTION]
    for group in parted(records, lambda one: (one.dtype, one.mode, one.huge_pages)):
        heading = f"**{group[0].dtype}, {group[0].mode}, {pages(group[0])}**"
        parts += [heading, "\n".join(ratio_table(group))]
    parts += ["### Slower than torch {#slower}", "\n".join(slower(records))]
    if whole:
        parts += ["### Whole training steps {#steps}", STEPS, *map(step_table, by_network(whole))]
    return "\n\n".join([*parts, "### Where and when", "\n".join(runs([*records, *whole]))])


INTRODUCTION: Final = (
    "Time of the other divided by evenkeel's: above 1, evenkeel is faster. Geometric mean over the "
    "sites of the network, each as often as the network has it; under *floor* the ratio of the "
    "summed times, where 1 is memory's own speed."
)
STEPS: Final = (
    "Forward, loss, backward and a step of SGD with momentum, float32. *Peak* is the most that was "
    "resident in the process, *of the step* what of that was not there before the step, *saved* "
    "what the forward pass keeps for the backward pass, besides parameters and buffers."
)


def usual(records: Sequence[Record]) -> list[Record]:
    """Those of the usual dtype and direction, with the pages that more of them have."""
    those = [one for one in records if (one.dtype, one.mode) == USUAL]
    plain, huge = ([one for one in those if one.huge_pages is wanted] for wanted in (False, True))
    return max(plain, huge, key=len)


def parted(records: Iterable[_One], key: Callable[[_One], object]) -> list[list[_One]]:
    """Groups of equal key, in the order in which they first appear."""
    groups: dict[object, list[_One]] = {}
    for one in records:
        groups.setdefault(key(one), []).append(one)
    return list(groups.values())


def by_network(whole: Sequence[StepRecord]) -> list[list[StepRecord]]:
    return parted(whole, lambda one: one.group)


def pages(one: Record | StepRecord) -> str:
    return "huge pages for everybody" if one.huge_pages else "pages as the system gives them"


def ratio_table(records: Sequence[Record]) -> list[str]:
    """One line for each network and layout, one column for each peer."""
    ratios = bench.ratios(records)
    peers = [peer for peer in PEERS if any(one.peer == peer for one in ratios)]
    lines = ["| network | channels | sites | " + " | ".join(PEERS[p] for p in peers) + " |"]
    lines.append("|---|---|---:|" + "---:|" * len(peers))
    for group in parted(ratios, lambda one: (one.suite, one.layout)):
        found = {one.peer: one for one in group}
        cells = (_ratio(found.get(peer)) for peer in peers)
        one, count = group[0], max(each.sites for each in group)
        lines.append(f"| `{one.suite}` | {one.layout} | {count} | {' | '.join(cells)} |")
    return lines


def _ratio(one: Ratio | None) -> str:
    if one is None:
        return ""
    return f"{one.total if one.peer == 'floor' else one.mean:.2f}"


def slower(records: Sequence[Record]) -> list[str]:
    """Every site where evenkeel's median is more than 5 % above torch's, the worst first."""
    ours = {(one.group, one.site): one for one in records if one.peer == "evenkeel" and one.median}
    pairs = [
        (ours[key].median / one.median, ours[key], one)
        for one in records
        if one.peer == "torch" and one.median and (key := (one.group, one.site)) in ours
    ]
    worse = sorted((p for p in pairs if p[0] > SLOWER), key=lambda p: -p[0])
    text = f"evenkeel's median is more than 5 % above torch's in {len(worse)} of {len(pairs)} cases"
    if not worse:
        return [f"{text}."]
    lines = [f"{text}:", "", "| network | case | evenkeel, ms | torch, ms | evenkeel / torch |"]
    lines.append("|---|---|---:|---:|---:|")
    for ratio, one, theirs in worse:
        how = f"channels {one.layout}, {one.dtype}, {one.mode}{', huge pages' * one.huge_pages}"
        times = f"{1e3 * one.median:.3g} | {1e3 * theirs.median:.3g} | {ratio:.2f}"
        lines.append(f"| `{one.suite}` | {one.title}, {how} | {times} |")
    return lines


def step_table(group: Sequence[StepRecord]) -> str:
    """Time and memory of the variants of one network."""
    one = group[0]
    size = f"{one.batch} images of {one.pixels} x {one.pixels}"
    torch = next((each.median for each in group if each.peer == "torch"), None)
    lines = [f"**{one.network}, {size}, channels {one.layout}, {pages(one)}**", ""]
    lines.append("| | s | p20 to p80 | torch / this | peak, GB | of the step | saved |")
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    lines += [f"| {each.peer} | {_step(each, torch)} |" for each in group]
    problems = [f"{each.peer}: {each.problem}." for each in group if each.problem]
    return "\n".join([*lines, *([""] if problems else []), *problems])


def _step(one: StepRecord, torch: float | None) -> str:
    if one.median is None:
        return " | ".join([""] * 6)
    ratio = f"{torch / one.median:.2f}" if torch else ""
    sizes = ("" if size is None else f"{size / 1e9:.2f}" for size in (one.peak, one.own, one.saved))
    times = f"{one.median:.3g} | {one.p20:.3g} to {one.p80:.3g}"
    return f"{times} | {ratio} | {' | '.join(sizes)}"


def runs(records: Sequence[Record | StepRecord]) -> list[str]:
    """One line for each run: when, which commit, where, with what."""
    found = parted(records, lambda one: (*one.run, one.versions))
    return [
        f"- {max(one.date for one in group)[:10]}, commit `{group[0].commit}`: {group[0].machine}, "
        f"{group[0].threads} threads; {group[0].versions}"
        for group in found
    ]


def plots(records: Sequence[Record]) -> list[str]:
    """The pictures of the page, each in two colour schemes."""
    return [
        "\n".join((*map(_image(figure).format, ("light", "dark")), "", f"*{_below(figure)}*"))
        for figure in figures(records)
    ]


def _image(figure: Figure) -> str:
    file = f"images/performance/{figure.name}-{{0}}.svg#only-{{0}}"
    return f"![{figure.title}. {figure.alt}]({file})"


def _below(figure: Figure) -> str:
    return f"{figure.title}. {figure.caption}"


def digest(figure: Figure) -> str:
    """The last line of a picture that shows this figure."""
    text = json.dumps(asdict(figure), sort_keys=True)
    return f"<!-- figure {hashlib.sha256(text.encode()).hexdigest()[:16]} -->\n"


def draw(records: Sequence[Record]) -> None:
    """Draw the figures as they stand on the page of ``evenkeel bench --plot``."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        html = Path(folder) / "bench.html"
        html.write_text(render_html(report(records, bench.ratios(records))), encoding="utf-8")
        names = [figure.name for figure in figures(records)]
        script = [sys.executable, ROOT / "docs" / "plots.py", html, *names, "--out", IMAGES]
        subprocess.run(script, check=True)
    for figure in figures(records):
        for path in IMAGES.glob(f"{figure.name}-*.svg"):
            path.write_text(path.read_text(encoding="utf-8") + digest(figure), encoding="utf-8")


def main() -> None:
    records = sites()
    for path, text in (
        (ROOT / "README.md", readme(records)),
        (ROOT / "docs" / "performance.md", page(records, steps())),
    ):
        path.write_text(put(path.read_text(encoding="utf-8"), text), encoding="utf-8")
    draw(usual(records))


if __name__ == "__main__":
    main()
