# SPDX-License-Identifier: Apache-2.0
"""What result files start with: what was evaluated, with which attention, by which versions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hylora.runs.manifest import absolute
from hylora_eval.report.fields import pick
from hylora_eval.report.records import NOT_RECORDED, NOT_TUNED, Source, Subject, attention_label
from hylora_eval.report.run_facts import adapter_facts

__all__ = ["read_source", "read_subject"]

_VERSIONS = ("hylora", "torch", "transformers", "peft", "lm_eval")


def read_source(record: dict[str, Any], number: int, path: Path, sha256: str, kind: str) -> Source:
    """Describe a result file.

    Args:
        record: its JSON.
        number: by which tables will refer to it.
        path: of the file.
        sha256: of its bytes.
        kind: what was evaluated.
    """
    created = record.get("created", record.get("date", ""))
    if isinstance(created, (int, float)):
        created = datetime.fromtimestamp(created, UTC).isoformat(timespec="seconds")
    versions = dict(record["environment"]) if isinstance(record.get("environment"), dict) else {}
    # lm-eval's own files keep versions at the top.
    versions |= {name: record[f"{name}_version"] for name in _VERSIONS if record.get(f"{name}_version")}
    text = ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if versions.get(name))
    return Source(number, path, sha256, kind, _model_path(record), str(created), text)


def read_subject(record: dict[str, Any], path: Path, evaluated: str | None = None) -> Subject:
    """What a result file is about.

    Args:
        record: its JSON, with the header of `hylora eval` or as lm-eval writes it.
        path: of the file.
        evaluated: name of the attention, where one file has several and no model is trained (runtime).

    Raises:
        ValueError: if the header lacks something, or the run's folder cannot be read.
    """
    run = _model_path(record)
    variant, rank, alpha = adapter_facts(_recorded_adapter(record), run, path)
    # Twice the rank is the thesis's ratio, and not worth a word.
    adapter = {} if alpha is None or rank is None or alpha == 2 * rank else {"alpha": f"{alpha:g}"}
    if not isinstance(record.get("model"), dict):
        return Subject(run, run, NOT_RECORDED, NOT_RECORDED, variant, rank, tuple(adapter.items()))

    model = pick(record, "model", kind=dict)
    base = absolute(model.get("base_model") or run)
    facts = _model_facts(model)
    if evaluated is not None:
        return Subject(run, base, "", attention_label(evaluated), facts=tuple(facts.items()))
    attention = pick(record, "attention", kind=dict)
    trained = _training_label(model)
    evaluation = attention_label(pick(record, "attention", "name", kind=str))
    facts |= adapter
    if trained not in (NOT_TUNED, NOT_RECORDED):
        facts |= _options(trained, "", model.get("training_attention_options"))
    facts |= _options(evaluation, "evaluated ", attention.get("options"))
    return Subject(run, base, trained, evaluation, variant, rank, tuple(facts.items()))


def _model_path(record: dict[str, Any]) -> str:
    model = record.get("model")
    if isinstance(model, dict):
        return pick(record, "model", "path", kind=str)
    config = pick(record, "config", kind=dict)
    arguments = config.get("model_args") or {}
    if isinstance(arguments, str):
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    named = (
        arguments.get("peft"),
        arguments.get("pretrained"),
        record.get("model_name"),
        record["config"].get("model"),
    )
    return str(next((name for name in named if name), NOT_RECORDED))


def _recorded_adapter(record: dict[str, Any]) -> Any:
    return record["model"].get("adapter") if isinstance(record.get("model"), dict) else None


def _training_label(model: dict[str, Any]) -> str:
    """Without an adapter or a context length, nothing says that it was trained."""
    untouched = model.get("base_model") is None and model.get("training_context_length") is None
    label = attention_label(model.get("training_attention"))
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
