# SPDX-License-Identifier: Apache-2.0
"""The sections of a model card that tell of training: what it read, how, and what came of it."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hylora.runs.record import RunRecord
from hylora.runs.whereabouts import is_hub_id
from hylora.training.reporting import flatten

__all__ = ["describe_record", "plain", "public_name", "table"]

_COUNTS = ("documents", "tokens", "rows")
# Of the recipe, what decides what is learned; the rest says where and how fast.
_KEYS = (
    "adapter.",
    "optimizer.",
    "data.packing",
    "training.steps",
    "training.sequence_length",
    "training.global_batch_size",
    "training.mixed_precision",
    "training.seed",
)


def plain(text: str) -> str:
    """Text of others on one line, without markup: no HTML, emphasis, code, formula, named link, picture or cell.

    A bare address stays one, and whoever shows the page may make a link of it, as in any text.
    """
    # Markdown leaves an underscore within a word alone.
    special = r"[\\`*~|!$\[\]]|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(special, r"\\\g<0>", html.escape(" ".join(text.split())))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" if any(cells) else "|" + " |" * len(cells) for cells in lines)


def public_name(source: str) -> str:
    """A hub id as it is; of a path the last part alone, for the rest is nobody's business."""
    return (source if is_hub_id(source) else Path(source).name) or source


def describe_record(record: RunRecord) -> list[str]:
    """Sections on the data, the recipe and the held-out perplexity, as far as the run's folder tells of them."""
    found = (("Data", _data(record)), ("Training", _training(record)), ("Evaluation", _evaluation(record)))
    return [part for title, body in found if body for part in (f"## {title}", body)]


def _data(record: RunRecord) -> str:
    rows = [
        (use, plain(public_name(str(source.get("path", "")))), *(_count(source.get(name)) for name in _COUNTS))
        for name, use in (("train", "training"), ("validation", "held out"))
        for source in record.data.get(name, ())
        if isinstance(source, dict)
    ]
    return table(("", "source", *_COUNTS), rows) if rows else ""


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _training(record: RunRecord) -> str:
    chosen = {
        name: value
        for name, value in flatten(record.recipe).items()
        if name.startswith(_KEYS) and value not in ("null", "{}", "[]")
    }
    rows = [(f"`{name}`", plain(str(value))) for name, value in chosen.items() if re.fullmatch(r"[\w.]+", name)]
    if record.steps:
        rows.insert(0, ("updates made", f"{record.steps:,}"))
    return table(("", ""), rows) if rows else ""


def _evaluation(record: RunRecord) -> str:
    rows = [(label, *map(_perplexity, values)) for label, *values in _comparison(record)]
    if not rows:
        return ""
    length = flatten(record.recipe).get("training.sequence_length")
    limit = record.evaluated_sequences
    sequences = "sequences" if limit is None else f"the first {limit:,} sequences"
    about = f" in {sequences} of {length:,} tokens" if isinstance(length, int) else ""
    return "\n\n".join(
        [
            f"Perplexity of held-out data{about}, by the training loop; lower is better.",
            table(("attention", "before training", "after"), rows),
        ]
    )


def _comparison(record: RunRecord) -> Iterator[tuple[str, float | None, float | None]]:
    for prefix, label in (("", "as in training"), ("full_", "full")):
        both = [ends.get(f"{prefix}perplexity") for ends in (record.base, record.tuned)]
        if both[1] is not None:
            yield label, *both


def _perplexity(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if math.isfinite(value) else "∞"
