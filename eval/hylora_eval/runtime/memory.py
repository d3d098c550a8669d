# SPDX-License-Identifier: Apache-2.0
"""The most memory that tensors take at one time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["TensorMemory", "peak_memory"]


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of the tensors made within this context, while they live.

    Scratch memory inside an operation is not seen, nor what existed before. It makes operations slower: not for
    timing. For devices whose allocator keeps no count, such as the CPU.

    Attributes:
        peak: the most bytes alive at one time.
        largest: for each size of a last dimension, the elements of the largest tensor that has it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.largest: dict[int, int] = {}
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count what it made."""
        output = function(*args, **(kwargs or {}))
        known = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(output):
            # A view of an input, or the input itself, is not new.
            if tensor.untyped_storage()._cdata not in known:
                self._add(tensor)
        return output

    def restart(self) -> None:
        """Forget the peak, not what is alive."""
        self.peak = sum(self._live.values())

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.ndim:
            self.largest[tensor.shape[-1]] = max(self.largest.get(tensor.shape[-1], 0), tensor.numel())
        if storage._cdata not in self._live:
            self._live[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self._live.pop, storage._cdata, None)
            self.peak = max(self.peak, sum(self._live.values()))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def peak_memory(prepare: Callable[[], Callable[[], object]], device: torch.device) -> int:
    """Bytes that tensors take at most while a run runs, beyond what was there before it was prepared.

    Args:
        prepare: gives the run; what it leaves behind for it (a filled cache) counts, what it took itself does not.
        device: on CUDA its allocator's count is read, elsewhere `TensorMemory` is used.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        run = prepare()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with TensorMemory() as memory:
        run = prepare()
        memory.restart()
        run()
    return memory.peak
