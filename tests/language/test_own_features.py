# SPDX-License-Identifier: Apache-2.0
"""Models whose attention does more than the usual, from a recipe to a perplexity."""

import json

import pytest
import torch
from transformers import Gemma2PreTrainedModel

import hylora
from hylora.language import train
from hylora.runs.record import RunRecord
from tests import command_line
from tests.architectures.zoo import ZOO


@pytest.mark.parametrize("model_type", [pytest.param("gemma2", marks=pytest.mark.slow), "gpt_oss", "deepseek_v3"])
def test_a_fine_tuned_model_has_a_perplexity(model_type, recipe, tokenizer_folder, text_file, tmp_path):
    """GPT-OSS keeps packed documents apart by what only the plug-in reads."""
    base, output = tmp_path / "base", tmp_path / "result.json"
    ZOO[model_type].build(vocab_size=32).save_pretrained(base)
    changes = {
        "model": {"path": str(base), "tokenizer": str(tokenizer_folder)},
        "attention.summary": "mean_std",
        "attention.selection": "token",
        "adapter": {"variant": "longlora", "r": 2, "lora_alpha": 4},
        "data.packing": "documents",
        "training.sequence_length": 64,
        "training.steps": 8,
    }
    train(recipe(changes))
    tuned = hylora.load(tmp_path / "run")
    before, after = (model.get_input_embeddings().weight for model in (ZOO[model_type].build(vocab_size=32), tuned))
    assert not torch.allclose(after, before)
    perplexities = []
    for attention in ("same", "full"):
        arguments = ["--model", tmp_path / "run", "--attention", attention, "--lengths", 32, "--data", text_file]
        result = command_line.run("eval", "ppl", *arguments, "--output", output, "--overwrite")
        assert result.exit_code == 0, (result.output, result.exception)
        record = json.loads(output.read_text())
        perplexities.append(record["results"][0]["perplexity"])
    assert perplexities[0] != perplexities[1]
    assert max(perplexities) < 32


def test_no_end_is_evaluated_with_full_attention_that_holds_all_scores(
    recipe, tokenizer_folder, tmp_path, monkeypatch
):
    """Nor with one that transformers 5.17 would take, which drops the bound."""
    ZOO["gemma2"].build(vocab_size=32).save_pretrained(tmp_path / "base")
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)
    changes = {
        "model": {"path": str(tmp_path / "base"), "tokenizer": str(tokenizer_folder)},
        "adapter": {"variant": "longlora", "r": 2, "lora_alpha": 4},
        "evaluation": {"at_end": True},
        "training.steps": 1,
    }
    record = RunRecord.read(train(recipe(changes)).folder)
    assert record.base.keys() == record.tuned.keys() == {"loss", "perplexity"}
