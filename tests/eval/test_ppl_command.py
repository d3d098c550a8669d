# SPDX-License-Identifier: Apache-2.0
"""`hylora eval ppl`, as it is typed."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial

import peft
import pytest
import torch

import hylora
from hylora.attention import SpanConfig
from hylora_eval.documents import tokens_sha256
from hylora_eval.nll import token_nll
from hylora_eval.perplexity import perplexity
from tests import command_line
from tests.tiny import tiny_bamba, tiny_llama

SPAN = {"block_size": 4, "top_k": 1, "chunk_size": 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    """A run's folder with a full model, trained (here: drawn) under SE-Attn."""
    folder = tmp_path_factory.mktemp("model")
    tiny_bamba().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    span = SpanConfig(**SPAN).to_dict()
    hylora.RunManifest(attention="se_attn", span_attention=span, context_length=32).save(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_text):
    folder = tmp_path_factory.mktemp("data")
    for name, tokens in (("a", 150), ("b", 64), ("c", 40), ("d", 70)):
        (folder / f"{name}.txt").write_text(write_text(tokens))
    return folder


run = partial(command_line.run, "eval", "ppl")


def evaluate(tmp_path, *arguments):
    output = tmp_path / "result.json"
    result = run(*arguments, "--output", output)
    assert result.exit_code == 0, (result.output, result.exception)
    return result, json.loads(output.read_text())


def tokens_of(folder, *names):
    return [torch.tensor([int(word[1:]) for word in (folder / f"{n}.txt").read_text().split()]) for n in names]


def test_lengths_share_documents_and_text(tmp_path, model, data):
    printed, record = evaluate(
        tmp_path, "--model", model, "--lengths", 16, 32, 64, 16, "--data", data, "--batch-size", 3
    )
    documents = [document[: len(document) // 64 * 64] for document in tokens_of(data, "a", "b", "d")]
    network = hylora.load(model, "full")
    assert [result["length"] for result in record["results"]] == [16, 32, 64]
    for result in record["results"]:
        expected = perplexity(network, documents, result["length"])
        assert result["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
        assert result["tokens"] == expected.tokens and result["documents"] == 3
        assert f"{result['perplexity']:.3f}" in printed.stdout
    said = " ".join(printed.stdout.split())
    assert "Left out: 1 document of fewer than 64 tokens." in said
    # The model comes from training.
    assert "over windows, and training's held-out perplexity over its packed rows" in said
    assert record["data"]["tokens_sha256"] == tokens_sha256(documents)


def test_the_record_has_what_a_rerun_needs(tmp_path, model, data):
    _, record = evaluate(
        tmp_path, "--model", model, "--lengths", 16, 32, "--data", data, "--mode", "sliding", "--stride", 8,
        "--max-documents", 2, "--max-tokens", 50, "--dtype", "bfloat16",
    )  # fmt: skip
    assert record["kind"] == "perplexity" and record["created"]
    assert record["model"]["path"] == str(model)
    assert record["model"]["dtype"] == "bfloat16" and record["model"]["device"]
    assert record["model"]["training_attention"] == "se_attn"
    assert record["model"]["training_attention_options"]["chunk_size"] == 8
    assert record["model"]["training_context_length"] == 32
    assert record["attention"] == {"asked": "full", "name": "sdpa", "options": {}}
    tokenizer = {"path": str(model), "vocabulary": 96, "special_tokens": False}
    assert record["tokenizer"].pop("fingerprint") and record["tokenizer"] == tokenizer
    assert record["data"] | {"path": str(data), "documents": 2, "max_documents": 2, "max_tokens": 50} == record["data"]
    settings = {"lengths": [16, 32], "mode": "sliding", "stride": 8, "batch_size": 1, "bos": None}
    assert record["settings"] == settings
    assert {"hylora", "torch", "transformers", "python"} <= set(record["environment"])
    result = record["results"][0]
    assert (result["mode"], result["stride"], result["tokens"]) == ("sliding", 8, 49 + 49)
    assert result["nll_standard_error"] > 0 and result["seconds"] > 0
    assert sum(part["tokens"] for part in result["positions"]) == result["tokens"]
    assert result["document_tokens"] == [49, 49] and len(result["document_nll"]) == 2
    assert sum(result["document_nll"]) / 98 == pytest.approx(result["nll"], abs=1e-6)


def test_longlora_joins_all_documents(tmp_path, model, data):
    arguments = ("--model", model, "--lengths", 32, "--data", data, "--mode", "longlora", "--stride", 16)
    _, record = evaluate(tmp_path, *arguments)
    expected = perplexity(hylora.load(model, "full"), tokens_of(data, "a", "b", "c", "d"), 32, "longlora", 16)
    assert record["results"][0]["nll"] == pytest.approx(expected.nll, abs=1e-6)
    assert record["results"][0]["documents"] == 4


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_token_file_equals_the_text_it_holds(tmp_path, model, data, dtype):
    (tokens,) = tokens_of(data, "a")
    (tmp_path / "a.bin").write_bytes(tokens.numpy().astype(dtype).tobytes())
    arguments = ("--model", model, "--lengths", 16, 32, "--mode", "longlora", "--stride", 8, "--overwrite")
    _, text = evaluate(tmp_path, *arguments, "--data", data / "a.txt")
    _, bare = evaluate(tmp_path, *arguments, "--data", tmp_path / "a.bin", "--bin-dtype", dtype)
    without_seconds = [[{**result, "seconds": None} for result in record["results"]] for record in (text, bare)]
    assert without_seconds[0] == without_seconds[1]
    assert bare["data"]["tokens_sha256"] == text["data"]["tokens_sha256"]
    assert (bare["data"]["bin_dtype"], bare["tokenizer"]) == (dtype, None)


def test_perplexity_by_position_is_printed_on_request(tmp_path, model, data):
    printed, record = evaluate(tmp_path, "--model", model, "--lengths", 16, 64, "--data", data, "--by-position")
    assert "by position" in printed.stdout
    for result in record["results"]:
        assert all(f"{part['perplexity']:.3f}" in printed.stdout for part in result["positions"])


def test_attention_full_same_and_by_name(tmp_path, model, data):
    arguments = ("--model", model, "--lengths", 64, "--data", data, "--overwrite")
    _, full = evaluate(tmp_path, *arguments)
    printed, same = evaluate(tmp_path, *arguments, "--attention", "same")
    assert "Perplexity, se_attn attention, chunks" in " ".join(printed.stdout.split())
    _, window = evaluate(tmp_path, *arguments, "--attention", "sw_attn", "--attention-option", "window=5")
    assert same["attention"]["name"] == "se_attn"
    assert same["attention"]["options"] == SpanConfig(**SPAN).to_dict()
    assert window["attention"]["name"] == "sw_attn" and window["attention"]["options"]["window"] == 5
    assert len({record["results"][0]["nll"] for record in (full, same, window)}) == 3
    expected = perplexity(
        hylora.load(model), [d[: -(len(d) % 64) or None] for d in tokens_of(data, "a", "b", "d")], 64
    )
    assert same["results"][0]["nll"] == pytest.approx(expected.nll, abs=1e-6)


@pytest.mark.parametrize("advised", [("same", "selection=token"), ("se_attn_recall",)])
def test_the_advice_of_the_page_holds_for_chunks_that_vary_in_training(tmp_path, model, data, advised):
    """Under options as the demo trains with, whose groups of queries fit the largest chunks alone."""
    shutil.copytree(model, tmp_path / "run")
    span = SpanConfig(block_size=8, top_k=4, chunk_size=(32, 64), query_group=64).to_dict()
    hylora.RunManifest(attention="se_attn", span_attention=span, context_length=64).save(tmp_path / "run")
    arguments = ["--attention", advised[0], *(part for pair in advised[1:] for part in ("--attention-option", pair))]
    _, record = evaluate(tmp_path, "--model", tmp_path / "run", "--lengths", 64, "--data", data, *arguments)
    assert record["attention"]["options"]["selection"] == "token"


def test_an_adapter_is_evaluated_with_its_base(tmp_path, data, tokenizer):
    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).eval()
    adapted.save_pretrained(tmp_path / "run")
    hylora.RunManifest(base_model=str(tmp_path / "base")).save(tmp_path / "run")
    _, record = evaluate(tmp_path, "--model", tmp_path / "run", "--lengths", 64, "--data", data / "b.txt")
    expected = perplexity(adapted, tokens_of(data, "b"), 64)
    assert record["results"][0]["nll"] == pytest.approx(expected.nll, abs=1e-5)
    assert record["results"][0]["nll_standard_error"] is None
    assert record["model"]["base_model"] == str(tmp_path / "base")
    assert record["tokenizer"]["path"] == str(tmp_path / "base")


@pytest.mark.parametrize(
    "lengths",
    [
        ["--lengths", 16, 32],
        ["--lengths", 16, "--lengths", 32],
        ["--lengths=16", 32],
        ["--lengths=16", "--lengths=32"],
    ],
)
def test_ways_to_write_lengths(tmp_path, model, data, lengths):
    _, record = evaluate(tmp_path, *lengths, "--model", model, "--data", data / "b.txt")
    assert record["settings"]["lengths"] == [16, 32]


@pytest.mark.parametrize(
    "arguments", [["--lengths"], ["--lengths", "long"], ["--lengths", 16, "--mode", "chunks", 32]]
)
def test_wrong_lengths_are_refused(model, data, arguments):
    result = run("--model", model, "--data", data, *arguments)
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--data": "nowhere.txt"}, "'nowhere.txt' does not exist"),
        ({"--data": "EMPTY"}, "must hold files"),
        ({"--lengths": 4096}, "has 4096 tokens; the longest has 150"),
        ({"--lengths": 1}, "length=1 must be at least 2"),
        ({"--model": "./nothing"}, "folder './nothing' does not exist"),
        ({"--model": "BARE"}, "no tokenizer could be loaded from"),
        ({"--attention": "se_atn"}, "unknown attention 'se_atn'; did you mean 'se_attn'"),
        ({"--attention-option": "top_k=2"}, "'full' attention is 'sdpa', which has no options"),
        ({"--attention": "same", "--attention-option": "topk=2"}, "did you mean 'top_k'"),
        ({"--attention": "same", "--attention-option": "top_k"}, "KEY=VALUE"),
        ({"--mode": "window"}, "mode='window'"),
        ({"--stride": 4}, "stride=4 belongs to"),
        ({"--bin-dtype": "uint32"}, "--bin-dtype 'uint32' is for a .bin file"),
        ({"--data": "pg19/test.bin"}, "'pg19/test.bin' does not exist. LongLoRA's token files"),
        ({"--data": "pg19/test.bin", "--max-documents": 3}, "use --max-tokens"),
        ({"--dtype": "int8"}, "--dtype 'int8'"),
        ({"--device": "abacus"}, "--device 'abacus'"),
        ({"--output": "OLD"}, "exists"),
    ],
)
def test_wrong_input_is_named_before_the_model_is_loaded(tmp_path, monkeypatch, model, data, change, message):
    monkeypatch.setattr("hylora.runs.loading.load", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    shutil.copy(model / "config.json", tmp_path / "bare")
    (tmp_path / "old.json").write_text("kept")
    names = {"EMPTY": tmp_path / "empty", "BARE": tmp_path / "bare", "OLD": tmp_path / "old.json"}
    options = {"--model": model, "--lengths": 16, "--data": data, **change}
    result = run(*(names.get(part, part) for option in options.items() for part in option))
    assert isinstance(result.exception, (ValueError, OSError)), result.output
    assert message in str(result.exception)
    assert (tmp_path / "old.json").read_text() == "kept"


def test_a_misspelt_path_is_not_looked_for_on_the_hub(tmp_path, monkeypatch, model, data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for options in ({"--model": "out/bamba_8x"}, {"--data": "out/books"}):
        options = {"--model": model, "--lengths": 16, "--data": data, **options}
        result = run(*(part for option in options.items() for part in option))
        assert "does not exist" in str(result.exception)


def test_without_a_terminal_progress_is_told_in_lines(model, data):
    told = run("--model", model, "--lengths", 16, "--data", data).stderr
    assert re.search(r"^length 16: (\d+) of \1$", told, re.MULTILINE)


def test_what_is_done_survives_a_failure(tmp_path, monkeypatch, model, data):
    def fail_at_32(network, tokens, length, *arguments, **keywords):
        if length == 32:
            raise torch.OutOfMemoryError("too long")
        return perplexity(network, tokens, length, *arguments, **keywords)

    monkeypatch.setattr("hylora_eval.perplexity.perplexity", fail_at_32)
    output = tmp_path / "result.json"
    result = run("--model", model, "--lengths", 16, 32, "--data", data, "--output", output)
    assert isinstance(result.exception, torch.OutOfMemoryError)
    assert [part["length"] for part in json.loads(output.read_text())["results"]] == [16]
    assert "16" in result.stdout


@pytest.fixture
def stop_after(monkeypatch):
    """A function that lets the model read so many more batches of windows and no others."""

    def arrange(batches):
        left = iter(range(batches))

        def stopped(*arguments, **keywords):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return token_nll(*arguments, **keywords)

        monkeypatch.setattr("hylora_eval.perplexity.token_nll", stopped)

    return arrange


@pytest.mark.parametrize("mode", ["chunks", "sliding"])
def test_an_interrupted_evaluation_goes_on_and_ends_as_if_it_was_not(tmp_path, stop_after, model, data, mode):
    arguments = ("--model", model, "--lengths", 16, 32, "--data", data, "--mode", mode, "--batch-size", 3)
    _, whole = evaluate(tmp_path, *arguments, "--attention", "same")
    batches = sum(-(-result["windows"] // 3) for result in whole["results"])
    for done in (2, batches - 3):
        stop_after(done)
        run(*arguments, "--attention", "same", "--output", tmp_path / "parts.json")
        assert (tmp_path / "parts.json.windows.jsonl").exists()
    # One batch is left. A line that is cut short counts as none.
    with open(tmp_path / "parts.json.windows.jsonl", "a") as file:
        file.write('{"length": 32, "wind')
    stop_after(1)
    result = run(*arguments, "--attention", "same", "--output", tmp_path / "parts.json")
    assert result.exit_code == 0, (result.output, result.exception)
    parts = json.loads((tmp_path / "parts.json").read_text())
    for record in (whole, parts):
        for row in record["results"]:
            assert row.pop("seconds") > 0
    assert parts["results"] == whole["results"]
    assert not (tmp_path / "parts.json.windows.jsonl").exists()


@pytest.mark.parametrize("mode", [["chunks"], ["sliding"], ["longlora", "--stride", 12]])
def test_another_batch_size_goes_on_with_the_windows_that_are_missing(tmp_path, stop_after, model, data, mode):
    """As it is natural where memory runs out at the longest length."""
    arguments = ("--model", model, "--lengths", 16, 32, "--data", data, "--mode", *mode)
    _, whole = evaluate(tmp_path, *arguments)
    output = tmp_path / "parts.json"
    stop_after(2)
    run(*arguments, "--batch-size", 3, "--output", output)
    assert (tmp_path / "parts.json.windows.jsonl").exists()
    windows = sum(row["windows"] for row in whole["results"])
    stop_after(1)
    run(*arguments, "--batch-size", 2, "--output", output)
    stop_after(windows - 2 * 3 - 2)
    result = run(*arguments, "--batch-size", 1, "--output", output)
    assert result.exit_code == 0, (result.output, result.exception)
    parts = json.loads(output.read_text())
    assert parts["settings"]["batch_size"] == 1
    for row, expected in zip(parts["results"], whole["results"], strict=True):
        assert row["document_nll"] == pytest.approx(expected["document_nll"], rel=1e-5)
        assert row["document_tokens"] == expected["document_tokens"]
        assert [part["nll"] for part in row["positions"]] == pytest.approx(
            [part["nll"] for part in expected["positions"]], rel=1e-5
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--attention": "sw_attn"}, "attention='sdpa' and now it is 'sw_attn'"),
        ({"--max-tokens": 64}, "tokens_sha256="),
        ({"--mode": "sliding"}, "mode='chunks' and now it is 'sliding'"),
        ({"--dtype": "bfloat16"}, "dtype='float32' and now it is 'bfloat16'"),
        ({"--bos": None}, "bos=None and now it is 1"),
    ],
)
def test_an_evaluation_does_not_go_on_under_other_settings(tmp_path, stop_after, model, data, change, message):
    options = {"--model": model, "--lengths": 16, "--data": data, "--output": tmp_path / "result.json"}

    def again(options, *more):
        return run(*(part for option in options.items() for part in option if part is not None), *more)

    stop_after(1)
    again(options)
    stop_after(1000)
    kept = (tmp_path / "result.json.windows.jsonl").read_text()
    result = again({**options, **change})
    assert isinstance(result.exception, ValueError) and message in str(result.exception)
    assert "choose another output or start anew with --overwrite" in str(result.exception)
    assert (tmp_path / "result.json.windows.jsonl").read_text() == kept
    assert again({**options, **change}, "--overwrite").exit_code == 0
    # A finished evaluation is not gone on with.
    assert "exists" in str(again(options).exception)


def test_bos_comes_before_every_window_and_is_recorded(tmp_path, model, data):
    arguments = ("--model", model, "--lengths", 16, "--data", data, "--overwrite")
    _, without = evaluate(tmp_path, *arguments)
    _, record = evaluate(tmp_path, *arguments, "--bos")
    documents = [document[: len(document) // 16 * 16] for document in tokens_of(data, "a", "b", "c", "d")]
    expected = perplexity(hylora.load(model, "full"), documents, 16, bos=1)
    (row,), (plain,) = record["results"], without["results"]
    assert row["nll"] == pytest.approx(expected.nll, abs=1e-6)
    assert abs(row["nll"] - plain["nll"]) > 1e-6
    assert record["settings"]["bos"] == 1 and without["settings"]["bos"] is None
    # With and without it the same tokens are scored.
    assert row["document_tokens"] == plain["document_tokens"]
    (tokens,) = tokens_of(data, "a")
    (tmp_path / "a.bin").write_bytes(tokens.numpy().astype("<u2").tobytes())
    _, bare = evaluate(tmp_path, *arguments[:-3], "--data", tmp_path / "a.bin", "--bos", "--overwrite")
    assert bare["settings"]["bos"] == 1 and bare["tokenizer"] is None


def test_a_tokenizer_without_bos_is_named(tmp_path, monkeypatch, model, data):
    monkeypatch.setattr("hylora.runs.loading.load", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    shutil.copytree(model, tmp_path / "bare")
    config = json.loads((tmp_path / "bare/tokenizer_config.json").read_text())
    (tmp_path / "bare/tokenizer_config.json").write_text(json.dumps({**config, "bos_token": None}))
    result = run("--model", tmp_path / "bare", "--lengths", 16, "--data", data, "--bos")
    assert "has no BOS token; leave the option out" in str(result.exception)
