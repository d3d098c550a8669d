# SPDX-License-Identifier: Apache-2.0
"""What the demo found, as tables for a terminal and a Markdown file."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from hylora_eval.demo.settings import NOT_TUNED, RETRIEVALS, VARIANTS, DemoSettings, Variant

# Which attention evaluates, in words.
WAYS = {"own": "each one's own attention", "full": "full attention"}

__all__ = ["Grid", "SeedMean", "grids", "markdown", "perplexity_mean", "recall_mean", "show", "summarize"]


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


def recall_mean(results: list[dict[str, Any]], way: str, length: int, upto: int) -> SeedMean | None:
    """Recall in percent at one document length and up to one distance."""

    def find(result: dict[str, Any]) -> float | None:
        bins = result["recall"][way][str(length)]["bins"]
        return next((100 * entry["accuracy"] for entry in bins if entry["stop"] == upto and entry["answers"]), None)

    return SeedMean.of(map(find, results))


def perplexity_mean(results: list[dict[str, Any]], way: str, length: int) -> SeedMean | None:
    """Perplexity at one context size."""
    return SeedMean.of(result["perplexity"][way][str(length)]["perplexity"] for result in results)


def hit_mean(results: list[dict[str, Any]], rule: str) -> SeedMean | None:
    """Hit rate in percent, mean over KV heads, of one way to choose blocks."""
    return SeedMean.of(100 * result["retrieval"][rule]["hit_rate"] for result in results)


def grids(results: list[dict[str, Any]], settings: DemoSettings) -> list[Grid]:
    """All tables of the report."""
    return [
        *_perplexity_grids(results, settings),
        *_recall_grids(results, settings),
        _retrieval_grid(results, settings),
        _cost_grid(results),
    ]


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
            lambda runs, way=way: [_text(perplexity_mean(runs, way, length)) for length in settings.lengths],
        )


def _recall_grids(results: list[dict[str, Any]], settings: DemoSettings) -> Iterator[Grid]:
    tuned, longest = settings.tuned_length, settings.lengths[-1]
    for length, way in itertools.product((tuned, longest), WAYS):
        distances = [upto for upto in settings.distances if upto <= length]
        bins = [entry for result in results for entry in result["recall"][way][str(length)]["bins"]]
        error = max(entry["standard_error"] or 0 for entry in bins)
        yield _grid(
            results,
            f"Recall with {WAYS[way]}, documents of {length} tokens",
            f"Percent of facts recalled, by distance in tokens; {_spread(settings)}. Standard error over documents: "
            f"at most {100 * error:.1f} points.",
            [f"to {upto}" for upto in distances],
            lambda runs, way=way, length=length, distances=distances: [
                _text(recall_mean(runs, way, length, upto)) for upto in distances
            ],
            detail=length == longest,
        )


def _retrieval_grid(results: list[dict[str, Any]], settings: DemoSettings) -> Grid:
    chance = statistics.fmean(100 * result["retrieval"]["published"]["chance"] for result in results)
    return _grid(
        results,
        f"Retrieval in documents of {settings.tuned_length} tokens",
        "Percent of queries whose needle's block was among those retrieved, over needles before the query's chunk, "
        f"mean over KV heads; random blocks hit {chance:.1f}. Each way to choose is tried on every model.",
        RETRIEVALS,
        lambda runs: [_text(hit_mean(runs, rule)) for rule in RETRIEVALS],
    )


def _cost_grid(results: list[dict[str, Any]]) -> Grid:
    return _grid(
        results,
        "Cost",
        "One thread of this CPU, two runs side by side; memory is what one sequence keeps for its backward "
        "pass. The state-space layers set the pace.",
        ["s/step", "MB/sequence", "tuning s", "testing s"],
        lambda runs: [
            _text(SeedMean.of(result.get("seconds_per_step") for result in runs), 2),
            _text(SeedMean.of(_megabytes(result) for result in runs), 2),
            _text(SeedMean.of(result["tuning_seconds"] for result in runs), 0),
            _text(SeedMean.of(result["evaluation_seconds"] for result in runs), 0),
        ],
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


def _megabytes(result: dict[str, Any]) -> float | None:
    return result["activation_bytes"] / 1e6 if "activation_bytes" in result else None


CAVEATS = """\
What so small a model can and can't show:

- Its state-space layers were kept short of memory on purpose (a step of at least one, decay rates frozen), so that
  attention must recall: under a sliding window nothing beyond the window is recalled. In a trained hybrid the two
  share that work.
- The recall task is synthetic, and dense with questions. A chunk of 64 tokens asks some thirty, and one choice of four
  blocks has to serve them all; "/token" lets each token choose for itself (causal selection, groups of one query).
- "random" is the control. Where retrieval by relevance does no better than random blocks, what fine-tuning gained is
  exposure to distant positions, not retrieval.
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
        parts.append(f"![Perplexity by context size and recall by distance]({picture})")
    for grid in grids(results, settings):
        lines = ["| " + " | ".join(grid.head) + " |", "|" + " --- |" + " ---: |" * (len(grid.head) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in grid.rows]
        parts += [f"## {grid.title}", "\n".join(lines), grid.note]
    return "\n\n".join([*parts, CAVEATS])


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


def _setting(settings: DemoSettings) -> str:
    options = [
        f"- {variant.label}: {', '.join(f'{name} = {value}' for name, value in variant.options.items())}"
        for variant in VARIANTS
        if variant.options
    ]
    seeds = "one seed" if settings.seeds == 1 else f"{settings.seeds} seeds"
    return (
        f"Checkpoint context {settings.lengths[0]}, fine-tuned at {settings.tuned_length} with HyLoRA (r = "
        f"{settings.r}, learning rate {settings.lr}): {settings.steps} steps of {settings.batch} sequences, half "
        f"library text, half recall, the same for every variant; {seeds}. In evaluation the larger chunk is used.\n\n"
        + "\n".join(options)
    )
