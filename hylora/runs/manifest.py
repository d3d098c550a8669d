# SPDX-License-Identifier: Apache-2.0
"""`hylora.json`: what a run's folder must say beside its weights.

transformers does not save the name of the attention, and an adapter's folder holds neither the attention's options nor
RoPE scaling. Without them a model would come back as something else than what was trained.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hylora
from hylora.attention.config import SpanConfig, expand_preset
from hylora.attention.names import PLUG_INS, resolve_name
from hylora.files import write_atomically

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MANIFEST_NAME", "RunManifest", "absolute"]

MANIFEST_NAME = "hylora.json"
_OPTIONAL = {
    "base_model": str,
    "base_revision": str,
    "rope_parameters": dict,
    "max_position_embeddings": int,
    "context_length": int,
    "quantization": dict,
}


@dataclass
class RunManifest:
    """How a run's model was trained.

    Args:
        attention: name of the attention during training; one that stands for a preset becomes `se_attn`.
        span_attention: its options, as `SpanConfig.to_dict` gives them; empty for full attention.
        base_model: hub id or folder of the model that an adapter belongs to; None where the folder holds a full model.
        base_revision: revision of the base on the hub.
        rope_parameters: the scaled RoPE parameters during training, None where the base's own were kept.
        max_position_embeddings: that went with them, None where the base's own was kept.
        context_length: tokens in a training sequence.
        quantization: the fields of the base's `Quantization`; None where its weights were ordinary.
        hylora_version: version that wrote the file.
    """

    attention: str = "sdpa"
    span_attention: dict[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    base_revision: str | None = None
    rope_parameters: dict[str, Any] | None = None
    max_position_embeddings: int | None = None
    context_length: int | None = None
    quantization: dict[str, Any] | None = None
    hylora_version: str | None = None

    def __post_init__(self) -> None:
        self.span_attention = expand_preset(self.span_attention, self.attention)
        self.attention = resolve_name(self.attention)
        SpanConfig.from_dict(self.span_attention)
        for name, kind in _OPTIONAL.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"{name}={value!r} must be a {kind.__name__}, or null")
        if self.quantization is not None and set(self.quantization) != {"method", "kept"}:
            raise ValueError(f"quantization={self.quantization!r} must have the keys method and kept")

    @classmethod
    def of(cls, model: nn.Module) -> RunManifest:
        """The manifest of a model in hand, for scripts that bring their own trainer.

        Args:
            model: a transformers model with the attention it was trained with, or a `PeftModel` around one; its
                adapter must belong to a model that has a folder or a hub id.

        Returns:
            A manifest to `save` beside the weights.

        Raises:
            ValueError: if the adapter's base has neither, or its attention or its quantization is unknown to this
                package.
        """
        # Reading a manifest does not take the seconds that these take to import.
        from peft import PeftModel

        from hylora.adapters.quantization import Quantization

        adapted = isinstance(model, PeftModel)
        base = model.get_base_model() if adapted else model
        config, name = base.config.get_text_config(), base.config.name_or_path
        if adapted and not name:
            raise ValueError(
                "the adapter's base model was built in memory (name_or_path=''), so nothing could load it again; save "
                "it and load it with from_pretrained"
            )
        attention = resolve_name(config._attn_implementation)
        quantization = Quantization.of(base.config) if adapted else None
        rope = getattr(config, "rope_parameters", None) or {}
        scaled = rope.get("rope_type", "default") != "default"
        return cls(
            attention=attention,
            span_attention=SpanConfig.of(config).to_dict() if attention in PLUG_INS else {},
            base_model=absolute(name) if adapted else None,
            base_revision=model.active_peft_config.revision if adapted else None,
            rope_parameters=rope if scaled else None,
            max_position_embeddings=config.max_position_embeddings if scaled else None,
            quantization=None if quantization is None else asdict(quantization),
            hylora_version=hylora.__version__,
        )

    def save(self, folder: str | os.PathLike) -> Path:
        """Write `hylora.json` into `folder`, in one step: a reader sees the old file or the whole new one."""
        path = Path(folder) / MANIFEST_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(self), indent=2) + "\n")
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike) -> RunManifest:
        """Read `hylora.json` from `folder`.

        Raises:
            FileNotFoundError: if the folder holds none.
            ValueError: if the file is not what `save` writes.
        """
        path = Path(folder) / MANIFEST_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a JSON {type(values).__name__} instead of the object that a run writes")
        if unknown := set(values) - {item.name for item in fields(cls)}:
            raise ValueError(f"{path} has unknown keys {sorted(unknown)}; was it written by a newer hylora?")
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def absolute(model: str) -> str:
    """A model folder's full path, so that a run can be loaded from anywhere; a hub id as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model
