# SPDX-License-Identifier: Apache-2.0
"""Run a computation on tensors without storage, and keep account of the bytes alive and the operations made."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from hylora.planning.operations import count_operations, is_attention
from hylora.planning.workspace import kernel_workspace

__all__ = ["MemoryLedger", "StepTracker", "without_kernel"]

_GROUPED = torch.ops.aten._grouped_mm.default

# Integers that code asks about (positions, padding masks, layouts) are computed for real: up to this many, of at most
# two dimensions. What has more dimensions, such as the scores of blocks, only shapes other tensors.
_REAL_NUMBERS = 1 << 24
_REAL_DIMENSIONS = 2


# torch.distributed._tools.MemTracker was tried in place of what follows: it takes no frozen parameters (its hooks want
# gradients of all), and what its hooks keep alive made it foretell 1.2 to 1.9 times what is measured.
class MemoryLedger:
    """Bytes alive by part, what they were when they were most, and the most that each part had at any time."""

    def __init__(self) -> None:
        self.live: Counter[str] = Counter()
        self.highest: dict[str, int] = {}
        self.total = 0
        self.peak: dict[str, int] = {}
        self.peak_total = 0
        self._records: dict[int, tuple[weakref.ref, int, str]] = {}

    def add(self, tensor: Tensor, part: str, size: int | None = None) -> None:
        """Account a tensor's storage to a part, until nothing refers to it; a known storage stays where it is.

        Args:
            tensor: floating or not.
            part: of the model.
            size: bytes, where a real one has not those of this tensor.
        """
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._records:
            size = storage.nbytes() if size is None else size
            self._records[key] = (weakref.ref(storage, lambda _: self._free(key)), size, part)
            self._change(part, size)

    def move(self, tensor: Tensor, part: str) -> None:
        """Account a tensor's storage to another part from now on."""
        key = tensor.untyped_storage()._cdata
        if key in self._records:
            reference, size, old = self._records[key]
            self._records[key] = (reference, size, part)
            self.live[old] -= size
            self.live[part] += size

    def pulse(self, size: int, part: str) -> None:
        """Bytes that come and go within one operation."""
        self._change(part, size)
        self._change(part, -size)

    def _free(self, key: int) -> None:
        _, size, part = self._records.pop(key)
        self._change(part, -size)

    def _change(self, part: str, size: int) -> None:
        self.live[part] += size
        self.total += size
        self.highest[part] = max(self.highest.get(part, 0), self.live[part])
        if self.total > self.peak_total:
            self.peak, self.peak_total = dict(self.live), self.total


class StepTracker(TorchDispatchMode):
    """Under it, floating tensors have shapes but no storage, and everything is accounted to a part of the model.

    Integers are computed for real: models look at them (does this mask hide anything? is this row packed?) and go
    different ways.

    Args:
        fake_mode: that made the model's parameters.
        on_gpu: account for the extra memory inside a GPU's attention kernels.

    Attributes:
        memory: the bytes.
        operations: floating-point operations by part and phase: "forward", "recomputation" or "backward".
    """

    def __init__(self, fake_mode: FakeTensorMode, on_gpu: bool) -> None:
        super().__init__()
        self.memory = MemoryLedger()
        self.operations: Counter[tuple[str, str]] = Counter()
        self._fake_mode = fake_mode
        self._on_gpu = on_gpu
        self._inside: list[str] = []
        self._in_backward = False

    @contextmanager
    def watch(self, parts: dict[nn.Module, str]) -> Iterator[None]:
        """Account what happens inside modules to their parts; the innermost one counts."""
        handles = []
        for module, part in parts.items():
            handles.append(module.register_forward_pre_hook(lambda *_, part=part: self._inside.append(part)))
            # Checkpointing leaves a module by an exception when it has recomputed enough.
            handles.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Mark the backward pass."""
        self._in_backward = True
        try:
            yield
        finally:
            self._in_backward = False

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            # Questions such as a tensor's device: frequent, and without a result to account for.
            return func(*args, **kwargs)
        output = self._run(func, args, kwargs)
        part = self._part
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self.memory.add(tensor, part)
        kind = "attention method" if is_attention(func) else part
        self.operations[kind, self._phase] += count_operations(func, args, kwargs, output)
        if self._on_gpu:
            self.memory.pulse(kernel_workspace(func, args), part)
        return output

    def _run(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        fakes = sum(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not fakes and (
            # Without values there would be no shape.
            torch.Tag.dynamic_output_shape in func.tags
            or not any(str(result.type) == "Tensor" for result in func._schema.returns)
        ):
            return func(*args, **kwargs)
        if 0 < fakes < len(tensors):
            args, kwargs = tree_map(self._without_values, (args, kwargs))
        with self._fake_mode:
            output = without_kernel(func, args, kwargs)
            if output is None:
                output = func(*args, **kwargs)
        if fakes:
            return output
        results = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        return func(*args, **kwargs) if all(map(_is_asked_about, results)) else output

    def _without_values(self, leaf: Any) -> Any:
        """A fake tensor for a real one: given both, the fake mode cannot remember what an operator returned."""
        if not isinstance(leaf, Tensor) or isinstance(leaf, FakeTensor):
            return leaf
        with self._fake_mode:
            return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)

    @property
    def _part(self) -> str:
        if self._inside:
            return self._inside[-1]
        return "backward" if self._in_backward else "other"

    @property
    def _phase(self) -> str:
        if not self._in_backward:
            return "forward"
        return "recomputation" if self._inside else "backward"

    def _leave(self) -> None:
        self._inside.pop()


def _is_asked_about(tensor: Tensor) -> bool:
    """Whether a result may decide what runs next, so that its values are needed."""
    small = tensor.numel() <= _REAL_NUMBERS and tensor.ndim <= _REAL_DIMENSIONS
    return small and not tensor.is_floating_point()


def without_kernel(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The result, without values, of an operator that torch's tensors without storage know in some types only.

    Args:
        func: an overload of `torch.ops`.
        args, kwargs: of the call.

    Returns:
        A tensor of the right shape and type, or None for all other operators.
    """
    if func is not _GROUPED:
        return None
    first, second, *rest = args
    offsets = rest[0] if rest else kwargs.get("offs")
    shape = [first.shape[-2], second.shape[-1]]
    if first.ndim == second.ndim:
        shape = [len(offsets) if first.ndim == 2 else len(first), *shape]
    return first.new_empty(shape, dtype=kwargs.get("out_dtype") or first.dtype)
