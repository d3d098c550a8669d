# SPDX-License-Identifier: Apache-2.0
"""Sparse training and pruning of language models: embeddings stay, zeros hold, runs resume, tr(F) is what it says."""

from __future__ import annotations

import importlib.util
import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from hylora.language import LanguageRecipe
from hylora.language.run import make_task
from hylora.training import run
from tests.outcomes import assert_same, records_of
from tests.pages import ROOT, blocks, page
from tests.tiny import tiny_bamba, tiny_llama
from vision_extras.masks import Masks, prunable
from vision_extras.pruning.fisher import fisher_trace
from vision_extras.sparse import SparseRecipe
from vision_extras.sparse.language import EvenEpochs, embeddings
from vision_extras.sparse.phased import Phased
from vision_extras.sparse.phases import plan_phases

TEXT = ROOT / "hylora/demo/assets/text/held_out.jsonl"
STUDY = ROOT / "studies/language_sparse"


def study():
    spec = importlib.util.spec_from_file_location("studies_language_sparse", STUDY / "sweep.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def settings(tmp_path):
    """Of a short run, for the study's recipes."""
    study().write_tokenizer(tmp_path / "tokenizer")
    return [
        f"model.tokenizer={tmp_path / 'tokenizer'}",
        "model.config.intermediate_size=24",
        f"data.sources=[{{path: {TEXT}}}]",
        f"data.validation=[{{path: {TEXT}, max_documents: 1}}]",
        f"data.cache_dir={tmp_path / 'cache'}",
        "training.sequence_length=16",
        "training.steps=8",
        "evaluation.max_sequences=4",
    ]


def alternating(recipe, accelerator):
    """AC/DC in epochs of two updates: dense, sparse, dense, sparse."""
    task = make_task(recipe, accelerator)
    network, task.model.masks = task.model.model, Masks()
    lengths = {"warmup": 1, "sparse": 1, "dense": 1, "last_dense": 1, "last_sparse": 1}
    phases = plan_phases(SparseRecipe(schedule="alternating", sparsity=0.75, **lengths), 4)
    weights = partial(prunable, network, embeddings(network))
    task.methods = [
        Phased(network, task.model.masks, weights, phases, EvenEpochs(2), scope="local", fresh_momentum=False)
    ]
    return task


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("build", [tiny_llama, tiny_bamba])
def test_embeddings_and_the_head_are_named_and_nothing_else(build, tied):
    network = build(tie_word_embeddings=tied)
    names = embeddings(network)
    assert names == (("model.embed_tokens",) if tied else ("model.embed_tokens", "lm_head"))
    left = prunable(network, names)
    assert set(prunable(network)) - set(left) == {f"{name}.weight" for name in names}


def test_even_epochs_begin_where_the_one_before_ends():
    epochs = EvenEpochs(3)
    assert [epochs.epoch(step) for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    assert [epochs.first_step(epoch) for epoch in range(3)] == [0, 3, 6]
    with pytest.raises(ValueError, match="updates"):
        EvenEpochs(0)


def test_the_trace_of_a_language_model_is_the_sum_over_all_next_tokens():
    network = tiny_llama(vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    tokens = torch.tensor([[1, 4, 2], [3, 3, 1]])
    parameters, expected = list(network.parameters()), 0.0
    for row in tokens:
        logs = network(input_ids=row[None]).logits[0].log_softmax(-1)
        for log in logs.flatten():
            gradients = torch.autograd.grad(log, parameters, retain_graph=True)
            expected += float(log.detach().exp() * sum(gradient.square().sum() for gradient in gradients))
    expected /= tokens.numel()
    found = fisher_trace(network, tokens, 300, torch.Generator().manual_seed(0), chunk=1)
    assert abs(found.value - expected) < 4 * found.error < 0.4 * expected


@pytest.mark.parametrize(("model", "precision"), [("llama", "float32"), ("llama", "bf16"), ("bamba", "float32")])
def test_zeros_hold_embeddings_stay_and_a_run_resumes_in_a_sparse_phase(settings, tmp_path, model, precision):
    file = STUDY / f"recipes/{model}.yaml"
    settings = [*settings, f"training.mixed_precision={precision}"]
    kept = ["output.checkpoint_every=3", "output.keep_checkpoints=9"]
    whole = LanguageRecipe.load(file, [*settings, *kept, f"output.path={tmp_path / 'whole'}"])
    run(whole, alternating)
    weights = load_file(tmp_path / "whole/model.safetensors")
    zeros = {name: float((weight == 0).double().mean()) for name, weight in weights.items() if weight.ndim > 1}
    assert zeros.pop("model.embed_tokens.weight") == 0
    assert all(share == pytest.approx(0.75, abs=1e-3) for share in zeros.values())
    # Update 3 is the first of a sparse phase that has one more.
    part = tmp_path / "part"
    shutil.copytree(tmp_path / "whole/checkpoints/step-000003", part / "checkpoints/step-000003")
    resumed = LanguageRecipe.load(file, [*settings, f"output.path={part}", "training.resume=true"])
    resumed.save(part / "recipe.yaml")
    run(resumed, alternating)
    assert_same(weights, load_file(part / "model.safetensors"))
    assert [record["sparsity"] > 0.7 for record in records_of(tmp_path / "whole") if "sparsity" in record] == [
        False, False, True, True, False, False, True, True,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_study_branches_as_a_run_from_scratch_and_notes_all_ways(settings, tmp_path):
    module = study()
    made = module.Study(STUDY / "recipes/llama.yaml", 2, tmp_path / "runs", tmp_path / "found.json", settings)
    assert made.epochs == 4
    made.dense(0)
    for at in (0, 2):
        made.pruned(0, 0.75, at)
    made.phases(0, "alternating", 0.75)
    made.phases(0, "gradual", 0.75)
    made.cram(0, 0.01)
    dense, *others = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert len(dense["fisher"]) == len(dense["losses"]) == 4 and dense["zeros"] == 0
    assert [found["way"] for found in others] == ["once", "once", "alternating", "gradual", "cram"]
    assert all(found["zeros"] == pytest.approx(0.75, abs=0.01) for found in others[:4]) and others[4]["zeros"] == 0
    # What is sparse already is as it was where less is to go.
    assert all(found["one_shot"]["0.5"] == pytest.approx(found["loss"]) for found in others[:4])

    def scratch(recipe, accelerator):
        task = make_task(recipe, accelerator)
        task.methods = [made._phased(task, task.model.model, module.once(2, 0.75, 4))]
        return task

    run(made.recipe("scratch", 0), scratch)
    folders = [tmp_path / "runs" / name for name in ("scratch-0", "once-0.75-2-0")]
    assert_same(*(load_file(folder / "model.safetensors") for folder in folders))


def test_the_code_of_the_page_runs(settings, tmp_path, monkeypatch):
    (code,) = blocks(page("docs/guides/sparse_language.md"), "python")
    assert "EvenEpochs(20)" in code
    recipe = LanguageRecipe.load(STUDY / "recipes/llama.yaml", [*settings, "training.steps=10"])
    monkeypatch.chdir(tmp_path)
    recipe.save("recipe.yaml")
    scope = {}
    exec(compile(code.replace("EvenEpochs(20)", "EvenEpochs(1)"), "docs/guides/sparse_language.md", "exec"), scope)
    weights = load_file(scope["result"].folder / "model.safetensors")
    gone = [(weight == 0).double().mean().item() for name, weight in weights.items() if "proj" in name]
    assert gone and all(share == pytest.approx(0.9, abs=0.01) for share in gone)
