# SPDX-License-Identifier: Apache-2.0
"""From the data section of a recipe to rows of tokens."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import datasets
import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from hylora.language.data.documents import DocumentEncoder, tokenize
from hylora.language.data.mixture import MixedRows
from hylora.language.data.packing import PackedRows
from hylora.language.data.recipe import DataRecipe, SourceRecipe
from hylora.language.data.sources import explain, load_source, source_fingerprint
from hylora.language.data.stream import StreamedSource, TokenStream
from hylora.randomness import derive_key
from hylora.runs.fingerprint import fingerprint, tokenizer_fingerprint

__all__ = ["TokenData", "build_datasets"]

logger = logging.getLogger(__name__)

# Text seen more often than this teaches much less than new text (Muennighoff et al., 2023).
_MANY_PASSES = 4


@dataclass
class TokenData:
    """The rows of a run.

    Attributes:
        train: map-style rows ("input_ids" and "labels", int64 [L], with "documents" packing also "position_ids"), or
            an endless `TokenStream` of them.
        validation: the same for the held-out documents, in order, or `None`. A stream of them ends.
        description: under "train" and "validation", a dict for each source: its "path" and, unless it is streamed,
            the counts "documents", "tokens", "rows", "dropped_documents" (empty or without anything to learn),
            "dropped_tokens" (in no row) and "dropped_rows" (without anything to learn); under "train" also
            "held_out_documents" and, in a weighted mixture, "rows_per_epoch".
        fingerprint: 32 hex digits that change with any row or their order: other documents, another tokenizer, length,
            packing or weights. Of streams, what is known before they are read: settings, tokenizer, and the sizes and
            samples of local files.
    """

    train: Dataset
    validation: Dataset | None
    description: dict[str, list[dict[str, Any]]]
    fingerprint: str


def build_datasets(data: DataRecipe, tokenizer: Any, sequence_length: int, seed: int) -> TokenData:
    """Read, tokenise and pack the data of a run.

    What is not streamed is tokenised once and cached: another length, packing, mixture or held-out share does not
    tokenise again. With several processes, let the main one go first.

    Args:
        data: the recipe.
        tokenizer: a transformers tokenizer.
        sequence_length: tokens per row.
        seed: keys the order of mixtures and of shuffled streams.

    Returns:
        The rows to train and to validate on.

    Raises:
        ValueError: naming the key of the recipe, its value and the remedy, for data that cannot be read or that would
            give no rows.
    """
    if not isinstance(sequence_length, int) or sequence_length < 2:
        raise ValueError(f"sequence_length={sequence_length!r} must be an integer of at least 2")
    if data.packing == "eos" and tokenizer.eos_token_id is None:
        raise ValueError(
            "data.packing='eos' must come with a tokenizer that has an EOS token to join documents by; set "
            "tokenizer.eos_token or use another packing"
        )
    build = _build_streams if data.streaming else _build_maps
    return build(data, tokenizer, sequence_length, seed)


@dataclass
class _Corpus:
    """A tokenised source; `dropped` documents hold nothing to learn."""

    source: SourceRecipe
    key: str
    documents: datasets.Dataset
    dropped: int

    @cached_property
    def content_keys(self) -> np.ndarray:
        """int64 [documents]."""
        return self.documents.data.column("key").to_numpy()

    def count(self, rows: PackedRows) -> dict[str, Any]:
        """What became of the documents in some rows."""
        names = ("documents", "tokens", "dropped_tokens", "dropped_rows")
        counts = {name: getattr(rows, name) for name in names}
        return {"path": self.source.path, "rows": len(rows), "dropped_documents": self.dropped, **counts}


def _build_maps(data: DataRecipe, tokenizer: Any, length: int, seed: int) -> TokenData:
    """Map-style rows of cached documents."""

    def read(name: str) -> list[_Corpus]:
        return [
            _read(source, f"data.{name}.{index}", tokenizer, data.num_proc, data.cache_dir)
            for index, source in enumerate(getattr(data, name))
        ]

    def pack(corpora: list[_Corpus], chosen: list[np.ndarray]) -> list[PackedRows]:
        return [
            PackedRows(corpus.documents, np.flatnonzero(kept), length, data.packing, data.packing_strategy)
            for corpus, kept in zip(corpora, chosen, strict=True)
        ]

    corpora, evaluated = read("sources"), read("validation")
    if evaluated:
        taken = np.concatenate([corpus.content_keys for corpus in evaluated])
        held_out = [np.isin(corpus.content_keys, taken) for corpus in corpora]
        validation = pack(evaluated, [np.ones(len(corpus.documents), dtype=bool) for corpus in evaluated])
    else:
        held_out = [_is_held_out(corpus.content_keys, data.validation_fraction) for corpus in corpora]
        evaluated = corpora if data.validation_fraction else []
        validation = pack(evaluated, held_out[: len(evaluated)])
    train = pack(corpora, [~held for held in held_out])
    _check_rows(data, corpora, train, validation, length)
    description = {
        "train": [
            corpus.count(rows) | {"held_out_documents": int(held.sum())}
            for corpus, rows, held in zip(corpora, train, held_out, strict=True)
        ],
        "validation": [corpus.count(rows) for corpus, rows in zip(evaluated, validation, strict=True)],
    }
    weights = [source.weight for source in data.sources]
    if len(train) > 1 and None not in weights:
        rows = MixedRows(train, weights, seed)
        for corpus, part, count, counts in zip(corpora, train, rows.counts, description["train"], strict=True):
            counts["rows_per_epoch"] = count
            if (passes := count / len(part)) > _MANY_PASSES:
                logger.warning("%s.weight: an epoch reads %s %.1f times", corpus.key, corpus.source.path, passes)
    else:
        rows = ConcatDataset(train)
    name = fingerprint([weights, [part.fingerprint() for part in train], [part.fingerprint() for part in validation]])
    return TokenData(rows, ConcatDataset(validation) if validation else None, description, name)


def _build_streams(data: DataRecipe, tokenizer: Any, length: int, seed: int) -> TokenData:
    """Rows that are tokenised as they are read."""

    def stream(name: str, held_out: bool, repeat: bool) -> TokenStream:
        sources = getattr(data, name)
        streamed = []
        for index, source in enumerate(sources):
            key = f"data.{name}.{index}"
            encoder = DocumentEncoder(source, tokenizer, key)
            streamed.append(
                StreamedSource(
                    load_source(source, key, encoder.columns, streaming=True, cache_dir=data.cache_dir),
                    encoder,
                    length,
                    data.packing,
                    keep=lambda key: _is_held_out(key, data.validation_fraction) == held_out,
                    shuffle_buffer=data.shuffle_buffer if repeat else 0,
                    seed=derive_key("source", seed, index),
                    # The first documents of each file are not the first of all.
                    whole_files=source.max_documents is None,
                )
            )
        return TokenStream(streamed, [source.weight or 1.0 for source in sources], repeat)

    train, validation = stream("sources", held_out=False, repeat=True), None
    if data.validation:
        validation = stream("validation", held_out=False, repeat=False)
    elif data.validation_fraction:
        validation = stream("sources", held_out=True, repeat=False)
    # Nothing to evaluate on would be found out when the first evaluation is due.
    if validation is not None and next(iter(validation), None) is None:
        held_out = (
            f"data.validation_fraction={data.validation_fraction}" if data.validation_fraction else "data.validation"
        )
        raise ValueError(f"{held_out} must leave at least one row of {length} tokens; hold out more, or nothing")
    evaluated = data.validation or (data.sources if data.validation_fraction else [])
    description = {
        "train": [{"path": source.path} for source in data.sources],
        "validation": [{"path": source.path} for source in evaluated],
    }
    known = [
        [asdict(source) | {"path": None}, source_fingerprint(source, f"data.{name}.{index}")]
        for name in ("sources", "validation")
        for index, source in enumerate(getattr(data, name))
    ]
    settings = [data.validation_fraction, data.packing, data.shuffle_buffer, length, tokenizer_fingerprint(tokenizer)]
    return TokenData(train, validation, description, fingerprint([known, settings]))


def _read(source: SourceRecipe, key: str, tokenizer: Any, num_proc: int | None, cache_dir: str | None) -> _Corpus:
    """Load and tokenise one source."""
    encoder = DocumentEncoder(source, tokenizer, key)
    records = load_source(source, key, encoder.columns, streaming=False, cache_dir=cache_dir)
    try:
        documents = tokenize(records, encoder, num_proc)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(explain(source.path, key, cache_dir, error)) from error
    if len(documents) == 0:
        raise ValueError(
            f"{key}.path={source.path!r} must hold something to learn, and none of its {len(records)} documents does; "
            "check that they are not empty and, in chat data, that an assistant answers"
        )
    return _Corpus(source, key, documents, dropped=len(records) - len(documents))


def _is_held_out(content_key: Any, fraction: float) -> Any:
    """Whether the hash of its content holds a document out; for one key or an array of them."""
    return content_key < int(fraction * 2**63)


def _check_rows(
    data: DataRecipe, corpora: list[_Corpus], train: list[PackedRows], validation: list[PackedRows], length: int
) -> None:
    """Refuse data that is too short for its rows."""
    longest = max(rows.longest for rows in train)
    if data.packing == "none" and longest < length:
        raise ValueError(
            f"data.packing='none' must have a document as long as sequence_length={length}, for it keeps one per row, "
            f"and the longest has {longest} tokens; pack with 'eos', or set sequence_length to {longest} or less"
        )
    for corpus, rows in zip(corpora, train, strict=True):
        if len(rows) == 0 and rows.dropped_rows:
            raise ValueError(
                f"{corpus.key}.path={corpus.source.path!r} must hold an answer to learn in some row, and none of its "
                f"{rows.dropped_rows} rows of {length} tokens does; use a longer sequence_length"
            )
        if len(rows) == 0:
            raise ValueError(
                f"{corpus.key}.path={corpus.source.path!r} must fill a row, and its {rows.tokens} tokens to train on "
                f"give no row of {length}; use more data, a smaller held-out share or a shorter sequence_length"
            )
    if validation and not any(len(rows) for rows in validation):
        tokens = sum(rows.tokens for rows in validation)
        key = "validation" if data.validation else "validation_fraction"
        raise ValueError(
            f"data.{key} must fill a row, and its {tokens} held-out tokens give no row of {length}; hold out more, or "
            "nothing"
        )
