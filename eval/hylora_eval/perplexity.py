# SPDX-License-Identifier: Apache-2.0
"""Perplexity of long documents at a given context size (chapter 6, tables 6.1 to 6.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hylora.language.head import decoder_and_head, verify_head
from hylora.training.evaluation import evaluation_mode
from hylora_eval.estimates import degrees_of_freedom, mean_and_standard_error, t_quantile
from hylora_eval.nll import token_nll
from hylora_eval.results import PlainJson
from hylora_eval.windows import check_windows, lay_windows

__all__ = ["PerplexityResult", "PositionBin", "perplexity"]

# Tokens of the first document on which the head is verified before the run.
PROBE = 16

# Tokens checked at one time, so that a file of any size may stay where it is.
BLOCK = 2**20


@dataclass(frozen=True)
class PositionBin:
    """Loss of the tokens at positions `start` to `stop` (exclusive) of their window.

    Attributes:
        start: first position; a token at position p is predicted from p tokens.
        stop: one past the last position.
        nll: mean negative log-likelihood in nats.
        perplexity: `exp(nll)`.
        tokens: how many tokens were scored there.
    """

    start: int
    stop: int
    nll: float
    perplexity: float
    tokens: int


@dataclass(frozen=True)
class PerplexityResult(PlainJson):
    """Perplexity at one context size, and how it came about.

    Attributes:
        perplexity: `exp(nll)`.
        perplexity_standard_error: of the perplexity over documents (delta method), None for one document.
        low: lower end of its 95 % interval (Student's t over documents), None for one document.
        high: the upper end.
        nll: mean negative log-likelihood of all scored tokens, in nats.
        nll_standard_error: of that mean over documents (jackknife), None for one document.
        tokens: tokens scored; under "longlora" with their repetitions.
        windows: windows read.
        documents: documents used.
        largest_document: share of the tokens that one document holds.
        documents_skipped: documents with fewer than `length` tokens.
        length: tokens in a window.
        mode: "chunks", "sliding" or "longlora".
        stride: tokens between the starts of overlapping windows; None for chunks.
        attention: name of the attention the model was evaluated with; None where a model does not name it.
        positions: loss by position within the window.
    """

    perplexity: float
    perplexity_standard_error: float | None
    low: float | None
    high: float | None
    nll: float
    nll_standard_error: float | None
    tokens: int
    windows: int
    documents: int
    largest_document: float
    documents_skipped: int
    length: int
    mode: str
    stride: int | None
    attention: str | None
    positions: tuple[PositionBin, ...]


def perplexity(
    model: nn.Module,
    documents: Sequence[Tensor],
    length: int,
    mode: str = "chunks",
    stride: int | None = None,
    batch_size: int = 1,
    slice_length: int = 1024,
    position_bins: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> PerplexityResult:
    """Token-weighted perplexity of documents, read in windows of `length` tokens.

    `"chunks"` cuts each document into disjoint windows of exactly `length` tokens; the first token of a window is not
    scored and what remains at the end of a document is left out, so that every scored token has the same distribution
    of context. `"sliding"` moves a window by `stride` tokens and scores in each only the tokens no earlier window has
    scored, so that (past the first window) every token sees at least `length - stride` tokens; the last window ends
    with the document. Documents shorter than `length` are skipped: they say nothing about that context size.

    `"longlora"` is the protocol of LongLoRA's evaluation: all documents are joined, a window starts every `stride`
    (256) tokens except at the last possible start, and every window is scored as a whole. A token is so counted once
    at each depth of context, about `length / stride` times in all. Windows cross from one document into the next, so
    there is no standard error over documents.

    The result depends neither on `batch_size` nor on `slice_length`, up to rounding.

    Args:
        model: a causal language model, or a PEFT model around one; its modules' modes are restored afterwards.
        documents: token ids, one 1-D integer tensor for each document; it may be a mapped file (see
            `hylora_eval.documents`), of which no more than a window is read at a time.
        length: tokens in a window, at least 2.
        mode: "chunks", "sliding" or "longlora".
        stride: for "sliding" between 1 and `length - 1`, half the length by default; for "longlora" 256 by default.
        batch_size: windows in one forward pass.
        slice_length: positions whose logits exist at one time (see `hylora_eval.nll.token_nll`).
        position_bins: at most this many bins, of equal width, for the loss by position.
        progress: called with (windows done, windows in all) after each forward pass.

    Returns:
        The result.

    Raises:
        ValueError: if an argument is out of its range, no document has `length` tokens, a token is outside the
            model's vocabulary, the model's head is not supported, or the model gives a loss that is not finite.
    """
    stride = check_windows(length, mode, stride)
    for name, value in (("batch_size", batch_size), ("slice_length", slice_length), ("position_bins", position_bins)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    _check_tokens(documents, vocabulary=decoder_and_head(model).weight.shape[0])
    if mode == "longlora":
        used, skipped = [_joined(documents, length, stride)], 0
    else:
        used = _long_enough(documents, length)
        skipped = len(documents) - len(used)

    windows = lay_windows(used, length, mode, stride)
    sums = torch.zeros(len(used), dtype=torch.float64)
    counts = torch.zeros(len(used), dtype=torch.float64)
    position_sums = torch.zeros(length, dtype=torch.float64)
    position_counts = torch.zeros(length, dtype=torch.float64)
    device = model.get_input_embeddings().weight.device

    with evaluation_mode(model):
        verify_head(model, used[0][None, :PROBE].long().to(device))
        for first in range(0, len(windows), batch_size):
            batch = windows[first : first + batch_size]
            tokens = torch.stack([used[window.document][window.start : window.stop] for window in batch])
            losses = token_nll(model, tokens.long().to(device), slice_length=slice_length).double().cpu()
            for window, loss in zip(batch, losses, strict=True):
                # loss[i] belongs to position i + 1 of the window
                position = window.score_from - window.start
                scored = loss[position - 1 :]
                if not scored.isfinite().all():
                    raise ValueError(
                        f"the loss is not finite in document {window.document} of those used, tokens {window.start} "
                        f"to {window.stop}; try dtype float32, or check the checkpoint"
                    )
                sums[window.document] += scored.sum()
                counts[window.document] += len(scored)
                position_sums[position:] += scored
                position_counts[position:] += 1
            if progress is not None:
                progress(first + len(batch), len(windows))

    nll, error = mean_and_standard_error(sums.tolist(), counts.tolist())
    value = _exponential(nll)
    reach = None if error is None else t_quantile(degrees_of_freedom(counts.tolist())) * error
    return PerplexityResult(
        perplexity=value,
        perplexity_standard_error=None if error is None else value * error,
        low=None if reach is None else _exponential(nll - reach),
        high=None if reach is None else _exponential(nll + reach),
        nll=nll,
        nll_standard_error=error,
        tokens=int(counts.sum()),
        windows=len(windows),
        documents=len(documents) - skipped,
        largest_document=float(counts.max() / counts.sum()),
        documents_skipped=skipped,
        length=length,
        mode=mode,
        stride=None if mode == "chunks" else stride,
        attention=getattr(model.config, "_attn_implementation", None),
        positions=_position_bins(position_sums, position_counts, position_bins),
    )


def _check_tokens(documents: Sequence[Tensor], vocabulary: int) -> None:
    """Refuse what is not token ids of the model's vocabulary."""
    if not documents:
        raise ValueError("documents is empty; there is nothing to evaluate")
    for index, document in enumerate(documents):
        if document.ndim != 1 or document.is_floating_point():
            raise ValueError(
                f"document {index} is a {document.dtype} tensor of shape {tuple(document.shape)}; 1-D integer token "
                "ids are needed"
            )
        for block in document.split(BLOCK):
            smallest, largest = (int(bound) for bound in block.long().aminmax()) if len(block) else (0, 0)
            if not 0 <= smallest <= largest < vocabulary:
                raise ValueError(
                    f"document {index} holds token ids from {smallest} to {largest}, the model knows 0 to "
                    f"{vocabulary - 1}; was it made with the model's own tokenizer?"
                )


def _long_enough(documents: Sequence[Tensor], length: int) -> list[Tensor]:
    """The documents with at least `length` tokens."""
    used = [document for document in documents if len(document) >= length]
    if not used:
        longest = max(range(len(documents)), key=lambda index: len(documents[index]))
        raise ValueError(
            f"none of {len(documents)} documents has {length} tokens; the longest is document {longest} with "
            f"{len(documents[longest])}: choose a smaller length or longer documents"
        )
    return used


def _joined(documents: Sequence[Tensor], length: int, stride: int) -> Tensor:
    """All documents as one, a single one as it is."""
    joined = documents[0] if len(documents) == 1 else torch.cat(list(documents))
    needed = length + stride + 1
    if len(joined) < needed:
        raise ValueError(
            f"the {len(documents)} documents have {len(joined)} tokens together; mode='longlora' needs {needed} for a "
            f"window of {length} and a stride of {stride}, since it leaves out the last start: choose a smaller length"
        )
    return joined


def _position_bins(sums: Tensor, counts: Tensor, bins: int) -> tuple[PositionBin, ...]:
    """Mean loss in bins of equal width over positions 1 to length - 1."""
    length = len(sums)
    width = math.ceil((length - 1) / bins)
    result = []
    for start in range(1, length, width):
        part = slice(start, min(start + width, length))
        tokens = int(counts[part].sum())
        nll = float(sums[part].sum()) / tokens
        result.append(PositionBin(start, part.stop, nll, _exponential(nll), tokens))
    return tuple(result)


def _exponential(nll: float) -> float:
    return math.exp(nll) if nll < 700 else math.inf
