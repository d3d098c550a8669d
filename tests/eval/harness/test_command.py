# SPDX-License-Identifier: Apache-2.0
"""`hylora eval harness`, as it is typed, with tasks whose data is here."""

from __future__ import annotations

import json
from functools import partial

import pytest

import hylora
from hylora.attention import SpanConfig, functions
from hylora_eval import harness
from hylora_eval.report.collect import collect
from hylora_eval.report.thesis_tables import lay_tables
from tests import command_line
from tests.eval.harness.conftest import SPAN, choice_likelihoods

# Stands for the value of an option that has none.
FLAG = object()

OTHER = """\
task: other
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " red"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""

SAID = """\
task: said
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
fewshot_split: test
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(autouse=True)
def _quick(own_tasks_only, task_folder):
    (task_folder / "other.yaml").write_text(OTHER.replace("DATA", str(task_folder / "questions.jsonl")))


run = partial(command_line.run, "eval", "harness")


def evaluate(output, *arguments):
    result = run(*arguments, "--output", output)
    assert result.exit_code == 0, (result.output, result.exception)
    return result, json.loads(output.read_text())


def test_a_run_is_evaluated_with_its_adapter_and_attention(
    tmp_path, monkeypatch, run_folder, task_folder, demo_tokenizer, questions
):
    calls = []
    original = functions.span_attention

    def counted(query, key, value, options, **arguments):
        calls.append(options.chunk_size)
        return original(query, key, value, options, **arguments)

    monkeypatch.setattr(functions, "span_attention", counted)
    printed, record = evaluate(
        tmp_path / "result.json", "--model", run_folder, "--tasks", "colours", "--include-path", task_folder,
        "--attention", "same",
    )  # fmt: skip
    # Two attention layers, and no choice shares a pass with another.
    assert calls == [16] * 2 * 3 * len(questions)
    model = hylora.load(run_folder)
    right = 0
    for question in questions:
        context = f"Question: {question['question']}\nAnswer:"
        found = choice_likelihoods(model, demo_tokenizer, context, question["choices"])
        right += found.index(max(found)) == question["answer"]
    share = right / len(questions)
    values = record["results"]["colours"]
    assert values["acc,none"] == pytest.approx(share)
    assert values["acc_stderr,none"] == pytest.approx((share * (1 - share) / (len(questions) - 1)) ** 0.5)
    assert record["kind"] == "harness" and record["model"]["path"] == str(run_folder)
    assert record["model"]["adapter"]["r"] == 2 and record["model"]["training_attention"] == "se_attn"
    options = SpanConfig(**SPAN).to_dict()
    assert record["attention"] == {"asked": "same", "name": "se_attn", "options": options}
    assert record["versions"] == {"colours": 3} and record["n-shot"] == {"colours": 0}
    assert record["n-samples"] == {"colours": {"original": 12, "effective": 12}}
    expected = {"limit": None, "num_fewshot": None, "batch_size": 1, "max_length": 4096}
    assert record["settings"] | expected == record["settings"]
    assert "colours" in printed.stdout and f"{share:.4f}" in printed.stdout


def test_limit_examples_and_ruler_by_name(tmp_path, run_folder, task_folder):
    _, record = evaluate(
        tmp_path / "result.json", "--model", run_folder, "--tasks", "colours,hylora-ruler:vt@1500", "--limit", 2,
        "--num-fewshot", 3, "--include-path", task_folder, "--batch-size", 2,
    )  # fmt: skip
    assert record["n-shot"] == {"colours": 3, "hylora-ruler:vt@1500": 0}
    assert {name: counts["effective"] for name, counts in record["n-samples"].items()} == {
        "colours": 2,
        "hylora-ruler:vt@1500": 2,
    }
    # No more samples are generated than asked for.
    assert record["n-samples"]["hylora-ruler:vt@1500"]["original"] == 2
    assert record["finished"] == ["colours", "hylora-ruler:vt@1500"]
    assert record["settings"]["batch_size"] == 2


def test_the_report_reads_the_result(tmp_path, run_folder, task_folder):
    evaluate(tmp_path / "a.json", "--model", run_folder, "--tasks", "colours", "--include-path", task_folder)
    (table,) = lay_tables(collect([tmp_path / "a.json"]))
    (cell,) = [cell for cell in table.cells() if cell.measurement is not None]
    values = json.loads((tmp_path / "a.json").read_text())["results"]["colours"]
    assert cell.measurement.value == values["acc,none"] and cell.measurement.error == values["acc_stderr,none"]
    assert cell.measurement.item == "colours (acc)"


def test_the_same_command_goes_on_after_an_interruption(tmp_path, monkeypatch, run_folder, task_folder):
    command = ("--model", run_folder, "--tasks", "colours,other", "--include-path", task_folder)
    _, whole = evaluate(tmp_path / "whole.json", *command)
    original, done = harness.evaluate, []

    def interrupted(lm, tasks, *arguments):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(tasks[0].task_name)
        return original(lm, tasks, *arguments)

    monkeypatch.setattr(harness, "evaluate", interrupted)
    output = tmp_path / "result.json"
    assert run(*command, "--output", output).exit_code != 0
    assert list(json.loads(output.read_text())["results"]) == ["colours"]

    done.clear()
    refused = run(*command, "--output", output, "--limit", 3)
    assert "made with settings.limit=None and now it is 3.0" in str(refused.exception)
    # As if memory had run out with more requests at once.
    kept = json.loads(output.read_text())
    kept["settings"]["batch_size"] = 8
    output.write_text(json.dumps(kept))
    _, resumed = evaluate(output, *command)
    assert done == ["other"]
    for key in ("results", "versions", "n-shot", "n-samples", "configs", "settings", "finished"):
        assert resumed[key] == whole[key]
    assert "exists" in str(run(*command, "--output", output).exception)
    done.clear()
    monkeypatch.setattr(harness, "evaluate", original)
    _, anew = evaluate(output, *command, "--limit", 3, "--overwrite")
    assert anew["n-samples"]["other"]["effective"] == 3


def test_samples_generation_and_a_chat(tmp_path, run_folder, task_folder):
    """An answer of one token, asked for in the demo's template, in which an example is an earlier turn."""
    (task_folder / "said.yaml").write_text(SAID.replace("DATA", str(task_folder / "questions.jsonl")))
    command = ("--model", run_folder, "--tasks", "said", "--include-path", task_folder, "--limit", 2)
    output = tmp_path / "result.json"
    evaluate(output, *command, "--log-samples", "--gen-kwargs", "max_gen_toks=1")
    lines = (tmp_path / "result.json.samples" / "said.jsonl").read_text().splitlines()
    plain = [json.loads(line) for line in lines]
    assert len(plain) == 2 and json.loads(output.read_text())["settings"]["gen_kwargs"]["max_gen_toks"] == 1
    assert "samples" not in json.loads(output.read_text())
    prompts = [sample["arguments"][0][0] for sample in plain]
    assert prompts[0].startswith("Question: ") and prompts[0].endswith("\nAnswer:")

    refused = run(*command, "--apply-chat-template", "--output", output, "--tasks", "colours")
    assert "settings.gen_kwargs" in str(refused.exception)
    chat = tmp_path / "chat.json"
    _, record = evaluate(chat, *command, "--apply-chat-template", "--num-fewshot", 1, "--log-samples")
    assert len(record["settings"]["chat_template"]) == 64 and record["settings"]["gen_kwargs"] is None
    (asked, *_) = (
        json.loads(line)["arguments"][0][0]
        for line in (tmp_path / "chat.json.samples" / "said.jsonl").read_text().splitlines()
    )
    assert asked.endswith(prompts[0]) and asked.count("Question: ") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--gen-kwargs": "max_gen_toks"}, "--gen-kwargs 'max_gen_toks' is not of the form KEY=VALUE"),
        ({"--log-samples": FLAG}, "--log-samples needs --output"),
        (
            {"--apply-chat-template": FLAG, "--tasks": "hylora-ruler:vt@2048"},
            "use `hylora eval ruler --chat-template`",
        ),
        ({"--tasks": "colors"}, "did you mean 'colours'"),
        ({"--tasks": "hylora-ruler@300"}, "length=300 is too small"),
        ({"--tasks": "hylora-ruler@4096", "--max-length": 2048}, "would cut the prompts of RULER at 4096"),
        ({"--limit": 2.5}, "--limit 2.5"),
        ({"--limit": 0}, "--limit 0"),
        ({"--include-path": "nowhere"}, "include path 'nowhere' is not a folder"),
        ({"--model": "./nothing"}, "folder './nothing' does not exist"),
        ({"--attention": "se_atn"}, "did you mean 'se_attn'"),
        ({"--output": "OLD"}, "exists"),
        ({"--output": "OTHER"}, "exists"),
    ],
)
def test_wrong_input_is_named_before_the_model_is_loaded(
    tmp_path, monkeypatch, run_folder, task_folder, change, message
):
    monkeypatch.setattr("hylora.runs.loading.load", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    (tmp_path / "old.json").write_text("kept")
    (tmp_path / "other.json").write_text('{"kind": "perplexity", "finished": []}')
    options = {"--model": run_folder, "--tasks": "colours", "--include-path": task_folder, **change}
    names = {"OLD": tmp_path / "old.json", "OTHER": tmp_path / "other.json"}
    result = run(*(names.get(part, part) for option in options.items() for part in option if part is not FLAG))
    assert isinstance(result.exception, (ValueError, OSError)), result.output
    assert message in str(result.exception)
    assert (tmp_path / "old.json").read_text() == "kept"
