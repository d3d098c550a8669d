# SPDX-License-Identifier: Apache-2.0
"""Whole runs of tiny language models: what comes out, how they resume, and what is refused before work is lost."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import hylora
from hylora.language import train
from hylora.language.data import build_datasets
from hylora.language.model import load_model, plan_model, prepare_model
from hylora.language.task import CausalLoss
from hylora.training import RecipeError
from hylora.training.checkpoint import CheckpointError, checkpoint_steps
from hylora.training.recipe_loading import recipe_keys
from hylora.training.run_folder import RunFolder
from tests.outcomes import assert_same, records_of

LLAMA = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
}


def weights_of(folder):
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def assert_same_run(left, right):
    assert weights_of(left)
    assert_same(weights_of(left), weights_of(right))
    assert records_of(left) == records_of(right)


@pytest.fixture
def base(recipe, tmp_path):
    """A tiny trained Bamba to adapt."""
    return train(recipe({"training.steps": 1, "output.path": str(tmp_path / "base")})).folder


def adapting(base, tmp_path, name="adapter", **changes):
    """Changes to the recipe that adapt `base`, with dropout."""
    return {
        "model": {"path": str(base)},
        "adapter": {"variant": "hylora", "r": 2, "lora_alpha": 4, "lora_dropout": 0.2},
        "output.path": str(tmp_path / name),
        **changes,
    }


def test_training_from_scratch_learns_and_loads_as_trained(recipe, tmp_path):
    result = train(recipe({"training.steps": 40, "evaluation.at_end": True, "training.gradient_checkpointing": False}))
    losses = [record["loss"] for record in records_of(result.folder) if "loss" in record]
    assert result.steps == len(losses) == 40
    # 12 words in any order: their entropy is the best there is.
    assert losses[0] > 3.3 and losses[-1] < 2.8
    assert result.evaluation["perplexity"] == pytest.approx(math.exp(result.evaluation["loss"]))
    assert result.evaluation["loss"] < 2.8

    model = hylora.load(result.folder)
    assert model.config._attn_implementation == "se_attn"
    assert model.config.span_attention["chunk_size"] == [8, 16]
    assert hylora.RunManifest.load(result.folder).context_length == 32
    assert yaml.safe_load((result.folder / "recipe.yaml").read_text())["training"]["steps"] == 40


def test_evaluation_is_the_loss_of_the_loaded_model(recipe):
    """Held-out loss by the loop, and by the saved model with transformers' own loss."""
    settings = recipe({"training.steps": 2, "evaluation": {"at_end": True, "batch_size": 3}})
    result = train(settings)
    model = hylora.load(result.folder)
    from transformers import AutoTokenizer

    data = build_datasets(settings.data, AutoTokenizer.from_pretrained(result.folder), 32, 0)
    rows = [data.validation[index] for index in range(len(data.validation))]
    with torch.no_grad():
        losses = [float(model(input_ids=r["input_ids"][None], labels=r["labels"][None]).loss) for r in rows]
    assert result.evaluation["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("crash_at", [3, 5])
def test_resumed_adapter_run_is_bit_for_bit(recipe, base, tmp_path, monkeypatch, crash_at):
    """Dropout, random chunk sizes, gradient checkpointing, evaluation in between, and an epoch's end in update 4."""
    changes = {
        "training.steps": 6,
        "training.global_batch_size": 8,
        "training.batch_size": 4,
        "output.checkpoint_every": 2,
        "evaluation": {"every": 2, "max_sequences": 2},
    }
    whole = train(recipe(adapting(base, tmp_path, "whole", **changes))).folder
    forward, calls = CausalLoss.forward, []

    def fails_once(self, *args, **kwargs):
        calls.append(self.training)
        if sum(calls) == 2 * crash_at + 2:
            raise RuntimeError("crash")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(CausalLoss, "forward", fails_once)
    halves = recipe(adapting(base, tmp_path, "halves", **changes))
    with pytest.raises(RuntimeError, match="crash"):
        train(halves)
    monkeypatch.undo()
    resumed = train(recipe(adapting(base, tmp_path, "halves", **{**changes, "training.resume": True})))
    assert resumed.steps == 6
    assert_same_run(whole, resumed.folder)


def test_evaluation_and_checkpoints_do_not_change_the_weights(recipe, tmp_path):
    plain = train(recipe({"output.path": str(tmp_path / "plain")})).folder
    busy = train(
        recipe({"output": {"path": str(tmp_path / "busy"), "checkpoint_every": 1}, "evaluation": {"every": 1}})
    ).folder
    assert_same(weights_of(busy), weights_of(plain))


@pytest.mark.parametrize("adapted", [False, True])
def test_recomputing_activations_does_not_change_the_weights(recipe, base, tmp_path, adapted):
    """Recomputation must meet the chunk sizes and the dropout that were drawn the first time."""
    weights = []
    for name, checkpointing in (("kept", False), ("recomputed", True)):
        changes = adapting(base, tmp_path, name) if adapted else {"output.path": str(tmp_path / name)}
        weights.append(weights_of(train(recipe({**changes, "training.gradient_checkpointing": checkpointing})).folder))
    assert_same(*weights)


def test_a_signal_saves_and_the_run_goes_on(recipe, tmp_path, monkeypatch):
    whole = train(recipe({"output.path": str(tmp_path / "whole")})).folder
    forward, calls = CausalLoss.forward, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(CausalLoss, "forward", interrupted)
    stopped = train(recipe())
    monkeypatch.undo()
    assert (stopped.steps, stopped.stopped_by) == (2, "SIGTERM")
    assert checkpoint_steps(stopped.folder / "checkpoints") == [2]
    # Nothing there that could be taken for the result.
    assert not (stopped.folder / "hylora.json").exists()
    assert_same_run(whole, train(recipe({"training.resume": True})).folder)


def test_a_finished_run_can_be_made_longer(recipe, tmp_path):
    whole = train(recipe({"output": {"path": str(tmp_path / "whole"), "checkpoint_every": 3}, "training.steps": 5}))
    train(recipe({"output.checkpoint_every": 3, "training.steps": 3}))
    longer = train(recipe({"output.checkpoint_every": 3, "training.steps": 5, "training.resume": True}))
    assert_same_run(whole.folder, longer.folder)


def test_resuming_a_finished_run_changes_nothing(recipe):
    """As after a crash between the last checkpoint and the export."""
    settings = {"training.steps": 2, "output.checkpoint_every": 2, "evaluation.at_end": True}
    first = train(recipe(settings))
    weights, records = weights_of(first.folder), records_of(first.folder)
    (first.folder / "hylora.json").unlink()
    again = train(recipe({**settings, "training.resume": True}))
    assert again == first and (first.folder / "hylora.json").is_file()
    assert records_of(first.folder) == records
    assert_same(weights_of(first.folder), weights)
    with pytest.raises(CheckpointError, match=r"has made 2 updates, more than training\.steps=1"):
        train(recipe({**settings, "training.resume": True, "training.steps": 1}))


def test_an_adapter_run_trains_what_it_says_and_loads(recipe, base, tmp_path):
    result = train(recipe(adapting(base, tmp_path)))
    model = hylora.load(result.folder)
    assert model.peft_config["default"].r == 2
    adapted, plain = model.get_base_model(), hylora.load(base)
    conv = "model.layers.0.mamba.conv1d.modules_to_save.default.weight"
    assert not torch.equal(adapted.get_parameter(conv), plain.get_parameter("model.layers.0.mamba.conv1d.weight"))
    assert hylora.RunManifest.load(result.folder).base_model == str(base)


def test_bfloat16_autocast_trains_on_the_cpu(recipe, base, tmp_path):
    result = train(recipe(adapting(base, tmp_path, **{"training.mixed_precision": "bf16", "training.steps": 1})))
    assert {value.dtype for value in weights_of(result.folder).values()} == {torch.float32}
    # Another precision in the same program.
    train(recipe(adapting(base, tmp_path, "again", **{"training.steps": 1})))


def test_frozen_parameters_stay(recipe):
    result = train(recipe({"model.freeze": ["A_log", r"embed_tokens"], "training.steps": 2}))
    weights = weights_of(result.folder)
    again = train(recipe({"model.freeze": ["A_log", r"embed_tokens"], "training.steps": 1, "output.overwrite": True}))
    first = weights_of(again.folder)
    for name in weights:
        frozen = "A_log" in name or "embed_tokens" in name
        assert torch.equal(weights[name], first[name]) == frozen, name


@pytest.mark.parametrize("pattern", [r"^model\.embed_tokens", r"embed_tokens\.weight$"])
def test_frozen_parameters_are_named_as_in_the_model_also_under_an_adapter(recipe, base, pattern):
    changes = {"model": {"path": str(base), "freeze": [pattern]}, "adapter": {"variant": "hylora", "r": 2}}
    frozen = recipe(changes)
    plan = plan_model(frozen)
    model = prepare_model(load_model(frozen, plan, "no"), frozen, plan)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("lora_A" in name for name in trained) and any("norm" in name for name in trained)
    assert not any("embed_tokens" in name for name in trained)


SCALED = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 16, "beta_fast": 8.0},
}


@pytest.mark.parametrize("variant", ["longlora", "none"])
@pytest.mark.parametrize("kind", SCALED)
def test_a_run_comes_back_with_the_rope_it_was_trained_with(recipe, tmp_path, kind, variant):
    short = {"training.steps": 1, "training.sequence_length": 16}
    base = train(recipe({"model.config": LLAMA, "output.path": str(tmp_path / "llama"), **short})).folder
    settings = adapting(base, tmp_path, "scaled", **{"training.steps": 2, "adapter.variant": variant})
    beta = {"beta_fast": 8.0} if kind == "yarn" else {}
    settings["model"] = {"path": str(base), "rope": {"type": kind, "factor": "auto", **beta}}
    run = train(recipe(settings)).folder

    written = hylora.RunManifest.load(run)
    assert written.rope_parameters == {"rope_theta": 10000.0, "rope_type": kind, **SCALED[kind]}
    assert written.max_position_embeddings == (16 if kind == "dynamic" else 32)
    loaded = hylora.load(run, attention="full")
    assert loaded.config.max_position_embeddings == written.max_position_embeddings

    # The same without hylora: a config written by hand, and PEFT.
    config = AutoConfig.from_pretrained(base)
    config.rope_parameters = {"rope_theta": 10000.0, "rope_type": kind, **SCALED[kind]}
    by_hand = AutoModelForCausalLM.from_pretrained(run if variant == "none" else base, config=config)
    if variant != "none":
        by_hand = PeftModel.from_pretrained(by_hand, run)
    ids = torch.arange(1, 31)[None]
    with torch.no_grad():
        found, expected = (model.eval()(ids, use_cache=False).logits for model in (loaded, by_hand))
    assert torch.equal(found, expected)
    # What is scaled stays so: nothing is put on top of it.
    with pytest.raises(ValueError, match="would replace the model's own RoPE parameters"):
        hylora.load(run, rope=hylora.RopeScaling(factor=2.0))


def test_tensorboard_gets_records(recipe):
    pytest.importorskip("tensorboard")
    result = train(recipe({"tracking.trackers": ["tensorboard"], "training.steps": 1}))
    assert list((result.folder / "logs").rglob("events.out.tfevents.*"))


REFUSED = {
    "no attention to replace": ({"model.config.attn_layer_indices": []}, "no attention layers"),
    "misspelt field of the model": (
        {"model.config.hiden_size": 8},
        r"model\.config\.hiden_size=8.*model\.config\.hidden_size",
    ),
    "unknown architecture": ({"model.config.model_type": "bmaba"}, "model_type='bmaba'"),
    "no such model": ({"model": {"path": "./nowhere"}, "adapter.variant": "lora"}, r"model\.path='./nowhere'"),
    "no such tokenizer": ({"model.tokenizer": "./nowhere"}, r"model\.tokenizer='./nowhere'"),
    "tokenizer too large": (
        {"model.config.vocab_size": 8},
        r"highest token id 13 .* below the model's vocabulary of 8",
    ),
    "nothing frozen": ({"model.freeze": ["A_lgo"]}, r"model\.freeze\.0='A_lgo' matches no parameter"),
    "everything frozen": ({"model.freeze": ["."]}, "no parameter is trainable"),
    "not a pattern": ({"model.freeze": ["("]}, "not a regular expression"),
    "no text": ({"data.sources": [{"path": "./nowhere.txt"}]}, r"data\.sources\.0\.path.*does not exist"),
    "sequence longer than the data": ({"training.sequence_length": 4096}, "no row of 4096"),
    "packing that leaks": ({"data.packing": "documents"}, "data.packing"),
    "missing bitsandbytes": ({"optimizer.name": "adamw_8bit"}, "bitsandbytes"),
    "missing tracker": ({"tracking.trackers": ["wandb"]}, "'wandb', which is not installed"),
    "a loss of the model's own": ({"model.config.z_loss_coefficient": 0.1}, "z_loss_coefficient=0.1"),
    "a batch that does not fit": ({"training.global_batch_size": 3}, "global_batch_size=3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(recipe, tmp_path, case):
    changes, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message):
        train(recipe(changes))
    run = tmp_path / "run"
    assert not run.exists() or not list(run.iterdir())


def test_positions_that_a_model_does_not_have_are_not_scaled(recipe):
    nope = {
        "model_type": "granitemoehybrid",
        "vocab_size": 32,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "layer_types": ["mamba", "attention"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "mamba_n_heads": 4,
        "num_local_experts": 0,
    }
    with pytest.raises(RecipeError, match=r"model\.rope: .*linear:2 has nothing to scale: .*has no rotary positions"):
        train(recipe({"model.config": nope, "model.rope": {"factor": 2}}))
    # A recipe that several models share is another thing.
    folder = train(recipe({"model.config": nope, "model.rope": {"factor": "auto"}, "training.steps": 1})).folder
    written = hylora.RunManifest.load(folder)
    assert written.rope_parameters is None and written.max_position_embeddings is None


def test_a_folder_of_another_run_is_refused_with_the_remedy(recipe):
    folder = train(recipe({"training.steps": 1})).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(RecipeError, match=r"holds another run.*training\.resume=true.*output\.overwrite=true"):
        train(recipe({"training.steps": 1}))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_run_never_replaces_the_model_it_starts_from(base, recipe):
    before = weights_of(base)
    for settings in ({"output.overwrite": True}, {"training.resume": True}):
        changes = {"model": {"path": str(base)}, "output.path": str(base / ".." / base.name), **settings}
        with pytest.raises(RecipeError, match=r"is also model\.path"):
            train(recipe(changes))
    assert weights_of(base).keys() == before.keys()


def test_a_run_says_what_its_data_came_to(recipe):
    description = json.loads((train(recipe()).folder / "data.json").read_text())
    (source,) = description["train"]
    assert source["rows"] > 0
    assert source["documents"] + source["held_out_documents"] == 40


def test_a_folder_of_somebody_else_is_refused(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    # Even one that keeps recipes.
    (tmp_path / "run" / "recipe.yaml").write_text("soup: 1 litre")
    for settings in ({}, {"output.overwrite": True}, {"training.resume": True}):
        with pytest.raises(RecipeError, match="not empty and holds no run"):
            train(recipe(settings))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["recipe.yaml", "thesis.tex"]


def test_a_folder_that_cannot_be_written_is_refused(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    for path, message in (("file", "is a file"), ("file/run", "cannot be written")):
        with pytest.raises(RecipeError, match=message):
            train(recipe({"output.path": str(tmp_path / path)}))


def test_too_small_a_disk_is_refused(recipe, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr("hylora.training.run_folder.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(RecipeError, match="room for 0.0 GiB, but"):
        train(recipe())


def test_a_run_whose_checkpoints_fill_the_disk_can_go_on(tmp_path, monkeypatch):
    from types import SimpleNamespace

    folder = RunFolder(tmp_path)
    (folder.checkpoints / "step-000001").mkdir(parents=True)
    (folder.checkpoints / "step-000001" / "weights.safetensors").write_bytes(bytes(5000))
    monkeypatch.setattr("hylora.training.run_folder.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    folder.check_space(6000)
    with pytest.raises(RecipeError, match="make room"):
        folder.check_space(6001)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error")])
def test_results_that_cannot_be_written_are_not_lost(recipe, monkeypatch, error):
    settings = {"training.steps": 1, "output.checkpoint_every": 1}

    def full(self, folder, state):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("hylora.language.task.LanguageTask.save", full)
        with pytest.raises(CheckpointError, match=r"results could not be written.*training\.resume=true"):
            train(recipe(settings))
    result = train(recipe({**settings, "training.resume": True}))
    assert weights_of(result.folder) and len(records_of(result.folder)) == 1


def test_resuming_with_other_settings_names_them(recipe):
    train(recipe({"training.steps": 1, "output.checkpoint_every": 1}))
    changed = {"training.resume": True, "training.steps": 1, "optimizer.lr": 0.5, "attention.top_k": 2}
    with pytest.raises(RecipeError, match=r"attention\.top_k \(1 -> 2\), optimizer\.lr \(0\.01 -> 0\.5\)"):
        train(recipe(changed))
    with pytest.raises(RecipeError, match=r"training\.steps \(1 -> 2\)"):
        # A schedule that depends on the number of updates was another one until here.
        train(recipe({"training.resume": True, "training.steps": 2, "optimizer.schedule.name": "linear"}))


def test_a_run_may_be_resumed_when_recipes_have_gained_keys(recipe, tmp_path):
    resumed = recipe({"training.resume": True})
    old = resumed.to_tree()
    for key in ("representatives", "pooling", "summary_dtype"):
        del old["attention"][key]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(old))
    RunFolder(tmp_path / "run").check(resumed)
    with pytest.raises(RecipeError, match=r"other values of attention\.pooling \('sum' -> 'max'\);"):
        RunFolder(tmp_path / "run").check(recipe({"training.resume": True, "attention.pooling": "max"}))
    with pytest.raises(RecipeError, match=r"other values of attention\.summary_dtype \('float32' -> 'bfloat16'\);"):
        RunFolder(tmp_path / "run").check(recipe({"training.resume": True, "attention.summary_dtype": "bfloat16"}))
    old["task"] = "vision"
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(old))
    with pytest.raises(RecipeError, match=r"task \('vision' -> 'language'\)"):
        RunFolder(tmp_path / "run").check(resumed)


def test_overwriting_replaces_the_run_and_nothing_else(recipe, tmp_path):
    train(recipe({"training.steps": 2, "output.checkpoint_every": 1}))
    (tmp_path / "run" / "figures.pdf").write_text("drawn by hand")
    train(recipe({"training.steps": 1, "output.overwrite": True}))
    assert len(records_of(tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "checkpoints").exists() and (tmp_path / "run" / "figures.pdf").exists()


def test_the_resolved_recipe_holds_every_key(recipe, tmp_path):
    train(recipe({"training.steps": 1}))
    saved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    top = {key.split(".")[0] for key in recipe_keys(type(recipe()))}
    assert set(saved) == top and saved["optimizer"]["betas"] == [0.9, 0.95]
    assert json.dumps(saved)


def changed_text(recipe, base, text_file):
    lines = text_file.read_text().splitlines(keepends=True)
    text_file.write_text("".join(reversed(lines)))


def changed_weights(recipe, base, text_file):
    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.mamba.D"][-1] += 1e-3
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})


def changed_config(recipe, base, text_file):
    config = json.loads((base / "config.json").read_text())
    config["rms_norm_eps"] = 0.01
    (base / "config.json").write_text(json.dumps(config))


def changed_tokenizer(recipe, base, text_file):
    path = base / "tokenizer.json"
    path.write_text(path.read_text().replace('"span"', '"SPAN"'))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (changed_text, r"data \("),
        (changed_weights, r"base model \("),
        (changed_config, r"base model \("),
        (changed_tokenizer, r"data \(.*tokenizer \("),
    ],
)
def test_other_material_is_refused_when_a_run_goes_on(recipe, base, tmp_path, text_file, change, names):
    """The same number of rows, the same shapes: only what is in them differs."""
    text, model = tmp_path / "text.jsonl", tmp_path / "model"
    shutil.copy(text_file, text)
    shutil.copytree(base, model)
    settings = adapting(model, tmp_path, **{"training.steps": 2, "output.checkpoint_every": 1})
    settings["data.sources"] = [{"path": str(text)}]
    train(recipe(settings))
    change(recipe, model, text)
    with pytest.raises(CheckpointError, match=rf"would not go on as it was: {names}"):
        train(recipe({**settings, "training.resume": True}))
