# SPDX-License-Identifier: Apache-2.0
"""Compare the memory that `hylora plan` foretells with what training steps take on this machine.

On a CPU, tiny models: every allocation of a step is read from torch's profiler, weights and gradients left out. On a
CUDA device, the 2.7B shape of mamba2attn as well: the peak that the allocator reports, weights and gradients included.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from environment import describe
from suite.report import planned
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

import hylora  # noqa: F401  registers attention and models
from hylora.language.model import plan_model, prepare_model, weights_dtype
from hylora.language.recipe import LanguageRecipe
from hylora.language.task import CausalLoss
from hylora.planning.simulation import Simulation

LLAMA = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BAMBA = {
    **LLAMA,
    "model_type": "bamba",
    "num_hidden_layers": 4,
    "attn_layer_indices": [1, 3],
    "mamba_n_heads": 4,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
RESIDENT = ("frozen weights", "trained weights", "gradients")


@dataclass(frozen=True)
class Case:
    """One training step to compare."""

    config: dict[str, Any]
    length: int = 1024
    attention: str = "full"
    checkpointing: bool = False
    bf16: bool = False
    variant: str = "hylora"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As in the table."""
        kind, width, depth = map(self.config.get, ("model_type", "hidden_size", "num_hidden_layers"), (None, 2560, 64))
        checkpointing = "checkpointing" if self.checkpointing else "no checkpointing"
        return f"{kind}, {width} wide, {depth} layers, {self.length} tokens, {self.attention}, {checkpointing}"

    def recipe(self, folder: str) -> LanguageRecipe:
        """The recipe of this step; its config is written to a folder."""
        (Path(folder) / "config.json").write_text(json.dumps(self.config))
        return LanguageRecipe.from_tree(
            {
                "model": {"path": folder},
                "attention": {"name": self.attention, **self.options},
                "adapter": {"variant": self.variant, "r": 8},
                "data": {"sources": [{"path": "-"}]},
                "training": {
                    "sequence_length": self.length,
                    "loss_slice": 256 if self.length < 8192 else 1024,
                    "gradient_checkpointing": self.checkpointing,
                    "mixed_precision": "bf16" if self.bf16 else "float32",
                },
                "output": {"path": "-"},
            }
        )


LLAMA_CASE = Case(LLAMA, variant="longlora", options={"chunk_size": 256})
BAMBA_CASE = Case(BAMBA, options={"chunk_size": 256})


def shapes(config: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """A config at a length, and each dimension doubled in turn."""
    wide = {**config, **{name: 2 * config[name] for name in ("hidden_size", "intermediate_size")}}
    if "mamba_n_heads" in config:
        wide["mamba_n_heads"] = 2 * config["mamba_n_heads"]
    deep = {**config, "num_hidden_layers": 2 * config["num_hidden_layers"]}
    return [(config, 1024), (config, 2048), (wide, 1024), (deep, 1024)]


def cpu_cases() -> list[Case]:
    """Both models, at four shapes, with full and span-expanded attention, with and without checkpointing."""
    return [
        replace(case, config=config, length=length, attention=attention, checkpointing=checkpointing)
        for case in (LLAMA_CASE, BAMBA_CASE)
        for config, length in shapes(case.config)
        for attention in ("full", "se_attn")
        for checkpointing in (False, True)
    ]


def gpu_cases() -> list[Case]:
    """The 2.7B shape in bfloat16, as it is trained."""
    case = Case({"model_type": "mamba2attn"}, checkpointing=True, bf16=True)
    return [replace(case, length=length, attention=name) for length in (8192, 32768) for name in ("full", "se_attn")]


def compare(case: Case, device: str) -> dict[str, Any]:
    """Bytes foretold and measured, of the second of two micro-batches."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = case.recipe(folder)
        plan = plan_model(recipe)
    precision = "bf16" if case.bf16 else "no"
    on_gpu = device == "cuda"
    fused = on_gpu and importlib.util.find_spec("mamba_ssm") is not None
    simulation = Simulation(recipe, plan, precision, kernels="fused" if fused else "torch", on_gpu=on_gpu)
    parts = simulation.run(case.length).memory
    if not on_gpu:
        parts = {part: size for part, size in parts.items() if part not in RESIDENT}

    model = AutoModelForCausalLM.from_config(
        plan.config, attn_implementation=plan.attention, dtype=weights_dtype(recipe, precision)
    )
    loss = CausalLoss(prepare_model(model, recipe, plan), recipe.training.loss_slice).to(device)

    def micro_batch() -> None:
        ids = torch.ones(1, case.length, dtype=torch.long, device=device)
        with torch.autocast(device, torch.bfloat16, enabled=case.bf16):
            total, _ = loss(ids, ids.clone())
        total.backward()

    micro_batch()
    measured = _cuda_peak(micro_batch) if on_gpu else _cpu_peak(micro_batch)
    planned = sum(parts.values())
    return {"case": case.name, **asdict(case), "planned": planned, "measured": measured, "ratio": planned / measured}


def _cpu_peak(compute: Callable[[], None]) -> int:
    """Most bytes alive at once that a computation allocates. The allocator tells; tensors would not show all."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        compute()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def _cuda_peak(compute: Callable[[], None]) -> int:
    torch.cuda.reset_peak_memory_stats()
    compute()
    return torch.cuda.max_memory_allocated()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the JSON here as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = cpu_cases() if device == "cpu" else gpu_cases()
    report = {"environment": describe(), "device": device, "results": [compare(case, device) for case in cases]}
    text = json.dumps(report, indent=1)
    print(text)
    print(planned(report["results"]))
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
