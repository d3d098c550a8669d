# SPDX-License-Identifier: Apache-2.0
"""`hylora.load`: a model as it was trained, with its adapter, attention and RoPE scaling."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from hylora.adapters import load_adapter
from hylora.adapters.quantization import Quantization
from hylora.adapters.quantization import dequantize as dequantized
from hylora.attention import SpanConfig, check_attention, check_options, expand_preset, resolve_name
from hylora.hub_kernels import check_hub_kernels, confirm_kernels
from hylora.rope import RopeScaling, admit_context
from hylora.runs.manifest import MANIFEST_NAME, RunManifest
from hylora.runs.sharing import Origin, take_along
from hylora.runs.weights import check_finite, load_weights
from hylora.runs.whereabouts import ADAPTER, find_folder, manifest_in

__all__ = ["load"]


def load(
    folder: str | os.PathLike,
    attention: str | None = None,
    *,
    dtype: torch.dtype | str = "auto",
    device_map: Any = None,
    revision: str | None = None,
    trainable: bool = False,
    trust_remote_code: bool = False,
    rope: RopeScaling | None = None,
    use_kernels: bool = False,
    dequantize: bool = False,
    **options: Any,
) -> torch.nn.Module:
    """Load a run or a plain model, from a folder or from the hub.

    Args:
        folder: what a training run wrote (an adapter or a full model beside `hylora.json`), or a plain model; a folder
            or a hub id.
        attention: None for the attention it was trained with (full attention for a plain model), `"full"`, or a
            plug-in's name. It is applied before the model is built.
        dtype: dtype of the base weights; `"auto"` keeps the checkpoint's.
        device_map: as in `from_pretrained`.
        revision: revision on the hub of what `folder` names; `hylora.json` names that of an adapter's base.
        trainable: load an adapter so that it can be trained further.
        trust_remote_code: run code that comes with the base model.
        rope: stretch the rotary positions of a model that was not trained so; its factor must be a number.
        use_kernels: let transformers load prebuilt kernels of the Hub for the model's layers; needs a `device_map`
            with a GPU, and the package `kernels`.
        dequantize: give the base of an adapter that was trained on quantised weights ordinary ones with the same
            values, as merging needs; by default they are quantised as in training.
        **options: fields of `SpanConfig`, or `preset`, that replace the trained ones.

    Returns:
        A transformers model, or a `peft.PeftModel` around it, in evaluation mode unless `trainable`. Its methods
        `save_pretrained` and `push_to_hub` take `hylora.json`, the tokenizer and a model card along: of the run as it
        was trained, or of the model in hand where that is `trainable`, a plain model or stretched by `rope`.

    Raises:
        FileNotFoundError: if `folder` looks like a path and does not exist, or its base model has moved.
        ValueError: if the attention is unknown, an option is wrong or of no use, a revision is asked of a local
            folder, the model cannot take the attention or the RoPE scaling, its weights are damaged, or kernels are
            asked for and cannot be had.
    """
    folder = os.fspath(folder)
    if revision is not None and Path(folder).is_dir():
        raise ValueError(f"revision={revision!r} is for hub models, but {folder!r} is a local folder; leave it out")
    if use_kernels:
        check_hub_kernels("cpu" if device_map in (None, "cpu") else "cuda")
    local = find_folder(folder, revision)
    manifest = manifest_in(local, folder)
    name = resolve_name(attention if attention is not None else manifest.attention)
    check_options(name, options)

    has_adapter = (local / ADAPTER).is_file()
    base = _base_model(manifest, local) if has_adapter else folder
    arguments: dict[str, Any] = {
        "revision": manifest.base_revision if has_adapter else revision,
        "trust_remote_code": trust_remote_code,
    }
    config = AutoConfig.from_pretrained(base, **arguments)
    text = config.get_text_config()
    if has_adapter:
        _restore_rope(text, manifest)
    if rope is not None:
        rope.apply(config, trust_remote_code=trust_remote_code)
    admit_context(config, manifest.context_length)
    asked = expand_preset(options, attention)
    if manifest.span_attention or asked:
        SpanConfig.from_dict({**SpanConfig.of(text).to_dict(), **manifest.span_attention, **asked}).keep_on(text)
    check_attention(config, name)
    name = resolve_name(name, config)
    arguments |= {"dtype": dtype, "use_kernels": use_kernels}
    if quantization := has_adapter and manifest.quantization:
        kind = (text.dtype or torch.float32) if dtype == "auto" else dtype
        arguments |= Quantization(**quantization).arguments(getattr(torch, kind) if isinstance(kind, str) else kind)
    model = load_weights(base, config=config, attn_implementation=name, device_map=device_map, **arguments)
    if quantization and dequantize:
        model = dequantized(model)
    if has_adapter:
        model = load_adapter(model, local, trainable=trainable)
        check_finite(model, folder)
    model.train(trainable)
    if use_kernels:
        confirm_kernels(model)
    return take_along(model, Origin(folder, revision, local, manifest, changed=trainable or rope is not None))


def _restore_rope(config: PretrainedConfig, manifest: RunManifest) -> None:
    """Set what an adapter was trained with on the config of its base."""
    for name in ("rope_parameters", "max_position_embeddings"):
        if getattr(manifest, name) is not None:
            setattr(config, name, getattr(manifest, name))


def _base_model(manifest: RunManifest, folder: Path) -> str:
    """The base of the adapter in `folder`."""
    path, base = folder / MANIFEST_NAME, manifest.base_model
    if base is None:
        raise ValueError(f"{path} lies beside an adapter but names no base_model; add its folder or hub id")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise FileNotFoundError(
            f"base_model {base!r} in {path} does not exist; move the model back, or correct the path there"
        )
    return base
