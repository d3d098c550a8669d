# SPDX-License-Identifier: Apache-2.0
"""From an original checkpoint folder to one that transformers loads, a shard at a time."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hylora.files import atomic_folder
from hylora.models.mamba2attn.configuration_mamba2attn import Mamba2AttnConfig
from hylora.models.mamba2attn.modeling_mamba2attn import Mamba2AttnForCausalLM
from hylora.models.mamba2attn.original import Slice, read_config, sources

__all__ = ["Conversion", "convert"]

_EMBEDDING, _HEAD = "backbone.embedding.weight", "lm_head.weight"
_WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Conversion(NamedTuple):
    """What a conversion wrote.

    Attributes:
        config: of the model.
        parameters: number of them, tied ones once.
        dtype: of the weights but those that stay float32.
        files: names of the safetensors files.
        has_tokenizer: whether a tokenizer lay beside the weights and was copied.
    """

    config: Mamba2AttnConfig
    parameters: int
    dtype: torch.dtype
    files: list[str]
    has_tokenizer: bool


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    dtype: str | None = None,
    max_shard_size: str = "2GB",
) -> Conversion:
    """Convert an original mamba2attn checkpoint to safetensors in transformers' format.

    Every tensor is checked for its name and shape before anything is written, and for finite values as it is written.
    The weights are mapped into memory and not loaded; at most one shard is held at a time. `target` appears when it is
    complete and not before.

    Args:
        source: folder with the original config.json and pytorch_model.bin or model.safetensors, either of them in one
            file or in shards with an index.
        target: folder to create.
        dtype: "float32", "bfloat16" or "float16"; None keeps each tensor's. `A_log`, `dt_bias` and `D` are float32.
        max_shard_size: size of a file, as "2GB"; about as much memory is needed.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: if `source` holds no config.json or no weights, or an index names a file that is not there.
        FileExistsError: if `target` exists and is not an empty folder.
        ValueError: if config.json asks for what the model does not have, or tensors are missing, unknown, of another
            shape or not finite.
    """
    source, target = Path(source), Path(target).resolve()
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(_DTYPES)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists; name a folder that does not, or remove it")
    original = _open(source)
    config = _read_config(source, original)
    with torch.device("meta"):
        model = Mamba2AttnForCausalLM(config)
    # a tied head is in the state dict, but not among the parameters
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    plan = {name: sources(config, name) for name in shapes}
    _check(original, plan, shapes, config)

    kept = set(model._keep_in_fp32_modules_strict)
    chosen = _DTYPES[dtype] if dtype else None
    dtypes = {
        name: torch.float32 if name.rpartition(".")[2] in kept else chosen or original.dtype(origin.name)
        for name, origin in plan.items()
    }
    config.dtype = dtypes["model.embed_tokens.weight"]
    config.architectures = [type(model).__name__]
    split = split_torch_state_dict_into_shards(
        {name: torch.empty(shape, dtype=dtypes[name], device="meta") for name, shape in shapes.items()},
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    with atomic_folder(target) as partial:
        for filename, names in split.filename_to_tensors.items():
            _write_shard(original, {name: (plan[name], dtypes[name]) for name in names}, partial / filename)
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        config.save_pretrained(partial)
        tokenizer = [name for name in _TOKENIZER if (source / name).is_file()]
        for name in tokenizer:
            shutil.copyfile(source / name, partial / name)
    return Conversion(
        config=config,
        parameters=sum(shape.numel() for shape in shapes.values()),
        dtype=config.dtype,
        files=sorted(split.filename_to_tensors),
        has_tokenizer="tokenizer.json" in tokenizer,
    )


class _Original:
    """The tensors of a checkpoint by name, whichever files they lie in; none is read before it is asked for."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._files: dict[str, safe_open] = {}

    def add(self, path: Path) -> None:
        """Take in what a file of weights holds."""
        try:
            if path.suffix == ".safetensors":
                file = safe_open(path, framework="pt")
                self._files.update(dict.fromkeys(file.keys(), file))
                return
            # files from before torch 1.6 can't be mapped
            tensors = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
        except (RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{path} can't be read as weights alone; download it again: {reason}") from error
        if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ValueError(f"{path} must hold a dictionary of tensors and nothing else; save the state dict alone")
        self._tensors.update(tensors)

    def names(self) -> set[str]:
        return {*self._tensors, *self._files}

    def shape(self, name: str) -> torch.Size:
        if name in self._files:
            return torch.Size(self._files[name].get_slice(name).get_shape())
        return self._tensors[name].shape

    def read(self, origin: Slice) -> Tensor:
        rows = slice(None) if origin.rows is None else origin.rows
        if origin.name in self._files:
            return self._files[origin.name].get_slice(origin.name)[rows]
        return self._tensors[origin.name][rows]

    def dtype(self, name: str) -> torch.dtype:
        return self.read(Slice(name, slice(0, 1))).dtype


def _open(source: Path) -> _Original:
    """The weights in a folder, safetensors before pickled ones."""
    found = next((name for name in _WEIGHTS if (source / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{source} holds none of {', '.join(_WEIGHTS)}; give the folder of the checkpoint")
    files = [found]
    if found.endswith(".index.json"):
        files = sorted(set(_read_json(source / found).get("weight_map", {}).values()))
        if not files:
            raise ValueError(f"{source / found} has no weight_map that says which file holds what")
    original = _Original()
    for name in files:
        if Path(name).name != name or not (source / name).is_file():
            raise FileNotFoundError(f"{source / found} names {name!r}, which is not in {source}")
        original.add(source / name)
    return original


def _read_config(source: Path, original: _Original) -> Mamba2AttnConfig:
    if not (source / "config.json").is_file():
        raise FileNotFoundError(f"{source} holds no config.json; it comes with the checkpoint")
    if _EMBEDDING not in original.names():
        raise ValueError(f"the weights in {source} hold no {_EMBEDDING}; is this an original mamba2attn checkpoint?")
    values = _read_json(source / "config.json")
    try:
        return read_config(values, vocab_size=original.shape(_EMBEDDING)[0])
    except StrictDataclassError as error:
        raise ValueError(f"{source / 'config.json'}: {error}") from error


def _read_json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a JSON {type(values).__name__} instead of an object")
    return values


def _check(original: _Original, plan: dict[str, Slice], shapes: dict[str, torch.Size], config) -> None:
    """Compare names and shapes of all tensors with what the config makes of the model."""
    expected: dict[str, torch.Size] = {}
    for name, origin in plan.items():
        rows = shapes[name][0] if origin.rows is None else origin.rows.stop
        # the parts of one tensor come in the order of their rows, so the last one tells its height
        expected[origin.name] = torch.Size([rows, *shapes[name][1:]])
    names = original.names()
    problems = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in names]
    optional = {_HEAD} if config.tie_word_embeddings else set()
    problems += [f"unknown {name} {list(original.shape(name))}" for name in sorted(names - expected.keys() - optional)]
    problems += [
        f"{name} has shape {list(original.shape(name))} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in names and original.shape(name) != shape
    ]
    problems += [
        f"{name} is of type {original.dtype(name)} instead of a floating-point one"
        for name in expected
        if name in names and not original.dtype(name).is_floating_point
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(f"the weights are not those that config.json describes: {shown}")
    tied = config.tie_word_embeddings and _HEAD in names
    if tied and not torch.equal(original.read(Slice(_HEAD)), original.read(Slice(_EMBEDDING))):
        raise ValueError(
            f"config.json ties the head to the embedding, but {_HEAD} and {_EMBEDDING} differ; set tie_embeddings to "
            "false in a copy of config.json if the head is one of its own"
        )


def _write_shard(original: _Original, parts: dict[str, tuple[Slice, torch.dtype]], path: Path) -> None:
    """Copy some tensors to a file; they are given up before the next file begins."""
    tensors = {}
    for name, (origin, dtype) in parts.items():
        tensors[name] = original.read(origin).to(dtype, copy=True).contiguous()
        if not tensors[name].isfinite().all():
            raise ValueError(
                f"{origin.name} holds values that are not finite in {dtype}; if another dtype does not help, the file "
                "is damaged: download it again"
            )
    save_file(tensors, path, metadata={"format": "pt"})
