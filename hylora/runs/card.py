# SPDX-License-Identifier: Apache-2.0
"""The README of an exported model: what it is, and which attention runs it where."""

from __future__ import annotations

import html
import re
from pathlib import Path

from peft import PeftConfig
from transformers import PreTrainedModel

from hylora.attention.names import PLUG_INS
from hylora.runs.manifest import RunManifest

__all__ = ["model_card"]

_TITLES = {
    "se_attn": "span-expanded attention (SE-Attn)",
    "sw_attn": "sliding-window attention",
    "s2_attn": "shifted sparse attention",
}
_OPTIONS = {
    "se_attn": ("block_size", "top_k", "chunk_size", "selection", "retrieval", "summary"),
    "sw_attn": ("window",),
    "s2_attn": ("group",),
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)


def model_card(model: PreTrainedModel, manifest: RunManifest, adapter: PeftConfig | None, name: str) -> str:
    """Describe an exported model.

    Args:
        model: as it is written.
        manifest: of its run.
        adapter: what was merged, or None where the model itself was trained.
        name: of the model's folder.

    Returns:
        Markdown with the metadata that the hub reads.
    """
    own_class = type(model).__module__.startswith("hylora.")
    parts = [
        _metadata(manifest),
        f"# {name}",
        _table(model, manifest, adapter),
        "## Which attention it runs",
        *_attention(model, manifest, own_class),
        "## Use",
        _code(manifest, name, own_class),
        *_sharing(model),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(manifest: RunManifest) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- hylora", "- long-context"]
    if manifest.base_model is not None and _HUB_ID.fullmatch(manifest.base_model):
        lines.append(f"base_model: {manifest.base_model}")
    return "\n".join(["---", *lines, "---"])


def _table(model, manifest, adapter) -> str:
    dtype = str(model.dtype).removeprefix("torch.")
    rows = {"architecture": f"`{model.config.model_type}`, {model.num_parameters():,} parameters in {dtype}"}
    if manifest.base_model is not None:
        base = Path(manifest.base_model)
        revision = f" at {manifest.base_revision}" if manifest.base_revision else ""
        rows["base model"] = _plain(f"{base.name if base.is_absolute() else manifest.base_model}{revision}")
    if manifest.quantization is not None:
        rows["base in training"] = f"quantized, {manifest.quantization['method']}"
    rows["trained"] = _trained(adapter)
    if manifest.context_length is not None:
        rows["training context"] = f"{manifest.context_length:,} tokens"
    if manifest.rope_parameters is not None:
        rows["RoPE"] = _plain(_rope(manifest.rope_parameters))
    rows["attention in training"] = _attention_in_training(manifest)
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def _plain(text: str) -> str:
    """Text of others on one line, of which neither Markdown nor HTML makes anything else."""
    return re.sub(r"([\\`*~|!\[\]])", r"\\\1", html.escape(" ".join(text.split())))


def _trained(adapter) -> str:
    if adapter is None:
        return "the model's own weights"
    text = f"LoRA of rank {adapter.r}, alpha {adapter.lora_alpha}, merged into the weights"
    # PEFT adds the full name of a tied embedding
    saved = sorted({name.rpartition(".")[2] for name in adapter.modules_to_save or ()})
    return f"{text}; in full: {', '.join(f'`{name}`' for name in saved)}" if saved else text


def _rope(parameters) -> str:
    options = ", ".join(f"{key} {value:g}" for key, value in parameters.items() if isinstance(value, (int, float)))
    return f"{parameters.get('rope_type')} scaling ({options}), in config.json"


def _attention_in_training(manifest) -> str:
    if manifest.attention not in PLUG_INS:
        return "full attention"
    options = ", ".join(f"{key} {manifest.span_attention[key]}" for key in _OPTIONS[manifest.attention])
    return f"{_TITLES[manifest.attention]}: {options}"


def _attention(model, manifest, own_class) -> list[str]:
    kind = f"`{model.config.model_type}`"
    if own_class:
        where = (
            f"{kind} is an architecture of the package hylora: other software, transformers alone included, has no "
            "code for it. transformers with hylora computes **full attention** unless it is asked otherwise."
        )
    else:
        where = (
            f"This is an ordinary {kind} model. transformers, and other software where it runs {kind} models (such as "
            "vLLM), computes **full attention** with it; nothing in the weights or in `config.json` asks for anything "
            "else."
        )
    parts = [where] if own_class else [where, *_serving(model, manifest)]
    if manifest.attention not in PLUG_INS:
        return parts
    return [
        *parts,
        f"It was trained with {_TITLES[manifest.attention]}, which stands in for full attention where sequences are "
        "long. hylora can turn it on again, as the code below does, with the options that `config.json` keeps for it.",
    ]


def _serving(model, manifest) -> list[str]:
    """Where vLLM reads RoPE scaling in another way than transformers."""
    match (manifest.rope_parameters or {}).get("rope_type"):
        case "linear":
            longest = model.config.get_text_config().max_position_embeddings
            return [
                f"Start vLLM with `--max-model-len {longest}`: otherwise it multiplies `max_position_embeddings`, the "
                "stretched context already, by the RoPE factor again."
            ]
        case "dynamic":
            return [
                "vLLM computes the base of dynamic RoPE scaling once, for the longest sequence that it allows; in "
                "transformers it follows the sequence at hand. Expect other outputs."
            ]
    return []


def _code(manifest, name, own_class) -> str:
    load = f'AutoModelForCausalLM.from_pretrained("{name}")'
    lines = ["import hylora  # knows the architecture"] if own_class else []
    lines += [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        f"model = {load}  # full attention",
    ]
    if manifest.attention in PLUG_INS:
        if not own_class:
            lines += ["", "import hylora"]
        lines += ["", f'model = hylora.load("{name}")  # {manifest.attention}, as trained']
    return "\n".join(["```python", *lines, "```"])


def _sharing(model) -> list[str]:
    """A warning where weights that the architecture shares are no longer one."""
    declared = model.get_expanded_tied_weights_keys(all_submodels=True)
    apart = sorted(declared.keys() - model.all_tied_weights_keys.keys())
    if not apart:
        return []
    return [
        "## Weights that are no longer shared",
        f"`{model.config.model_type}` shares some weights between layers, but the adapter was trained apart for each "
        f"use, so {len(apart)} weights (such as `{apart[0]}`) are in this model of their own. transformers 5 loads "
        "them; software that holds shared weights only once runs another model than was trained.",
    ]
