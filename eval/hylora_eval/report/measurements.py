# SPDX-License-Identifier: Apache-2.0
"""What is read from result files: numbers, what they are of, and where each stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hylora_eval.compare.matching import Loss, Scores
from hylora_eval.estimates import mean_of_estimates, percent_interval

__all__ = ["NOT_RECORDED", "NOT_TUNED", "Measurement", "Place", "Source", "Subject", "attention_label", "average"]

NOT_TUNED = "Non-fine-tuned"
NOT_RECORDED = "not recorded"

# As the thesis writes them; transformers' own implementations are all full attention.
_LABELS = {
    "full": "Full-Attn",
    "eager": "Full-Attn",
    "sdpa": "Full-Attn",
    "flex_attention": "Full-Attn",
    "sw_attn": "SW-Attn",
    "s2_attn": "S²-Attn",
    "se_attn": "SE-Attn",
}


def attention_label(name: str | None) -> str:
    """An attention's name as tables show it."""
    if name is None:
        return NOT_RECORDED
    return "Full-Attn" if name.startswith("flash_attention") else _LABELS.get(name, name)


@dataclass(frozen=True)
class Source:
    """A result file.

    Attributes:
        number: by which tables refer to it, from 1.
        path: of the file.
        sha256: of its bytes.
        kind: what was evaluated.
        model: path or hub id that was evaluated.
        created: when, as the file says; "" where it does not.
        versions: of what evaluated, for example "hylora 0.1.0, torch 2.13.0".
    """

    number: int
    path: Path
    sha256: str
    kind: str
    model: str = ""
    created: str = ""
    versions: str = ""


@dataclass(frozen=True)
class Place:
    """Where a number stands: a file, and a path in its JSON such as `results[0].perplexity`."""

    source: Source
    pointer: str

    def __str__(self) -> str:
        return f"{self.source.path}: {self.pointer}"


@dataclass(frozen=True)
class Subject:
    """What was evaluated, and with which attention.

    Attributes:
        run: path or hub id of the model.
        base: the model that its adapter belongs to; `run` where there is no adapter.
        trained: label of the attention it was trained with; "" where training does not matter.
        evaluated: label of the attention it was evaluated with; "" where attention does not matter.
        variant: of the adapter: "LoRA", "LoRA+" or "HyLoRA"; None where there is no adapter, or it is not known.
        rank: of the adapter.
        facts: what else may tell it from others, as (name, value); options carry the name of their attention, since
            those of another say nothing.
    """

    run: str
    base: str
    trained: str
    evaluated: str
    variant: str | None = None
    rank: int | None = None
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """Training and evaluation attention, as rows are called; where neither matters, the run."""
        if not self.evaluated:
            return self.run
        if self.trained == self.evaluated == NOT_RECORDED:
            return f"attention {NOT_RECORDED}"
        return f"{self.trained} → {self.evaluated}" if self.trained else self.evaluated

    def described(self) -> dict[str, str]:
        """Everything that may tell it from others with the same label, apart from the run's name."""
        adapter = {"adapter": self.variant, "rank": None if self.rank is None else str(self.rank)}
        return {name: value for name, value in adapter.items() if value is not None} | dict(self.facts)


@dataclass(frozen=True)
class Measurement:
    """One number.

    Attributes:
        kind: of number: "perplexity", "task", "ruler", "depth", "retrieval", "time" or "memory"; of a training run
            "training", and "images" where it was evaluated on others than its own.
        subject: what it is of.
        item: what was measured, where a kind has several: a task's name, a kind of work.
        length: context length in tokens, an image's side in pixels, or a level of compression; None for none.
        value: the number; None where there should be one (see `remark`).
        error: its standard error; None where there is none.
        places: where it stands; several for an average.
        spread: smallest and largest of what `value` is the median of; None where there is none.
        interval: of 95 %, None where only an error is known.
        samples: that it is from, where its interval follows from their number; None elsewhere.
        chance: what chance gives; None where that says nothing.
        conditions: (name, value) that numbers must share to stand in one table.
        variations: (name, value) that numbers should share: where one deviates in its column, a note says so.
        data: what it was measured on, in words.
        remark: why there is no value.
        remarks: what to beware of in the value, for footnotes.
        higher_is_better: None where that is not known.
        figure: what it is compared by, with its documents or samples where its file keeps them; None where nothing
            but its errors can tell.
        depths: of the needles of each sample, in per cent of the context; empty for other numbers.
    """

    kind: str
    subject: Subject
    item: str
    length: float | None
    value: float | None
    error: float | None
    places: tuple[Place, ...]
    spread: tuple[float, float] | None = None
    interval: tuple[float, float] | None = None
    samples: int | None = None
    chance: float | None = None
    conditions: tuple[tuple[str, str], ...] = ()
    variations: tuple[tuple[str, str], ...] = ()
    data: str = ""
    remark: str = ""
    remarks: tuple[str, ...] = ()
    higher_is_better: bool | None = None
    figure: Loss | Scores | None = field(default=None, compare=False, repr=False)
    depths: tuple[tuple[float, ...], ...] = field(default=(), compare=False, repr=False)

    @property
    def key(self) -> tuple:
        """Equal for two measurements of the same thing."""
        return self.kind, self.subject, self.item, self.length, self.conditions

    @property
    def finite(self) -> bool:
        """Whether there is a value that can be compared and drawn."""
        return self.value is not None and math.isfinite(self.value)


def average(item: str, measurements: Sequence[Measurement]) -> Measurement:
    """The plain mean of measurements of one subject; its standard error is that of a sum of independent estimates.

    Args:
        item: its name.
        measurements: of one kind and length, at least one, each with a value.
    """
    value, error = mean_of_estimates([one.value for one in measurements], [one.error for one in measurements])
    variations: dict[str, dict[str, None]] = {}
    for measurement in measurements:
        for name, varied in measurement.variations:
            variations.setdefault(name, {})[varied] = None
    # As many as the fewest of any, where some have fewer: an interval should not be too small.
    known = None not in (samples := [one.samples for one in measurements])
    return replace(
        measurements[0],
        item=item,
        value=value,
        error=error,
        samples=len(samples) * min(samples) if known else None,
        interval=percent_interval(value, len(samples) * min(samples)) if known else None,
        places=tuple(dict.fromkeys(place for measurement in measurements for place in measurement.places)),
        variations=tuple((name, " / ".join(values)) for name, values in variations.items()),
        remarks=tuple(dict.fromkeys(remark for measurement in measurements for remark in measurement.remarks)),
        figure=_mean_figure([one.figure for one in measurements]),
        depths=(),
    )


def _mean_figure(figures: Sequence[Loss | Scores | None]) -> Scores | None:
    """The mean of several scores; of anything else there is none."""
    if not all(isinstance(figure, Scores) for figure in figures):
        return None
    return Scores(*(sum((getattr(one, name) for one in figures), ()) for name in Scores.__match_args__))
