# SPDX-License-Identifier: Apache-2.0
"""How networks get their first weights, and how they are written and read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["CONFIG_NAME", "drawn_from", "read_config", "read_weights", "write_network"]

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


def write_network(
    folder: str | PathLike, config: Mapping[str, Any], module: nn.Module, state: Mapping[str, Tensor] | None
) -> None:
    """Write weights as safetensors, and a shape as JSON.

    Args:
        folder: to write into.
        config: the shape; its `model_type` tells `load_network` who reads it.
        module: that has the weights.
        state: the weights, where the module holds only a share of them; None for its own.
    """
    state = module.state_dict() if state is None else state
    # Of its own memory each: safetensors refuses tensors that share some.
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    save_file(weights, Path(folder, _WEIGHTS_NAME), metadata={"format": "pt"})
    Path(folder, CONFIG_NAME).write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")


def read_config(folder: str | PathLike) -> dict[str, Any]:
    """The shape of a network that was written."""
    return json.loads(Path(folder, CONFIG_NAME).read_text(encoding="utf-8"))


def read_weights(folder: str | PathLike) -> dict[str, Tensor]:
    """The weights of a network that was written, by name, on the CPU."""
    return load_file(Path(folder, _WEIGHTS_NAME))
