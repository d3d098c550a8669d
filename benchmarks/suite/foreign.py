# SPDX-License-Identifier: Apache-2.0
"""Can a library's kernels compute own chunks, and leave retrieved blocks to ours?

Own chunks are a batch of dense causal problems, `[B * L / M, H, M, D]` by strides alone. The backward of a part of a
softmax needs the output and log-sum-exp of the whole: will the library's backward take those, which it has not
computed itself? Each question is asked by itself and gets yes or no, with the numbers it rests on.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hylora_kernels.plain import plain_backward, plain_forward
from hylora_kernels.scoring import Scoring
from hylora_kernels.triton_backend.own_chunks import LIBRARIES, Library, as_chunks

from . import costs
from .checks import TOLERANCE, relative_error
from .results import Results
from .runs import random_tensors
from .sizes import Sizes
from .timing import Budget, cold_stopwatch

_REPEATS, _ROUNDS = 5, 9


def ask_all(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Ask every question about every library.

    Returns:
        Whether all could be asked; an answer of no is no failure.
    """
    section = results.start("own chunks by a library", settings=sizes.to_dict(), lines=[])
    libraries = {name: x for name, x in LIBRARIES.items() if x.device == sizes.options.device}
    places = ({"library": name, "question": question} for name in libraries for question in _QUESTIONS)
    for place in section.todo(places, budget):
        with section.attempt(**place):
            answer, numbers = _QUESTIONS[place["question"]](libraries[place["library"]], sizes)
            section.add("lines", {**place, "answer": answer, "numbers": numbers})
            told = {None: "", True: "yes", False: "no"}[answer]
            print(*place.values(), told, numbers, flush=True)
    return not section.failed


def usable(lines: list[dict[str, Any]]) -> dict[str, bool]:
    """The libraries that can compute own chunks by these answers, and whether the backward of each repeats."""
    answers: dict[str, dict[str, bool]] = {}
    for line in lines:
        answers.setdefault(line["library"], {})[line["question"]] = line["answer"]
    return {
        name: bool(given.get(_DOES_IT_REPEAT))
        for name, given in answers.items()
        if all(given.get(question) for question in _NEEDED)
    }


class _Part(NamedTuple):
    """Problems that are part of a larger softmax, with the output and log-sum-exp of the whole."""

    grad: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    lse: Tensor
    scale: float


def _own_part(sizes: Sizes, heads: tuple[int, int]) -> _Part:
    """Own chunks of random tensors; the whole softmax has as many other keys, all of which every query sees."""
    options, chunk = sizes.options, sizes.options.chunk_size
    drawn = random_tensors(*heads, 4 * chunk, options.head_dim, sizes.dtype, options.device)
    *own, grad = (as_chunks(x[:, :, : 2 * chunk], chunk) for x in drawn)
    others = [as_chunks(x[:, :, 2 * chunk :], chunk) for x in drawn[1:3]]
    scale, groups = 1 / sqrt(options.head_dim), heads[0] // heads[1]
    query, *rest = (x.float() for x in (*own, *others))
    key, value, *others = (x.repeat_interleave(groups, dim=1) for x in rest)
    first, first_lse = plain_forward(query, key, value, True, Scoring(scale))
    second, second_lse = plain_forward(query, *others, False, Scoring(scale))
    share = torch.sigmoid(second_lse - first_lse)[..., None]
    return _Part(grad, *own, torch.lerp(first, second, share), torch.logaddexp(first_lse, second_lse), scale)


def _log_sum_exp(library: Library, sizes: Sizes) -> tuple[bool, dict[str, Any]]:
    """The library's log-sum-exp is the natural logarithm, of one number for each query."""
    part = _own_part(sizes, (2, 2))
    output, lse = library.forward(part.query, part.key, part.value, part.scale)
    expected, expected_lse = plain_forward(*(x.float() for x in part[1:4]), True, Scoring(part.scale))
    errors = {"output": relative_error(output, expected), "lse": relative_error(lse, expected_lse)}
    right = all(error < TOLERANCE[sizes.dtype] for error in errors.values())
    return right, {**errors, "shape": list(lse.shape), "strides": list(lse.stride()), "dtype": str(lse.dtype)}


def _foreign(library: Library, sizes: Sizes, heads: tuple[int, int]) -> tuple[bool, dict[str, Any]]:
    """The backward is right with the output and log-sum-exp of a whole softmax that the library has not seen."""
    part = _own_part(sizes, heads)
    grad, query, key, value, output, lse, scale = part
    own = library.forward(query, key, value, scale)
    # In the strides and dtypes of what it gave itself.
    whole = [torch.empty_like(own_x).copy_(x) for own_x, x in zip(own, (output, lse), strict=True)]
    found = library.backward(grad, query, key, value, *whole, scale)
    alone = library.backward(grad, query, key, value, *own, scale)
    groups = query.shape[1] // key.shape[1]
    wide = [x.repeat_interleave(groups, dim=1) for x in (key, value)]
    dq, *others = plain_backward(grad, query, *wide, output, lse, True, Scoring(scale))
    expected = [dq, *(x.unflatten(1, (key.shape[1], -1)).sum(dim=2) for x in others)]
    errors = {n: relative_error(f, e) for n, f, e in zip(("dq", "dk", "dv"), found, expected, strict=True)}
    # What it would be off if the library computed its own instead of what it is given.
    off = {f"{n} by its own": relative_error(a, e) for n, a, e in zip(errors, alone, expected, strict=True)}
    return all(error < TOLERANCE[sizes.dtype] for error in errors.values()), {**errors, **off}


def _takes_groups(library: Library, sizes: Sizes) -> tuple[bool, dict[str, Any]]:
    """The same where query heads share a KV head."""
    return _foreign(library, sizes, (4, 2))


def _real(library: Library, sizes: Sizes) -> tuple[Callable[[], Any], Callable[[], Any], Callable[[int], float]]:
    """Forward and backward of all own chunks at the length that kernels are timed at, and a pass's operations."""
    options, length = sizes.options, sizes.kernel_length
    heads = sizes.heads[0]
    drawn = random_tensors(*heads, length, options.head_dim, sizes.dtype, options.device)
    query, key, value, grad = (as_chunks(x, options.chunk_size) for x in drawn)
    scale = 1 / sqrt(options.head_dim)
    saved = library.forward(query, key, value, scale)
    pairs = costs.chunk_pairs(options.chunk_size)(length)
    return (
        lambda: library.forward(query, key, value, scale),
        lambda: library.backward(grad, query, key, value, *saved, scale),
        lambda name: costs.operations(pairs, heads[0], options.head_dim, name),
    )


def _repeats(library: Library, sizes: Sizes, asked: bool = False) -> tuple[bool, dict[str, Any]]:
    """The backward gives the same bits again, at a real size; `asked`: where torch is told to be deterministic."""
    _, backward, _ = _real(library, sizes)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(asked)  # with warn_only, flash attention does not do as it is told
    try:
        first = backward()
        differences = []
        for _ in range(_REPEATS):
            again = backward()
            differences.append([float((a != b).double().mean()) for a, b in zip(first, again, strict=True)])
        timed = cold_stopwatch(torch.device(sizes.options.device))
        seconds = median(timed(backward, torch.device(sizes.options.device)) for _ in range(_REPEATS))
    finally:
        torch.use_deterministic_algorithms(before)
    worst = dict(zip(("dq", "dk", "dv"), map(max, zip(*differences, strict=True)), strict=True))
    return not any(worst.values()), {"share of numbers that differ": worst, "backward seconds": seconds}


def _repeats_if_asked(library: Library, sizes: Sizes) -> tuple[bool, dict[str, Any]]:
    return _repeats(library, sizes, asked=True)


def _time(library: Library, sizes: Sizes) -> tuple[None, dict[str, Any]]:
    """Seconds of all own chunks at a real size."""
    forward, backward, operations = _real(library, sizes)
    device = torch.device(sizes.options.device)
    timed, numbers = cold_stopwatch(device), {}
    for name, run in (("forward", forward), ("backward", backward)):
        run()
        seconds = median(timed(run, device) for _ in range(_ROUNDS))
        numbers |= {f"{name} seconds": seconds, f"{name} flops_per_second": operations(name) / seconds}
    return None, numbers


# Those that a library must answer with yes to be used.
_NEEDED = {
    "is its log-sum-exp the natural logarithm, chunks by strides?": _log_sum_exp,
    "does its backward take a foreign log-sum-exp?": lambda library, sizes: _foreign(library, sizes, (2, 2)),
    "also where query heads share a KV head?": _takes_groups,
}
_DOES_IT_REPEAT = "does its backward repeat bit for bit?"
_QUESTIONS = {
    **_NEEDED,
    _DOES_IT_REPEAT: _repeats,
    "and when torch is told to be deterministic?": _repeats_if_asked,
    "how long do all own chunks take?": _time,
}
