# SPDX-License-Identifier: Apache-2.0
"""Is a method right? Its output and gradients, and the choice of blocks, against the reference in float64.

The choice and the attention to what was chosen are checked apart: where two blocks are all but equally relevant, lower
precision may rank them otherwise, which is no error. So below float64 the attention is checked on random blocks.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hylora_kernels import select_blocks

from .methods import Method, Options
from .results import describe_error
from .runs import output_and_gradients, random_tensors

# Relative error (Frobenius norm) at which a method counts as wrong.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}
# Share of blocks that may be chosen otherwise; one always may.
_CHOICE_TOLERANCE = 2e-3


def retrieval_for(dtype: torch.dtype) -> str:
    """How blocks are chosen where attention to them is checked."""
    return "relevance" if dtype == torch.float64 else "random"


def check_method(name: str, method: Method, tensors: list[Tensor]) -> dict:
    """Compare a method with its reference, output and gradients."""

    def errors() -> dict[str, float]:
        expected = output_and_gradients(method.expected, [tensor.double() for tensor in tensors])
        # Memory that the results are likely to get is filled with NaN, so that what is never written shows.
        filled = [torch.full_like(tensor, float("nan")) for tensor in tensors for _ in range(2)]
        del filled
        actual = output_and_gradients(method.bind(*tensors[:3]), tensors)
        return dict(zip(("output", "dq", "dk", "dv"), map(relative_error, actual, expected), strict=True))

    return judge(place_of(name, tensors), TOLERANCE[tensors[0].dtype], errors)


def check_choice(name: str, options: dict[str, Any], tensors: list[Tensor]) -> dict:
    """Compare the blocks that are chosen under options of `select_blocks` with those that the reference chooses."""
    inputs = tensors[:3]
    expected = select_blocks(*(x.double() for x in inputs), **options, backend="reference")[0]
    errors = lambda: {"blocks": share_of_others(select_blocks(*inputs, **options)[0], expected)}  # noqa: E731
    return {**judge(place_of(name, tensors), choice_tolerance(int((expected >= 0).sum())), errors), "choice": True}


def share_of_others(actual: Tensor, expected: Tensor) -> float:
    """The share of chosen blocks `[Hkv, units, top_k]` (-1: none) that are chosen in one of both alone."""
    common = (actual[..., :, None] == expected[..., None, :]) & (actual >= 0)[..., None]
    return 1 - int(common.sum()) / max(int((expected >= 0).sum()), int((actual >= 0).sum()))


def choice_tolerance(chosen: int) -> float:
    """The share of so many chosen blocks that may be others."""
    return max(_CHOICE_TOLERANCE, 1 / chosen)


def place_of(method: str, tensors: list[Tensor]) -> dict[str, Any]:
    """What a check is of."""
    heads, length = tensors[0].shape[1:3]
    dtype = str(tensors[0].dtype).removeprefix("torch.")
    return {"method": method, "dtype": dtype, "heads": [heads, tensors[1].shape[1]], "length": length}


def judge(place: dict[str, Any], tolerance: float, errors: Callable[[], dict[str, float]]) -> dict:
    """A line of the report: errors, the largest against its tolerance; an exception is an error of its own."""
    line = {**place, "errors": {}, "error": None, "tolerance": tolerance, "passed": False, "failure": None}
    try:
        found = errors()
        # Also where an error is not a number.
        passed = all(error <= tolerance for error in found.values())
        failure = None if passed else "error above tolerance"
        line |= {"errors": found, "error": max(found.values()), "passed": passed, "failure": failure}
    except Exception as error:
        line |= {"failure": describe_error(error), "traceback": traceback.format_exc()}
        traceback.print_exc()
    what = ", ".join(f"{name} {error:.1e}" for name, error in line["errors"].items())
    verdict = "ok" if line["passed"] else f"WRONG: {line['failure']}"
    print("check", *place.values(), what, verdict, flush=True)
    return line


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """By the Frobenius norm."""
    return float((actual.double() - expected).norm() / expected.norm())


def check_tensors(method: Method, heads: tuple[int, int], options: Options, length: int, dtype) -> list[Tensor]:
    """Tensors to check a method at: few heads in the proportion of those timed, and a length of no special size."""
    few = (2 * heads[0] // heads[1], 2)
    return random_tensors(
        *(method.check_heads or few), method.check_length or length, options.head_dim, dtype, options.device
    )
