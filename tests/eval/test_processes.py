# SPDX-License-Identifier: Apache-2.0
"""Evaluations that several processes share come to what one process finds."""

from __future__ import annotations

import json
import random
import subprocess

import pytest

import hylora
from hylora.demo.miniature import load_tokenizer
from hylora.language.data import SourceRecipe
from hylora_eval.documents import load_documents
from hylora_eval.perplexity import perplexity
from hylora_eval.processes import ALONE, launched
from tests.processes import command, environment, launch
from tests.tiny import tiny_llama

RULER = ("--lengths", 1500, "--tasks", "vt,niah_single_1", "--samples", 5, "--batch-size", 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("model"), load_tokenizer()
    tiny_llama(vocab_size=len(tokenizer), seed=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    hylora.RunManifest(attention="sw_attn", span_attention={"window": 64}).save(folder)
    return folder


def test_a_single_process_does_all_by_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched() is ALONE and ALONE.is_main and ALONE.count == 1
    assert ALONE.on_main(lambda: 1) == 1 and list(ALONE.dealt([1, 2], str)) == [["1"], ["2"]]


@pytest.mark.slow
def test_two_processes_write_what_one_writes(model, tmp_path):
    """Also where an interruption left predictions, here those of the first batch."""
    one = tmp_path / "one.json"
    launch(1, "-m", "hylora_cli", "eval", "ruler", "--model", model, *RULER, "--output", one)
    lines = (tmp_path / "one.json.predictions.jsonl").read_text().splitlines(keepends=True)
    two = tmp_path / "two.json"
    (tmp_path / "two.json.predictions.jsonl").write_text("".join(lines[:3]))
    done = launch(2, "-m", "hylora_cli", "eval", "ruler", "--model", model, *RULER, "--output", two)
    assert done.stdout.count("per cent") == 1
    found, expected = (json.loads(path.read_text()) for path in (two, one))
    for result in (found, expected):
        del result["created"]
        for row in result["results"]:
            assert row.pop("seconds") > 0
    assert found == expected
    kept = [json.loads(line) for line in (tmp_path / "two.json.predictions.jsonl").read_text().splitlines()]
    for mine, theirs in zip(kept, map(json.loads, lines), strict=True):
        assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    draw = random.Random("documents")
    words = ["a", "river", "of", "words", "that", "run", "on"]
    texts = [" ".join(draw.choices(words, k=length)) for length in (300, 500, 400)]
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.mark.slow
def test_two_processes_find_the_perplexity_that_one_finds(model, data, tmp_path):
    found = []
    for count in (1, 2):
        output = tmp_path / f"{count}.json"
        arguments = ("--data", data, "--lengths", 64, "--batch-size", 2, "--output", output)
        launch(count, "-m", "hylora_cli", "eval", "ppl", "--model", model, *arguments)
        result = json.loads(output.read_text())
        del result["created"]
        assert result["results"][0].pop("seconds") > 0
        found.append(result)
    assert found[0] == found[1] and sorted(path.name for path in tmp_path.glob("*.windows.jsonl")) == []


@pytest.mark.slow
def test_two_processes_go_on_with_what_one_found_in_larger_batches(model, data, tmp_path):
    network = hylora.load(model, "full")
    documents = load_documents(SourceRecipe(str(data)), load_tokenizer(), min_tokens=64).tokens
    documents = [tokens[: len(tokens) // 64 * 64] for tokens in documents]
    expected = perplexity(network, documents, 64)

    def stop(done, total):
        if done == 2 * 3:
            raise KeyboardInterrupt

    output, kept = tmp_path / "two.json", tmp_path / "two.json.windows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        perplexity(network, documents, 64, batch_size=3, kept=kept, progress=stop)
    # A nat more shows that this batch is not computed again.
    head, *lines = map(json.loads, kept.read_text().splitlines())
    lines[0]["sums"][0][0] += 1
    kept.write_text("".join(json.dumps(line) + "\n" for line in (head, *lines)))
    arguments = ("--data", data, "--lengths", 64, "--batch-size", 2, "--output", output)
    launch(2, "-m", "hylora_cli", "eval", "ppl", "--model", model, *arguments)
    (row,) = json.loads(output.read_text())["results"]
    first, *others = expected.document_nll
    assert row["document_nll"] == pytest.approx([first + 1, *others], rel=1e-6)
    assert row["document_tokens"] == list(expected.document_tokens)


@pytest.mark.slow
def test_what_each_process_would_do_in_full_is_refused(model, tmp_path):
    arguments = ("-m", "hylora_cli", "eval", "harness", "--model", model, "--tasks", "swde")
    done = subprocess.run(command(2, *arguments), env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode != 0 and "2 processes were launched, and each would do the whole" in done.stderr


@pytest.mark.slow
def test_the_error_of_one_process_ends_all(model, tmp_path):
    (tmp_path / "a.json.predictions.jsonl").write_text('{"settings": {"seed": 0}}\n')
    arguments = ("-m", "hylora_cli", "eval", "ruler", "--model", model, *RULER, "--output", tmp_path / "a.json")
    done = subprocess.run(command(2, *arguments), env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode != 0 and done.stderr.count("was made with") == 2
