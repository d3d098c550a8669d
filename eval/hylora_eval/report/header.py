# SPDX-License-Identifier: Apache-2.0
"""What results start with: what was evaluated, with which attention, by which versions.

Where a result says nothing of its model's adapter, the run's folder is asked.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from hylora.runs.manifest import absolute
from hylora_eval.report.measurements import NOT_RECORDED, NOT_TUNED, Source, Subject, attention_label
from hylora_eval.results import Result

__all__ = ["read_source", "read_subject"]

_VERSIONS = ("hylora", "torch", "transformers", "peft", "lm_eval")

# The thesis calls "longlora" LoRA+, a name that PEFT uses for something else.
_VARIANTS = {"lora": "LoRA", "longlora": "LoRA+", "hylora": "HyLoRA"}


def read_source(result: Result, number: int, path: Path, sha256: str) -> Source:
    """Describe a result file.

    Args:
        result: that it holds.
        number: by which tables will refer to it.
        path: of the file.
        sha256: of its bytes.
    """
    name = "created" if "created" in result else "date"
    created = result.get(name, "")
    if isinstance(created, (int, float)):
        try:
            created = datetime.fromtimestamp(created, UTC).isoformat(timespec="seconds")
        except (OverflowError, ValueError):
            raise ValueError(f"{name}={created} is no time in seconds; put that of the evaluation there") from None
    versions = dict(result["environment"]) if isinstance(result.get("environment"), dict) else {}
    # lm-eval's own files keep versions at the top.
    versions |= {name: result[f"{name}_version"] for name in _VERSIONS if result.get(f"{name}_version")}
    text = ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if versions.get(name))
    return Source(number, path, sha256, result.kind, _model_path(result), str(created), text)


def read_subject(result: Result, path: Path, evaluated: str | None = None) -> Subject:
    """What a result is about.

    Args:
        result: with the header of `hylora eval`, or as lm-eval writes it.
        path: of the file; a result in its run's folder is found again wherever that went.
        evaluated: name of the attention, where one file has several and no model is trained (runtime).

    Raises:
        ValueError: if the header lacks something, or the run's folder cannot be read.
    """
    run = _model_path(result)
    adapter = result.get_at("model", "adapter")
    if not isinstance(adapter, dict):
        adapter = _adapter_of_folder(run, path)
    variant, rank, alpha = (adapter.get(name) for name in ("variant", "r", "lora_alpha"))
    if adapter:
        variant = variant or _variant_of(adapter.get("modules_to_save") or [])
    variant = _VARIANTS.get(variant, variant)
    # Twice the rank is the thesis's ratio, and not worth a word.
    scaling = {} if alpha is None or rank is None or alpha == 2 * rank else {"alpha": f"{alpha:g}"}
    if not isinstance(result.get("model"), dict):
        return Subject(run, run, NOT_RECORDED, NOT_RECORDED, variant, rank, tuple(scaling.items()))

    model = result["model"]
    base = absolute(run if model.get("base_model") is None else result.pick("model", "base_model", kind=str))
    facts = _model_facts(model)
    if evaluated is not None:
        return Subject(run, base, "", attention_label(evaluated), facts=tuple(facts.items()))
    trained = _training_label(result)
    evaluation = attention_label(result.pick("attention", "name", kind=str))
    facts |= scaling
    if trained not in (NOT_TUNED, NOT_RECORDED):
        facts |= _options(trained, "", model.get("training_attention_options"))
    facts |= _options(evaluation, "evaluated ", result["attention"].get("options"))
    return Subject(run, base, trained, evaluation, variant, rank, tuple(facts.items()))


def _model_path(result: Result) -> str:
    if result.kind == "training":
        return result.pick("recipe", "output", "path", kind=str)
    if result.kind == "images":
        return result.pick("run", kind=str)
    if result.kind == "comparison":
        return f"{len(result.pick('runs', kind=list))} runs"
    if isinstance(result.get("model"), dict):
        return result.pick("model", "path", kind=str)
    config = result.pick("config", kind=dict)
    arguments = config.get("model_args") or {}
    if isinstance(arguments, str):
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    named = (arguments.get("peft"), arguments.get("pretrained"), result.get("model_name"), config.get("model"))
    return str(next(filter(None, named), NOT_RECORDED))


def _training_label(result: Result) -> str:
    """Without an adapter or a context length, nothing says that it was trained."""
    model, name = result["model"], result.get_at("model", "training_attention")
    untouched = model.get("base_model") is None and model.get("training_context_length") is None
    label = attention_label(None if name is None else result.pick("model", "training_attention", kind=str))
    return NOT_TUNED if untouched and label == "Full-Attn" else label


def _model_facts(model: dict[str, Any]) -> dict[str, str]:
    facts = {"dtype": model.get("dtype"), "revision": model.get("revision")}
    if model.get("training_context_length"):
        facts["trained at"] = f"{model['training_context_length']} tokens"
    rope = model.get("rope_parameters")
    if isinstance(rope, dict) and rope.get("rope_type", "default") != "default":
        facts["RoPE"] = f"{rope['rope_type']} {rope.get('factor', '')}".strip()
    return {name: str(value) for name, value in facts.items() if value}


def _options(label: str, prefix: str, options: Any) -> dict[str, str]:
    return {f"{label}/{prefix}{name}": str(value) for name, value in (options or {}).items()}


def _adapter_of_folder(model: str, path: Path) -> dict[str, Any]:
    """The adapter in a run's folder as PEFT keeps it, with the variant of the recipe; empty where there is none."""
    parents = [parent for parent in path.resolve().parents if parent.name == Path(model).name]
    folders = (folder for folder in (*parents, Path(model)) if (folder / "adapter_config.json").is_file())
    folder = next(folders, None)
    if folder is None:
        return {}
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        recipe = folder / "recipe.yaml"
        tree = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {}
        return {**config, "variant": (tree.get("adapter") or {}).get("variant")}
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"the run's folder {str(folder)!r} cannot be read: {error}") from error


def _variant_of(saved: list[str]) -> str:
    """Which preset trains these modules in full."""
    if not saved:
        return "lora"
    return "hylora" if any("conv" in name for name in saved) else "longlora"
