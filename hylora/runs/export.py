# SPDX-License-Identifier: Apache-2.0
"""Write a run as an ordinary transformers model: merged, complete, and usable without this package."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from hylora.adapters import merge_adapter
from hylora.files import atomic_folder
from hylora.runs.card import model_card
from hylora.runs.loading import load
from hylora.runs.manifest import MANIFEST_NAME, RunManifest
from hylora.runs.record import RunRecord
from hylora.runs.tokenizer import find_tokenizer
from hylora.runs.whereabouts import find_folder, read_manifest

__all__ = ["DTYPES", "export"]

DTYPES = ("auto", "float32", "bfloat16", "float16")


def export(
    run: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    max_shard_size: str = "5GB",
) -> PreTrainedModel:
    """Merge a run's adapter and write the model with its tokenizer, RoPE scaling and a model card.

    The folder appears whole or not at all. transformers loads it without this package and computes full attention;
    `hylora.load` turns the attention of training on again, whose name is kept in `hylora.json` beside the weights.
    Its options are in `config.json`, where only this package reads them.

    Args:
        run: what a training run wrote, with an adapter or a full model; a folder or a hub id.
        destination: folder to create.
        revision: revision of the run on the hub.
        dtype: of the weights; "auto" keeps the base's, "float32" merges without rounding the weights.
        max_shard_size: largest size of one file of weights, such as "5GB".

    Returns:
        The model as it was written.

    Raises:
        FileNotFoundError: the run's folder or its base model does not exist.
        FileExistsError: the destination exists.
        ValueError: `run` is no run, its tokenizer cannot be found, or an argument is wrong.
    """
    run, destination = os.fspath(run), Path(destination)
    manifest = read_manifest(run, revision)
    if manifest == RunManifest():
        raise ValueError(
            f"{run!r} holds no {MANIFEST_NAME}, so it is no finished run; give what training wrote (a plain model "
            "needs no export)"
        )
    if destination.exists():
        raise FileExistsError(f"{str(destination)!r} exists; name a folder that does not")
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}")
    if not re.fullmatch(r"\d+(\.\d+)?[KMGT]i?B", max_shard_size):
        raise ValueError(f"max_shard_size={max_shard_size!r} is not a size such as '5GB'")
    tokenizer = find_tokenizer(run, manifest, revision)

    model = load(run, attention="full", dtype=dtype, revision=revision, dequantize=True)
    adapter = model.active_peft_config if isinstance(model, PeftModel) else None
    model = model if adapter is None else merge_adapter(model)

    with atomic_folder(destination) as partial:
        # As transformers does: a loaded model would describe the run.
        PreTrainedModel.save_pretrained(model, partial, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(partial)
        _add_older_names(partial)
        replace(manifest, base_model=None, base_revision=None, quantization=None).save(partial)
        card = model_card(model, manifest, adapter, destination.name, RunRecord.read(find_folder(run, revision)))
        (partial / "README.md").write_text(card, encoding="utf-8")
    return model


def _add_older_names(folder: Path) -> None:
    """Say what transformers 5 says in ways of its own also in the words that software from before it reads."""
    config = _read_json(folder / "config.json")
    rope = config.get("rope_parameters") or {}
    # absent where there are no rotary positions, or several sets of them, for which there are no older names
    if "rope_theta" in rope:
        config |= {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
        if rope["rope_type"] != "default":
            # whole, for where it stands transformers reads it instead of rope_parameters
            config["rope_scaling"] = rope
        _write_json(folder / "config.json", config)
    tokenizer = _read_json(folder / "tokenizer_config.json")
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        _write_json(folder / "tokenizer_config.json", tokenizer | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
