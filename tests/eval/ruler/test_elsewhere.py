# SPDX-License-Identifier: Apache-2.0
"""Prompts that another program answers, and its answers scored as if they were made here."""

from __future__ import annotations

import json
from functools import partial

import pytest

import hylora
from hylora_eval.report.collect import collect
from hylora_eval.ruler.elsewhere import score_answers
from tests import command_line
from tests.tiny import tiny_llama

DRAWING = ("--lengths", 1500, 1600, "--tasks", "VT,niah_single_1", "--samples", 2, "--seed", 7)


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizers):
    folder = tmp_path_factory.mktemp("model")
    tiny_llama(vocab_size=len(tokenizers["demo"]), seed=2).save_pretrained(folder)
    tokenizers["demo"].save_pretrained(folder)
    hylora.RunManifest(attention="se_attn", span_attention={"top_k": 2}, context_length=512).save(folder)
    return folder


@pytest.fixture
def prompts(tmp_path, model):
    path = tmp_path / "prompts.jsonl"
    succeed("ruler-generate", "--tokenizer", model, *DRAWING, "--output", path)
    return path


def succeed(*arguments):
    result = command_line.run("eval", *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def lines_of(path):
    return list(map(json.loads, path.read_text().splitlines()))


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_prompts_have_the_official_fields_and_all_that_scoring_needs(prompts, tokenizers):
    lines = lines_of(prompts)
    assert [line["index"] for line in lines] == list(range(8))
    assert [(line["max_seq_length"], line["task"], line["sample"]) for line in lines] == [
        (length, task, sample) for length in (1500, 1600) for task in ("niah_single_1", "vt") for sample in (0, 1)
    ]
    for line in lines:
        assert {"input", "outputs", "answer_prefix", "length", "tokens_to_generate"} <= set(line)
        tokens = len(tokenizers["demo"](line["input"] + line["answer_prefix"])["input_ids"])
        assert line["length"] == tokens + line["tokens_to_generate"] <= line["max_seq_length"]
    about = json.loads((prompts.parent / "prompts.jsonl.about.json").read_text())
    assert about["prompts"] == 8 and len(about["tokenizer"]["fingerprint"]) == 32
    assert about["settings"]["lengths"] == [1500, 1600] and about["settings"]["chat_template"] is None


def test_answers_score_as_they_do_where_they_were_made(prompts, tmp_path, model):
    """A model's own answers, in the official form and in another order, make the file that its evaluation made."""
    here = tmp_path / "here.json"
    succeed("ruler", "--model", model, *DRAWING, "--output", here)
    made = {
        (line["length"], line["task"], line["index"]): line["prediction"]
        for line in lines_of(tmp_path / "here.json.predictions.jsonl")[1:]
    }
    official = [
        {
            "index": line["index"],
            "pred": made[line["max_seq_length"], line["task"], line["sample"]],
            "input": line["input"] + (line["answer_prefix"] if line["index"] % 2 else ""),
            "outputs": line["outputs"],
            "others": {},
            "truncation": -1,
            "length": -1,
        }
        for line in lines_of(prompts)
    ]
    first, second = write(tmp_path / "a.jsonl", official[:2:-1]), write(tmp_path / "b.jsonl", official[:3])
    there = tmp_path / "there.json"
    printed = succeed(
        "ruler-score", "--prompts", prompts, "--predictions", first, "--predictions", second, "--model", model,
        "--output", there,
    )  # fmt: skip
    one, other = (json.loads(path.read_text()) for path in (here, there))
    assert set(other) == set(one) and other["averages"] == one["averages"] != []
    for mine, theirs in zip(one["results"], other["results"], strict=True):
        assert {**mine, "seconds": None} == theirs
    settings = {name: value for name, value in one["settings"].items() if name != "batch_size"}
    assert other["settings"] == {**settings, "predictions": [str(first), str(second)]}
    assert other["tokenizer"]["fingerprint"] == one["tokenizer"]["fingerprint"]
    assert other["model"]["training_attention"] == "se_attn" and "1600" in printed.stdout
    measured = {(one.item, one.length): one.value for one in collect([there]).measurements}
    assert measured == {(row["task"], row["length"]): row["score"] for row in one["results"]}


def test_right_answers_score_a_hundred(prompts, tmp_path):
    right = [{"index": line["index"], "pred": " ".join(line["outputs"])} for line in lines_of(prompts)]
    right[5]["pred"] = ""
    results = score_answers(prompts, [write(tmp_path / "right.jsonl", right)])
    assert [result.length for result in results] == [1500, 1600]
    assert results[0].tasks["vt"].scores == [100.0, 100.0] and results[0].averages["VT"].score == 100.0
    assert results[1].tasks["niah_single_1"].scores == [100.0, 0.0]
    assert results[1].tasks["niah_single_1"].score.empty == 1


def changed(number, **values):
    return lambda lines: [*lines[:number], {**lines[number], **values}, *lines[number + 1 :]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:3] + lines[4:], r"no answer to index 3 of .*\(vt at 1500, sample 1\); 7 answers"),
        (lambda lines: [*lines, lines[2]], "line 9 of .* answers index 2, and so does line 3 of"),
        (changed(7, index=8), "no answer to index 7"),
        (lambda lines: [*lines, {"index": 8, "pred": ""}], "line 9 of .* has index 8, but .* has 8 prompts"),
        (changed(4, input="Another text"), "line 5 of .* says it answers another input than index 4"),
        (changed(1, pred=["a list"]), "line 2 of .* must have .* 'pred'; it has index=1 and pred=.'a list'"),
        (changed(1, index="1"), "line 2 of .* index='1'"),
        (lambda lines: [["a list"]], "line 1 of .* is not an object"),
        (lambda lines: [*lines, {"index": -1, "pred": ""}], "line 9 of .* has index -1, but .* has 8 prompts"),
        (changed(1, index=True), "line 2 of .* index=True"),
        (changed(1, input=["a", "list"]), r"line 2 of .* has input=\['a', 'list'\], which is no text"),
    ],
)
def test_wrong_answers_are_named(prompts, tmp_path, change, message):
    lines = change([{"index": index, "pred": "text"} for index in range(8)])
    with pytest.raises(ValueError, match=message):
        score_answers(prompts, [write(tmp_path / "answers.jsonl", lines)])


@pytest.mark.parametrize(
    ("encoding", "ending"), [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("latin-1", "\n")]
)
def test_files_of_other_systems_are_read_or_named(prompts, tmp_path, encoding, ending):
    """A mark at the beginning and other line ends are Windows's; its shell also writes two bytes for a letter."""
    answers = tmp_path / "answers.jsonl"
    lines = [json.dumps({"index": index, "pred": "Zoë\u2028"}, ensure_ascii=False) for index in range(8)]
    text = ending.join(lines) if encoding.startswith("utf") else "Zoë" + ending
    answers.write_bytes(text.encode(encoding))
    if encoding.startswith("utf-8"):
        assert score_answers(prompts, [answers])[0].tasks["vt"].score.empty == 0
    else:
        with pytest.raises(ValueError, match="line 1 of '.*answers.jsonl' is not UTF-8 text .* save"):
            score_answers(prompts, [answers])


def test_prompts_that_were_cut_or_changed_are_not_scored_in_part(prompts, tmp_path):
    answers = tmp_path / "answers.jsonl"
    arguments = ("eval", "ruler-score", "--prompts", prompts, "--predictions", answers, "--model", "a-name")
    lines = lines_of(prompts)
    write(answers, [{"index": index, "pred": "text"} for index in range(7)])
    write(prompts, lines[:7])
    assert "prompts.jsonl' holds 7 prompts, and 8 were written" in str(command_line.run(*arguments).exception)
    write(answers, [{"index": index, "pred": "text"} for index in range(8)])
    for name, value in (("outputs", []), ("outputs", "7"), ("input", 7)):
        write(prompts, [*lines[:7], {**lines[7], name: value}])
        error = str(command_line.run(*arguments).exception)
        assert f"line 8 of '{prompts}' has {name}={value!r}" in error and "do not change the file of prompts" in error


def test_files_that_do_not_belong_together_are_named(prompts, tmp_path):
    answers = write(tmp_path / "answers.jsonl", [{"index": index, "pred": "text"} for index in range(8)])
    score = partial(
        command_line.run, "eval", "ruler-score", "--predictions", answers, "--model", "a-name", "--prompts"
    )
    lines = lines_of(prompts)
    write(prompts, lines[1:])
    assert "has index=1 where 0 is due" in str(score(prompts).exception)
    write(prompts, [{"index": 0, "input": "text", "outputs": ["1"]}])
    assert "is no prompt of `hylora eval ruler-generate`: it lacks 'max_seq_length'" in str(score(prompts).exception)
    (tmp_path / "prompts.jsonl.about.json").unlink()
    assert "there must be 'prompts.jsonl.about.json'" in str(score(prompts).exception)


def test_prompts_that_cannot_be_made_leave_what_is_there(prompts, model):
    before = prompts.read_bytes()
    run = partial(command_line.run, "eval", "ruler-generate", "--tokenizer", model, "--output", prompts)
    assert "exists" in str(run("--lengths", 1500).exception)
    assert "length=200 is too small" in str(run("--lengths", 200, "--overwrite").exception)
    assert prompts.read_bytes() == before
