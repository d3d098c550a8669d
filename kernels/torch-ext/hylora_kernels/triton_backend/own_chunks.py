# SPDX-License-Identifier: Apache-2.0
"""Own chunks by a library's kernels, for our own to add to what was retrieved.

Own chunks are a batch of dense causal problems, `[B * L / M, H, M, D]`, by strides alone where the memory allows it.
A library's backward is given the output and log-sum-exp of the whole softmax, which it has not computed: it needs
exp(score - lse) and the row sums of grad * output, so what comes out is the own chunks' share of the gradients.

Which library computes is read from a table, `launches/own_chunks.json`: by architecture, width of numbers and head
dimension, each exactly as it was measured. Where it names none, or that one refuses, our own kernels do it.
"""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..layout import SequenceLayout
from ..saved import Saved
from ..scoring import Scoring
from .launch import capability

_aten = torch.ops.aten
_TABLE = Path(__file__).parent / "launches/own_chunks.json"
_forced: List[Optional[str]] = []


class Library(NamedTuple):
    """Causal attention of `[N, H, M, D]`, where a KV head may serve several query heads.

    Attributes:
        device: where it runs, "cuda" or "cpu".
        forward: from query, key, value and scale to the output and the log-sum-exp `[N, H, M]`, a natural logarithm.
        backward: from gradient, query, key, value, output, log-sum-exp and scale to three gradients.
    """

    device: str
    forward: Callable[..., Tuple[Tensor, Tensor]]
    backward: Callable[..., Tuple[Tensor, Tensor, Tensor]]


class Choice(NamedTuple):
    """What computes own chunks: a library's name, or None for our own kernels, and whether its backward repeats."""

    library: Optional[str]
    repeats: bool


def _cudnn_forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tuple[Tensor, Tensor]:
    output, lse, *_ = _aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, True, False, scale=scale
    )
    return output, lse.reshape(query.shape[:3])


def _cudnn_backward(grad, query, key, value, output, lse, scale) -> Tuple[Tensor, Tensor, Tensor]:
    # Without dropout the generator's state is not read.
    state, length = torch.zeros(2, dtype=torch.int64, device=query.device), query.shape[2]
    lse = lse.reshape(*lse.shape, *[1] * (_cudnn_lse_dims(query.device) - lse.dim()))
    return _aten._scaled_dot_product_cudnn_attention_backward(
        *(grad, query, key, value, output, lse, *state, None, None, None, length, length, 0.0, True), scale=scale
    )


@lru_cache(maxsize=None)
def _cudnn_lse_dims(device: torch.device) -> int:
    """Dimensions of the log-sum-exp as the operators have it: in some versions of torch there is a fourth, of one."""
    x = torch.zeros(1, 1, 64, 64, dtype=torch.float16, device=device)
    return _aten._scaled_dot_product_cudnn_attention(x, x, x, None, True, 0.0, True, False)[1].dim()


def _flash_forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tuple[Tensor, Tensor]:
    output, lse, *_ = _aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, False, scale=scale)
    return output, lse.reshape(query.shape[:3])


def _flash_backward(grad, query, key, value, output, lse, scale) -> Tuple[Tensor, Tensor, Tensor]:
    # Without dropout the generator's state is not read.
    state, length = torch.zeros(2, dtype=torch.uint64, device=query.device), query.shape[2]
    return _aten._scaled_dot_product_flash_attention_backward(
        *(grad, query, key, value, output, lse, None, None, length, length, 0.0, True, state, state[0]), scale=scale
    )


def _cpu_forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tuple[Tensor, Tensor]:
    return _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True, scale=scale)


def _cpu_backward(grad, query, key, value, output, lse, scale) -> Tuple[Tensor, Tensor, Tensor]:
    return _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, query, key, value, output, lse, 0.0, True, scale=scale
    )


# Torch's for CPUs is beside Triton's interpreter, for tests.
LIBRARIES = {
    "cudnn": Library("cuda", _cudnn_forward, _cudnn_backward),
    "flash": Library("cuda", _flash_forward, _flash_backward),
    "cpu": Library("cpu", _cpu_forward, _cpu_backward),
}


def own_forward(
    query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, chunk_size: int, scoring: Scoring
) -> Optional[Tuple[Tensor, Tensor]]:
    """Attention within chunks by the library that is chosen, or None where our own kernels are to compute it.

    Args:
        query: `[B, Hq, L, D]`; of all three, the last dimension is contiguous and the other strides are free.
        key: `[B, Hkv, L, D]`.
        value: `[B, Hkv, L, D]`.
        layout: the sequences.
        chunk_size: M; the last chunk may be shorter.
        scoring: scale and softcap of the scores; no library has the latter.

    Returns:
        The output, laid out as `torch.empty_like(query)`, and the log-sum-exp `[B, Hq, L]` float32.
    """
    return _by_library(_forward, query, layout, scoring, query, key, value, chunk_size)


def own_backward(
    grad: Tensor, saved: Saved, layout: SequenceLayout, chunk_size: int, scoring: Scoring
) -> Optional[Tuple[Tensor, Tensor, Tensor]]:
    """The share of own chunks in the gradients of query, key and value; None as from `own_forward`.

    Args:
        grad: `[B, Hq, L, D]`, gradient of the output, any strides.
        saved: of the whole softmax's forward.
        layout: the sequences.
        chunk_size: M.
        scoring: scale and softcap of the scores; no library has the latter.

    Returns:
        Gradients laid out as `torch.empty_like` of query, key and value.
    """
    return _by_library(_backward, saved.query, layout, scoring, grad, saved, chunk_size)


def as_chunks(x: Tensor, size: int) -> Tensor:
    """`[B, H, L, ...]` as `[B * L / M, H, M, ...]` of this M: a view, if chunks are evenly spaced in memory."""
    return _grid(x, size).flatten(0, 1)


@contextmanager
def forced(library: Optional[str]) -> Iterator[None]:
    """Let this library, or with None our own kernels, compute for a while: for tuning and tests.

    What it refuses is raised.
    """
    _forced.append(library)
    try:
        yield
    finally:
        _forced.pop()


def listed(architecture: str, width: str, head_dim: str) -> Choice:
    """What the table says, as of ("sm_90", "half", "128"); where it says nothing, our own kernels compute."""
    found = _table().get(architecture, {}).get(width, {}).get(head_dim)
    return Choice(None, True) if found is None else Choice(**found)


def described(device: torch.device) -> Tuple[str, str]:
    """What computes own chunks in half precision on a CUDA device, and why, in words."""
    place = architecture(device)
    choices = {head_dim: Choice(**choice) for head_dim, choice in _table().get(place, {}).get("half", {}).items()}
    named = [f"{choice.library} at head_dim={head_dim}" for head_dim, choice in choices.items() if choice.library]
    if named:
        return f"{', '.join(named)}; else triton", f"measured on {place} to be faster, and dense batches take it"
    if choices:
        return "triton", f"no library was faster on {place} at head_dim={', '.join(choices)}"
    return "triton", f"no library was measured on {place}"


def architecture(device: torch.device) -> str:
    """As in the table: "sm_90"."""
    return "sm_{}{}".format(*capability(device))


def chosen(query: Tensor, layout: SequenceLayout) -> Optional[str]:
    """The library that computes own chunks of such queries `[B, Hq, L, D]`, or None: our own kernels do."""
    if not layout.is_dense or layout.longest == 0:
        return None
    if _forced:
        return _forced[-1]
    if query.device.type != "cuda" or query.dtype.itemsize != 2:
        return None
    choice = listed(architecture(query.device), "half", str(query.shape[3]))
    return None if torch.are_deterministic_algorithms_enabled() and not choice.repeats else choice.library


@lru_cache(maxsize=None)
def _table() -> Dict[str, Dict[str, Dict[str, dict]]]:
    return json.loads(_TABLE.read_text())


def _by_library(compute: Callable, query: Tensor, layout: SequenceLayout, scoring: Scoring, *arguments):
    name = chosen(query, layout) if scoring.softcap is None else None
    if name is None:
        return None
    try:
        return compute(LIBRARIES[name], *arguments, scoring.scale)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError) as error:  # this torch may lack the operators
        if _forced:
            raise
        _warn_once(name, str(error).partition("\n")[0])
        return None


@lru_cache(maxsize=None)
def _warn_once(name: str, reason: str):
    warnings.warn(f"{name} does not compute own chunks here, Triton does: {reason}", stacklevel=2)


def _forward(
    library: Library, query: Tensor, key: Tensor, value: Tensor, chunk_size: int, scale: float
) -> Tuple[Tensor, Tensor]:
    pieces = _pieces((query, key, value), chunk_size)
    found = [library.forward(*(piece.chunks(x) for x in (query, key, value)), scale) for piece in pieces]
    outputs, sums = zip(*found)
    numbers = torch.empty(query.shape[:3], dtype=torch.float32, device="meta")
    return _together(outputs, pieces, query), _together(sums, pieces, numbers)


def _backward(
    library: Library, grad: Tensor, saved: Saved, chunk_size: int, scale: float
) -> Tuple[Tensor, Tensor, Tensor]:
    query, key, value, output, lse = saved[:5]
    # Torch keeps cuDNN's plans by the strides of query, key and value alone: those of the rest must follow from them.
    grad, query, output = (_laid_out(x, query) for x in (grad, query, output))
    tensors = (grad, query, key, value, output)
    pieces = _pieces(tensors, chunk_size)
    found = [
        library.backward(*(piece.chunks(x) for x in tensors), piece.chunks(lse.float()).contiguous(), scale)
        for piece in pieces
    ]
    return tuple(_together(parts, pieces, x) for parts, x in zip(zip(*found), (query, key, value)))


class _Piece(NamedTuple):
    """Chunks of one size: some rows, and a stretch of their positions.

    Attributes:
        rows: of the batch.
        positions: a multiple of the size.
        size: tokens of a chunk.
    """

    rows: slice
    positions: slice
    size: int

    def of(self, x: Tensor) -> Tensor:
        """This piece of `[B, H, L, ...]`."""
        return x[self.rows, :, self.positions]

    def chunks(self, x: Tensor) -> Tensor:
        """Its chunks, `[rows * chunks, H, size, ...]`."""
        return as_chunks(self.of(x), self.size)


def _pieces(tensors: Sequence[Tensor], chunk_size: int) -> List[_Piece]:
    """How `[B, H, L, D]` is cut so that the chunks of all tensors are views."""
    batch, _, length, _ = tensors[0].shape
    whole = length // chunk_size * chunk_size
    pieces = []
    if whole:
        # Chunks of different rows are evenly spaced only where a row's positions are next to those of the row before.
        even = whole == chunk_size or all(x.stride(0) == whole * x.stride(2) for x in tensors)
        rows = [slice(0, batch)] if even or batch == 1 else [slice(row, row + 1) for row in range(batch)]
        pieces += [_Piece(row, slice(0, whole), chunk_size) for row in rows]
    if whole < length:
        pieces.append(_Piece(slice(0, batch), slice(whole, length), length - whole))
    return pieces


def _together(parts: Sequence[Tensor], pieces: List[_Piece], like: Tensor) -> Tensor:
    """What pieces gave, in one tensor laid out as `torch.empty_like` does; not copied where it is so already."""
    if len(parts) == 1:
        return _laid_out(parts[0].unflatten(0, (like.shape[0], -1)).transpose(1, 2).flatten(2, 3), like)
    whole = torch.empty_like(like, device=parts[0].device)
    for part, piece in zip(parts, pieces):
        place = _grid(piece.of(whole), piece.size)
        place.copy_(part.unflatten(0, place.shape[:2]))
    return whole


def _grid(x: Tensor, size: int) -> Tensor:
    """`[B, H, L, ...]` as `[B, L / M, H, M, ...]`, a view."""
    return x.unflatten(2, (-1, size)).transpose(1, 2)


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """With the strides that `torch.empty_like` gives, copied only if the memory has others."""
    strides = torch.empty_like(like, device="meta").stride()
    # Whatever the strides of dimensions of one are, the memory is the same.
    if all(size == 1 or own == other for size, own, other in zip(x.shape, x.stride(), strides)):
        return x.as_strided(x.shape, strides)
    return torch.empty_like(like, device=x.device).copy_(x)
