# SPDX-License-Identifier: Apache-2.0
"""What numbers are means of, document by document and sample by sample; older results do not keep it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hylora_eval.results import Result, pointer

__all__ = ["Units", "read_documents", "read_samples"]


@dataclass(frozen=True)
class Units:
    """The documents or samples of a number.

    Attributes:
        key: equal for two numbers of the same documents or samples.
        sums: negative log-likelihood of each document, in nats, or score of each sample, in per cent.
        counts: tokens of each document; empty for samples, which count once.
        depths: where the needles of each sample lie, in per cent of its context; empty where there are none.
        pointer: where `sums` stands in its file.
    """

    key: str
    sums: tuple[float, ...]
    counts: tuple[int, ...] = ()
    depths: tuple[tuple[float, ...], ...] = ()
    pointer: str = ""


def read_documents(result: Result, *keys: str | int) -> tuple[Units, ...]:
    """The documents of the perplexity under `keys`; nothing where the result does not keep them.

    Raises:
        ValueError: if there is not one positive number of tokens and one finite sum for each, naming the field.
    """
    if result.get_at(*keys, "document_nll") is None:
        return ()
    sums = _numbers(result, *keys, "document_nll")
    counts = _numbers(result, *keys, "document_tokens")
    _check(result, len(counts) == len(sums), f"must have {len(sums)} numbers", *keys, "document_tokens")
    key = result.pick("data", "tokens_sha256", kind=str)
    return (Units(key, sums, tuple(map(int, counts)), pointer=pointer(*keys, "document_nll")),)


def read_samples(result: Result, samples: int, *keys: str | int) -> tuple[Units, ...]:
    """The samples of the score under `keys`; nothing where the result does not keep them.

    Args:
        result: of RULER.
        samples: how many there were.
        keys: of a row.

    Raises:
        ValueError: if there is not one score and one list of depths for each, naming the field.
    """
    if result.get_at(*keys, "scores") is None:
        return ()
    scores = _numbers(result, *keys, "scores")
    _check(result, len(scores) == samples, f"must have {samples} numbers", *keys, "scores")
    depths: tuple[tuple[float, ...], ...] = ()
    if result.get_at(*keys, "depths") is not None:
        count = len(result.pick(*keys, "depths", kind=list))
        _check(result, count == samples, f"must have {samples} lists", *keys, "depths")
        depths = tuple(_numbers(result, *keys, "depths", index) for index in range(count))
        _check(result, all(0 <= d <= 100 for own in depths for d in own), "must be per cent", *keys, "depths")
    # Without a hash of the prompts nothing says that others are the same.
    key = str(result.get_at(*keys, "prompts_sha256") or f"{id(result)} {keys}")
    return (Units(key, scores, depths=depths, pointer=pointer(*keys, "scores")),)


def _numbers(result: Result, *keys: str | int) -> tuple[float, ...]:
    values = result.pick(*keys, kind=list)
    sound = all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    _check(result, sound, "must have finite numbers only", *keys)
    return tuple(map(float, values))


def _check(result: Result, holds: bool, rule: str, *keys: str | int) -> None:
    if not holds:
        raise ValueError(f"{pointer(*keys)}={repr(result.get_at(*keys))[:60]} {rule}; evaluate anew")
