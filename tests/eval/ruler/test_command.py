# SPDX-License-Identifier: Apache-2.0
"""`hylora eval ruler`, as it is typed."""

from __future__ import annotations

import json
from functools import partial

import pytest

import hylora
from hylora.attention import SpanConfig
from hylora_eval import ruler
from hylora_eval.ruler.answering import Answerer
from tests import command_line
from tests.eval.ruler.conftest import prose, write_questions
from tests.tiny import tiny_llama

SPAN = {"block_size": 16, "top_k": 2, "chunk_size": 128}


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizers):
    """A run's folder with a full model, trained (here: drawn) under SE-Attn."""
    folder = tmp_path_factory.mktemp("model")
    tiny_llama(vocab_size=len(tokenizers["demo"]), seed=2).save_pretrained(folder)
    tokenizers["demo"].save_pretrained(folder)
    span = SpanConfig(**SPAN).to_dict()
    hylora.RunManifest(attention="se_attn", span_attention=span, context_length=512).save(folder)
    return folder


run = partial(command_line.run, "eval", "ruler")


def evaluate(output, *arguments):
    result = run(*arguments, "--output", output)
    assert result.exit_code == 0, (result.output, result.exception)
    return result, json.loads(output.read_text())


def test_a_table_and_a_record_with_what_a_rerun_needs(tmp_path, model, tokenizers):
    (tmp_path / "essays").mkdir()
    (tmp_path / "essays" / "one.txt").write_text(prose(300))
    output = tmp_path / "result.json"
    printed, record = evaluate(
        output, "--model", model, "--lengths", 1500, 1700, 1500, "--tasks", "VT, niah_multivalue",
        "--samples", 2,
        "--seed", 7, "--haystack", tmp_path / "essays", "--sentences", "rules", "--batch-size", 2,
    )  # fmt: skip
    assert record["kind"] == "ruler" and record["created"]
    assert record["model"]["path"] == str(model) and record["model"]["dtype"] == "float32"
    assert record["model"]["training_attention"] == "se_attn"
    assert record["attention"] == {"asked": "full", "name": "sdpa", "options": {}}
    assert {"hylora", "torch", "transformers", "python"} <= set(record["environment"])
    assert (
        record["tokenizer"]["vocabulary"] == len(tokenizers["demo"]) and len(record["tokenizer"]["fingerprint"]) == 32
    )
    expected = {
        "lengths": [1500, 1700],
        "tasks": ["niah_multivalue", "vt"],
        "samples": 2,
        "seed": 7,
        "mode": "exact",
        "haystack": str(tmp_path / "essays"),
        "sentences": "rules",
        "batch_size": 2,
    }
    assert record["settings"] | expected == record["settings"]
    rows = {(row["task"], row["length"]): row for row in record["results"]}
    assert set(rows) == {(task, length) for task in expected["tasks"] for length in (1500, 1700)}
    assert rows["niah_multivalue", 1500]["haystack"] == str(tmp_path / "essays")
    assert [(row["group"], row["length"]) for row in record["averages"]] == [("VT", 1500), ("VT", 1700)]

    # The same from Python.
    tokenizer, network = tokenizers["demo"], hylora.load(model, "full")
    (result,) = ruler.evaluate(
        network, tokenizer, [1700], expected["tasks"], 2, 7, 2, haystack=tmp_path / "essays", sentences="rules"
    )
    for row in result.task_rows():
        mine = rows[row["task"], 1700]
        assert {**row, "seconds": 0} == {**mine, "seconds": 0} and mine["seconds"] > 0
    assert f"haystack {tmp_path / 'essays'}" in printed.stdout.replace("\n", "")
    assert "1700" in printed.stdout and "VT" in printed.stdout
    assert "even 0 and 100 % cannot be told apart" in " ".join(printed.stdout.split())


def test_the_same_command_goes_on_after_an_interruption(monkeypatch, tmp_path, model):
    command = ("--model", model, "--lengths", 1500, "--tasks", "vt", "--lengths", 1600, "--samples", 2)
    _, whole = evaluate(tmp_path / "whole.json", *command)
    output = tmp_path / "result.json"
    original, answered = Answerer.answer, []

    def answer(self, prompts, max_new_tokens):
        if len(answered) == 3:
            raise KeyboardInterrupt
        answered.append(prompts)
        return original(self, prompts, max_new_tokens)

    monkeypatch.setattr(Answerer, "answer", answer)
    assert run(*command, "--output", output).exit_code != 0
    assert [row["length"] for row in json.loads(output.read_text())["results"]] == [1500]
    answered[:] = answered[:2]
    _, resumed = evaluate(output, *command)
    assert len(answered) == 3
    for rows in zip(whole["results"], resumed["results"], strict=True):
        first, second = ({**row, "seconds": 0} for row in rows)
        assert first == second
    refused = run(*command, "--seed", 1, "--output", output)
    assert "made with seed=42 and now it is 1" in str(refused.exception)
    assert json.loads(output.read_text()) == resumed
    answered.clear()
    _, anew = evaluate(output, *command[:-1], 1, "--seed", 1, "--overwrite")
    assert len(answered) == 2 and anew["settings"]["seed"] == 1


def test_attention_full_same_and_by_name(tmp_path, model, tokenizers):
    command = ("--model", model, "--lengths", 1500, "--tasks", "vt", "--samples", 2)
    texts = []
    for number, attention in enumerate((["full"], ["same"], ["sw_attn", "--attention-option", "window=5"])):
        printed, record = evaluate(tmp_path / f"{number}.json", *command, "--attention", *attention)
        lines = (tmp_path / f"{number}.json.predictions.jsonl").read_text().splitlines()
        texts.append([json.loads(line)["prediction"] for line in lines[1:]])
        if attention == ["same"]:
            assert "RULER, se_attn attention, exact" in printed.stdout
            assert record["attention"]["name"] == "se_attn"
            assert record["attention"]["options"] == SpanConfig(**SPAN).to_dict()
    assert texts[0] != texts[1] != texts[2] != texts[0]


def test_within_a_chat_template(tmp_path, model):
    _, record = evaluate(
        tmp_path / "chat.json", "--model", model, "--lengths", 1500, "--tasks", "vt", "--samples", 1, "--chat-template"
    )
    assert len(record["settings"]["chat_template"]) == 64 and record["results"][0]["longest"] <= 1500


def test_questions_from_files(tmp_path, model):
    files = write_questions(tmp_path)
    _, record = evaluate(
        tmp_path / "qa.json", "--model", model, "--lengths", 3000, "--tasks", "qa_1", "--samples", 1, "--squad",
        files["qa_1"],
    )  # fmt: skip
    assert record["results"][0]["task"] == "qa_1" and record["averages"] == []
    assert record["settings"]["qa_files"] == {"qa_1": files["qa_1"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--tasks": "niah_singel_1"}, "did you mean 'niah_single_1'"),
        ({"--tasks": "qa_1"}, "SQuAD-explorer/ as --squad, in Python as qa_files={'qa_1': PATH}"),
        ({"--tasks": "qa_2", "--hotpotqa": "nowhere.json"}, "the file of qa_2, 'nowhere.json', does not exist"),
        ({"--lengths": 200}, "length=200 is too small for vt: ask for at least"),
        ({"--mode": "official"}, "mode='official'"),
        ({"--tasks": "niah_implied_4", "--mode": "strict"}, "no task of the official generator"),
        ({"--haystack": "nowhere"}, "haystack 'nowhere' does not exist"),
        ({"--tasks": "niah_single_2", "--sentences": "spacy"}, "sentences='spacy'"),
        ({"--model": "./nothing"}, "folder './nothing' does not exist"),
        ({"--attention": "se_atn"}, "did you mean 'se_attn'"),
        ({"--output": "OLD"}, "exists"),
    ],
)
def test_wrong_input_is_named_before_the_model_is_loaded(tmp_path, monkeypatch, model, change, message):
    monkeypatch.setattr("hylora.runs.loading.load", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    (tmp_path / "old.json").write_text("kept")
    options = {"--model": model, "--lengths": 1500, "--tasks": "vt", "--samples": 1, **change}
    names = {"OLD": tmp_path / "old.json"}
    result = run(*(names.get(part, part) for option in options.items() for part in option))
    assert isinstance(result.exception, (ValueError, OSError)), result.output
    assert message in str(result.exception)
    assert (tmp_path / "old.json").read_text() == "kept"
