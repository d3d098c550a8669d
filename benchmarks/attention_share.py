# SPDX-License-Identifier: Apache-2.0
"""Where sparse attention pays: what full attention takes of a training step, over the shapes of published models.

Operations are those that `hylora plan` counts, with gradient checkpointing; nothing is downloaded or measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from suite.markdown import table
from transformers import AutoConfig

import hylora  # noqa: F401  registers attention and models
from hylora.language.recipe import LanguageRecipe
from hylora.planning import Hardware, TrainingSetup
from hylora.planning.planner import Estimator

_NEMOTRON = {"M": "mamba", "-": "mlp", "*": "attention"}
_NEMOTRON_LAYERS = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
# Fields that model cards and published launch scripts name; the number of parameters tells whether they are right.
SHAPES: dict[str, dict[str, Any]] = {
    "Bamba-9B": {
        "model_type": "bamba",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "attn_layer_indices": [9, 18, 27],
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "mamba_n_heads": 128,
        "mamba_d_head": 64,
        "mamba_d_state": 128,
    },
    "Nemotron-H-8B": {
        "model_type": "nemotron_h",
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 21504,
        "layers_block_type": [_NEMOTRON[letter] for letter in _NEMOTRON_LAYERS],
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64,
        "ssm_state_size": 128,
        "n_groups": 8,
    },
    "Granite-4.0-H-Small": {
        "model_type": "granitemoehybrid",
        "vocab_size": 100352,
        "hidden_size": 4096,
        "intermediate_size": 768,
        "shared_intermediate_size": 1536,
        "num_local_experts": 72,
        "num_experts_per_tok": 10,
        "num_hidden_layers": 40,
        "layer_types": ["attention" if index % 10 == 5 else "mamba" for index in range(40)],
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "mamba_n_heads": 128,
        "mamba_d_head": 64,
        "mamba_d_state": 128,
        "tie_word_embeddings": True,
    },
    "Granite-4.0-H-Tiny": {
        "model_type": "granitemoehybrid",
        "vocab_size": 100352,
        "hidden_size": 1536,
        "intermediate_size": 512,
        "shared_intermediate_size": 1024,
        "num_local_experts": 64,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 40,
        "layer_types": ["attention" if index % 10 == 5 else "mamba" for index in range(40)],
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "mamba_n_heads": 48,
        "mamba_d_head": 64,
        "mamba_d_state": 128,
        "tie_word_embeddings": True,
    },
    "Zamba2-2.7B": {"model_type": "zamba2", "num_mem_blocks": 2, "n_mamba_heads": 80},
    "Falcon-H1-7B": {
        "model_type": "falcon_h1",
        "vocab_size": 130048,
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 44,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "mamba_d_ssm": 3072,
        "mamba_n_heads": 24,
        "mamba_d_head": 128,
        "mamba_d_state": 256,
    },
    "Jamba-v0.1": {"model_type": "jamba"},
    "Llama-3-8B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
CONTEXTS = (8192, 32768, 131072)
# How many times the operations: what is asked is the context from which on full attention makes a step so much dearer.
SAVINGS = (1.5, 2)


def attention_share(name: str) -> dict[str, Any]:
    """What attention takes in a model of a shape, at several contexts."""
    fields = dict(SHAPES[name])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        hybrid = SHAPES[name]["model_type"] != "llama"
        recipe = {
            "model": {"path": folder},
            "adapter": {"variant": "hylora" if hybrid else "longlora"},
            "data": {"sources": [{"path": "-"}]},
            "training": {"sequence_length": 4096},
            "output": {"path": "-"},
        }
        plan = Estimator(TrainingSetup(LanguageRecipe.from_tree(recipe), Hardware.parse("1x80GB"))).plan()
    cost = plan.compute.attention
    return {
        "model": name,
        "config": SHAPES[name],
        "parameters": sum(group.model for group in plan.parameters.values()),
        "attention_layers": len(cost.widths),
        "share_of_step": {str(length): cost.share(length) for length in CONTEXTS},
        "step_with_full_over_step": {str(length): cost.saving(length) for length in CONTEXTS},
        "context_of_saving": {str(saving): cost.context_of(saving) for saving in SAVINGS},
    }


def shown(results: list[dict[str, Any]]) -> str:
    """The table of the documentation."""
    rows = []
    for result in results:
        shares = (
            f"{100 * share:.0f} % ({saving:.2f}x)"
            for share, saving in zip(
                result["share_of_step"].values(), result["step_with_full_over_step"].values(), strict=True
            )
        )
        contexts = (f"{float(f'{tokens:.2g}'):,.0f}" for tokens in result["context_of_saving"].values())
        rows.append((result["model"], f"{result['parameters'] / 1e9:.2f} B", *shares, *contexts))
    heads = ("model", "parameters", *(f"at {length:,}" for length in CONTEXTS))
    return table((*heads, *(f"{saving}x from" for saving in SAVINGS)), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the JSON here as well")
    arguments = parser.parse_args()
    results = [attention_share(name) for name in SHAPES]
    print(shown(results))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
