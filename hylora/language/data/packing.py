# SPDX-License-Identifier: Apache-2.0
"""Rows of a fixed length from tokenised documents, and batches of rows.

Nothing is written: a row is a range of the documents' tokens laid end to end, and is read from their memory-mapped
files when it is asked for.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from hylora.architecture import is_recurrent, shows_positions
from hylora.language.data.recipe import DataRecipe
from hylora.language.loss import IGNORED
from hylora.recurrence import boundary_arguments, deaf_packages

__all__ = ["PackedRows", "Padding", "Piece", "assemble", "best_fit", "check_kernels", "check_packing", "has_target"]


@dataclass(frozen=True)
class Piece:
    """A part of one document: token ids, and labels where they differ from the tokens; both int32 [n]."""

    input_ids: np.ndarray
    labels: np.ndarray


def check_packing(data: DataRecipe, config: Any, attention: str = "full") -> None:
    """Refuse packing that the model cannot honour on any machine.

    Args:
        data: the recipe.
        config: the model's transformers config.
        attention: the attention's name in a recipe.

    Raises:
        ValueError: if documents are to be kept apart in a row, and nothing tells the model's recurrent layers or its
            attention of boundaries.
    """
    if data.packing != "documents":
        return
    if is_recurrent(config) and not boundary_arguments(config):
        raise ValueError(
            f"data.packing='documents' must come with a model whose layers can be told where documents begin, and "
            f"{config.model_type!r} carries its state from one into the next; use 'eos' or 'none'"
        )
    if attention == "full" and not shows_positions(config):
        # What its recurrent layers are told, attention functions of this package are told as well.
        remedy = "set attention.name=se_attn, or use" if boundary_arguments(config) else "use"
        raise ValueError(
            f"data.packing='documents' must come with an attention that sees boundaries, and {config.model_type!r} "
            f"masks full attention without looking at positions; {remedy} 'eos' or 'none'"
        )


def check_kernels(data: DataRecipe, config: Any) -> None:
    """Refuse packing that recurrent layers cannot honour here, for want of kernels.

    Args:
        data: the recipe.
        config: of a model that `check_packing` lets pass.

    Raises:
        ValueError: naming the packages that are missing.
    """
    if data.packing == "documents" and (deaf := deaf_packages(config)):
        raise ValueError(
            f"data.packing='documents' must come with kernels that keep documents apart, and without "
            f"{' and '.join(deaf)} torch code runs in the recurrent layers of {config.model_type!r}, which carries "
            "its state from one into the next; install them on a GPU, set model.use_kernels=true there, or use 'eos' "
            "or 'none'"
        )


def assemble(pieces: list[Piece], packing: str) -> dict[str, Tensor]:
    """Lay pieces end to end.

    Args:
        pieces: of different documents, in order.
        packing: as in `DataRecipe`.

    Returns:
        "input_ids" and "labels", int64 [n]; with "documents" packing also "position_ids", which restart at each piece,
        and no label on a piece's first token: the token before it belongs to another document.
    """
    row = {
        "input_ids": np.concatenate([piece.input_ids for piece in pieces]),
        "labels": np.concatenate([piece.labels for piece in pieces]),
    }
    if packing == "documents":
        lengths = [len(piece.input_ids) for piece in pieces]
        row["position_ids"] = np.concatenate([np.arange(length) for length in lengths])
        row["labels"][row["position_ids"] == 0] = IGNORED
    return {name: torch.from_numpy(values.astype(np.int64)) for name, values in row.items()}


def has_target(row: dict[str, Tensor]) -> bool:
    """Whether the loss of a row has a term: a label that is preceded by a token."""
    return bool((row["labels"][1:] != IGNORED).any())


@dataclass(frozen=True)
class Padding:
    """Stacks rows, padding shorter ones on the right.

    Args:
        pad_token_id: fills the padding. Padding is masked and carries no label, so that any token of the vocabulary
            will do.
    """

    pad_token_id: int = 0

    def __call__(
        self, rows: Sequence[dict[str, Tensor]], generators: Any = None, shape: Any = None
    ) -> dict[str, Tensor]:
        """Make a batch.

        Args:
            rows: dicts of one-dimensional int64 tensors: "input_ids", "labels" and, in all rows or none,
                "position_ids".
            generators, shape: what a feed passes besides; nothing here is random, and rows bring their length.

        Returns:
            dict of [B, L] int64 tensors with the rows' keys. Where rows differ in length, "attention_mask" (1 for
            tokens, 0 for padding), or without it positions that make padding a document of its own: transformers does
            not look for packed documents under a mask.
        """
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        filling = {"input_ids": self.pad_token_id, "labels": IGNORED, "position_ids": 0}
        batch = {
            name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], True, filling[name]) for name in rows[0]
        }
        longest = int(lengths.max())
        places = torch.arange(longest) - lengths[:, None]
        if "position_ids" in batch:
            batch["position_ids"] = torch.where(places < 0, batch["position_ids"], places)
        elif int(lengths.min()) < longest:
            batch["attention_mask"] = (places < 0).long()
        return batch


class PackedRows(torch.utils.data.Dataset):
    """Map-style rows of one source.

    Args:
        documents: tokenised documents (`hylora.language.data.documents.tokenize`).
        chosen: indices of the documents to use, int64 [n].
        length: tokens per row.
        packing: as in `DataRecipe`. "none" cuts each document by itself and keeps its shorter last row.
        strategy: of "eos" and "documents": "sequential" cuts the chosen documents, laid end to end, every `length`
            tokens and drops the tail; "best_fit" keeps all tokens, and rows may be shorter.

    Attributes:
        documents: number of chosen documents.
        tokens: number of tokens in them.
        longest: number of tokens in the longest of them.
        dropped_tokens: those of them in no row: the tail, and rows without a target.
        dropped_rows: rows left out because no label was in them.
    """

    def __init__(
        self, documents: datasets.Dataset, chosen: np.ndarray, length: int, packing: str, strategy: str = "sequential"
    ) -> None:
        self._dataset = documents
        self._chosen = chosen
        self._packing = packing
        self._columns: dict[str, _ListColumn] | None = None
        # Document i of the chosen ones covers [edges[i], edges[i + 1]) of the stream of tokens.
        lengths = self._column("input_ids").lengths[chosen]
        self._edges = np.concatenate([[0], np.cumsum(lengths)])
        self.documents = len(chosen)
        self.tokens = int(self._edges[-1])
        self.longest = int(lengths.max(initial=0))
        # A row is one or more ranges [start, stop) of the stream: those from first[row] to first[row + 1].
        if packing == "none" or strategy == "best_fit":
            starts, stops = _cut_each(self._edges, length)
        else:
            starts = np.arange(self.tokens // length) * length
            stops = starts + length
        first = np.arange(len(starts) + 1)
        if strategy == "best_fit":
            order, first = best_fit(stops - starts, length)
            starts, stops = starts[order], stops[order]
        self._starts, self._stops, self._first = starts, stops, first
        kept = np.maximum.reduceat(stops - starts, first[:-1]) > 1 if len(starts) else np.zeros(0, dtype=bool)
        if "labels" in documents.column_names:
            kept &= np.array([has_target(self[index]) for index in range(len(kept))], dtype=bool)
        sizes = np.diff(first)
        self._starts, self._stops = (values[np.repeat(kept, sizes)] for values in (starts, stops))
        self._first = np.concatenate([[0], np.cumsum(sizes[kept])])
        self.dropped_rows = len(kept) - len(self)
        self.dropped_tokens = self.tokens - int((self._stops - self._starts).sum())

    def __len__(self) -> int:
        return len(self._first) - 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        ranges = slice(self._first[index], self._first[index + 1])
        pieces = [
            piece
            for start, stop in zip(self._starts[ranges], self._stops[ranges], strict=True)
            for piece in self._pieces(int(start), int(stop))
        ]
        return assemble(pieces, self._packing)

    def _pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """The parts of documents in a range of the stream."""
        ids = self._column("input_ids")
        labels = self._column("labels") if "labels" in self._dataset.column_names else ids
        place = int(np.searchsorted(self._edges, start, side="right")) - 1
        while start < stop:
            document = self._chosen[place]
            begin = start - self._edges[place]
            end = min(stop, self._edges[place + 1]) - self._edges[place]
            yield Piece(ids.read(document, begin, end), labels.read(document, begin, end))
            start += end - begin
            place += 1

    def fingerprint(self) -> str:
        """A hash of the documents (content, order, lengths in tokens), of how they are cut, and of some rows."""
        digest = hashlib.blake2b(digest_size=16)
        keys = self._dataset.data.column("key").to_numpy()[self._chosen]
        # Of rows of one range each, where they begin says all.
        several = () if len(self._starts) == len(self) else (self._first,)
        for values in (keys, self._edges, self._starts, self._stops, *several):
            digest.update(values.tobytes())
        for index in np.linspace(0, len(self) - 1, min(len(self), 64)):
            for values in self[int(index)].values():
                digest.update(values.numpy().tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        # The views are memory-mapped here and would be copied whole into another process.
        return {**self.__dict__, "_columns": None}

    def _column(self, name: str) -> _ListColumn:
        """A column's views, made when first needed in a process."""
        if self._columns is None:
            names = [name for name in ("input_ids", "labels") if name in self._dataset.column_names]
            self._columns = {name: _ListColumn(self._dataset, name) for name in names}
        return self._columns[name]


class _ListColumn:
    """NumPy views on the lists in one column of a dataset without copying them."""

    def __init__(self, dataset: datasets.Dataset, name: str) -> None:
        chunks = dataset.data.column(name).chunks
        self.values = [chunk.values.to_numpy() for chunk in chunks]
        offsets = [chunk.offsets.to_numpy().astype(np.int64) for chunk in chunks]
        self.begins = np.concatenate([offset[:-1] for offset in offsets])
        self.lengths = np.concatenate([np.diff(offset) for offset in offsets])
        self.chunks = np.repeat(np.arange(len(chunks)), [len(chunk) for chunk in chunks])

    def read(self, index: int, begin: int, end: int) -> np.ndarray:
        """Elements begin..end of list `index`."""
        origin = self.begins[index]
        return self.values[self.chunks[index]][origin + begin : origin + end]


def _cut_each(edges: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and stops of the rows when each document [edges[i], edges[i + 1]) is cut every `length` tokens."""
    counts = -(-np.diff(edges) // length)
    part = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(edges[:-1], counts) + part * length
    return starts, np.minimum(starts + length, np.repeat(edges[1:], counts))


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Best-fit decreasing (Ding et al., 2024): the longest piece first, each into the fullest row that takes it.

    Args:
        lengths: of the pieces, from 1 to `capacity`, int64 [n].
        capacity: of a row.

    Returns:
        The pieces row by row, int64 [n], and where in them each row begins, int64 [rows + 1]. Pieces of a row, and
        rows by their first piece, keep their order.
    """
    row_of = np.empty(len(lengths), dtype=np.int64)
    rows_with: dict[int, list[int]] = {}  # by free space
    spaces: list[int] = []  # those there are, sorted
    rows = 0
    for piece in np.argsort(-lengths, kind="stable"):
        length = int(lengths[piece])
        place = bisect_left(spaces, length)
        if place == len(spaces):
            row, space, rows = rows, capacity, rows + 1
        else:
            space = spaces[place]
            row = rows_with[space].pop()
            if not rows_with[space]:
                del rows_with[space], spaces[place]
        row_of[piece] = row
        if left := space - length:
            if left not in rows_with:
                rows_with[left] = []
                insort(spaces, left)
            rows_with[left].append(row)
    # A stable sort by row finds the first piece of each; rows are then numbered in the order of those.
    _, first_piece, row_of = np.unique(row_of, return_index=True, return_inverse=True)
    row_of = np.argsort(np.argsort(first_piece))[row_of]
    return np.argsort(row_of, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(row_of))])
