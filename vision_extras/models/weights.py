# SPDX-License-Identifier: Apache-2.0
"""How networks get their first weights, and how they are written and read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vision_extras.models.packed import is_sparse, pack, unpack

__all__ = [
    "CONFIG_NAME",
    "StoredNetwork",
    "drawn_from",
    "read_config",
    "read_weights",
    "write_network",
    "write_weights",
]

CONFIG_NAME = "config.json"
_WEIGHTS_NAME = "model.safetensors"


@contextlib.contextmanager
def drawn_from(draw: torch.Generator | None) -> Iterator[None]:
    """Inside the block, modules that draw from torch's global generator get their weights by another one.

    Args:
        draw: gives the weights; None makes them on the meta device, with shapes alone.
    """
    if draw is None:
        with torch.device("meta"):
            yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**63 - 1, (), generator=draw)))
        yield


class StoredNetwork(nn.Module):
    """A network that is written as its weights and its shape."""

    @property
    def shape(self) -> dict[str, Any]:
        """What its shape follows from, as plain JSON values; `model_type` says whose it is."""
        raise NotImplementedError

    @classmethod
    def from_shape(cls, shape: Mapping[str, Any], draw: torch.Generator | None) -> Self:
        """A network of a shape.

        Args:
            shape: of another.
            draw: gives the weights; None makes them on the meta device, with shapes alone.
        """
        raise NotImplementedError

    def save(self, folder: str | PathLike, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the weights and the shape; see `write_network`."""
        write_network(folder, self.shape, self.state_dict() if state is None else state)

    @classmethod
    def load(cls, folder: str | PathLike) -> Self:
        """Read back what `save` wrote."""
        network = cls.from_shape(read_config(folder), None)
        network.load_state_dict(read_weights(folder), assign=True)
        return network


def write_network(
    folder: str | PathLike,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights as `write_weights` does, and a shape as JSON.

    Args:
        folder: to write into.
        config: the shape; its `model_type` tells `load_network` who reads it.
        state: the weights by name, which may be packed.
        metadata: of `pack`, where they are.
    """
    write_weights(Path(folder, _WEIGHTS_NAME), state, metadata)
    Path(folder, CONFIG_NAME).write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")


def read_config(folder: str | PathLike) -> dict[str, Any]:
    """The shape of a network that was written."""
    return json.loads(Path(folder, CONFIG_NAME).read_text(encoding="utf-8"))


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write weights as safetensors, which `read_weights` reads; packed where many are 0.

    Args:
        path: of the file.
        state: the weights by name.
        metadata: of `pack`, where they are packed already.
    """
    if metadata is None and is_sparse(state):
        state, metadata = pack(state)
    # Of its own memory each: safetensors refuses tensors that share some.
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    save_file(weights, path, metadata={"format": "pt", **(metadata or {})})


def read_weights(path: str | PathLike) -> dict[str, Tensor]:
    """Weights that were written, by name, on the CPU; those that were packed are had back bit for bit.

    Args:
        path: of the file, or of a network's folder.
    """
    path = Path(path)
    path = path / _WEIGHTS_NAME if path.is_dir() else path
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return unpack(load_file(path), metadata)
