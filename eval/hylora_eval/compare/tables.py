# SPDX-License-Identifier: Apache-2.0
"""Several runs against a baseline: a table for each kind of result and context length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hylora_eval.compare.matching import COMPARED, Loss, Scores, Unpaired
from hylora_eval.compare.paired import LEVEL, Difference, holm, right_and_wrong
from hylora_eval.compare.runs import Run
from hylora_eval.results import PlainJson
from hylora_eval.ruler.tasks import AVERAGES

__all__ = ["Line", "Table", "compare_runs"]


@dataclass(frozen=True)
class Line:
    """One run's figure, and how it differs from the baseline's.

    Attributes:
        what: "perplexity", or a task or an average of RULER.
        run: name of the run.
        value: the perplexity, or the score in per cent; None where the run has none.
        difference: to the baseline; None for the baseline, and where the two cannot be paired.
        p: of the difference, corrected for all of the table (Holm); None without a difference.
        unpaired: why there is no difference.
        outcomes: of a task, samples that both have wholly right, the baseline alone, this run alone, and neither;
            None where its samples are not the same.
        best: whether the run is clearly better than every other.
    """

    what: str
    run: str
    value: float | None
    difference: Difference | None = None
    p: float | None = None
    unpaired: Unpaired | None = None
    outcomes: tuple[int, int, int, int] | None = None
    best: bool = False

    @property
    def verdict(self) -> str:
        """ "better" or "worse" than the baseline where that is clear, else nothing."""
        better = self.difference and replace(self.difference, p=self.p).better
        return "" if better is None else "better" if better else "worse"


@dataclass(frozen=True)
class Table(PlainJson):
    """Lines whose p are corrected together.

    Attributes:
        kind: "perplexity" or "ruler".
        title: in words.
        length: context length in tokens.
        comparisons: that p is corrected for.
        lines: for each thing that was measured the baseline first, then the others in their order.
    """

    kind: str
    title: str
    length: int
    comparisons: int
    lines: tuple[Line, ...]


def compare_runs(runs: Sequence[Run], baseline: Run) -> list[Table]:
    """Lay runs against a baseline.

    Args:
        runs: two or more, the baseline among them.
        baseline: to which others differ.

    Returns:
        For each kind that at least two runs have, and each length that the baseline and another have, a table; of
        RULER one of its averages and one of its tasks.

    Raises:
        ValueError: if there is nothing that the baseline shares with another run.
    """
    others = [run for run in runs if run is not baseline]
    tables = []
    for kind in COMPARED:
        having = [baseline, *others]
        keys = [
            key for key in baseline.figures.get(kind, ()) if any(key in run.figures.get(kind, ()) for run in others)
        ]
        for length in sorted({length for _, length in keys}):
            for title, names in _parts(kind, [what for what, at in keys if at == length]):
                tables.append(_table(kind, f"{title}, length {length}", length, names, having))
    if not tables:
        raise ValueError(
            f"no other run has a result of the kinds and context lengths of the baseline {baseline.name!r}; evaluate "
            "all with the same command and --lengths, or name another --baseline"
        )
    return tables


def _parts(kind: str, names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Averages apart from tasks, so that many tasks do not weaken what is said of the averages."""
    if kind == "perplexity":
        yield "Perplexity", names
        return
    parts = {"RULER, averages": [], "RULER, tasks": []}
    for name in names:
        parts["RULER, averages" if name in AVERAGES else "RULER, tasks"].append(name)
    yield from ((title, members) for title, members in parts.items() if members)


def _table(kind: str, title: str, length: int, names: Sequence[str], runs: Sequence[Run]) -> Table:
    lines, best = [], {}
    for what in names:
        figures = {run.name: run.figures.get(kind, {}).get((what, length)) for run in runs}
        first = figures[runs[0].name]
        lines += [_line(what, name, figure, None if figure is first else first) for name, figure in figures.items()]
        best[what] = _ahead([(name, figure) for name, figure in figures.items() if figure is not None])
    corrected = iter(holm(line.difference.p for line in lines if line.difference))
    lines = [replace(line, p=next(corrected) if line.difference else None) for line in lines]
    chances = dict(zip(best, holm(p for _, p in best.values()), strict=True))
    winners = {what: run for what, (run, _) in best.items() if chances[what] < LEVEL and _shows(lines, what, run)}
    lines = [replace(line, best=line.run == winners.get(line.what)) for line in lines]
    return Table(kind, title, length, sum(line.difference is not None for line in lines), tuple(lines))


def _shows(lines: Sequence[Line], what: str, run: str) -> bool:
    """Whether the verdicts on a thing agree that a run is the best: it is better, or as the baseline all are worse."""
    verdicts = [(line.run, line.verdict) for line in lines if line.what == what and line.difference]
    own = [verdict == "better" for name, verdict in verdicts if name == run]
    return all(own or [verdict == "worse" for _, verdict in verdicts])


def _line(what: str, run: str, figure: Loss | Scores | None, baseline: Loss | Scores | None) -> Line:
    """Of a run that has a figure or not; without a baseline it is the baseline's own."""
    if figure is None:
        return Line(what, run, None, unpaired=Unpaired("has no result here: evaluate it at this length too"))
    if baseline is None:
        return Line(what, run, figure.value)
    found = figure.less(baseline)
    if isinstance(found, Unpaired):
        return Line(what, run, figure.value, unpaired=found)
    outcomes = None
    if isinstance(figure, Scores) and what not in AVERAGES:
        outcomes = right_and_wrong(baseline.scores[0], figure.scores[0])
    return Line(what, run, figure.value, found, outcomes=outcomes)


def _ahead(figures: Sequence[tuple[str, Loss | Scores]]) -> tuple[str, float]:
    """The run with the best figure, and the p that it is better than every other: the largest of all pairs."""
    name, leader = (min if isinstance(figures[0][1], Loss) else max)(figures, key=lambda pair: pair[1].value)
    found = [leader.less(figure) for other, figure in figures if other != name]
    paired = [one.p for one in found if isinstance(one, Difference) and one.mean]
    return name, max(paired) if paired and len(paired) == len(found) else 1.0
