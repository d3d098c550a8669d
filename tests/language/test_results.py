# SPDX-License-Identifier: Apache-2.0
"""Results carry themselves: what a run leaves says how it was trained, wherever it goes."""

from __future__ import annotations

import json
import os
import shlex
import stat

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import hylora
from hylora.language import train
from hylora.language.advice import advise
from hylora.language.data import build_datasets
from hylora.runs.export import export
from hylora.runs.record import RunRecord
from tests import command_line
from tests.language import test_run
from tests.outcomes import records_of
from tests.tolerances import assert_close

IDS = torch.arange(2, 14).repeat(5)[None]

ATTENTIONS = {
    "se_attn": {"name": "se_attn", "block_size": 4, "top_k": 1, "chunk_size": [8, 16], "summary": "mean_key"},
    "recall": {"name": "se_attn", "preset": "recall", "block_size": 2, "top_k": 3, "chunk_size": 8},
    "sw_attn": {"name": "sw_attn", "window": 5},
}
ROPE = {"plain": None, "yarn": {"type": "yarn", "factor": "auto"}}


def adapting(*arguments, **changes):
    """As for a hybrid, of which a Llama has no convolutions to train."""
    return {**test_run.adapting(*arguments, **changes), "adapter": {"variant": "longlora", "r": 2, "lora_alpha": 4}}


@torch.no_grad()
def logits(model):
    return model.eval()(IDS, use_cache=False).logits


@pytest.fixture
def base(recipe, tmp_path):
    """A tiny Llama of 16 positions."""
    short = {"training.steps": 1, "training.sequence_length": 16, "model.config": test_run.LLAMA}
    return train(recipe({**short, "output.path": str(tmp_path / "base")})).folder


@pytest.mark.parametrize("variant", ["none", "longlora"])
@pytest.mark.parametrize("rope", ROPE)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_flag_runs_what_was_trained(recipe, base, tmp_path, attention, rope, variant):
    settings = adapting(base, tmp_path, "run", **{"training.steps": 1, "attention": ATTENTIONS[attention]})
    settings |= {"model": {"path": str(base), "rope": ROPE[rope]}, "adapter": {"variant": variant, "r": 2}}
    run = train(recipe(settings)).folder
    expected = hylora.load(run)
    folders = [tmp_path / "exported", *([run] if variant == "none" else [])]
    export(run, folders[0])
    name = ATTENTIONS[attention]["name"]
    # And what someone saves who has switched it back and forth.
    hylora.set_attention(expected, "full")
    (expected if variant == "none" else expected.get_base_model()).save_pretrained(tmp_path / "saved")
    hylora.set_attention(expected, name)
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=name)
        assert model.config.max_position_embeddings == 32
        assert model.config.span_attention == expected.config.span_attention
        assert_close(logits(model), logits(expected))
    if variant == "none":
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation=name)
        assert_close(logits(model), logits(expected))
    full = hylora.load(run, attention="full")
    assert not torch.allclose(logits(full), logits(expected), atol=1e-4)


def test_a_preset_by_name_does_not_replace_what_was_trained(recipe, tmp_path):
    """Of the same rule the trained options stay; another one is refused."""
    run = train(recipe({"attention": ATTENTIONS["recall"], "training.steps": 1})).folder
    model = AutoModelForCausalLM.from_pretrained(run, attn_implementation="se_attn_recall")
    assert torch.equal(logits(model), logits(hylora.load(run)))
    other = train(recipe({"training.steps": 1, "output.path": str(tmp_path / "other")})).folder
    model = AutoModelForCausalLM.from_pretrained(other, attn_implementation="se_attn_recall")
    with pytest.raises(ValueError, match="selection='chunk' contradicts 'se_attn_recall'.*hylora.set_attention"):
        logits(model)
    hylora.set_attention(model, "se_attn_recall", chunk_size=32)
    assert model.config.span_attention["selection"] == "token"


def test_both_ends_are_evaluated_and_a_resumed_run_keeps_the_first(recipe, base, tmp_path, monkeypatch):
    settings = {"evaluation": {"at_end": True}, "output.checkpoint_every": 1, "training.steps": 2}
    result = train(recipe(adapting(base, tmp_path, "run", **settings)))
    record = RunRecord.read(result.folder)
    assert record.tuned == result.evaluation and record.steps == 2
    assert record.base.keys() == {"loss", "perplexity", "full_loss", "full_perplexity"} == record.tuned.keys()
    # The base is what the adapter is put on, by either attention.
    for attention, name in (("se_attn", "loss"), ("full", "full_loss")):
        model = hylora.load(base, attention, block_size=4, top_k=1, chunk_size=16) if attention == "se_attn" else None
        model = model or hylora.load(base, "full")

        rows = build_datasets(recipe(settings).data, AutoTokenizer.from_pretrained(base), 32, 0).validation
        with torch.no_grad():
            losses = [
                float(model(input_ids=rows[i]["input_ids"][None], labels=rows[i]["labels"][None]).loss)
                for i in range(len(rows))
            ]
        assert record.base[name] == pytest.approx(sum(losses) / len(losses), rel=1e-5)

    monkeypatch.setattr("hylora.language.task.LanguageTask.evaluate_ends", lambda *_: {"full_loss": 0.0})
    longer = {**settings, "training.steps": 3, "training.resume": True}
    train(recipe(adapting(base, tmp_path, "run", **longer)))
    assert RunRecord.read(result.folder).base == record.base
    assert [r["step"] for r in records_of(result.folder) if "eval_loss" in r] == [0, 2, 3]


def test_full_attention_is_left_out_where_it_needs_a_mask_of_long_rows(recipe, base, tmp_path, monkeypatch):
    monkeypatch.setattr("hylora.language.task._LONGEST_MASK", 31)
    for packing, keys in (("documents", {"loss", "perplexity"}), ("eos", {"loss", "perplexity", "full_loss"})):
        settings = {"training.steps": 1, "evaluation": {"at_end": False}, "data.packing": packing}
        run = train(recipe(adapting(base, tmp_path, packing, **settings))).folder
        assert RunRecord.read(run).base.keys() >= keys and ("full_loss" in RunRecord.read(run).base) == (
            packing == "eos"
        )


def test_an_evaluation_at_the_start_changes_nothing_else(recipe, base, tmp_path):
    kept = {}
    for name, at_start in (("with", True), ("without", False)):
        settings = {"evaluation": {"at_start": at_start, "at_end": False}}
        folder = train(recipe(adapting(base, tmp_path, name, **settings))).folder
        kept[name] = [record for record in records_of(folder) if "loss" in record]
    assert kept["with"] == kept["without"]


def test_the_card_of_a_run_is_filled_and_anybody_may_read_it(recipe, base, tmp_path):
    before = os.umask(0o022)
    try:
        run = train(recipe(adapting(base, tmp_path, "a run", evaluation={"at_end": True}))).folder
        export(run, tmp_path / "out")
    finally:
        os.umask(before)
    for folder in (run, tmp_path / "out"):
        files = [path for path in folder.iterdir() if path.is_file()]
        assert {path.name for path in files if stat.S_IMODE(path.stat().st_mode) != 0o644} == set()
    card, record = (run / "README.md").read_text(), RunRecord.read(run)
    for text in (
        "library_name: peft",
        "# a run\n",
        "| base model | base |",
        "LoRA of rank 2, alpha 4, in a folder of its own; in full:",
        "| training context | 32 tokens |",
        "block_size 4, top_k 1, chunk_size [8, 16]",
        'PeftModel.from_pretrained(base, "a run")  # full attention',
        "| held out | text.jsonl | 11 | 360 | 11 |",
        "| `optimizer.lr` | 0.01 |",
        f"| as in training | {record.base['perplexity']:.2f} | {record.tuned['perplexity']:.2f} |",
        f"| full | {record.base['full_perplexity']:.2f} | {record.tuned['full_perplexity']:.2f} |",
    ):
        assert text in card, text
    assert "More Information Needed" not in card and str(tmp_path) not in card
    exported = (tmp_path / "out" / "README.md").read_text()
    assert card[card.index("## Data") :] == exported[exported.index("## Data") :]
    assert "library_name: transformers" in exported and "LoRA of rank 2, alpha 4, merged" in exported


def test_a_hostile_record_writes_neither_markup_nor_metadata(recipe, base, tmp_path):
    run = train(recipe(adapting(base, tmp_path))).folder
    evil = "x\n---\n\n<script>a</script> ![x](http://y) | `c`"
    data = {"train": [{"path": evil, "tokens": evil}], "validation": "no list"[:0]}
    (run / "data.json").write_text(json.dumps(data))
    (run / "recipe.yaml").write_text(json.dumps({"optimizer": {"name": evil, evil: 1}, "training": 3, "model": []}))
    (run / "metrics.jsonl").write_text('{"step": 0, "eval_loss": NaN}\n{"step": 9, "eval_perplexity": Infinity}\n')
    (base / "README.md").write_text("---\nlicense: [a, b]\n---\n")
    export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "<script" not in card and "license" not in card and "![x]" not in card
    assert card.count("\n---\n") == 1
    assert "| as in training | – | ∞ |" in card


def test_the_license_of_a_known_base_is_handed_on(recipe, base, tmp_path):
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    run = train(recipe(adapting(base, tmp_path, **{"training.steps": 1}))).folder
    assert "\nlicense: apache-2.0\n" in (run / "README.md").read_text()


def test_training_ends_by_saying_what_came_of_it_and_commands_that_work(tree, text_file, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held out.jsonl").write_text("".join(text_file.read_text().splitlines(keepends=True)[:12]))
    tree["data"] |= {"validation_fraction": 0.0, "validation": [{"path": "held out.jsonl", "max_documents": 9}]}
    tree |= {"evaluation": {"at_end": True}, "output": {"path": "a run", "checkpoint_every": 0}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    trained = command_line.run("train", "recipe.yaml")
    assert trained.exit_code == 0, trained.output
    error = trained.stderr
    said = error[error.index("finished after 4 updates; results in a run") :].splitlines()
    record = RunRecord.read(tmp_path / "a run")
    assert said[1] == "held-out perplexity, sequences of 32 tokens, lower is better:"
    assert said[2].split() == ["untrained", "trained"]
    for line, name in ((said[3], "perplexity"), (said[4], "full_perplexity")):
        assert line.split()[2:4] == [f"{record.base[name]:.2f}", f"{record.tuned[name]:.2f}"]
        assert f"{100 * (record.tuned[name] / record.base[name] - 1):+.1f} %" in line
    assert said[5] == "next:"
    for line in said[6:]:
        program, *words = shlex.split(line)
        result = command_line.run(*words)
        assert program == "hylora" and result.exit_code == 0, (line, result.output, result.exception)
    assert (tmp_path / "a run-exported" / "model.safetensors").is_file()


def test_what_got_worse_is_said_to_and_what_is_unknown_is_left_out(recipe, base, tmp_path):
    run = train(recipe(adapting(base, tmp_path, **{"training.steps": 1}))).folder
    assert advise(run).splitlines()[:2] == [
        "next:",
        f"  hylora eval ppl --model {run} --attention same --lengths 32 --data FILE  # a FILE of text that was not "
        "trained on",
    ]
    (run / "metrics.jsonl").write_text('{"step": 0, "eval_perplexity": 8.0}\n{"step": 1, "eval_perplexity": 9.0}\n')
    assert advise(run).splitlines()[2] == "  se_attn attention      8.00      9.00  +12.5 %: worse"
