# SPDX-License-Identifier: Apache-2.0
"""Exact mode: how full a context is, and that a sample depends on its own number alone."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hylora_eval import ruler
from hylora_eval.ruler.counting import TokenCounter, prompt_tokens
from hylora_eval.ruler.exact import fill
from hylora_eval.ruler.generation import check_generation
from hylora_eval.ruler.needles import NOISE
from tests.eval.ruler.conftest import KINDS

LENGTH = 2300
# Characters of the largest unit of haystack, generously: a token stands for at least one, or at most for four bytes.
UNIT = {"niah_single_1": 95, "niah_multikey_2": 130, "niah_multikey_3": 130, "vt": 95, "cwe": 40, "fwe": 60}


@pytest.mark.parametrize("task", ruler.ALL_TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_context_is_full_and_never_fuller(kind, task, tokenizers, essay):
    tokenizer = tokenizers[kind]
    length = LENGTH * 4 if kind == "bytes" else LENGTH
    for record in ruler.generate(task, tokenizer, length, 2, haystack=essay, sentences="rules"):
        tokens = len(prompt_tokens(tokenizer, record.prompt)) + record.tokens_to_generate
        assert record.length == tokens
        assert length - UNIT.get(task, 20) < tokens <= length


def test_special_tokens_that_come_first_are_counted_and_those_at_the_end_are_not(tokenizers):
    for kind, first in (("llama2", 1), ("demo", 0), ("bytes", 0)):
        tokenizer = tokenizers[kind]
        counter = TokenCounter(tokenizer)
        assert counter.whole("some text") == counter.plain("some text") + first
        assert counter.plain("some text") == len(tokenizer.tokenize("some text"))
        ids = prompt_tokens(tokenizer, "some text")
        assert tokenizer.eos_token_id not in ids and (ids[0] == tokenizer.bos_token_id) == bool(first)


def test_parts_count_like_the_whole_where_they_can(tokenizers, essay):
    """Only the tokenizer that merges over words needs whole texts."""
    for kind in KINDS:
        counter = TokenCounter(tokenizers[kind])
        (record,) = ruler.generate("niah_single_2", tokenizers[kind], 4096, 1, haystack=essay, sentences="rules")
        assert (counter.by_parts(record.prompt) == counter.whole(record.prompt)) == (kind != "merging"), kind


def test_a_wrong_count_by_parts_is_found_and_repaired(tokenizers, monkeypatch):
    """In any sample, be it the second, and whatever others there are."""
    tokenizer = tokenizers["demo"]
    expected = ruler.generate("vt", tokenizer, 1500, 2)
    original = TokenCounter.by_parts
    last = expected[1].outputs[-1]
    monkeypatch.setattr(TokenCounter, "by_parts", lambda self, text: original(self, text) - (last in text))
    assert ruler.generate("vt", tokenizer, 1500, 2) == expected


def test_the_recorded_length_holds_where_merges_cross_newlines(essay):
    """A tokenizer for which a line's end and the next line's beginning are one token."""
    tokenizer = crossing(essay.text)
    records = ruler.generate("niah_single_1", tokenizer, 2300, 4)
    for record in records:
        assert record.length == len(prompt_tokens(tokenizer, record.prompt)) + record.tokens_to_generate <= 2300
    assert any(TokenCounter(tokenizer).by_parts(record.prompt) != record.length - 128 for record in records)


def crossing(text: str) -> PreTrainedTokenizerFast:
    """BPE on words that end in a line break and the word behind it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator([text, *[f"{NOISE}\n{NOISE}"] * 50, "afterwards.\nThe grass"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("task", ruler.ALL_TASKS)
def test_a_sample_depends_on_its_number_not_on_its_neighbours(task, tokenizers, essay):
    options = {"haystack": essay, "sentences": "rules"}
    few = ruler.generate(task, tokenizers["demo"], LENGTH, 2, **options)
    many = ruler.generate(task, tokenizers["demo"], LENGTH, 4, **options)
    assert many[:2] == few and len({record.prompt for record in many}) == 4
    assert ruler.generate(task, tokenizers["demo"], LENGTH, 2, seed=43, **options)[0].outputs != few[0].outputs


@pytest.mark.parametrize(
    ("task", "mode"),
    [
        *((task, "exact") for task in ruler.ALL_TASKS),
        *((t, "strict") for t in ("niah_multikey_3", "vt", "cwe", "fwe")),
    ],
)
def test_lengths_that_are_too_small_are_refused(task, mode, tokenizers, essay):
    with pytest.raises(ValueError, match=f"length=160 is too small for {task}"):
        ruler.generate(task, tokenizers["demo"], 160, 1, mode=mode, haystack=essay, sentences="rules")


@pytest.mark.parametrize("task", ["niah_single_2", "vt", "cwe", "fwe"])
def test_the_length_that_is_advised_works(task, tokenizers, essay):
    """At once or after a second piece of advice, for other lengths draw other words."""
    length, advice = 150, 0
    while True:
        try:
            ruler.generate(task, tokenizers["demo"], length, 3, haystack=essay, sentences="rules")
            break
        except ValueError as error:
            advised = int(str(error).split("ask for at least ")[1])
            assert advised > length
            length, advice = advised, advice + 1
    assert 1 <= advice <= 4


def test_a_late_sample_without_room_is_found_before_the_first(tokenizers):
    """Words differ in tokens: at this length some lists of the smallest size are too long, the first is not."""
    tokenizer, length = tokenizers["demo"], 4096
    assert ruler.generate("cwe", tokenizer, length, 1)
    done = []
    with pytest.raises(ValueError, match="length=4096 is too small for cwe") as caught:
        ruler.generate("cwe", tokenizer, length, 20, progress=done.append)
    assert done == []
    with pytest.raises(ValueError, match=str(caught.value)):
        check_generation("cwe", tokenizer, length, 20, 42, "exact")


@pytest.mark.parametrize("guess", [None, 1, 40, 400])
@pytest.mark.parametrize("room", [25, 26, 333, 1000])
def test_filling_finds_a_size_that_fits_while_the_next_does_not(room, guess):
    """Sizes whose tokens wander around a line, as prose does."""

    def tokens(size):
        return 10 + 3 * size + (size * 7919) % 13

    filled = fill(lambda size: size, tokens, room, 1, guess=guess)
    assert filled.fits and filled.tokens == tokens(filled.size) <= room < tokens(filled.size + 1)


def test_filling_stops_at_the_largest_and_the_smallest_size():
    largest = fill(lambda size: size, lambda size: size, 100, 1, largest=7)
    assert (largest.size, largest.fits) == (7, True)
    smallest = fill(lambda size: size, lambda size: size, 4, 5)
    assert (smallest.size, smallest.fits) == (5, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "niah_single_9"}, "task='niah_single_9' must be one of niah_single_1"),
        ({"mode": "official"}, "mode='official' must be one of 'exact', 'strict'"),
        ({"length": 0}, "length=0 must be at least 1"),
        ({"samples": 0}, "samples=0 must be at least 1"),
        ({"task": "niah_single_2", "sentences": "spacy"}, "sentences='spacy'"),
        ({"task": "qa_1"}, "qa_1 needs a file of questions: give SQuAD's dev-v2.0.json"),
        ({"task": "cwe", "length": 400_000}, "cwe needs .* different words .* there are 8166: give a longer list"),
    ],
)
def test_wrong_arguments_are_named(tokenizers, change, message):
    with pytest.raises(ValueError, match=message):
        ruler.generate(**{"task": "vt", "tokenizer": tokenizers["demo"], "samples": 1, **change})
