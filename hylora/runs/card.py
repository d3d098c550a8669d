# SPDX-License-Identifier: Apache-2.0
"""The README of an exported model: what it is, and which attention runs it where."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, try_to_load_from_cache
from peft import PeftConfig
from torch import nn

from hylora.adapters.structure import base_model
from hylora.attention import SpanConfig
from hylora.attention.names import PLUG_INS
from hylora.runs.card_sections import describe_record, plain, public_name, table
from hylora.runs.manifest import RunManifest
from hylora.runs.record import RunRecord
from hylora.runs.whereabouts import is_hub_id

__all__ = ["card_metadata", "model_card"]

logger = logging.getLogger(__name__)

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


def model_card(
    model: nn.Module,
    manifest: RunManifest,
    adapter: PeftConfig | None,
    name: str,
    record: RunRecord | None = None,
    *,
    merged: bool = True,
) -> str:
    """Describe a trained model. What cannot be described gets a card that says little, and a warning.

    Args:
        model: as it is written.
        manifest: of its run.
        adapter: what was trained, or None where that is the model itself.
        name: of the model's folder or repository.
        record: what is known of its training.
        merged: whether the adapter is in the model's weights, or in a folder of its own.

    Returns:
        Markdown with the metadata that the hub reads.
    """
    try:
        card = _card(base_model(model), manifest, adapter, name, record or RunRecord(), merged)
    except Exception as error:  # the card reads files of others, and must not cost the weights that it comes with
        logger.warning("the model card is left almost empty, for it could not be made: %r", error)
        card = f"---\ntags:\n- hylora\n---\n\n# {plain(name)}\n"
    # Names of files, and JSON, may hold what UTF-8 cannot.
    return card.encode("utf-8", "replace").decode("utf-8")


def card_metadata(card: Path) -> dict[str, Any]:
    """What the head of a card says; nothing where there is no card, or its head is damaged."""
    try:
        return metadata_load(card) or {}
    except Exception:  # whatever YAML's constructors raise
        return {}


def _card(model, manifest, adapter, name, record, merged) -> str:
    apart = adapter is not None and not merged
    manifest = _with_base(manifest, record)
    own_class = type(model).__module__.startswith("hylora.")
    parts = [
        _metadata(manifest, apart),
        f"# {plain(name)}",
        _table(model, manifest, adapter, apart),
        "## Which attention it runs",
        *_attention(model, manifest, own_class, apart),
        "## Use",
        _code(manifest, name, own_class, apart),
        *([] if apart else _sharing(model)),
        *describe_record(record),
    ]
    return "\n\n".join(parts) + "\n"


def _with_base(manifest: RunManifest, record: RunRecord) -> RunManifest:
    """The manifest with the model that was trained as a whole; its folder needs none, but a reader wants to know."""
    source = record.recipe.get("model")
    base = source.get("path") if isinstance(source, dict) else None
    if manifest.base_model is not None or not isinstance(base, str):
        return manifest
    revision = source.get("revision")
    return replace(manifest, base_model=base, base_revision=revision if isinstance(revision, str) else None)


def _metadata(manifest: RunManifest, apart: bool) -> str:
    lines = [f"library_name: {'peft' if apart else 'transformers'}", "pipeline_tag: text-generation", "tags:"]
    lines += ["- hylora", "- long-context", *([f"- {manifest.attention}"] if manifest.attention in PLUG_INS else [])]
    if manifest.base_model is not None:
        if is_hub_id(manifest.base_model):
            lines.append(f"base_model: {manifest.base_model}")
        if known := _license(manifest.base_model):
            lines.append(f"license: {known}")
    return "\n".join(["---", *lines, "---"])


def _license(base: str) -> str | None:
    """The license that the base's own card names, where that card is on this machine."""
    card = Path(base) / "README.md"
    if not card.is_file():
        cached = try_to_load_from_cache(base, "README.md") if is_hub_id(base) else None
        if not isinstance(cached, str):
            return None
        card = Path(cached)
    known = card_metadata(card).get("license")
    return known if isinstance(known, str) and re.fullmatch(r"[\w.-]+", known, re.ASCII) else None


def _table(model, manifest, adapter, apart) -> str:
    dtype = str(model.dtype).removeprefix("torch.")
    rows = {"architecture": f"`{model.config.model_type}`, {model.num_parameters():,} parameters in {dtype}"}
    if manifest.base_model is not None:
        revision = f" at {manifest.base_revision}" if manifest.base_revision else ""
        rows["base model"] = plain(f"{public_name(manifest.base_model)}{revision}")
    if manifest.quantization is not None:
        rows["base in training"] = plain(f"quantised, {manifest.quantization['method']}")
    rows["trained"] = _trained(adapter, apart)
    if manifest.context_length is not None:
        rows["training context"] = f"{manifest.context_length:,} tokens"
    if manifest.rope_parameters is not None:
        rows["RoPE"] = plain(_rope(manifest.rope_parameters, "hylora.json" if apart else "config.json"))
    rows["attention in training"] = _attention_in_training(manifest)
    return table(("", ""), rows.items())


def _trained(adapter, apart) -> str:
    if adapter is None:
        return "the model's own weights"
    text = f"LoRA of rank {adapter.r}, alpha {adapter.lora_alpha}"
    text += ", in a folder of its own" if apart else ", merged into the weights"
    # PEFT adds the full name of a tied embedding
    saved = sorted({name.rpartition(".")[2] for name in adapter.modules_to_save or ()})
    return f"{text}; in full: {', '.join(f'`{name}`' for name in saved)}" if saved else text


def _rope(parameters, file) -> str:
    options = ", ".join(f"{key} {value:g}" for key, value in parameters.items() if isinstance(value, (int, float)))
    return f"{parameters.get('rope_type')} scaling ({options}), in {file}"


def _attention_in_training(manifest) -> str:
    if manifest.attention not in PLUG_INS:
        return "full attention"
    kept = SpanConfig.from_dict(manifest.span_attention).to_dict()
    options = ", ".join(f"{key} {kept[key]}" for key in _OPTIONS[manifest.attention])
    return f"{_TITLES[manifest.attention]}: {options}"


def _attention(model, manifest, own_class, apart) -> list[str]:
    kind = f"`{model.config.model_type}`"
    if own_class:
        where = (
            f"{kind} is an architecture of the package hylora: other software, transformers alone included, has no "
            "code for it. transformers with hylora computes **full attention** unless it is asked otherwise."
        )
    elif apart:
        where = (
            "This is an ordinary PEFT adapter. PEFT puts it on its base model, which computes **full attention** with "
            "it; nothing in the adapter asks for anything else. `hylora export` merges it into a model of its own."
        )
    else:
        where = (
            f"This is an ordinary {kind} model. transformers, and other software where it runs {kind} models (such as "
            "vLLM), computes **full attention** with it; nothing in the weights or in `config.json` asks for anything "
            "else."
        )
    parts = [where] if own_class or apart else [where, *_serving(model, manifest)]
    if manifest.attention not in PLUG_INS:
        return parts
    return [
        *parts,
        f"It was trained with {_TITLES[manifest.attention]}, which stands in for full attention where sequences are "
        "long. hylora can turn it on again, as the code below does, with the options that "
        f"`{'hylora' if apart else 'config'}.json` keeps for it.",
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


def _code(manifest, name, own_class, apart) -> str:
    name = json.dumps(name)
    lines = ["import hylora  # knows the architecture"] if own_class else []
    lines += ["from peft import PeftModel"] if apart else []
    lines += ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    lines += [f"tokenizer = AutoTokenizer.from_pretrained({name})"]
    if apart:
        lines += [*_base_code(manifest), f"model = PeftModel.from_pretrained(base, {name})  # full attention"]
    else:
        lines += [f"model = AutoModelForCausalLM.from_pretrained({name})  # full attention"]
    if manifest.attention in PLUG_INS:
        if not own_class:
            lines += ["", "import hylora"]
        lines += ["", f"model = hylora.load({name})  # {manifest.attention}, as trained"]
    return "\n".join(["```python", *lines, "```"])


def _base_code(manifest) -> list[str]:
    """Lines that load the base of an adapter, with the RoPE that the adapter was trained with."""
    known = manifest.base_model is not None and is_hub_id(manifest.base_model)
    arguments = [json.dumps(manifest.base_model if known else "path/of/the/base")]
    if manifest.base_revision and re.fullmatch(r"[\w./-]+", manifest.base_revision, re.ASCII):
        arguments.append(f'revision="{manifest.base_revision}"')
    rope = manifest.rope_parameters or {}
    # Text of others does not become code.
    said = {key: value for key, value in rope.items() if re.fullmatch(r"\w+", f"{key}{value}".replace(".", ""))}
    load = f"AutoModelForCausalLM.from_pretrained({', '.join(arguments)}"
    if not rope or said != rope:
        return [f"base = {load})"]
    lines = [
        f"base = {load},",
        f"    rope_parameters={said!r},",
        f"    max_position_embeddings={manifest.max_position_embeddings},",
        ")",
    ]
    return lines if manifest.max_position_embeddings is not None else [*lines[:2], ")"]


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
