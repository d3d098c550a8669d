# SPDX-License-Identifier: Apache-2.0
"""How well a model recalls what it has read, by how far back it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hylora.demo.recall import RecallDocument, RecallTask
from hylora.language.head import decoder_and_head, verify_head
from hylora.training.evaluation import evaluation_mode
from hylora_eval.estimates import mean_and_standard_error
from hylora_eval.results import PlainJson

__all__ = [
    "DistanceBin",
    "RecallResult",
    "RecallSequence",
    "check_sequences",
    "draw_recall_sequences",
    "recall_by_distance",
    "same_lengths",
    "tokenize_recall",
]

# Tokens of the first sequence on which the head is verified before the run.
PROBE = 16


@dataclass(frozen=True, eq=False)
class RecallSequence:
    """A sequence in which some tokens can be known only from earlier ones.

    Attributes:
        input_ids: tokens [L].
        answers: positions [N] of the tokens to recall; each is predicted from the tokens before it.
        sources: positions [N] of the earlier tokens that hold the answers. `answers - sources` is the distance.
    """

    input_ids: Tensor
    answers: Tensor
    sources: Tensor


@dataclass(frozen=True)
class DistanceBin:
    """Recall over distances from `start` to `stop` (exclusive).

    Attributes:
        start: smallest distance in tokens.
        stop: one past the largest.
        accuracy: share of answers that were the most likely token, None without any answer.
        standard_error: of the accuracy over sequences, None for fewer than two sequences.
        answers: how many there were.
    """

    start: int
    stop: int
    accuracy: float | None
    standard_error: float | None
    answers: int


@dataclass(frozen=True)
class RecallResult(PlainJson):
    """Recall by distance.

    Attributes:
        accuracy: over all answers.
        standard_error: of the accuracy over sequences, None for one sequence.
        answers: how many there were.
        sequences: sequences read.
        attention: name of the attention the model was evaluated with; None where a model does not name it.
        bins: recall by distance.
        sequence_right: answers of each sequence that were right, by which two results on the same sequences are
            compared (see `hylora_eval.compare.paired_ratio`).
        sequence_answers: answers of each.
    """

    accuracy: float
    standard_error: float | None
    answers: int
    sequences: int
    attention: str | None
    bins: tuple[DistanceBin, ...]
    sequence_right: tuple[int, ...]
    sequence_answers: tuple[int, ...]


@torch.no_grad()
def recall_by_distance(
    model: nn.Module,
    sequences: Sequence[RecallSequence],
    edges: Sequence[int],
    batch_size: int = 8,
    slice_length: int = 1024,
) -> RecallResult:
    """Share of answers that a model gives as its most likely token, by distance to where it has read them.

    The model reads the true tokens throughout (teacher forcing), so one forward pass answers every question of a
    sequence and no mistake leads to another.

    Args:
        model: a causal language model, or a PEFT model around one; its modules' modes are restored afterwards.
        sequences: the sequences; neighbours of equal length share a batch.
        edges: of the distance bins, increasing: (0, 32, 64) makes bins of 0 to 31 and 32 to 63 tokens.
        batch_size: sequences in one forward pass.
        slice_length: answers whose logits exist at one time.

    Returns:
        The result.

    Raises:
        ValueError: if the edges do not increase, there is no answer, a position is wrong, a distance lies outside the
            bins, or the model's head is not supported.
    """
    if len(edges) < 2 or any(start >= stop for start, stop in zip(edges, edges[1:], strict=False)):
        raise ValueError(f"edges={tuple(edges)} must be at least two increasing distances")
    if batch_size < 1 or slice_length < 1:
        raise ValueError(f"batch_size={batch_size} and slice_length={slice_length} must be at least 1")
    check_sequences(sequences)
    distances = [sequence.answers - sequence.sources for sequence in sequences]
    nearest, farthest = (int(extreme(torch.cat(distances))) for extreme in (torch.min, torch.max))
    if nearest < edges[0] or farthest >= edges[-1]:
        raise ValueError(f"distances go from {nearest} to {farthest}, outside of the bins {edges[0]} to {edges[-1]}")

    device = model.get_input_embeddings().weight.device
    right: list[Tensor] = []
    with evaluation_mode(model):
        verify_head(model, sequences[0].input_ids[None, :PROBE].to(device))
        parts = decoder_and_head(model)
        for batch in same_lengths(sequences, batch_size):
            tokens = torch.stack([sequence.input_ids for sequence in batch]).to(device)
            hidden = parts.decoder(input_ids=tokens, use_cache=False).last_hidden_state
            for states, sequence in zip(hidden, batch, strict=True):
                before = states[sequence.answers.to(states.device) - 1]
                guesses = torch.cat([parts.logits(part).argmax(-1) for part in before.split(slice_length)])
                right.append((guesses.cpu() == sequence.input_ids[sequence.answers]).double())

    return RecallResult(
        *_accuracy(right),
        answers=sum(map(len, right)),
        sequences=len(sequences),
        attention=getattr(model.config, "_attn_implementation", None),
        bins=tuple(
            _distance_bin(start, stop, right, distances) for start, stop in zip(edges, edges[1:], strict=False)
        ),
        sequence_right=tuple(int(answers.sum()) for answers in right),
        sequence_answers=tuple(map(len, right)),
    )


def draw_recall_sequences(
    tokenizer: PreTrainedTokenizerBase, tokens: int, number: int, seed: str = "evaluate"
) -> list[RecallSequence]:
    """Documents of the synthetic recall task (see `hylora.demo.recall`).

    Args:
        tokenizer: a byte-level BPE that knows enough words as one token each, such as the demo's.
        tokens: length of a document, odd.
        number: of documents.
        seed: names the documents.
    """
    task = RecallTask.for_tokenizer(tokenizer)
    # Facts that come twice spread their distances over the whole document.
    return tokenize_recall(tokenizer, (task.document(tokens, f"{seed}-{index}", repeats=2) for index in range(number)))


def tokenize_recall(tokenizer: PreTrainedTokenizerBase, documents: Iterable[RecallDocument]) -> list[RecallSequence]:
    """The tokens of recall documents, dense or sparse, and where their answers are."""
    return [
        RecallSequence(
            torch.tensor(tokenizer(document.text, verbose=False)["input_ids"]),
            answers=torch.tensor([query.position + 1 for query in document.queries]),
            sources=torch.tensor([query.needle + 1 for query in document.queries]),
        )
        for document in documents
    ]


def check_sequences(sequences: Sequence[RecallSequence]) -> None:
    """Check that every answer comes after its source and repeats it.

    Raises:
        ValueError: naming the sequence and what is wrong with it.
    """
    for index, sequence in enumerate(sequences):
        answers, sources = sequence.answers, sequence.sources
        shapes_differ = answers.shape != sources.shape or answers.ndim != 1
        if shapes_differ or answers.is_floating_point() or sources.is_floating_point():
            raise ValueError(
                f"sequence {index}: answers ({answers.dtype}, {tuple(answers.shape)}) and sources ({sources.dtype}, "
                f"{tuple(sources.shape)}) must be two lists of positions of the same length"
            )
        if not bool(((sources >= 0) & (sources < answers) & (answers < len(sequence.input_ids))).all()):
            raise ValueError(
                f"sequence {index}: every source must come before its answer, both within {len(sequence.input_ids)} "
                "tokens"
            )
        if not torch.equal(sequence.input_ids[answers], sequence.input_ids[sources]):
            raise ValueError(
                f"sequence {index}: an answer differs from the token at its source; are positions shifted?"
            )
    if not any(len(sequence.answers) for sequence in sequences):
        raise ValueError("there is no answer to recall in any sequence")


def same_lengths(sequences: Sequence[RecallSequence], batch_size: int) -> Iterator[list[RecallSequence]]:
    """Batches of neighbouring sequences of one length, in order, so that nothing is padded."""
    for _, group in groupby(sequences, key=lambda sequence: len(sequence.input_ids)):
        equal = list(group)
        for first in range(0, len(equal), batch_size):
            yield equal[first : first + batch_size]


def _accuracy(right: Sequence[Tensor]) -> tuple[float, float | None]:
    return mean_and_standard_error([float(answers.sum()) for answers in right], [len(answers) for answers in right])


def _distance_bin(start: int, stop: int, right: Sequence[Tensor], distances: Sequence[Tensor]) -> DistanceBin:
    inside = [
        answers[(distance >= start) & (distance < stop)] for answers, distance in zip(right, distances, strict=True)
    ]
    count = sum(map(len, inside))
    accuracy, error = _accuracy(inside) if count else (None, None)
    return DistanceBin(start, stop, accuracy, error, count)
