# SPDX-License-Identifier: Apache-2.0
"""Whole evaluations: scores, batches, and going on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import hylora
from hylora_eval import ruler
from hylora_eval.ruler.answering import Answer, Answerer
from hylora_eval.ruler.counting import prompt_tokens
from tests.eval.ruler.test_answering import deaf_bamba
from tests.tiny import tiny_bamba, tiny_llama

LENGTH = 1500


@pytest.fixture
def tokenizer(tokenizers):
    return tokenizers["demo"]


def timeless(results):
    """Results without the seconds they took."""
    return [
        replace(result, tasks={name: replace(task, seconds=0.0) for name, task in result.tasks.items()})
        for result in results
    ]


def know(monkeypatch, tokenizer, known):
    """Let answers come from a function of the record with that prompt; returns the prompts of each batch."""
    batches = []

    def answer(self, prompts, max_new_tokens):
        batches.append(prompts)
        return [Answer(known(tuple(prompt), max_new_tokens), 3) for prompt in prompts]

    monkeypatch.setattr(Answerer, "answer", answer)
    return batches


def test_a_model_that_knows_every_answer_scores_a_hundred(monkeypatch, tokenizer, essay):
    options = {"haystack": essay, "sentences": "rules"}
    length = 2300
    records = {
        tuple(prompt_tokens(tokenizer, record.prompt)): record
        for task in ruler.ALL_TASKS
        for record in ruler.generate(task, tokenizer, length, 3, **options)
    }

    def known(prompt, max_new_tokens):
        record = records[prompt]
        assert max_new_tokens == record.tokens_to_generate
        if record.task == "fwe":
            return ""
        if record.task == "vt" and record.index == 0:
            return record.outputs[0]
        return " ".join(record.outputs).upper()

    know(monkeypatch, tokenizer, known)
    (result,) = ruler.evaluate(tiny_llama(), tokenizer, [length], samples=3, **options)
    scores = {name: task.score.score for name, task in result.tasks.items()}
    assert scores == dict.fromkeys(ruler.ALL_TASKS, 100.0) | {"fwe": 0.0, "vt": pytest.approx(220 / 3)}
    assert result.tasks["fwe"].score.empty == 3
    assert result.tasks["vt"].scores == [20.0, 100.0, 100.0] and result.tasks["fwe"].scores == [0.0] * 3
    for name in ("niah_multiquery", "vt"):
        own = [record for record in records.values() if record.task == name]
        for depths, record in zip(result.tasks[name].depths, own, strict=True):
            begins = [100 * start / len(record.input) for start, _ in record.evidence]
            assert depths == pytest.approx(begins, abs=0.01) and len(depths) == len(record.outputs)
    assert result.tasks["cwe"].depths is None
    averages = {name: average.score for name, average in result.averages.items()}
    assert averages["NIAH-S"] == 100.0 and averages["CF-WE"] == 50.0
    assert averages["Average"] == pytest.approx((9 * 100 + 220 / 3) / 11)
    for name, task in result.tasks.items():
        assert length - 120 < task.shortest <= task.longest <= length
        assert task.haystack == ("stand-in" if ruler.TASKS[name].needs_essay else None)
    rows = result.task_rows()
    assert [row["task"] for row in rows] == list(ruler.ALL_TASKS)
    assert rows[0]["score"] == 100.0 and rows[0]["length"] == length and rows[0]["samples"] == 3
    assert [row["group"] for row in result.average_rows()] == [*ruler.GROUPS, "Average"]


@pytest.fixture(scope="module")
def bamba(tokenizers):
    return tiny_bamba(vocab_size=len(tokenizers["demo"]), seed=2)


def test_results_do_not_depend_on_the_batch(tmp_path, bamba, tokenizer):
    def run(size):
        path = tmp_path / f"{size}.jsonl"
        notes = []
        results = ruler.evaluate(
            bamba, tokenizer, [LENGTH], "vt", 3, batch_size=size, predictions=path, note=notes.append
        )
        texts = [json.loads(line)["prediction"] for line in path.read_text().splitlines()[1:]]
        return timeless(results), texts, notes

    (alone, texts, _), (together, others, notes) = run(1), run(2)
    assert texts == others and len(texts) == 3 and notes == []
    assert together[0].batch_size == 2 and replace(together[0], batch_size=1) == alone[0]


def test_a_model_that_does_not_look_at_padding_answers_one_by_one(bamba, tokenizer):
    notes = []
    model = deaf_bamba(vocab_size=len(tokenizer), seed=2)
    (result,) = ruler.evaluate(model, tokenizer, [LENGTH], "vt", 2, batch_size=2, note=notes.append)
    assert result.batch_size == 1 and "one by one" in notes[0]
    assert timeless([result]) == timeless(ruler.evaluate(bamba, tokenizer, [LENGTH], "vt", 2))


class Interrupted(Exception):
    pass


def test_an_interrupted_evaluation_goes_on_and_ends_as_if_it_had_not_been(monkeypatch, tmp_path, tokenizer):
    model = tiny_llama(vocab_size=len(tokenizer))
    arguments = (model, tokenizer, [LENGTH, 1600], ["vt"], 3)
    answered = []
    original = Answerer.answer

    def answer(self, prompts, max_new_tokens):
        if len(answered) == 3:
            raise Interrupted
        answered.append(len(prompts))
        return original(self, prompts, max_new_tokens)

    whole = ruler.evaluate(*arguments, batch_size=2, predictions=tmp_path / "whole.jsonl")
    monkeypatch.setattr(Answerer, "answer", answer)
    path = tmp_path / "kept.jsonl"
    with pytest.raises(Interrupted):
        ruler.evaluate(*arguments, batch_size=2, predictions=path)
    # As a kill may leave it: of the last batch, half a line.
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 3 + 2
    path.write_bytes(b"".join(lines[:-1])[:-30])
    answered.clear()
    monkeypatch.setattr(Answerer, "answer", lambda *args: answered.append(1) or original(*args))
    resumed = ruler.evaluate(*arguments, batch_size=2, predictions=path)
    assert timeless(resumed) == timeless(whole)
    assert len(answered) == 4 - 2
    answered.clear()
    assert ruler.evaluate(*arguments, batch_size=2, predictions=path) == resumed
    assert answered == []

    # Memory may ask for smaller batches.
    smaller = ruler.evaluate(*arguments, predictions=path)
    assert answered == [] and [one.tasks for one in smaller] == [one.tasks for one in resumed]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    ruler.evaluate(*arguments, predictions=path)
    assert len(answered) == 1
    answered.clear()

    # More lengths, tasks and samples may be asked for.
    more = ruler.evaluate(model, tokenizer, [LENGTH], ["vt", "fwe"], 4, batch_size=2, predictions=path)
    assert len(answered) == 1 + 2
    assert timeless(more) == timeless(ruler.evaluate(model, tokenizer, [LENGTH], ["vt", "fwe"], 4, batch_size=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "made with seed=42 and now it is 1"),
        ({"mode": "strict"}, "made with mode='exact' and now it is 'strict'"),
        ({"model": "other"}, "made with weights="),
        ({"model": "negated"}, "made with weights="),
        ({"model": "windowed"}, "made with attention='sdpa' and now it is 'sw_attn'"),
        ({"tokenizer": "llama3"}, "made with tokenizer="),
        ({"haystack": ruler.Haystack("other", "Another text. " * 300)}, "another prompt of niah_single_2, sample 0"),
    ],
)
def test_a_changed_setting_refuses_to_go_on(monkeypatch, tmp_path, tokenizers, essay, change, message):
    know(monkeypatch, None, lambda prompt, tokens: "nothing")
    windowed = tiny_llama(vocab_size=4096)
    hylora.set_attention(windowed, "sw_attn", window=5)
    # The last number of one matrix, which a look at the first ones would not see.
    negated = tiny_llama(vocab_size=4096)
    with torch.no_grad():
        negated.model.layers[-1].mlp.down_proj.weight[-1, -1] *= -1
    models = {
        "same": tiny_llama(vocab_size=4096),
        "other": tiny_llama(vocab_size=4096, seed=1),
        "negated": negated,
        "windowed": windowed,
    }

    def run(model="same", tokenizer="demo", haystack=essay, **options):
        return ruler.evaluate(
            models[model], tokenizers[tokenizer], [3000], "niah_single_2", 2, haystack=haystack, sentences="rules",
            predictions=tmp_path / "kept.jsonl", **options,
        )  # fmt: skip

    run()
    before = (tmp_path / "kept.jsonl").read_bytes()
    with pytest.raises(ValueError, match=message):
        run(**change)
    assert (tmp_path / "kept.jsonl").read_bytes() == before
    run()


def test_wrong_input_is_found_before_anything_is_answered(monkeypatch, tokenizer):
    monkeypatch.setattr(Answerer, "answer", lambda *args: pytest.fail("a prompt was answered"))
    model = tiny_llama()
    for arguments, message in [
        (([LENGTH, 300], "vt"), "length=300 is too small for vt"),
        (([LENGTH], ["vt", "nope"]), "unknown RULER task 'nope'"),
        (([LENGTH], ["vt", "qa_2"]), "qa_2 needs a file"),
        (([], "vt"), "lengths is empty"),
        (([LENGTH], "vt", 0), "samples=0"),
        (([LENGTH], "vt", 1, 42, 0), "batch_size=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            ruler.evaluate(model, tokenizer, *arguments)


def test_the_modes_of_modules_and_the_reports_of_progress(monkeypatch, tokenizer):
    model = tiny_llama().train()
    model.lm_head.eval()
    know(monkeypatch, None, lambda prompt, tokens: str(model.training))
    reports = []
    ruler.evaluate(model, tokenizer, [LENGTH], ["vt"], 3, batch_size=2, progress=lambda *args: reports.append(args))
    assert reports == [(LENGTH, "vt", done, 3) for done in (0, 2, 3)]
    assert model.training and not model.lm_head.training
