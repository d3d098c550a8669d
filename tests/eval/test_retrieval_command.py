# SPDX-License-Identifier: Apache-2.0
"""`hylora eval retrieval`, as it is typed."""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest

import hylora
from hylora.attention import SpanConfig
from hylora.demo.miniature import load_tokenizer
from hylora_eval.documents import tokens_sha256
from hylora_eval.retrieval import inspect_retrieval
from hylora_eval.retrieval.samples import needle_samples
from tests import command_line
from tests.pages import ROOT, blocks, commands, page
from tests.tiny import tiny_bamba

DEMO = ROOT / "hylora/demo/assets"
SPAN = {"block_size": 8, "top_k": 4, "chunk_size": 64}
OPTIONS = [f"--attention-option={name}={value}" for name, value in SPAN.items()]
SE_ATTN = ("--attention", "se_attn", *OPTIONS)


run = partial(command_line.run, "eval", "retrieval")


def inspect(tmp_path, *arguments):
    output = tmp_path / "retrieval.json"
    result = run(*arguments, "--output", output)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout, json.loads(output.read_text())


@pytest.mark.parametrize("task", ["recall", "niah_single_1"])
def test_needles_in_the_demos_model(tmp_path, task):
    trace, plot = tmp_path / "trace.jsonl", tmp_path / "retrieval.png"
    arguments = ("--model", DEMO, *SE_ATTN, "--task", task, "--length", 400, "--samples", 2, "--seed", 5)
    printed, record = inspect(tmp_path, *arguments, "--trace", trace, "--plot", plot)
    model = hylora.load(DEMO, "se_attn", **SPAN)
    samples, traces = needle_samples(task, load_tokenizer(), 400, 2, 5), []
    inspection = inspect_retrieval(model, samples, lambda index, found: traces.append(found))
    expected = json.loads(json.dumps(inspection.to_dict()))
    assert {name: record[name] for name in expected} == expected
    assert record["kind"] == "retrieval" and record["environment"]["torch"]
    assert record["attention"] == {"asked": "se_attn", "name": "se_attn", "options": SpanConfig(**SPAN).to_dict()}
    assert record["settings"] == {"task": task, "length": 400, "samples": 2, "seed": 5, "haystack": None}
    assert record["data"] == {"task": task, "tokens_sha256": tokens_sha256([sample.input_ids for sample in samples])}
    shown = [record["needles"][name] for name in ("hit_rate", "chance", "oracle")]
    shown += [record["mass"][0]["mean"][name] for name in ("retrieved", "oracle", "random", "overlap")]
    assert all(f"{100 * share:.1f}" in printed for share in shown)
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    assert rows == [{"sample": index, **row} for index, found in enumerate(traces) for row in found.rows()]
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


def test_documents_are_read_with_the_attention_of_training(tmp_path, trained, books):
    printed, record = inspect(tmp_path, "--model", trained, "--data", books, "--length", 64, "--samples", 2)
    assert record["attention"]["asked"] == "same" and record["attention"]["options"]["top_k"] == 1
    assert record["data"]["documents"] == 2 and record["data"]["path"] == str(books)
    assert record["needles"] is None and "Needles" not in printed
    assert [row["layer"] for row in record["mass"]] == [1, 3]
    for row in record["mass"]:
        mean = row["mean"]
        assert mean["candidates"] + mean["own_chunk"] == pytest.approx(1, abs=1e-5)
        assert mean["oracle"] >= max(mean["retrieved"], mean["random"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--task": "recall"}, "either a --task with needles"),
        ({"--data": None}, "either a --task with needles"),
        ({"--data": None, "--task": "cwe"}, "--task 'cwe' must be one of recall, niah_single_1"),
        ({"--data": "nowhere.txt"}, "'nowhere.txt' does not exist"),
        ({"--length": 4096}, "has 4096 tokens; the longest has 150"),
        ({"--attention": "full"}, "'full' is 'sdpa', which retrieves nothing; add --attention se_attn"),
        ({"--model": DEMO}, "'same' is 'sdpa' (as trained), which retrieves nothing"),
        ({"--attention-option": "topk=2"}, "did you mean 'top_k'"),
        ({"--output": "OLD"}, "exists"),
        ({"--trace": "OLD"}, "exists"),
        ({"--plot": "OLD"}, "exists"),
    ],
)
def test_wrong_input_is_named_before_the_model_is_loaded(tmp_path, monkeypatch, trained, books, change, message):
    monkeypatch.setattr("hylora.cli.model_options.load", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    (tmp_path / "old").write_text("kept")
    options = {"--model": trained, "--data": books, "--length": 64, **change}
    given = [(name, value) for name, value in options.items() if value is not None]
    result = run(*(tmp_path / "old" if part == "OLD" else part for option in given for part in option))
    assert isinstance(result.exception, (ValueError, OSError)), result.output
    assert message in str(result.exception)
    assert (tmp_path / "old").read_text() == "kept"


def test_a_picture_needs_matplotlib_before_the_run(tmp_path, monkeypatch, trained, books):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("--model", trained, "--data", books, "--length", 64, "--plot", tmp_path / "retrieval.png")
    assert isinstance(result.exception, ImportError) and "hylora[demo]" in str(result.exception)


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hylora").symlink_to(ROOT / "hylora")
    return page("docs/concepts/retrieval.md")


def test_the_pages_command_gives_its_figures(text):
    ((program, *arguments),) = commands(text)
    result = command_line.run(*arguments)
    assert program == "hylora" and result.exit_code == 0, (result.output, result.exception)
    record = json.loads(Path("retrieval.json").read_text())
    (row,) = re.findall(r"^\| mean key, each token \| (.*) \|$", text, re.MULTILINE)
    shares = [record["needles"][name] for name in ("hit_rate", "chance", "oracle")]
    shares += [record["mass"][0]["mean"][name] for name in ("retrieved", "random", "oracle")]
    # Rounding differs between machines.
    assert [float(cell) for cell in row.split(" | ")] == pytest.approx([100 * share for share in shares], abs=0.3)
    words = " ".join(text.split())
    assert f"{record['needles']['queries']} needles" in words
    assert f"{record['needles']['queries_in_chunk']} within it left out" in words
    assert Path("retrieval.png").read_bytes().startswith(b"\x89PNG")


def test_the_pages_code_runs(text, capsys):
    (block,) = blocks(text, "python")
    exec(block, {})
    assert len(capsys.readouterr().out.splitlines()) == 3
