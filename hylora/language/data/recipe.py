# SPDX-License-Identifier: Apache-2.0
"""What a recipe says about its data; plain types only, so that it is read from and written to YAML as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

__all__ = ["DataRecipe", "SourceRecipe"]

Kind = Literal["text", "chat", "instruction"]
Packing = Literal["eos", "documents", "none"]
_PATH = "be a path: a file, a folder, a glob or a hub id"


@dataclass(frozen=True)
class SourceRecipe:
    """One corpus: where it is and how a record becomes a document.

    Attributes:
        path: a file (.txt, .json, .jsonl, .parquet), a glob of such files, a folder of them, or the id of a dataset on
            the Hub. A .txt file is one document.
        kind: "text" (a field of plain text), "chat" (a list of messages with role and content) or "instruction"
            (a prompt and its response). Chat and instruction data learn the answers alone.
        text_field: field of the text in "text" data.
        messages_field: field of the list of messages in "chat" data.
        prompt_field: field of the prompt in "instruction" data.
        response_field: field of the response in "instruction" data.
        subset: configuration of a Hub dataset, for those that have several.
        split: split to read, in the notation of `datasets` ("train", "train[:10%]").
        revision: branch, tag or commit of a Hub dataset.
        weight: share of the training tokens, relative to the other sources; all sources have one or none has. Without
            weights every row is seen once per epoch.
        max_documents: read only the first so many documents.
    """

    path: str
    kind: Kind = "text"
    text_field: str = "text"
    messages_field: str = "messages"
    prompt_field: str = "prompt"
    response_field: str = "response"
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    weight: float | None = None
    max_documents: int | None = None

    def check(self, key: str) -> None:
        """Raise on a wrong field.

        Args:
            key: how the recipe names this source, for example "data.sources.0".

        Raises:
            ValueError: naming the field, its value and the remedy.
        """
        _require(isinstance(self.path, str) and self.path, f"{key}.path", self.path, _PATH)
        _check_choice(f"{key}.kind", self.kind, Kind)
        for name in ("text_field", "messages_field", "prompt_field", "response_field", "split"):
            value = getattr(self, name)
            _require(isinstance(value, str) and value, f"{key}.{name}", value, "be a name")
        if self.weight is not None:
            positive = _is_number(self.weight) and 0 < self.weight < math.inf
            _require(positive, f"{key}.weight", self.weight, "be a positive number, a share such as 0.7")
        if self.max_documents is not None:
            _check_count(f"{key}.max_documents", self.max_documents, minimum=1)


@dataclass(frozen=True)
class DataRecipe:
    """The data of a run.

    Attributes:
        sources: the training corpora.
        validation: corpora to evaluate on. Their documents are taken out of the (not streamed) training data.
        validation_fraction: instead of `validation`, the share of documents held out of `sources`. A hash of its
            content decides for each document, so it stays on its side when sources grow or the seed changes.
        packing: "eos" joins documents by the EOS token and cuts rows of the full length, without marking boundaries;
            "documents" does the same with position ids that restart at each document (Transformers only: a recurrent
            layer would still leak across); "none" keeps to one document per row.
        streaming: read and tokenise while training instead of before it; nothing is cached.
        shuffle_buffer: documents held in memory to shuffle a stream; 0 keeps its order. Data that is not streamed is
            shuffled as a whole by the training loop.
        num_proc: processes that tokenise; `None` uses this one (a fast tokenizer then uses its own threads).
        cache_dir: where downloads and tokenised data are kept; `None` is the default of `datasets`.
    """

    sources: list[SourceRecipe]
    validation: list[SourceRecipe] = field(default_factory=list)
    validation_fraction: float = 0.0
    packing: Packing = "eos"
    streaming: bool = False
    shuffle_buffer: int = 0
    num_proc: int | None = None
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        for name in ("sources", "validation"):
            sources = getattr(self, name)
            listed = isinstance(sources, list) and all(isinstance(source, SourceRecipe) for source in sources)
            _require(listed, f"data.{name}", sources, "be a list of sources, each a mapping with a path")
            for index, source in enumerate(sources):
                source.check(f"data.{name}.{index}")
        self._check_sources()
        self._check_held_out()
        _check_choice("data.packing", self.packing, Packing)
        _check_count("data.shuffle_buffer", self.shuffle_buffer, minimum=0)
        shuffled = "be 0 where data.streaming is false: all rows are shuffled; remove it or stream"
        _require(self.streaming or not self.shuffle_buffer, "data.shuffle_buffer", self.shuffle_buffer, shuffled)
        if self.num_proc is not None:
            _check_count("data.num_proc", self.num_proc, minimum=1)
            unused = "be null in a stream; remove it or do not stream"
            _require(not self.streaming, "data.num_proc", self.num_proc, unused)

    def _check_sources(self) -> None:
        """Refuse no source, and weights that cannot be followed."""
        _require(self.sources, "data.sources", self.sources, "hold at least one source with a path")
        weighted = [source.weight is not None for source in self.sources]
        index = weighted.index(False) if False in weighted else 0
        together = "be a number as for the other sources; give all of them a weight, or none"
        _require(all(weighted) or not any(weighted), f"data.sources.{index}.weight", None, together)
        mixed = self.streaming and len(self.sources) > 1
        unknown = "be a number for streams, whose sizes are unknown; give each source a weight"
        _require(all(weighted) or not mixed, f"data.sources.{index}.weight", None, unknown)

    def _check_held_out(self) -> None:
        """Refuse two definitions of the validation data, and shares that leave nothing."""
        fraction = self.validation_fraction
        inside = _is_number(fraction) and 0 <= fraction < 1
        _require(inside, "data.validation_fraction", fraction, "be in [0, 1), a share such as 0.01")
        twice = "be 0 beside data.validation; keep one of them"
        _require(not (fraction and self.validation), "data.validation_fraction", fraction, twice)
        for index, source in enumerate(self.validation):
            key = f"data.validation.{index}.weight"
            _require(source.weight is None, key, source.weight, "be null: validation reads every row once; remove it")


def _require(condition: object, key: str, value: object, rule: str) -> None:
    """Raise where a value breaks the rule for it."""
    if not condition:
        raise ValueError(f"{key}={value!r} must {rule}")


def _is_number(value: object) -> bool:
    """True for int and float, but not for bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_choice(key: str, value: object, choices: Any) -> None:
    """Raise unless the value is one of a literal type's choices."""
    _require(value in get_args(choices), key, value, f"be one of {', '.join(get_args(choices))}")


def _check_count(key: str, value: object, minimum: int) -> None:
    """Raise unless the value is an integer of at least `minimum`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    _require(whole and value >= minimum, key, value, f"be an integer of at least {minimum}")
