# SPDX-License-Identifier: Apache-2.0
"""Tensors in a small form: those with many zeros, and those of few bits; each is had back bit for bit."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision_extras.models.grid import Grid

__all__ = ["is_sparse", "pack", "packed_size", "unpack"]

# The entry of the metadata that says which tensors are packed, and how.
_KEY = "packed"


def pack(
    state: Mapping[str, Tensor], grids: Mapping[str, Grid] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors that stand for a state, and the metadata of safetensors that `unpack` needs.

    A tensor that has a grid becomes integers of the grid's bits. Any other that would be smaller so becomes a mask of
    one bit for each element, deflated where that is smaller still, and the elements that are not 0. The rest stays.

    Args:
        state: tensors by name, on any device.
        grids: of those that are on one, by name.

    Returns:
        On the CPU: `NAME/integers`, `NAME/scale` and `NAME/zero`; `NAME/mask` and `NAME/values`; or `NAME` itself.

    Raises:
        ValueError: if a tensor is not on its grid.
    """
    packed, forms = {}, {}
    for name, value in state.items():
        # Of its own memory each: safetensors refuses tensors that share some.
        value = value.detach().cpu().contiguous().clone()
        form, parts = _form(name, value, (grids or {}).get(name))
        packed.update({f"{name}/{part}" if part else name: tensor for part, tensor in parts.items()})
        if form is not None:
            forms[name] = {**form, "shape": list(value.shape)}
    return packed, {_KEY: json.dumps(forms)}


def unpack(packed: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> dict[str, Tensor]:
    """The state that `pack` was given; tensors that it did not make are left as they are.

    Args:
        packed: tensors by name, on the CPU.
        metadata: of their file.
    """
    forms, state = json.loads((metadata or {}).get(_KEY, "{}")), dict(packed)
    for name, form in forms.items():
        count = math.prod(form["shape"])
        if form["form"] == "integers":
            scale, zero = state.pop(f"{name}/scale"), state.pop(f"{name}/zero")
            grid = Grid(scale, zero, form["bits"])
            integers = _from_bits(state.pop(f"{name}/integers"), count, grid.bits)
            exact = torch.promote_types(scale.dtype, torch.float32)
            value = grid.values(integers.to(exact) + grid.lowest).to(scale.dtype)
        else:
            bits = state.pop(f"{name}/mask")
            # Those of former versions are never deflated.
            mask = _from_bits(_inflated(bits) if form.get("deflated") else bits, count, 1).bool()
            values = state.pop(f"{name}/values")
            value = torch.zeros(count, dtype=values.dtype).masked_scatter_(mask, values)
        state[name] = value.view(form["shape"])
    return state


def is_sparse(state: Mapping[str, Tensor]) -> bool:
    """Whether a quarter of all elements are 0, so that packing is worth a file that others cannot read."""
    zeros = sum(int((value == 0).sum()) for value in state.values())
    return zeros > 0 and 4 * zeros >= sum(value.numel() for value in state.values())


def packed_size(packed: Mapping[str, Tensor]) -> int:
    """Bytes of tensors; those that `pack` gives are what a file has besides names."""
    return sum(tensor.nbytes for tensor in packed.values())


def _form(name: str, value: Tensor, grid: Grid | None) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """How a tensor is packed, and in what parts."""
    if grid is not None:
        grid = Grid(grid.scale.detach().cpu().clone(), grid.zero.detach().cpu().clone(), grid.bits)
        integers = grid.integers(value)
        if not torch.equal(grid.values(integers).to(value.dtype), value):
            raise ValueError(f"{name} is not on its grid of {grid.bits} bits; pack it without one")
        bits = _to_bits((integers - grid.lowest).to(torch.uint8), grid.bits)
        return {"form": "integers", "bits": grid.bits}, {"integers": bits, "scale": grid.scale, "zero": grid.zero}
    if value.is_floating_point():
        # A zero with a sign is an element as any other.
        mask = (value != 0) | value.signbit()
        bits = _to_bits(mask.to(torch.uint8), 1)
        deflated = _deflated(bits)
        smaller = deflated.nbytes < bits.nbytes
        parts = {"mask": deflated if smaller else bits, "values": value[mask]}
        if packed_size(parts) < value.nbytes:
            return {"form": "sparse", "deflated": smaller}, parts
    return None, {"": value}


def _deflated(numbers: Tensor) -> Tensor:
    """Bytes, as zlib has them small: where ones are few that is less than any index of each takes."""
    return torch.frombuffer(bytearray(zlib.compress(numbers.numpy(), 9)), dtype=torch.uint8)


def _inflated(numbers: Tensor) -> Tensor:
    """What `_deflated` was given."""
    return torch.frombuffer(bytearray(zlib.decompress(numbers.numpy())), dtype=torch.uint8)


def _to_bits(numbers: Tensor, bits: int) -> Tensor:
    """The lowest bits of bytes of any shape, one after the other, in bytes."""
    split = np.unpackbits(numbers.numpy().reshape(-1, 1), axis=1)[:, 8 - bits :]
    return torch.from_numpy(np.packbits(split))


def _from_bits(packed: Tensor, count: int, bits: int) -> Tensor:
    """The bytes [count] that `_to_bits` was given."""
    split = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    return torch.from_numpy(np.packbits(np.pad(split, ((0, 0), (8 - bits, 0))), axis=1)[:, 0].copy())
