# SPDX-License-Identifier: Apache-2.0
"""Perplexity of long documents at a given context size (chapter 6, tables 6.1 to 6.3)."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from hylora.language.head import decoder_and_head, verify_head
from hylora.training.evaluation import evaluation_mode
from hylora_eval.documents import tokens_sha256
from hylora_eval.estimates import degrees_of_freedom, mean_and_standard_error, t_quantile
from hylora_eval.fingerprints import describe_model
from hylora_eval.journal import Journal
from hylora_eval.nll import token_nll
from hylora_eval.processes import ALONE, Processes
from hylora_eval.results import PlainJson
from hylora_eval.windows import Window, check_windows, lay_windows

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
        low: lower end of its 95 % interval (Student's t, with the degrees of freedom of the effective number of
            documents: see `hylora_eval.estimates.degrees_of_freedom`), None for one document.
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
        document_nll: loss of the scored tokens of each document used, summed, in nats; under "longlora" of all
            documents as one. By these two results on the same documents are compared.
        document_tokens: how many tokens these are.
        seconds: spent, over all runs that took part.
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
    document_nll: tuple[float, ...]
    document_tokens: tuple[int, ...]
    seconds: float = field(compare=False)


def perplexity(
    model: nn.Module,
    documents: Sequence[Tensor],
    length: int,
    mode: str = "chunks",
    stride: int | None = None,
    batch_size: int = 1,
    slice_length: int = 1024,
    position_bins: int = 16,
    bos: int | None = None,
    kept: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
    processes: Processes = ALONE,
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
        bos: a token to put before every window, so that the model reads `length + 1`; None for none. It is not scored,
            nor is the first token after it: with and without it, the same tokens are.
        kept: a file to keep losses in as they are found. If it exists, what it holds is not computed again; it may
            hold other lengths, or be from other batch sizes, but all that losses depend on must not have changed.
        progress: called with (windows done, windows in all) after each forward pass.
        processes: over which the windows are dealt. All call this with the same arguments and models, and all get the
            whole result; the main one keeps losses.

    Returns:
        The result.

    Raises:
        ValueError: if an argument is out of its range, no document has `length` tokens, a token is outside the
            model's vocabulary, the model's head is not supported, the model gives a loss that is not finite, or the
            file of losses was made under other settings.
        OSError: if that file cannot be read or written.
    """
    asked_stride, stride = stride, check_windows(length, mode, stride)
    for name, value in (("batch_size", batch_size), ("slice_length", slice_length), ("position_bins", position_bins)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    vocabulary = decoder_and_head(model).weight.shape[0]
    _check_tokens(documents, vocabulary)
    if bos is not None and not 0 <= bos < vocabulary:
        raise ValueError(f"bos={bos} is no token of the model, which knows 0 to {vocabulary - 1}")
    if mode == "longlora":
        used, skipped = [_joined(documents, length, stride)], 0
    else:
        used = _long_enough(documents, length)
        skipped = len(documents) - len(used)

    windows = lay_windows(used, length, mode, stride)
    first_scored = torch.tensor([window.score_from - window.start for window in windows])
    width = math.ceil((length - 1) / position_bins)
    starts = torch.arange(1, length, width)
    sums = torch.zeros(len(windows), len(starts), dtype=torch.float64)
    tokens = ((starts + width).clamp(max=length) - torch.maximum(starts, first_scored[:, None])).clamp(min=0)
    device = model.get_input_embeddings().weight.device
    # Without a stride of its own a mode has one for each length.
    settings = {"mode": mode, "stride": asked_stride, "bos": bos, "bins": position_bins}
    journal = processes.on_all(
        lambda: _open_journal(kept, model, documents, settings) if kept is not None and processes.is_main else None
    )
    made = processes.on_main(lambda: _found_before(journal, length))
    known = {index for found in made for index in found["windows"]}
    missing = [index for index in range(len(windows)) if index not in known]
    batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
    done = len(known)

    def found_in(batch: list[int]) -> dict[str, Any]:
        started = time.perf_counter()
        chosen = [windows[index] for index in batch]
        losses = _window_losses(model, used, chosen, first_scored[batch], bos, slice_length)
        parts = [part.sum(dim=1) for part in losses.split(width, dim=1)]
        found = {"length": length, "windows": batch, "sums": torch.stack(parts, dim=1).tolist()}
        return found | {"seconds": round(time.perf_counter() - started, 4)}

    with evaluation_mode(model):
        verify_head(model, used[0][None, :PROBE].long().to(device))
        for results in processes.dealt(batches, found_in):
            for found in results:
                made.append(found)
                done += len(found["windows"])
                if journal is not None:
                    journal.add(found)
            if progress is not None:
                progress(done, len(windows))
    for found in made:
        sums[found["windows"]] = torch.tensor(found["sums"], dtype=torch.float64)
    seconds = sum(found["seconds"] for found in made)

    owners = torch.tensor([window.document for window in windows])
    document_nll = torch.zeros(len(used), dtype=torch.float64).index_add(0, owners, sums.sum(dim=1)).tolist()
    document_tokens = torch.zeros(len(used), dtype=torch.long).index_add(0, owners, tokens.sum(dim=1)).tolist()
    nll, error = mean_and_standard_error(document_nll, document_tokens)
    value = _exponential(nll)
    reach = None if error is None else t_quantile(degrees_of_freedom(document_tokens)) * error
    return PerplexityResult(
        perplexity=value,
        perplexity_standard_error=None if error is None else value * error,
        low=None if reach is None else _exponential(nll - reach),
        high=None if reach is None else _exponential(nll + reach),
        nll=nll,
        nll_standard_error=error,
        tokens=sum(document_tokens),
        windows=len(windows),
        documents=len(documents) - skipped,
        largest_document=max(document_tokens) / sum(document_tokens),
        documents_skipped=skipped,
        length=length,
        mode=mode,
        stride=None if mode == "chunks" else stride,
        attention=getattr(model.config, "_attn_implementation", None),
        positions=tuple(
            PositionBin(start, min(start + width, length), total / count, _exponential(total / count), count)
            for start, total, count in zip(
                starts.tolist(), sums.sum(dim=0).tolist(), tokens.sum(dim=0).tolist(), strict=True
            )
        ),
        document_nll=tuple(round(total, 6) for total in document_nll),
        document_tokens=tuple(document_tokens),
        seconds=round(seconds, 3),
    )


def _window_losses(
    model: nn.Module,
    documents: Sequence[Tensor],
    windows: Sequence[Window],
    first_scored: Tensor,
    bos: int | None,
    slice_length: int,
) -> Tensor:
    """Loss of the tokens behind the first of each window [B, L - 1] in float64; 0 where they are not scored."""
    tokens = torch.stack([documents[window.document][window.start : window.stop] for window in windows]).long()
    if bos is not None:
        tokens = pad(tokens, (1, 0), value=bos)
    tokens = tokens.to(model.get_input_embeddings().weight.device)
    losses = token_nll(model, tokens, slice_length=slice_length).double().cpu()
    if bos is not None:
        losses = losses[:, 1:]
    scored = torch.arange(1, losses.shape[1] + 1) >= first_scored[:, None]
    losses = losses.where(scored, 0.0)
    for window, finite in zip(windows, losses.isfinite().all(dim=1).tolist(), strict=True):
        if not finite:
            raise ValueError(
                f"the loss is not finite in document {window.document} of those used, tokens {window.start} to "
                f"{window.stop}; try dtype float32, or check the checkpoint"
            )
    return losses


def _open_journal(
    path: str | os.PathLike, model: nn.Module, documents: Sequence[Tensor], settings: dict[str, Any]
) -> Journal:
    return Journal(path, {**settings, **describe_model(model), "tokens_sha256": tokens_sha256(documents)})


def _found_before(journal: Journal | None, length: int) -> list[dict[str, Any]]:
    """What a journal has for a length: for each batch its windows, their losses by position, and the seconds."""
    return [] if journal is None else [line for line in journal.lines if line["length"] == length]


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


def _exponential(nll: float) -> float:
    return math.exp(nll) if nll < 700 else math.inf
