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
from cells import HERE, MODELS, QUESTIONS, Question, settings
from claims import HELD, NOT_HELD, Estimate, Judged, estimate, judge, values

ROOT = HERE.parents[1]
# What a table says of each setting, as `claims.figure` has it.
COLUMNS = {
    "perplexity 1024": "full nll 1024",
    "perplexity 4096": "full nll 4096",
    "facts 1024": "full facts 1024",
    "facts 2048": "full facts 2048",
    "facts 4096": "full facts 4096",
    "RULER": "full ruler",
}
OWN = {
    "perplexity 1024": "own nll 1024",
    "perplexity 4096": "own nll 4096",
    "facts 1024": "own facts 1024",
    "facts 2048": "own facts 2048",
    "facts 4096": "own facts 4096",
    "in steps": "own steps",
}
# Draws of settings for the interval of a correlation.
DRAWS = 2000


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table in Markdown, whose first so many columns hold words."""
    marks = ["---" if index < words else "--:" for index in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *rows))


def said(found: Estimate | None, on: str) -> str:
    """A figure and half of its interval."""
    if found is None:
        return ""
    if " nll" in on:
        middle = math.exp(found.mean)
        return f"{middle:.1f}" + ("" if found.reach is None else f" ± {middle * math.expm1(found.reach):.1f}")
    return f"{found.mean:.0f}" + ("" if found.reach is None else f" ± {found.reach:.0f}")


def figures(question: Question, model: str, columns: dict[str, str]) -> str:
    """What each setting came to."""
    rows = []
    for setting in question.settings[model]:
        found = {on: values(model, setting, on, question.seeds) for on in columns.values()}
        rows.append([setting, *(said(estimate(list(by.values())) if by else None, on) for on, by in found.items())])
    return grid([model, *columns], rows)


def in_favour(judged: Judged) -> str:
    """By how much more the better setting has; of perplexity, by how much less."""
    scale, unit = (100, " %") if " nll" in judged.claim["measure"] else (1, "")
    mean, reach = scale * judged.difference.mean, judged.difference.reach
    return f"{mean:+.1f}" + ("" if reach is None else f" ± {scale * reach:.1f}") + unit


def claims(question: Question) -> str:
    """How each claim came out."""
    rows = []
    for judged in judge(question):
        claim = judged.claim
        verdict = f"**{judged.verdict}**" if judged.verdict in (HELD, NOT_HELD) else judged.verdict
        rows.append([claim["claim"], judged.model, claim.get("thesis", "ours"), in_favour(judged), verdict])
    return grid(["claim", "model", "thesis", "in its favour", "here"], rows, words=3)


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
        if len(set(chosen)) > 2:
            found.append(
                statistics.correlation(*(ranks([each[index] for index in chosen]) for each in (first, second)))
            )
    found.sort()
    middle = statistics.correlation(ranks(first), ranks(second))
    return middle, found[int(0.025 * DRAWS)], found[int(0.975 * DRAWS) - 1]


def signal(model: str = "hybrid", seeds: int = 3) -> str:
    """How well perplexity foretells needles, over all settings that are fine-tuned."""
    means: dict[str, list[float]] = {}
    for setting, overrides in settings().items():
        if overrides is not None and values(model, setting, "full nll 1024", seeds):
            for on in ("full nll 1024", "full nll 4096", "full facts", "full ruler"):
                means.setdefault(on, []).append(statistics.fmean(values(model, setting, on, seeds).values()))
    rows = []
    for nll, length in (("full nll 1024", "1024"), ("full nll 4096", "4096")):
        cells = []
        for on in ("full facts", "full ruler"):
            middle, low, high = correlation([-one for one in means[nll]], means[on])
            cells.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
        rows.append([f"perplexity {length}", *cells])
    middle, low, high = correlation(means["full facts"], means["full ruler"])
    rows.append(["facts", "", f"{middle:.2f} [{low:.2f}, {high:.2f}]"])
    return grid([f"{len(means['full facts'])} settings", "facts", "RULER"], rows)


def sections() -> Iterator[tuple[str, str]]:
    """Every table, by the name of its mark."""
    for name in QUESTIONS:
        question = Question.load(name)
        short = name.partition("_")[2]
        yield f"{short} claims", claims(question)
        for model in question.settings:
            yield f"{short} {model}", figures(question, model, COLUMNS)
            if any(claim["measure"].startswith("own") for claim in question.claims):
                yield f"{short} {model} own", figures(question, model, OWN)
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
        for setting in question.settings[model]:
            found = [values(model, setting, f"{way} facts {length}", question.seeds) for length in lengths]
            if way == "own" and setting in ("not tuned",) or not all(found):
                continue
            estimates = [estimate(list(by.values())) for by in found]
            middles = [each.mean for each in estimates]
            axis.plot(range(3), middles, marker="o", label=setting, color=colours[setting])
            for place, each in enumerate(estimates):
                if each.reach is not None:
                    reach = [each.mean - each.reach, each.mean + each.reach]
                    axis.plot([place] * 2, reach, color=colours[setting], linewidth=1)
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
    page.write_text(fill(page.read_text(), sections()))
    draw(picture)


if __name__ == "__main__":
    main()
