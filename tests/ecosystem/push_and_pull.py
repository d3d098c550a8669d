# SPDX-License-Identifier: Apache-2.0
"""A user's script: train an adapter, push it and the run's folder to the hub, pull both in every way there is.

It runs in an empty folder, against whatever hub HF_ENDPOINT names, and leaves the logits of every model there.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from huggingface_hub import create_repo, upload_folder
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import hylora
from hylora.demo.miniature import ASSETS
from hylora.runs.export import export
from tests.ecosystem.scripts import QUIETLY, SIZES
from tests.tiny import tiny_bamba

IDS = torch.arange(66).reshape(2, 33) * 7 % 90 + 3


def push() -> dict[str, torch.Tensor]:
    """Push a base model, an adapter alone, and a run's folder in two ways."""
    tiny_bamba().push_to_hub("me/bamba")
    model = AutoModelForCausalLM.from_pretrained("me/bamba", attn_implementation="se_attn")
    hylora.set_attention(model, "se_attn", **SIZES)
    model = hylora.add_adapter(model, hylora.HyLoraConfig.for_model(model, r=4, lora_alpha=8))
    options = {**QUIETLY, "save_strategy": "steps", "save_steps": 1, "max_steps": 2, "learning_rate": 0.01}
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    trainer = Trainer(model, TrainingArguments("run", hub_model_id="me/run", **options), train_dataset=rows)
    trainer.train()
    hylora.RunManifest.of(model).save("run")
    AutoTokenizer.from_pretrained(ASSETS).save_pretrained("run")
    trainer.push_to_hub()
    create_repo("me/folder")
    upload_folder(repo_id="me/folder", folder_path="run", ignore_patterns=["checkpoint-*"])
    model.push_to_hub("me/adapter")

    trained = logits(model)
    hylora.set_attention(model, "full")
    return {"se_attn": trained, "full": logits(model)}


def pull() -> dict[str, torch.Tensor]:
    """Pull the adapter with PEFT and the run with hylora, and export the run."""
    models = {"base": AutoModelForCausalLM.from_pretrained("me/bamba")}
    for repository in ("me/adapter", "me/run"):
        base = AutoModelForCausalLM.from_pretrained("me/bamba")
        models[f"peft {repository}"] = PeftModel.from_pretrained(base, repository)
    for repository in ("me/run", "me/folder", "me/bamba"):
        models[f"hylora {repository}"] = hylora.load(repository)
    for repository, pushed in (("me/again", models["hylora me/run"]), ("me/whole", whole_run())):
        pushed.push_to_hub(repository, private=True, tags=["mine"], commit_message="What was trained")
        models[f"pushed {repository}"] = pushed
        models[f"hylora {repository}"] = hylora.load(repository)
    models["hylora full"] = hylora.load("me/run", attention="full")
    models["hylora trainable"] = hylora.load("me/run", trainable=True)
    export("me/run", "exported", revision="main")
    models["exported"] = AutoModelForCausalLM.from_pretrained("exported")
    return {name: logits(model) for name, model in models.items()}


def whole_run() -> torch.nn.Module:
    """A full model beside `hylora.json`, loaded under another attention than it was trained with."""
    model = AutoModelForCausalLM.from_pretrained("me/bamba", attn_implementation="se_attn")
    hylora.set_attention(model, "se_attn", **SIZES)
    model.save_pretrained("whole")
    AutoTokenizer.from_pretrained(ASSETS).save_pretrained("whole")
    replace(hylora.RunManifest.of(model), context_length=33).save("whole")
    return hylora.load("whole", "sw_attn", window=8)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(IDS, use_cache=False).logits


if __name__ == "__main__":
    save_file(push() | pull(), "logits.safetensors")
