# SPDX-License-Identifier: Apache-2.0
"""What a recipe says about its data; plain types only, so that it is read from and written to YAML as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hylora.training.fields import check_choice, check_range, expand_home

__all__ = ["DataRecipe", "SourceRecipe"]


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
    kind: Literal["text", "chat", "instruction"] = "text"
    text_field: str = "text"
    messages_field: str = "messages"
    prompt_field: str = "prompt"
    response_field: str = "response"
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    weight: float | None = None
    max_documents: int | None = None

    def __post_init__(self) -> None:
        expand_home(self, "path")
        for name in ("path", "text_field", "messages_field", "prompt_field", "response_field", "split"):
            if not getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)!r} must be text that is not empty")
        check_choice(self, "kind")
        check_range(self, "weight", above=0)
        check_range(self, "max_documents", least=1)


@dataclass(frozen=True)
class DataRecipe:
    """The data of a run.

    Attributes:
        sources: the training corpora.
        validation: corpora to evaluate on. Their documents are taken out of the (not streamed) training data.
        validation_fraction: instead of `validation`, the share of documents held out of `sources`. A hash of its
            content decides for each document, so it stays on its side when sources grow or the seed changes.
        packing: "eos" joins documents by the EOS token and cuts rows of the full length, without marking boundaries;
            "documents" does the same and keeps them apart: positions restart at each document, and recurrent layers
            are told too, which takes kernels that listen; "none" keeps to one document per row.
        packing_strategy: which documents share a row: "sequential" cuts the documents, laid end to end, every so many
            tokens; "best_fit" splits none that fits a row and fills rows with whole ones, longest first.
        streaming: read and tokenise while training instead of before it; nothing is cached.
        shuffle_buffer: documents held in memory to shuffle a stream; 0 keeps its order. Data that is not streamed is
            shuffled as a whole by the training loop.
        num_proc: processes that tokenise; `None` uses this one (a fast tokenizer then uses its own threads).
        cache_dir: where downloads and tokenised data are kept; `None` is the default of `datasets`.
    """

    sources: list[SourceRecipe]
    validation: list[SourceRecipe] = field(default_factory=list)
    validation_fraction: float = 0.0
    packing: Literal["eos", "documents", "none"] = "eos"
    packing_strategy: Literal["sequential", "best_fit"] = "sequential"
    streaming: bool = False
    shuffle_buffer: int = 0
    num_proc: int | None = None
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        expand_home(self, "cache_dir")
        for name in ("sources", "validation"):
            sources = getattr(self, name)
            if not isinstance(sources, list) or not all(isinstance(source, SourceRecipe) for source in sources):
                raise ValueError(f"{name}={sources!r} must be a list of sources, each with a path")
        check_choice(self, "packing", "packing_strategy")
        check_range(self, "validation_fraction", least=0, below=1)
        check_range(self, "shuffle_buffer", least=0)
        check_range(self, "num_proc", least=1)
        if self.shuffle_buffer and not self.streaming:
            raise ValueError(
                f"shuffle_buffer={self.shuffle_buffer} must be left out without data.streaming; all rows are shuffled"
            )
        if self.num_proc is not None and self.streaming:
            raise ValueError(f"num_proc={self.num_proc} must be left out with data.streaming=true; a stream uses none")
        if self.packing_strategy == "best_fit" and (self.streaming or self.packing == "none"):
            other = "data.streaming=true, for it looks at all documents" if self.streaming else "data.packing='none'"
            raise ValueError(f"packing_strategy='best_fit' must not come with {other}; set it to sequential")
        self._check_weights()
        if self.validation_fraction and self.validation:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} must not come with data.validation; keep one of them"
            )

    def _check_weights(self) -> None:
        """Refuse no source, and weights that cannot be followed."""
        if not self.sources:
            raise ValueError("sources=[] must have at least one source; list one with a path")
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            index = weighted.index(False)
            raise ValueError(
                f"sources.{index}.weight=None must be a number, as others have one; give all of them a weight, or none"
            )
        if self.streaming and len(self.sources) > 1 and not all(weighted):
            raise ValueError(
                "sources.0.weight=None must be a number, for the sizes of streams are unknown; give each source one"
            )
        for index, source in enumerate(self.validation):
            if source.weight is not None:
                raise ValueError(
                    f"validation.{index}.weight={source.weight} must be left out; validation reads every row once"
                )
