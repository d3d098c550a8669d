# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: read from one place, or found for a run."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hylora.runs.manifest import RunManifest
from hylora.runs.whereabouts import find_folder

__all__ = ["check_vocabulary", "find_tokenizer", "read_tokenizer"]


def read_tokenizer(source: str | os.PathLike, **arguments: Any) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or a hub repository.

    Args:
        source: folder or hub id.
        **arguments: of `AutoTokenizer.from_pretrained`.

    Raises:
        OSError: if the place cannot be read.
        ValueError: if no tokenizer is there.
    """
    find_folder(source, arguments.get("revision"))
    tokenizer = AutoTokenizer.from_pretrained(source, **arguments)
    # transformers makes up an empty one for some architectures (Qwen's) where a model has no tokenizer beside it
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{os.fspath(source)!r} has no tokenizer: what was found there knows no words")
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Refuse a tokenizer that gives ids for which a model has no embedding.

    Args:
        tokenizer: any.
        size: of the model's vocabulary.

    Raises:
        ValueError: naming the highest token id.
    """
    # Ids may have gaps: their number says nothing of the highest.
    token, highest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if highest >= size:
        raise ValueError(
            f"the highest token id {highest} ({token!r}) must be below the model's vocabulary of {size}; take the "
            "tokenizer that belongs to the model, or make room with model.resize_token_embeddings"
        )


def find_tokenizer(
    run: str | os.PathLike, manifest: RunManifest, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer beside a run or a model, or of its base model where there is none.

    Args:
        run: a run's folder, a model folder or a hub id.
        manifest: of the run.
        revision: of `run` on the hub.

    Raises:
        ValueError: if there is none in either.
    """
    places = {os.fspath(run): revision}
    if manifest.base_model is not None:
        places.setdefault(manifest.base_model, manifest.base_revision)
    errors = []
    for place, version in places.items():
        try:
            return read_tokenizer(place, revision=version)
        except (OSError, ValueError) as error:
            errors.append(error)
    raise ValueError(
        f"no tokenizer could be loaded from {' nor from the base model '.join(map(repr, places))}; save the one of "
        f"training in the first ({errors[-1]})"
    ) from errors[-1]
