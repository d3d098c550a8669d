# SPDX-License-Identifier: Apache-2.0
"""What two results share, and the differences between them; where they share too little, why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from hylora_eval.compare.paired import Difference, paired_average, paired_ratio
from hylora_eval.estimates import complete_groups, percent_interval, t_quantile
from hylora_eval.results import Result, pointer
from hylora_eval.ruler.tasks import AVERAGES

__all__ = ["COMPARED", "Compared", "Loss", "Scores", "Unpaired", "difference", "differences", "read_figures"]

# Kinds of results that keep what differences need.
COMPARED = ("perplexity", "ruler")


@dataclass(frozen=True)
class Unpaired:
    """Why there is no difference item by item, and what can be said without.

    Attributes:
        reason: in words.
        mean: difference of the two figures, in nats for each token or in points; None where it would say nothing.
        low: lower end of its 95 % interval as if from other items each (Zou and Donner's, from both intervals).
        high: the upper end.
    """

    reason: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """The reason."""
        return self.reason


class Compared(NamedTuple):
    """A difference and what it is of: "perplexity", or a task or an average of RULER; at a context length."""

    what: str
    length: int
    found: Difference | Unpaired


@dataclass(frozen=True)
class Loss:
    """Mean loss at a context length.

    Attributes:
        nll: in nats for each token.
        interval: of 95 %, None where it is not known.
        documents: hash of their tokens.
        windows: how these are cut: mode and stride.
        sums: loss of each document, None where the result does not keep them.
        counts: tokens of each, likewise.
    """

    nll: float
    interval: tuple[float, float] | None
    documents: str
    windows: tuple[str, int | None]
    sums: tuple[float, ...] | None
    counts: tuple[int, ...] | None

    @property
    def value(self) -> float:
        """The perplexity."""
        return math.exp(self.nll)

    def less(self, baseline: Loss) -> Difference | Unpaired:
        """This loss less that of a baseline, in nats for each token."""
        if self.windows != baseline.windows:
            return Unpaired(
                f"windows are laid otherwise (mode and stride {_words(self.windows)}, in the baseline "
                f"{_words(baseline.windows)}): evaluate both alike"
            )
        if self.windows[0] == "longlora":
            return Unpaired("under mode 'longlora' all documents count as one; 'chunks' and 'sliding' can tell")
        if self.documents != baseline.documents:
            return self._apart(
                baseline,
                "other documents (data.tokens_sha256 differs): evaluate both with the same --data, --max-tokens, "
                "tokenizer and longest length",
            )
        if self.sums is None or baseline.sums is None:
            return self._apart(
                baseline, f"{_whose(self.sums, baseline.sums)} no sum of each document: run hylora eval ppl anew"
            )
        if self.counts != baseline.counts:
            return self._apart(baseline, "other tokens were scored (document_tokens differs): evaluate both alike")
        if len(self.sums) < 2:
            return Unpaired("there is one document, which says nothing of how far others would be: take several")
        return paired_ratio(baseline.sums, baseline.counts, self.sums, self.counts)

    def _apart(self, baseline: Loss, reason: str) -> Unpaired:
        if self.interval is None or baseline.interval is None:
            return Unpaired(reason)
        return Unpaired(reason, *_apart(baseline.nll, baseline.interval, self.nll, self.interval))


@dataclass(frozen=True)
class Scores:
    """Score of a task at a context length, or the plain mean of several tasks.

    Attributes:
        means: mean score of each task, in per cent.
        samples: of each.
        prompts: hash of the prompts of each.
        scores: of each sample of each, None where the result does not keep them.
    """

    means: tuple[float, ...]
    samples: tuple[int, ...]
    prompts: tuple[str | None, ...]
    scores: tuple[tuple[float, ...] | None, ...]

    @property
    def value(self) -> float:
        """The score in per cent."""
        return fmean(self.means)

    def less(self, baseline: Scores) -> Difference | Unpaired:
        """This score less that of a baseline, in points."""
        if self.prompts != baseline.prompts or None in self.prompts:
            return self._apart(
                baseline,
                "other prompts (prompts_sha256 differs): evaluate both with the same tokenizer, --samples, --seed, "
                "--mode, --haystack and --chat-template",
            )
        if None in self.scores or None in baseline.scores:
            kept = [None if None in part.scores else part.scores for part in (self, baseline)]
            return self._apart(baseline, f"{_whose(*kept)} no score of each sample: run hylora eval ruler anew")
        return paired_average(baseline.scores, self.scores)

    def _apart(self, baseline: Scores, reason: str) -> Unpaired:
        # As many samples as the fewest of any task, so that no interval is too small.
        intervals = [percent_interval(part.value, len(part.samples) * min(part.samples)) for part in (baseline, self)]
        return Unpaired(reason, *_apart(baseline.value, intervals[0], self.value, intervals[1]))


def differences(baseline: Result, other: Result) -> list[Compared]:
    """Differences of two results, each the other's figure less the baseline's, for all that both have.

    Args:
        baseline: of `hylora eval ppl` or `hylora eval ruler`.
        other: of the same kind; with results of two kinds, or of one without items, there is nothing.

    Raises:
        ValueError: if a result is damaged, naming the field.
    """
    if baseline.kind != other.kind:
        return []
    first, second = read_figures(baseline), read_figures(other)
    return [Compared(*key, difference(first[key], second[key])) for key in first if key in second]


def difference(baseline: Loss | Scores, other: Loss | Scores) -> Difference | Unpaired:
    """The other's figure less the baseline's; both are of the same kind."""
    return other.less(baseline)


def read_figures(result: Result) -> dict[tuple[str, int], Loss | Scores]:
    """What a result has, by what it is of and context length; nothing where its kind is none of `COMPARED`.

    Raises:
        ValueError: if the result is damaged, naming the field.
    """
    if result.kind not in COMPARED:
        return {}
    rows = [("results", index) for index in range(len(result.pick("results", kind=list)))]
    lengths = [result.pick(*row, "length", kind=int) for row in rows]
    if result.kind == "perplexity":
        losses = {("perplexity", length): _loss(result, row) for row, length in zip(rows, lengths, strict=True)}
        return {key: loss for key, loss in losses.items() if loss is not None}
    found: dict[tuple[str, int], Scores] = {}
    for length in dict.fromkeys(lengths):
        tasks = {
            result.pick(*row, "task", kind=str): _scores(result, row)
            for row, at in zip(rows, lengths, strict=True)
            if at == length
        }
        means = {
            name: Scores(*(sum((getattr(part, field) for part in parts), ()) for field in Scores.__match_args__))
            for name, parts in complete_groups(AVERAGES, tasks).items()
        }
        found |= {(name, length): scores for name, scores in (means | tasks).items()}
    return found


def _loss(result: Result, row: tuple[str, int]) -> Loss | None:
    """None where it is not finite."""
    perplexity = result.optional_number(*row, "perplexity")
    if perplexity is None:
        return None
    bounds = [result.optional_number(*row, name) for name in ("low", "high")]
    error, documents = (result.optional_number(*row, name) for name in ("nll_standard_error", "documents"))
    for name, value in (("perplexity", perplexity), *zip(("low", "high"), bounds, strict=True)):
        if value is not None and value <= 0:
            raise ValueError(f"{pointer(*row, name)}={value} must be above 0; measure it anew")
    nll, interval = math.log(perplexity), None
    if None not in bounds:
        interval = tuple(map(math.log, bounds))
    elif error is not None and documents is not None:
        reach = error * t_quantile(max(1, documents - 1))
        interval = nll - reach, nll + reach
    sums, counts = (_items(result, *row, name) for name in ("document_nll", "document_tokens"))
    if sums is not None and (counts is None or len(sums) != len(counts)):
        raise ValueError(f"{pointer(*row, 'document_tokens')} must have a number for each of {len(sums)} documents")
    return Loss(
        nll,
        interval,
        documents=result.pick("data", "tokens_sha256", kind=str),
        windows=(result.pick("settings", "mode", kind=str), result.get_at(*row, "stride")),
        sums=sums,
        counts=counts,
    )


def _scores(result: Result, row: tuple[str, int]) -> Scores:
    samples, scores = result.pick(*row, "samples", kind=int), _items(result, *row, "scores")
    if samples < 1:
        raise ValueError(f"{pointer(*row, 'samples')}={samples} must be at least 1; measure it anew")
    for index, one in enumerate(scores or ()):
        if not 0 <= one <= 100:
            raise ValueError(f"{pointer(*row, 'scores', index)}={one} must be from 0 to 100")
    if scores is not None and len(scores) != samples:
        raise ValueError(f"{pointer(*row, 'scores')} has {len(scores)} numbers, not one for each of {samples} samples")
    score, prompts = result.finite_number(*row, "score"), result.get_at(*row, "prompts_sha256")
    return Scores((score,), (samples,), (prompts,), (scores,))


def _items(result: Result, *keys: str | int) -> tuple[float, ...] | None:
    """A list of numbers, None where the result keeps none."""
    if result.get_at(*keys) is None:
        return None
    return tuple(result.finite_number(*keys, index) for index in range(len(result.pick(*keys, kind=list))))


def _apart(
    first: float, first_interval: tuple[float, float], second: float, second_interval: tuple[float, float]
) -> tuple[float, float, float]:
    """Difference of two independent figures with its interval (G. Y. Zou and A. Donner, Statist. Med. 27, 2008)."""
    mean = second - first
    low = math.hypot(second - second_interval[0], first_interval[1] - first)
    high = math.hypot(second_interval[1] - second, first - first_interval[0])
    return mean, mean - low, mean + high


def _whose(other: object, baseline: object) -> str:
    missing = [name for name, kept in (("this result", other), ("the baseline", baseline)) if kept is None]
    return f"{' and '.join(missing)} {'keep' if len(missing) > 1 else 'keeps'}"


def _words(windows: tuple[str, int | None]) -> str:
    mode, stride = windows
    return repr(mode) if stride is None else f"{mode!r}, {stride}"
