# SPDX-License-Identifier: Apache-2.0
"""`hylora eval compare`: whether one result is better than another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.markup import escape

from hylora_eval.commands.frame import Overwrite, number_table
from hylora_eval.compare.paired import LEVEL
from hylora_eval.compare.runs import find_run, read_runs
from hylora_eval.compare.tables import Line, Table, compare_runs
from hylora_eval.results import Result, check_output
from hylora_eval.wording import number_of

__all__ = ["compare"]

_METHODS = {
    "jackknife": "Student's t over documents, with the jackknife's error",
    "sign test": "the sign test where all documents differ by the same for each token",
    "mcnemar": "McNemar's exact test where samples are right or wrong",
    "sign flips": "a test by flipping signs for partial scores and averages",
}


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Result files, or folders with one of each kind.")
    ],
    baseline: Annotated[str | None, typer.Option(help="Run that others differ from; by default the first.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the comparison, as JSON.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare results of ppl and ruler document by document and sample by sample.

    Raises:
        FileNotFoundError: if a result does not exist.
        ValueError: if a result is damaged, there is nothing to compare, or the output is taken.
    """
    if output is not None:
        check_output(output, overwrite)
    found = read_runs(runs)
    first = find_run(found, baseline)
    tables = compare_runs(found, first)
    console = Console(highlight=False)
    for table in tables:
        for part in _shown(table, first.name):
            console.print(part)
    for sentence in _closing(tables):
        console.print(sentence)
    if output is not None:
        Result(
            kind="compare",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            baseline=first.name,
            level=LEVEL,
            runs=[
                {
                    "name": run.name,
                    "files": [{"path": str(path), "sha256": sha256} for path, sha256 in run.files],
                }
                for run in found
            ],
            tables=[table.to_dict() for table in tables],
        ).save(output)


def _shown(table: Table, baseline: str) -> Iterator[RenderableType]:
    """The table, one of who has which samples right, and a line for each reason why two could not be paired."""
    named = table.kind != "perplexity"
    figure = "perplexity" if table.kind == "perplexity" else "score"
    yield _laid(table.title, (figure, f"against {baseline}", "p", ""), table.lines, named, _cells)
    counted = [line for line in table.lines if line.outcomes]
    if counted:
        headings = ("both", "baseline", "run", "none")
        yield _laid("Samples with all answers right", headings, counted, named, lambda line: map(str, line.outcomes))
    reasons: dict[str, list[str]] = {}
    for line in table.lines:
        if line.unpaired:
            reasons.setdefault(f"{line.run}: {line.unpaired.reason}", []).append(line.what)
    for reason, of in reasons.items():
        yield escape(f"Not paired: {reason}" + (f" ({', '.join(of)})" if named else "") + ".")
    yield ""


def _laid(
    title: str, headings: Iterable[str], lines: Sequence[Line], named: bool, cells: Callable[[Line], Iterable[str]]
) -> RenderableType:
    """A row for each line, a section for each thing that lines are of, and its name where it needs one."""
    shown = number_table(title, (*(["of"] if named else []), "run", *headings), words=1 + named)
    before = None
    for line in lines:
        if before not in (None, line.what):
            shown.add_section()
        shown.add_row(*(["" if line.what == before else line.what] if named else []), escape(line.run), *cells(line))
        before = line.what
    return shown


def _cells(line: Line) -> tuple[str, str, str, str]:
    """Figure, difference with its interval, p, and what is clear."""
    figure = "" if line.value is None else f"{line.value:.{1 if line.what != 'perplexity' else 3}f}"
    found = line.difference or line.unpaired
    if found is None or found.mean is None:
        return figure, "", "", "best" if line.best else ""
    mean, low, high = (_change(value, line.what) for value in (found.mean, found.low, found.high))
    difference = f"{mean}{' %' if line.what == 'perplexity' else ''} \\[{low}, {high}]"
    if line.unpaired:
        return figure, difference, "", "unpaired"
    p = "< 0.0001" if line.p < 1e-4 else f"{line.p:.4f}"
    return figure, difference, p, " and ".join(filter(None, (line.verdict, "best" if line.best else "")))


def _change(value: float, what: str) -> str:
    """Of a score in points; of a loss as the change of the perplexity in per cent."""
    if what != "perplexity":
        return f"{value:+.1f}"
    return f"{100 * math.expm1(min(value, 700)):+.2f}"


def _closing(tables: list[Table]) -> Iterator[str]:
    """How sure all that is, in sentences."""
    differences = [line.difference for table in tables for line in table.lines if line.difference]
    if differences:
        ways = [text for name, text in _METHODS.items() if name in {one.method for one in differences}]
        counts = sorted({table.comparisons for table in tables if table.comparisons})
        of = number_of(counts[0], "comparison") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} comparisons"
        yield "In brackets: 95 % intervals of differences between the same documents or samples, each by itself."
        yield f"p: {'; '.join(ways)}; corrected for the {of} of its table (Holm)."
        yield f"Better and worse stand where p is below {LEVEL}, best where a run is clearly better than every other."
    if any(line.outcomes for table in tables for line in table.lines):
        yield "Both, baseline, run, none: samples with all answers right under both, one alone of the two, or none."
    if any(line.unpaired and line.unpaired.mean is not None for table in tables for line in table.lines):
        yield "Unpaired intervals are as if from other items each: far wider, and nothing is marked by them."
