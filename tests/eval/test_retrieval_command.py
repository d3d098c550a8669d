# SPDX-License-Identifier: Apache-2.0
"""`hylora eval retrieval`, as it is typed."""

from __future__ import annotations

import json
import re
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest

import hylora
from hylora.attention import SpanConfig
from hylora.demo.miniature import load_tokenizer
from hylora_eval.documents import tokens_sha256
from hylora_eval.retrieval import DEFAULT_RULES, compare_rules, parse_rules
from hylora_eval.retrieval.samples import needle_samples
from tests import command_line
from tests.pages import ROOT, blocks, commands, page
from tests.tiny import tiny_bamba

DEMO = ROOT / "hylora/demo/assets"
SMALL = ("--block-sizes", 8, "--read", 32, "--chunk-size", 64)


run = partial(command_line.run, "eval", "retrieval")


def inspect(tmp_path, *arguments):
    output = tmp_path / "retrieval.json"
    result = run(*arguments, "--output", output)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout, json.loads(output.read_text())


def test_needles_in_the_demos_model(tmp_path):
    trace, plot = tmp_path / "trace.jsonl", tmp_path / "retrieval.png"
    asked = ("--tasks", "recall,niah_single_1", "--lengths", 320, 400, "--samples", 2, "--seed", 5, "--tokens", 16)
    names = ["published", "min_max", "infllm_v2", "oracle"]
    printed, record = inspect(
        tmp_path, "--model", DEMO, *asked, *SMALL, "--rules", ",".join(names), "--trace", trace, "--plot", plot,
        "--by-layer",
    )  # fmt: skip
    model, inputs, choices, rules = hylora.load(DEMO, "full"), [], [], parse_rules(names, [8], 32, 64)
    wanted = [(task, length) for task in ("recall", "niah_single_1") for length in (320, 400)]
    for (task, length), found in zip(wanted, record["results"], strict=True):
        samples, start = needle_samples(task, load_tokenizer(), length, 2, 5), len(choices)
        expected = compare_rules(model, samples, rules, 16, observe=choices.append).to_dict()
        assert found == {"task": task, "length": length, **expected}
        inputs += [sample.input_ids for sample in samples]
        choices[start:] = [(task, length, each) for each in choices[start:]]
        for rule in found["rules"]:
            assert all(f"{100 * rule[name]:.1f}" in printed for name in ("hit_rate", "chance", "mass"))
    said = re.findall(r"(\w+ chance: .*?)\. By 95 % intervals over 2 samples\.", " ".join(printed.split()))
    assert len(said) == 4
    assert "Above chance: oracle 8" in said[0] and "Not to be told from chance: published 8" in said[0]
    assert record["kind"] == "retrieval" and record["environment"]["torch"]
    assert record["attention"]["asked"] == "same" and record["attention"]["name"] == "sdpa"
    assert record["settings"] == {
        "samples": 2, "seed": 5, "haystack": None, "rules": names, "block_sizes": [8], "read": 32, "chunk_size": 64,
        "tokens": 16,
    }  # fmt: skip
    assert record["data"] == {"tasks": ["recall", "niah_single_1"], "tokens_sha256": tokens_sha256(inputs)}
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    assert rows == [{"task": task, "length": length, **row} for task, length, each in choices for row in each.rows()]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer):
    """A run's folder with a model that was trained (here: drawn) under SE-Attn."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_bamba().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    span = SpanConfig(block_size=4, top_k=1, chunk_size=8).to_dict()
    hylora.RunManifest(attention="se_attn", span_attention=span).save(folder)
    return folder


@pytest.fixture(scope="module")
def books(tmp_path_factory, write_text):
    folder = tmp_path_factory.mktemp("books")
    for name, tokens in (("a", 150), ("b", 40), ("c", 70), ("d", 90)):
        (folder / f"{name}.txt").write_text(write_text(tokens))
    return folder


def test_documents_are_read_with_the_attention_of_training_and_its_own_rule(tmp_path, trained, books):
    options = ("--block-sizes", 4, "--read", 8, "--chunk-size", 8)
    printed, record = inspect(
        tmp_path, "--model", trained, "--data", books, "--lengths", 64, "--samples", 2, *options,
        "--rules", "own,mean_key,oracle",
    )  # fmt: skip
    assert record["attention"]["asked"] == "same" and record["attention"]["options"]["top_k"] == 1
    assert record["data"]["documents"] == 2 and record["data"]["path"] == str(books)
    (found,) = record["results"]
    assert found["task"] == "documents" and "farthest" not in printed
    own, mean_key, oracle = found["rules"]
    assert own["options"]["top_k"] == 1 and own["options"]["summary"] == "attention" and own["hit_rate"] is None
    assert [row["layer"] for row in own["layers"]] == [1, 3]
    assert oracle["mass"] >= max(mean_key["mass"], mean_key["mass_of_random"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--data": None}, "name --tasks with needles"),
        ({"--tasks": "cwe"}, "--tasks 'cwe' must be one of recall, facts, niah_single_1"),
        ({"--data": "nowhere.txt"}, "'nowhere.txt' does not exist"),
        ({"--lengths": 4096}, "has 4096 tokens; the longest has 150"),
        ({"--lengths": 8}, "8 tokens, all in its first chunk (chunk_size=8)"),
        ({"--rules": "mean_key,minmax"}, "rule 'minmax' is not known"),
        ({"--read": 30}, "read=30 tokens must be a whole number of blocks of block_size=4"),
        ({"--attention": "full", "--rules": "own"}, "--rules own: --attention 'full' is 'sdpa', no SE-Attn"),
        ({"--attention-option": "topk=2"}, "did you mean 'top_k'"),
        ({"--output": "OLD"}, "exists"),
        ({"--trace": "OLD"}, "exists"),
        ({"--plot": "OLD"}, "exists"),
    ],
)
def test_wrong_input_is_named_before_the_model_is_loaded(tmp_path, monkeypatch, trained, books, change, message):
    monkeypatch.setattr("hylora.runs.loading.load", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    (tmp_path / "old").write_text("kept")
    options = {
        "--model": trained, "--data": books, "--lengths": 64, "--block-sizes": 4, "--read": 8, "--chunk-size": 8,
        **change,
    }  # fmt: skip
    given = [(name, value) for name, value in options.items() if value is not None]
    result = run(*(tmp_path / "old" if part == "OLD" else part for option in given for part in option))
    assert isinstance(result.exception, (ValueError, OSError)), result.output
    assert message in str(result.exception)
    assert (tmp_path / "old").read_text() == "kept"


def test_a_picture_needs_matplotlib_before_the_run(tmp_path, monkeypatch, trained, books):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("--model", trained, "--data", books, "--lengths", 64, "--plot", tmp_path / "retrieval.png")
    assert isinstance(result.exception, ImportError) and "hylora[demo]" in str(result.exception)


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hylora").symlink_to(ROOT / "hylora")
    return page("docs/concepts/retrieval.md")


def test_the_pages_commands_are_valid_and_run_on_the_demos_model(text):
    (large, small) = commands(text)
    assert {word for word in large if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", run("--help").output))
    program, *arguments = small
    result = command_line.run(*arguments)
    assert program == "hylora" and result.exit_code == 0, (result.output, result.exception)
    assert len(json.loads(Path("retrieval.json").read_text())["results"][0]["rules"]) == len(DEFAULT_RULES)
    # In 80 columns, each rule and each bracket on one line.
    lines = result.stdout.splitlines()
    assert all(any(re.match(rf"{rule} \d+ +[\d.]+ \[", line) for line in lines) for rule in DEFAULT_RULES)
    assert all(line.count("[") == line.count("]") and len(line) <= 80 for line in lines)


def test_the_pages_tables_are_those_of_the_study(text):
    study = runpy.run_path(ROOT / "studies/retrieval/tables.py")
    tables = list(study["tables"](json.loads(study["RESULTS"].read_text())))
    assert len(tables) == 3 and all(table in text for table in tables)


def test_the_pages_code_runs(text, capsys):
    (block,) = blocks(text, "python")
    exec(block, {})
    assert len(capsys.readouterr().out.splitlines()) == 3
