# SPDX-License-Identifier: Apache-2.0
"""Documents to evaluate on, as token ids: from text, or from files of bare ids such as LongLoRA's `.bin` files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets.exceptions import DatasetsError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hylora.language.data.recipe import SourceRecipe
from hylora.language.data.sources import load_source

__all__ = ["DocumentSet", "load_documents", "load_token_file", "tokens_sha256"]

# Tokens hashed at one time, so that a mapped file of any size may stay where it is.
_BLOCK = 2**20

_TOKEN_DTYPES = {"uint16": torch.uint16, "uint32": torch.uint32}

# Tokens looked at to tell uint16 from uint32.
_SAMPLE = 4096

# Where the corpora of long-context perplexity can be had; none of them comes with this package.
_SOURCES = {
    r"\.bin$": (
        "LongLoRA's token files (PG-19 validation and test, a sample of proof-pile; ids of LLaMA's tokenizer) are "
        "linked from the README of github.com/dvlab-research/LongLoRA, under 'Perplexity Validation'."
    ),
    r"pg-?19": (
        "PG-19 is on the Hub as Parquet: data 'emozilla/pg19', split 'validation' or 'test'. 'deepmind/pg19' is a "
        "loading script, and no code of a dataset is run."
    ),
    r"proof-?pile": (
        "The test split of proof-pile is on the Hub as Parquet: data 'emozilla/proofpile-test-tokenized-mistral', "
        "split 'train', field 'text'. 'hoskinson-center/proof-pile' may need its loading script, and no code of a "
        "dataset is run."
    ),
}


@dataclass(frozen=True)
class DocumentSet:
    """Tokenised documents.

    Attributes:
        tokens: one integer tensor [L] for each document.
        skipped: documents that were read and had too few tokens.
    """

    tokens: list[Tensor]
    skipped: int


def load_documents(
    source: SourceRecipe,
    tokenizer: PreTrainedTokenizerBase,
    min_tokens: int = 1,
    max_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> DocumentSet:
    """Read documents, in the order of the source, until there are enough.

    Documents are tokenised without special tokens, and each on its own.

    Args:
        source: text files, a folder of them, JSON lines, Parquet or a dataset on the Hub; `source.max_documents`
            limits the documents kept, not those read.
        tokenizer: the model's.
        min_tokens: shorter documents are counted and skipped.
        max_tokens: keep at most so many tokens of each document. Many documents cut short tell more about the
            average than a few whole books.
        progress: called with the number of documents kept, after each.

    Returns:
        The documents.

    Raises:
        ValueError: if the source cannot be read (with a word on where a known corpus can be had) or is not text, or
            no document is long enough, naming the longest.
    """
    if source.kind != "text":
        raise ValueError(f"data.kind={source.kind!r} must be 'text' here")
    if max_tokens is not None and max_tokens < min_tokens:
        raise ValueError(f"max_tokens={max_tokens} must be at least the {min_tokens} tokens that are needed")
    limit = source.max_documents
    # A stream, so that no more of a large corpus is read than is asked for.
    everything = SourceRecipe(**{**vars(source), "max_documents": None})
    try:
        records = load_source(everything, "data", [source.text_field], streaming=True, cache_dir=None)
    except ValueError as error:
        raise ValueError(f"{error} {_where_to_get(source.path)}".rstrip()) from error
    kept: list[Tensor] = []
    skipped = longest = 0
    for text in _texts(records, source):
        # `verbose` would warn that a document exceeds the model's context, which is the point here.
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        longest = max(longest, len(ids))
        if len(ids) < min_tokens:
            skipped += 1
            continue
        kept.append(torch.tensor(ids[:max_tokens], dtype=torch.long))
        if progress is not None:
            progress(len(kept))
        if len(kept) == limit:
            break
    if not kept:
        raise ValueError(
            f"none of the {skipped} documents of {source.path!r} has {min_tokens} tokens; the longest has {longest}: "
            "choose a smaller length or longer documents"
        )
    return DocumentSet(kept, skipped)


def load_token_file(path: str | os.PathLike, dtype: str = "uint16") -> Tensor:
    """Map a file of token ids without a header, one after the other in little-endian order.

    Nothing is read before it is used, so the file may be larger than the memory.

    Args:
        path: of the file.
        dtype: "uint16" (LongLoRA's files) or "uint32", for vocabularies above 65,536.

    Returns:
        The token ids [N], of that dtype. A slice of them becomes usable with `.long()`.

    Raises:
        FileNotFoundError: if there is no such file, saying where LongLoRA's can be had.
        ValueError: if `dtype` is unknown, or the file is empty or of another dtype.
    """
    path = Path(path)
    if dtype not in _TOKEN_DTYPES:
        raise ValueError(f"dtype={dtype!r} of a token file must be one of {', '.join(map(repr, _TOKEN_DTYPES))}")
    if not path.is_file():
        raise FileNotFoundError(f"the token file {str(path)!r} does not exist. {_where_to_get(path)}".rstrip())
    size, width = path.stat().st_size, _TOKEN_DTYPES[dtype].itemsize
    if size == 0 or size % width:
        raise ValueError(
            f"the token file {str(path)!r} has {size} bytes, which is not one or more {dtype} numbers; "
            "is it complete, and is the dtype right?"
        )
    tokens = torch.from_file(str(path), shared=False, size=size // width, dtype=_TOKEN_DTYPES[dtype])
    if dtype == "uint16" and len(tokens) > 1 and not tokens[1:_SAMPLE:2].long().any():
        # The upper half of a small uint32 is zero.
        raise ValueError(f"every second number of {str(path)!r} is 0: it holds uint32 numbers; say so with the dtype")
    return tokens


def tokens_sha256(documents: Iterable[Tensor]) -> str:
    """SHA-256 over the token ids of documents: equal where two evaluations saw the same."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(len(document).to_bytes(8, "little"))
        for block in document.split(_BLOCK):
            digest.update(block.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _texts(records: Iterable[dict[str, Any]], source: SourceRecipe) -> Iterator[str]:
    """The text of each record, empty where it is null; a stream shows what is wrong only while it is read."""
    try:
        for record in records:
            text = record[source.text_field]
            if text is not None and not isinstance(text, str):
                raise TypeError(f"its field {source.text_field!r} holds {repr(text)[:60]}, which is not text")
            yield text or ""
    except (OSError, ValueError, TypeError, DatasetsError) as error:
        raise ValueError(
            f"data.path={source.path!r} could not be read to its end ({type(error).__name__}: {error}); "
            "check the files and the field"
        ) from error


def _where_to_get(path: str | os.PathLike) -> str:
    """Where to get a corpus that is missing, as far as its name tells which one is meant; "" where it does not."""
    name = os.fspath(path).lower()
    return next((text for pattern, text in _SOURCES.items() if re.search(pattern, name)), "")
