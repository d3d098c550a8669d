# SPDX-License-Identifier: Apache-2.0
"""Short names of contents: by them a resumed run notices another model or another tokenizer than it began with."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hylora.tensors import stored_tensors
from hylora_kernels.options import CONFIG_ATTRIBUTE

__all__ = ["fingerprint", "model_fingerprint", "tokenizer_fingerprint", "weights_fingerprint"]


def fingerprint(content: Any) -> str:
    """A hash of plain values, the same in every process.

    Args:
        content: dicts, lists and scalars, as JSON has them; anything else counts by its string.

    Returns:
        32 hex digits.
    """
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def model_fingerprint(model: nn.Module) -> str:
    """A hash of what a model computes: of its weights, and of what its config sets but for options of an attention."""
    config = getattr(model, "config", None)
    return fingerprint([weights_fingerprint(model), None if config is None else _lasting(config.to_diff_dict())])


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of every byte of a model's weights and persistent buffers, with their names, shapes and dtypes.

    It reads some 4 GB/s. Two copies of a model have the same, wherever they lie and whichever way they were loaded.

    Args:
        model: any module; tensors without storage count by name, shape and dtype alone.
    """
    sums: dict[int, int] = {}
    tensors = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            continue
        # Tied weights are one object.
        if id(tensor) not in sums:
            sums[id(tensor)] = _checksum(tensor)
        tensors.append([name, list(tensor.shape), str(tensor.dtype), sums[id(tensor)]])
    return fingerprint(tensors)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides on the tokens of a text or a conversation."""
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        # What the last call asked for is not a property of the tokenizer.
        content.pop("truncation", None)
        content.pop("padding", None)
    else:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(name) for name in tokenizer.save_pretrained(folder)]
            content = {file.name: hashlib.blake2b(file.read_bytes()).hexdigest() for file in files if file.is_file()}
    return fingerprint([type(tokenizer).__name__, content, tokenizer.eos_token_id, tokenizer.chat_template])


def _checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    if tensor.is_meta:
        return 0
    checksum = 0
    for part in stored_tensors(tensor):
        checksum = zlib.crc32(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), checksum)
    return checksum


def _lasting(values: Any) -> Any:
    """A config without where it came from, what wrote it, and what every run sets itself."""
    if isinstance(values, dict):
        return {
            name: _lasting(value)
            for name, value in values.items()
            if not str(name).startswith("_") and name not in ("transformers_version", CONFIG_ATTRIBUTE)
        }
    return values
