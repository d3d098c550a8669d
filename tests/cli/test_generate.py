# SPDX-License-Identifier: Apache-2.0
"""`hylora generate`: what it prints, and what it refuses."""

import pytest
from transformers import AutoTokenizer

import hylora
from tests.architectures.zoo import ZOO
from tests.command_line import run
from tests.pages import ROOT
from tests.tiny import tiny_bamba

PROMPT = "The value of a string is the "
OPTIONS = {"chunk_size": 8, "block_size": 2, "top_k": 1}
SPARSE = ("--attention", "se_attn_recall", *(f"--attention-option={key}={value}" for key, value in OPTIONS.items()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model of random words."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "hylora/demo/assets")
    # A bound that transformers forgets token by token.
    fields = {"bos_token_id": None, "eos_token_id": None, "time_step_limit": (1.0, 100.0)}
    tiny_bamba(vocab_size=len(tokenizer), **fields).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def expected(folder):
    """What the model says without a cache."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = hylora.load(folder, "se_attn_recall", **OPTIONS)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    found = model.generate(ids, max_new_tokens=24, do_sample=False, use_cache=False)
    return tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.fixture
def generate(folder):
    return lambda *arguments, **settings: run("generate", folder, *arguments, "--device", "cpu", **settings)


@pytest.mark.parametrize("more", [(), ("--offload",), ("--prefill-chunk-size", 4)], ids=str)
def test_text_goes_out_and_numbers_to_standard_error(generate, expected, more):
    result = generate("--prompt", PROMPT, "--max-new-tokens", 24, *SPARSE, *more)
    assert result.exit_code == 0
    assert result.stdout.rstrip("\n") == expected.rstrip("\n")
    assert "24 written" in result.stderr and "a second" in result.stderr and "a SpanCache of" in result.stderr


def test_a_prompt_may_come_from_a_file_or_from_standard_input(generate, expected, tmp_path):
    (tmp_path / "prompt.txt").write_text(PROMPT)
    for arguments, settings in ((tmp_path / "prompt.txt", {}), ("-", {"input": PROMPT})):
        result = generate("--prompt-file", arguments, "--max-new-tokens", 24, *SPARSE, **settings)
        assert result.stdout.rstrip("\n") == expected.rstrip("\n")


def test_full_attention_has_a_full_cache(generate):
    plain = generate("--prompt", PROMPT, "--max-new-tokens", 3)
    assert "a full cache of" in plain.stderr
    assert "a full cache of" in generate("--prompt", PROMPT, "--max-new-tokens", 3, *SPARSE, "--full-cache").stderr


def test_samples_are_those_of_the_seed(generate):
    arguments = ("--prompt", PROMPT, "--max-new-tokens", 12, "--temperature", 1.5, *SPARSE)
    first, again, other = (generate(*arguments, "--seed", seed).stdout for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either as --prompt or"),
        (("--prompt", "a", "--prompt-file", "b"), "either as --prompt or"),
        (("--prompt-file", "nowhere.txt"), "nowhere.txt"),
        (("--prompt", ""), "no tokens"),
        (("--prompt", "a", "--offload"), "--offload is for a SpanCache"),
        (("--prompt", "a", "--offload", "--full-cache", *SPARSE), "--offload is for a SpanCache"),
        (("--prompt", "a", "--prefill-chunk-size", 4, "--full-cache", *SPARSE), "not as 'se_attn' does"),
        (("--prompt", "a", "--prefill-chunk-size", 4, "--attention", "sw_attn"), "not as 'sw_attn' does"),
        (("--prompt", "a", "--temperature", -1), "must be at least 0"),
        (("--prompt", "a", "--temperature", "nan"), "must be at least 0"),
        (("--prompt", "a", "--temperature", 1, "--top-p", 0), "at most 1"),
        (("--prompt", "a", "--top-p", 0.5), "give a --temperature"),
        (("--prompt", "a", "--attention", "se_atn"), "did you mean 'se_attn'"),
        (("--prompt", "a", "--attention", "se_attn", "--attention-option", "topk=3"), "did you mean 'top_k'"),
    ],
    ids=str,
)
def test_wrong_input_is_refused_before_the_model_is_loaded(generate, arguments, message, monkeypatch):
    monkeypatch.setattr("hylora.runs.loading.load", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    result = generate(*arguments)
    assert isinstance(result.exception, ValueError | OSError)
    assert message in str(result.exception)


@pytest.mark.parametrize("more", [(), ("--attention", "se_attn_recall")], ids=str)
def test_a_model_that_forgets_its_state_takes_no_pieces(tmp_path, more):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "hylora/demo/assets")
    ZOO["jamba"].build(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    result = run("generate", tmp_path, "--prompt", PROMPT, "--prefill-chunk-size", 4, "--device", "cpu", *more)
    assert "'jamba' forget their state" in str(result.exception)
