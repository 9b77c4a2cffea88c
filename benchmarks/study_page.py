"""Write docs/study.md: claims and rules from the code, findings from the committed figures.

``python benchmarks/study_page.py study/results.json`` takes the figures of a full study over to
``benchmarks/results/study.json`` first; without an argument the page is written from that file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evenkeel.study.sections import SECTIONS

if TYPE_CHECKING:
    from evenkeel.report import Paper
    from evenkeel.study.sections import Section

HERE: Final = Path(__file__).parent
FIGURES: Final = HERE / "results" / "study.json"
PAGE: Final = HERE.parent / "docs" / "study.md"
IMAGES: Final = HERE.parent / "docs" / "images" / "study"
SIGNS: Final = {"holds": "&#10003;", "fails": "&#10007;", "depends": "&#8776;"}

INTRODUCTION: Final = """\
# The study

People repeat a dozen claims about batch normalization; papers dispute half of them. The study
measures them on your machine, on real data, in minutes:

```bash
evenkeel study                        # scikit-learn's handwritten digits
evenkeel study --data idx:mnist/      # MNIST and its relatives
evenkeel study --data folder:photos/  # one folder of images per class
evenkeel study --quick                # a first look in a minute
```

It writes `report.html` (one file, works offline, every plot interactive), `results.json` (every
number, see [its schema](results-schema.md)), `model.safetensors` (the trained network) and
`runs.sqlite` (every finished run, so that `--resume` repeats nothing).

| data | what is read |
|---|---|
| `digits` | 1797 handwritten digits of 8x8 pixels that scikit-learn carries |
| `npz:FILE` | arrays `x` (N, features...) and `y` (N,); nothing is unpickled |
| `idx:DIR` | the four files of MNIST or a relative of it, `.gz` or not |
| `folder:DIR` | one folder of images per class, all of one size, below `train/`, `test/` if split |

A study that was stopped, by Ctrl-C or by a crash, goes on with `--resume` and ends with the
numbers of one that was not. A folder that holds another study is never written to.

Each section below states a claim as people repeat it, the experiment, and the rule by which the
claim counts as holding here, as not holding here, or as depending on something. The rules were
written before the runs of the full study, and the program decides by them: nobody looks at the
plots first. Grids of settings were chosen on single-seed trials, and cut later so that the whole
takes less than eight minutes; one rule, that of training and
inference, got a clause after a trial with three seeds (what has learned nothing is left out). All
intervals are Student's 95% confidence intervals of a mean over seeds. Runs of one seed share
initial weights, training samples and order of batches as far as they can, so differences are
taken seed by seed. With a single seed the value itself stands for its interval.
"""


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of ``results.json``."""
    kept = ("verdict", "findings")
    return {
        "data": results["data"]["name"],
        "seeds": len(results["settings"]["seeds"]),
        "versions": results["versions"],
        "machine": results["machine"],
        "seconds": results["timing"]["seconds"],
        "runs": results["timing"]["runs"],
        "date": results["timing"]["started"][:10],
        "sections": {
            name: {
                "verdict": section["verdict"],
                "headline": section["findings"]["headline"],
                "answer": section["findings"]["answer"].split("\n\n")[0],
                "measures": section["findings"]["measures"],
                "figures": [
                    {key: figure[key] for key in ("name", "title", "alt")}
                    for figure in section["findings"]["figures"]
                ],
            }
            for name, section in results["sections"].items()
            if all(key in section for key in kept)
        },
    }


def page(figures: dict[str, Any] | None) -> str:
    """Return the page in Markdown, with the claims and rules alone where there are no figures."""
    if figures is None:
        return INTRODUCTION + "".join(_section(section, None) for section in SECTIONS)
    machine, versions = figures["machine"], figures["versions"]
    made = (
        f"\nThe findings below are from {figures['date']}: {figures['data']}, {figures['seeds']} "
        f"seeds, {figures['runs']} runs in {figures['seconds']:.0f} seconds on {machine['cores']} "
        f"cores ({machine['architecture']}, {machine['instructions']}), torch "
        f"{versions['torch']}.\n"
    )
    found = figures["sections"]
    lines = ["\n| claim about | verdict |", "|---|---|"]
    lines += [
        f"| [{section.title}](#{section.name}) | {_verdict(found[section.name])} |"
        for section in SECTIONS
        if section.name in found
    ]
    parts = [_section(section, found.get(section.name)) for section in SECTIONS]
    return INTRODUCTION + made + "\n".join(lines) + "\n" + "".join(parts)


def _verdict(entry: dict[str, Any]) -> str:
    return f"{SIGNS[entry['verdict']['kind']]} {entry['verdict']['words']}"


def _section(section: Section[Any, Any], entry: dict[str, Any] | None) -> str:
    lines = [
        f"\n## {section.title} {{ #{section.name} }}\n",
        f"**The claim.** {section.claim}\n",
        f"**How it is tested.** {section.method[0]}\n",
        f"**The rule.** {section.rule}\n",
    ]
    if entry is not None:
        lines.append(
            f"**The verdict: {entry['verdict']['words']}.** {entry['verdict']['reason']}\n"
        )
        lines.append(f"{entry['answer']}\n")
        lines += _image(section.name, entry["figures"])
    lines.append("**What others found.**\n")
    lines += [_paper(paper) for paper in section.papers]
    return "\n".join(lines) + "\n"


def _image(name: str, figures: list[dict[str, str]]) -> list[str]:
    """Return the first figure of a section that was drawn for the site, light and dark."""
    for figure in figures:
        file = f"{name}-{figure['name']}"
        if (IMAGES / f"{file}-light.svg").exists():
            return [
                f"![{figure['title']}. {figure['alt']}](images/study/{file}-{mode}.svg#only-{mode})"
                for mode in ("light", "dark")
            ] + [f"\n*{figure['title']}.*\n"]
    return []


def _paper(paper: Paper) -> str:
    return f"- {paper.cite}, *{paper.title}* ({paper.where}): {paper.says}"


def main() -> None:
    """Take over new figures if a file is named, and write the page."""
    if len(sys.argv) > 1:
        results = json.loads(Path(sys.argv[1]).read_bytes())
        FIGURES.write_text(json.dumps(summary(results), indent=1) + "\n")
    PAGE.write_text(page(json.loads(FIGURES.read_bytes()) if FIGURES.exists() else None))


if __name__ == "__main__":
    main()
