# SPDX-License-Identifier: Apache-2.0
"""The options that say which model is evaluated and how, and what results record of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hylora.cli import model_options
from hylora.cli.model_options import AttentionOption
from hylora.environment import environment

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AttentionOption", "ModelOptions"]


class ModelOptions(model_options.ModelOptions):
    """Those of every command that runs a model, which every evaluation records alike."""

    def header(self, kind: str, model: nn.Module) -> dict[str, Any]:
        """What every result file starts with.

        Args:
            kind: what was evaluated, such as "perplexity".
            model: as `load_model` gave it.

        Returns:
            `kind`, `created` (UTC), `model` (path, base, revision, how it was trained, adapter, RoPE, dtype, device),
            `attention` (of the evaluation, with its options) and `environment` (versions), all plain JSON types.
        """
        from hylora_eval.fingerprints import describe_attention

        manifest, (name, options) = self.manifest, describe_attention(model)
        return {
            "kind": kind,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": {
                "path": self.model,
                "base_model": manifest.base_model,
                "revision": manifest.base_revision or getattr(model.config, "_commit_hash", None),
                "training_attention": manifest.attention,
                "training_attention_options": manifest.span_attention,
                "training_context_length": manifest.context_length,
                "adapter": _describe_adapter(model),
                "rope_parameters": getattr(model.config.get_text_config(), "rope_parameters", None),
                "dtype": str(model.get_input_embeddings().weight.dtype).removeprefix("torch."),
                "device": self.device,
            },
            "attention": {"asked": self.attention, "name": name, "options": options},
            "environment": environment(),
        }


def _describe_adapter(model: nn.Module) -> dict[str, Any] | None:
    """What tells adapters apart: their rank, and what they train in full. None for a model without one."""
    for config in getattr(model, "peft_config", {}).values():
        saved = getattr(config, "modules_to_save", None)
        rank, alpha = (getattr(config, name, None) for name in ("r", "lora_alpha"))
        return {"r": rank, "lora_alpha": alpha, "modules_to_save": saved and sorted(saved)}
    return None
