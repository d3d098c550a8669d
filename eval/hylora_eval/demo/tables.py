# SPDX-License-Identifier: Apache-2.0
"""What the demo found, as tables for a terminal and a Markdown file."""

from __future__ import annotations

import itertools
import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from hylora_eval.demo.settings import CHUNK, MIXTURE, NOT_TUNED, RETRIEVALS, VARIANTS, DemoSettings, Variant
from hylora_eval.verdicts import VERDICTS, hit_interval, judge

# Which attention evaluates, in words.
WAYS = {"own": "each one's own attention", "full": "full attention"}

__all__ = ["Grid", "SeedMean", "far_recall_mean", "grid_markdown", "grids", "markdown", "show", "summarize"]


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds, and the largest deviation of a seed from it (None where there is one seed)."""

    mean: float
    spread: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> SeedMean | None:
        """The mean of the seeds' values; None if none was measured."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        mean = statistics.fmean(known)
        return cls(mean, max(abs(value - mean) for value in known) if len(known) > 1 else None)

    def text(self, digits: int) -> str:
        """For a table: `12.3 ± 0.4`."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.spread is None else f"{mean} ± {self.spread:.{digits}f}"


@dataclass(frozen=True)
class Grid:
    """A table: a title, what to know when reading it, column heads, and a row of text for each model.

    `detail` marks tables that are left to the Markdown file.
    """

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    detail: bool = False


def summarize(results: list[dict[str, Any]]) -> list[tuple[Variant, list[dict[str, Any]]]]:
    """The results of each variant's seeds, in the order of the tables."""
    return [
        (variant, [result for result in results if result["variant"] == variant.name])
        for variant in (NOT_TUNED, *VARIANTS)
    ]


def far_recall_mean(results: list[dict[str, Any]], way: str, task: str) -> SeedMean | None:
    """Recall in percent of facts from beyond the chunk."""
    return SeedMean.of(_recall(result["recall"][way][task]["bins"], CHUNK, math.inf) for result in results)


def grids(results: list[dict[str, Any]], settings: DemoSettings) -> list[Grid]:
    """All tables of the report."""
    return [
        *_recall_grids(results, settings),
        *_perplexity_grids(results, settings),
        _generation_grid(results, settings),
        _retrieval_grid(results, settings),
        *_distance_grids(results, settings),
        _cost_grid(results),
    ]


def _recall(bins: list[dict[str, Any]], start: int, stop: float) -> float | None:
    """Recall in percent over the bins from `start` to `stop`."""
    inside = [entry for entry in bins if start <= entry["start"] and entry["stop"] <= stop and entry["answers"]]
    answers = sum(entry["answers"] for entry in inside)
    return 100 * sum(entry["accuracy"] * entry["answers"] for entry in inside) / answers if answers else None


def _recall_grids(results: list[dict[str, Any]], settings: DemoSettings) -> Iterator[Grid]:
    tasks = [*settings.dense_tasks, *settings.sparse_tasks]
    for way, attention in WAYS.items():
        error = max(result["recall"][way][task]["standard_error"] or 0 for result in results for task in tasks)
        yield _grid(
            results,
            f"Recall with {attention}",
            f"Percent of facts recalled from {CHUNK} tokens back or more, by the document's length. Dense: "
            "only facts. Sparse, end: facts in held-out text, four of which are asked for anywhere or at the end; "
            f"{_spread(settings)}. Standard error over documents: at most {100 * error:.0f} points.",
            tasks,
            lambda runs, way=way: [_text(far_recall_mean(runs, way, task)) for task in tasks],
        )


def _distance_grids(results: list[dict[str, Any]], settings: DemoSettings) -> Iterator[Grid]:
    edges = list(itertools.pairwise((0, *(upto for upto in settings.distances if upto <= settings.tuned_length))))
    task = next(iter(settings.dense_tasks))
    for way, attention in WAYS.items():
        yield _grid(
            results,
            f"Recall by distance with {attention}, {task}",
            f"Percent of facts recalled, by distance in tokens; {_spread(settings)}.",
            [f"to {stop}" for _, stop in edges],
            lambda runs, way=way: [
                _text(SeedMean.of(_recall(result["recall"][way][task]["bins"], *edge) for result in runs))
                for edge in edges
            ],
            detail=True,
        )


def _perplexity_grids(results: list[dict[str, Any]], settings: DemoSettings) -> Iterator[Grid]:
    for way, attention in WAYS.items():
        entries = [entry for result in results for entry in result["perplexity"][way].values()]
        errors = [entry["perplexity_standard_error"] for entry in entries]
        yield _grid(
            results,
            f"Perplexity with {attention} (Table {'6.1' if way == 'own' else '6.2'} in miniature)",
            f"Held-out library text, the same tokens at every context size; {_spread(settings)}. Standard error over "
            f"the {entries[0]['documents']} documents, which all rows share: {min(errors):.1f} to {max(errors):.1f}.",
            [str(length) for length in settings.lengths],
            lambda runs, way=way: [
                _text(SeedMean.of(result["perplexity"][way][str(length)]["perplexity"] for result in runs))
                for length in settings.lengths
            ],
        )


def _generation_grid(results: list[dict[str, Any]], settings: DemoSettings) -> Grid:
    def share(runs: list[dict[str, Any]], field: str) -> str:
        return _text(SeedMean.of(100 * run["generation"][field] for run in runs if "generation" in run))

    return _grid(
        results,
        f"Generation, end {settings.tuned_length}",
        "Percent of facts recalled, with each one's own attention, where the second half of the document is read "
        "token by token with a cache (SpanCache for SE-Attn, transformers' own for full attention) and where all is "
        f"read in one pass, and percent of equal answers; {_spread(settings)}.",
        ("token by token", "in one pass", "equal"),
        lambda runs: [share(runs, field) for field in ("steps", "pass", "agreement")],
    )


def _retrieval_grid(results: list[dict[str, Any]], settings: DemoSettings) -> Grid:
    ways = list(itertools.product(RETRIEVALS, settings.retrieval_tasks))

    def hits(runs: list[dict[str, Any]], field: str) -> list[SeedMean]:
        return [SeedMean.of(100 * run["retrieval"][rule][task][field] for run in runs) for rule, task in ways]

    chances = [chance.mean for chance in hits(results, "chance")]
    heads = [f"{rule}, {task}" for rule, task in ways]
    return _grid(
        results,
        "Retrieval",
        "Percent of queries whose needle's block was among those retrieved, over needles before the query's chunk, "
        f"mean over KV heads; random blocks hit {min(chances):.0f} to {max(chances):.0f}. Each way to choose is tried "
        f"on every model. {_against_chance(results, settings, dict(zip(heads, ways, strict=True)))}",
        heads,
        lambda runs: [_text(cell) for cell in hits(runs, "hit_rate")],
        detail=True,
    )


def _against_chance(results: list[dict[str, Any]], settings: DemoSettings, ways: dict[str, tuple[str, str]]) -> str:
    """Which hit rates are not above chance, by their 95 % intervals over documents."""
    judged: dict[str, dict[str, list[str]]] = {verdict: {} for verdict in VERDICTS}
    models = summarize(results)
    for head, (rule, task) in ways.items():
        for variant, runs in models:
            found = [run["retrieval"][rule][task] for run in runs]
            # The seeds read the same documents, so that more of them do not make the mean surer.
            means = {name: _mean_known(each[name] for each in found) for name in ("hit_rate", "standard_error")}
            interval = hit_interval({**means, "queries": found[0]["queries"]}, settings.recall_documents)
            judged[judge(interval, found[0]["chance"])].setdefault(head, []).append(variant.label)
    parts = []
    for verdict in VERDICTS[1:]:
        told = (
            f"{head} ({'all' if len(names) == len(models) else ', '.join(names)})"
            for head, names in judged[verdict].items()
        )
        if judged[verdict]:
            parts.append(f"{verdict.capitalize()}, by 95 % intervals over documents: {'; '.join(told)}")
    return f"{'. '.join(parts)}. All others are above it." if parts else "All are above it."


def _mean_known(values: Iterable[float | None]) -> float | None:
    mean = SeedMean.of(values)
    return None if mean is None else mean.mean


def _cost_grid(results: list[dict[str, Any]]) -> Grid:
    return _grid(
        results,
        "Cost",
        "One thread of this CPU, two runs side by side. The state-space layers set the pace.",
        ("s/step", "tuning s", "testing s"),
        lambda runs: [
            _text(SeedMean.of(result.get("seconds_per_step") for result in runs), 2),
            _text(SeedMean.of(result["tuning_seconds"] for result in runs), 0),
            _text(SeedMean.of(result["evaluation_seconds"] for result in runs), 0),
        ],
        detail=True,
    )


def _grid(
    results: list[dict[str, Any]],
    title: str,
    note: str,
    head: Iterable[str],
    cells: Callable[[list[dict[str, Any]]], list[str]],
    detail: bool = False,
) -> Grid:
    rows = tuple((variant.label, *cells(runs)) for variant, runs in summarize(results))
    return Grid(title, note, ("fine-tuned with", *head), rows, detail)


def _text(cell: SeedMean | None, digits: int = 1) -> str:
    return "–" if cell is None else cell.text(digits)


def _spread(settings: DemoSettings) -> str:
    return "± is the distance of a seed from the mean" if settings.seeds > 1 else "one seed"


CAVEATS = """\
What so small a model can and can't show:

- Its state-space layers were kept short of memory on purpose (a step of at least one, decay rates frozen), so that
  attention must recall: under a sliding window nothing beyond the window is recalled. In a trained hybrid the two
  share that work.
- The recall tasks are synthetic, and every needle is one token. A fact is a line out of place in its text, which makes
  its keys stand out: that is what summaries with a spread find. Whether needles stand out so in a large model is open.
- "random" is the control, the mean of several draws. Where retrieval by relevance does no better, what fine-tuning
  gained is exposure to distant positions, not retrieval.
- Tables with one kind of attention alone would mislead. With its own attention a sliding window looks best on text
  that hardly needs the long context; with full attention it shows what was not learned.
- Embeddings are most of what is trained. At this length sparse attention has nothing to save, in time or in memory.
"""


def markdown(results: list[dict[str, Any]], settings: DemoSettings, picture: str | None) -> str:
    """The report as Markdown.

    Args:
        results: of all models.
        settings: of the demo.
        picture: its path relative to the report, or None without one.
    """
    parts = ["# A small hybrid, stretched to four times its context", _setting(settings)]
    if picture:
        parts.append(f"![Recall with own attention, dense and sparse]({picture})")
    parts += [grid_markdown(grid) for grid in grids(results, settings)]
    return "\n\n".join([*parts, CAVEATS])


def grid_markdown(grid: Grid, level: str = "##") -> str:
    """A table with its title, a heading of that level, and its note."""
    lines = ["| " + " | ".join(grid.head) + " |", "|" + " --- |" + " ---: |" * (len(grid.head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in grid.rows]
    return "\n\n".join([f"{level} {grid.title}", "\n".join(lines), textwrap.fill(grid.note, 120)])


def show(results: list[dict[str, Any]], settings: DemoSettings, console: Console) -> None:
    """The report on a terminal."""
    for grid in grids(results, settings):
        if grid.detail:
            continue
        table = Table(title=grid.title, caption=grid.note, title_justify="left", caption_justify="left")
        for index, head in enumerate(grid.head):
            table.add_column(head, justify="left" if index == 0 else "right")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    console.print(Markdown(CAVEATS))


def _mixture() -> str:
    names = {"recall": "rows of facts", "facts": "library text with facts in it", "text": "library text"}
    return ", ".join(f"{100 * share:.0f} % {names[kind]}" for kind, share in MIXTURE.items())


def _setting(settings: DemoSettings) -> str:
    options = [
        f"- {variant.label}: {', '.join(f'{name} = {value}' for name, value in variant.options.items())}"
        for variant in VARIANTS
        if variant.options
    ]
    seeds = "one seed" if settings.seeds == 1 else f"{settings.seeds} seeds"
    return (
        f"Checkpoint context {settings.lengths[0]}, fine-tuned at {settings.tuned_length} with HyLoRA (r = "
        f"{settings.r}, learning rate {settings.lr}): {settings.steps} steps of {settings.batch} sequences, "
        f"{_mixture()}, the same for every variant; {seeds}. In evaluation the larger chunk is used.\n\n"
        + "\n".join(options)
    )
