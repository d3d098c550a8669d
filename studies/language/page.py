# SPDX-License-Identifier: Apache-2.0
"""Write the tables of docs/concepts/study.md between their marks, and draw study.png, from results/.

    python studies/language/page.py

Another page and another picture may be named.
"""

from __future__ import annotations

import math
import random
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from cells import HERE, MODELS, QUESTIONS, Question, check_bases, settings
from claims import UNCLEAR, Judged, clear_difference, judge, values

ROOT = HERE.parents[1]
# What a table says of each setting, as `claims.figure` has it.
COLUMNS = {
    "perplexity 1024": "full nll 1024",
    "perplexity 4096": "full nll 4096",
    "facts 1024": "full facts 1024",
    "facts 2048": "full facts 2048",
    "facts 4096": "full facts 4096",
    "all facts": "full facts",
}
OWN = {
    "perplexity 1024": "own nll 1024",
    "perplexity 4096": "own nll 4096",
    "facts 1024": "own facts 1024",
    "facts 2048": "own facts 2048",
    "facts 4096": "own facts 4096",
    "all facts": "own facts",
    "in steps": "own steps",
}
# Draws of settings for the interval of a correlation.
DRAWS = 2000


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table in Markdown, whose first so many columns hold words."""
    marks = ["---" if index < words else "--:" for index in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *rows))


def figures(question: Question, model: str, columns: dict[str, str]) -> str:
    """What each setting came to, and by how much two of them must differ to do so clearly."""
    settings = question.settings[model]
    found = {on: values(model, settings, on, question.seeds) for on in columns.values()}
    rows = [[name, *(_said(of.get(name), on) for on, of in found.items())] for name in settings]
    rows.append(["*clear difference*", *(_clear(of, on) for on, of in found.items())])
    return grid([model, *columns], rows)


def _said(figures: list[float] | None, on: str) -> str:
    if figures is None:
        return ""
    return f"{math.exp(statistics.fmean(figures)):.1f}" if " nll" in on else f"{statistics.fmean(figures):.0f}"


def _clear(found: dict[str, list[float]], on: str) -> str:
    if len(found) < 2:
        return ""
    least = clear_difference(list(found.values()))
    return f"*{100 * math.expm1(least):.1f} %*" if " nll" in on else f"*{least:.0f}*"


def verdicts() -> str:
    """How every claim came out."""
    rows = []
    for question in map(Question.load, QUESTIONS):
        source = f" ({question.source})" if question.source else ""
        rows.append([f"**{question.title}**{source}", *([""] * (1 + len(MODELS)))])
        judged = {(one.claim["claim"], one.model): _verdict(one) for one in judge(question)}
        for claim in question.claims:
            said = (judged.get((claim["claim"], model), "") for model in MODELS)
            rows.append([claim["claim"], claim.get("thesis", "ours"), *said])
    return grid(["claim", "thesis", *MODELS], rows, words=2 + len(MODELS))


def _verdict(judged: Judged) -> str:
    difference, reach, unit = judged.difference, judged.reach, ""
    if " nll" in judged.claim["measure"]:
        difference, reach, unit = 100 * math.expm1(difference), 100 * math.expm1(reach), " %"
    verdict = judged.verdict if judged.verdict == UNCLEAR else f"**{judged.verdict}**"
    return f"{verdict}: {difference:+.1f} ± {reach:.1f}{unit}"


def ranks(numbers: Sequence[float]) -> list[float]:
    """The place of each number among all, those of equals averaged."""
    ordered = sorted(numbers)
    return [ordered.index(number) + (ordered.count(number) - 1) / 2 for number in numbers]


def correlation(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Spearman's, and its 95 % interval over draws of the pairs."""
    draw = random.Random(0)
    found = []
    while len(found) < DRAWS:
        chosen = [draw.randrange(len(first)) for _ in first]
        # Where all are the same, nothing goes with anything.
        if all(len({each[index] for index in chosen}) > 1 for each in (first, second)):
            found.append(
                statistics.correlation(*(ranks([each[index] for index in chosen]) for each in (first, second)))
            )
    found.sort()
    middle = statistics.correlation(ranks(first), ranks(second))
    return middle, found[int(0.025 * DRAWS)], found[int(0.975 * DRAWS) - 1]


def signal(model: str = "hybrid", seeds: int = 3) -> str:
    """How well perplexity foretells facts, over all settings that are fine-tuned."""
    tuned = [setting for setting, overrides in settings().items() if overrides is not None]
    facts = {on: values(model, tuned, on, seeds) for on in ("full facts 1024", "full facts 4096")}
    rows = []
    for length in (256, 1024, 4096):
        cells = []
        for found in facts.values():
            losses = values(model, found, f"full nll {length}", seeds)
            pairs = [(-statistics.fmean(losses[name]), statistics.fmean(found[name])) for name in found]
            # Of few settings nothing can be said.
            several = len(pairs) >= 8
            cells.append("{:.2f} [{:.2f}, {:.2f}]".format(*correlation(*zip(*pairs, strict=True))) if several else "")
        rows.append([f"perplexity {length}", *cells])
    return grid([f"{len(facts['full facts 1024'])} settings", "facts 1024", "facts 4096"], rows)


def sections() -> Iterator[tuple[str, str]]:
    """Every table, by the name of its mark."""
    for name in QUESTIONS:
        question = Question.load(name)
        short = name.partition("_")[2]
        for model in question.settings:
            yield f"{short} {model}", figures(question, model, COLUMNS)
            if any(claim["measure"].startswith("own") for claim in question.claims):
                yield f"{short} {model} own", figures(question, model, OWN)
    yield "verdicts", verdicts()
    yield "signal", signal()


def fill(text: str, tables: Iterator[tuple[str, str]]) -> str:
    """A page with every table between its marks, `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        SystemExit: if the page asks for a table that is not made.
    """
    made = dict(tables)

    def table(match: re.Match[str]) -> str:
        if match[1] not in made:
            raise SystemExit(f"the page asks for {match[1]!r}, which is none of {', '.join(made)}")
        return f"<!-- {match[1]} -->\n\n{made[match[1]]}\n\n<!-- end -->"

    return re.sub(r"<!-- ((?!end).+?) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def draw(path: Path) -> None:
    """Facts by length for each way to fine-tune, evaluated with full attention and with its own."""
    question = Question.load(QUESTIONS[0])
    figure, axes = plt.subplots(1, 2 * len(MODELS), figsize=(13, 3.6), layout="constrained", sharey=True)
    lengths = (1024, 2048, 4096)
    colours = {name: plt.get_cmap("tab10")(number) for number, name in enumerate(question.settings["hybrid"])}
    for axis, (model, way) in zip(axes, ((model, way) for model in MODELS for way in ("full", "own")), strict=True):
        chosen = [name for name in question.settings[model] if way == "full" or name != "not tuned"]
        found = [values(model, chosen, f"{way} facts {length}", question.seeds) for length in lengths]
        for name in found[0]:
            axis.plot([statistics.fmean(of[name]) for of in found], marker="o", label=name, color=colours[name])
        # Two settings differ clearly where they lie farther apart than this.
        for place, of in enumerate(found):
            least = clear_difference(list(of.values())) if len(of) > 1 else 0
            axis.plot([place + 0.15] * 2, [98 - least, 98], color="grey", linewidth=3, solid_capstyle="butt")
        axis.set_xticks(range(3), [f"{length}\n({length // 256}x)" for length in lengths])
        axis.set_title(f"{model}, {'full attention' if way == 'full' else 'its own attention'}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("facts recalled [%]")
    axes[0].set_ylim(0, 100)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", title="fine-tuned with")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Write the page and draw the picture."""
    defaults = [ROOT / "docs/concepts/study.md", ROOT / "docs/images/study.png"]
    page, picture = [*map(Path, sys.argv[1:]), *defaults[len(sys.argv) - 1 :]]
    check_bases()
    page.write_text(fill(page.read_text(), sections()))
    draw(picture)


if __name__ == "__main__":
    main()
