# SPDX-License-Identifier: Apache-2.0
"""Every answer follows from its prompt, and no other does: prompts are solved by other means than they were made."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from hylora_eval import ruler
from hylora_eval.ruler.counting import prompt_tokens
from hylora_eval.ruler.haystack import sentence_splitter
from hylora_eval.ruler.needles import DEPTHS, NOISE

STATEMENT = re.compile(r"One of the special magic (?:numbers|uuids) for ([^:]+?) is: ([0-9a-f-]+)\.")
# Shorter and longer than 4096, where the official parameters change.
LENGTHS = (3600, 5600)


@pytest.fixture(params=["exact", "strict"])
def make(request, tokenizers, essay):
    def generate(task, length=2300, samples=4):
        tokenizer = tokenizers["demo"]
        options = {"mode": request.param, "haystack": essay, "sentences": "rules"}
        return ruler.generate(task, tokenizer, length, samples, **options)

    return generate


def read_list(text):
    return [tuple(item.split(". ", 1)) for item in re.split(r" (?=\d+\. )", text.strip())]


def solve_needles(record):
    asked = re.search(r"magic (?:number|uuid)s? for (.+) mentioned in the provided text\?$", record.input).group(1)
    keys = re.sub(r",? and ", ", ", asked).split(", ")
    statements = STATEMENT.findall(record.input)
    return [value for key in keys for found, value in statements if found == key]


@pytest.mark.parametrize("task", [task for task in ruler.ALL_TASKS if task.startswith("niah")])
def test_needles_are_the_statements_about_the_key(make, task):
    settings = ruler.TASKS[task].settings
    for record in make(task):
        assert sorted(solve_needles(record)) == sorted(record.outputs)
        assert len(record.outputs) == settings["num_values"] * settings["num_queries"]
        told = [STATEMENT.fullmatch(record.input[start:stop]).group(2) for start, stop in record.evidence]
        assert sorted(told) == sorted(record.outputs)
        statements = len(STATEMENT.findall(record.input))
        if settings["haystack"] == "needle":
            assert statements > 20
        else:
            assert statements == settings["num_keys"] * settings["num_values"]
        for output in record.outputs:
            assert record.input.count(output) == 1 and output not in record.answer_prefix


def test_one_value_is_asked_for_in_the_singular(make):
    single, several = make("niah_single_3")[0], make("niah_multivalue")[0]
    assert single.input.startswith("A special magic uuid is hidden within") and "What is the special" in single.input
    assert single.answer_prefix.endswith(" mentioned in the provided text is")
    assert several.input.startswith("Some special magic numbers are hidden within")
    assert several.answer_prefix.endswith(" mentioned in the provided text are")


@pytest.mark.parametrize("kind", ["demo", "llama2", "llama3", "unigram"])
@pytest.mark.parametrize("task", ["niah_single_1", "niah_multiquery", "niah_multikey_3", "vt"])
def test_evidence_is_found_in_the_tokens(kind, task, tokenizers, essay):
    tokenizer = tokenizers[kind]
    for record in ruler.generate(task, tokenizer, 2300, 3, haystack=essay, sentences="rules"):
        ids = prompt_tokens(tokenizer, record.prompt)
        assert len(record.evidence) == len(record.outputs)
        spans = record.evidence_tokens(tokenizer)
        for (first, last), (start, stop), depth in zip(spans, record.evidence, record.depths, strict=True):
            text = tokenizer.decode(ids[first:last]).replace("▁", " ")
            compact = re.sub(r"\s", "", record.input[start:stop])
            assert compact in re.sub(r"\s", "", text) and len(text) < stop - start + 12
            # Depth in characters and in tokens are about the same: the haystack is even.
            assert abs(first / len(ids) - depth) < 0.15


def test_essay_needles_stand_between_sentences_at_the_official_depths(tokenizers, essay):
    spread = set()
    for record in ruler.generate("niah_multikey_1", tokenizers["demo"], 4096, 5, haystack=essay, sentences="rules"):
        body = record.input.split("afterwards.\n", 1)[1].rsplit("\nWhat is", 1)[0]
        parts = re.split(r"(?<=\.)(?= )|(?<= )(?=One of the special)", re.sub(STATEMENT, "\0.", body))
        assert body.count("One of the special magic") == 4 and parts
        plain = re.sub(r" +", " ", STATEMENT.sub("", body)).strip()
        assert re.sub(r"\s+", " ", essay.text).startswith(plain)
        sentences = len(sentence_splitter("rules").split(plain))
        for found in STATEMENT.finditer(body):
            before = re.sub(r" +", " ", STATEMENT.sub("", body[: found.start()])).strip()
            number = len(sentence_splitter("rules").split(before)) if before else 0
            assert not before or before[-1] in ".!?" or number == sentences
            assert number in {int(sentences * depth / 100) for depth in DEPTHS}
            spread.add(number / sentences)
    assert min(spread) < 0.25 and max(spread) > 0.75


@pytest.mark.parametrize("length", LENGTHS)
def test_variables_are_those_an_interpreter_finds(make, length):
    for record in make("vt", length):
        example, question = record.input.split("\n\nMemorize and track")
        assert example.startswith("Memorize and track") and "they are:  " in example
        for text, names in (
            (question + record.answer_prefix, list(record.outputs)),
            (example, example.strip().split()[-5:]),
        ):
            values = {}
            for name, meaning in re.findall(r"^VAR ([A-Z]+) = (?:VAR )?([A-Z]+|\d+) ?$", text, re.MULTILINE):
                values[name] = values.get(meaning, meaning)
            asked = re.search(r"assigned the value (\d+) in the text above", text).group(1)
            assert [name for name, value in values.items() if value == asked] == names
            assert len(set(names)) == 5 == len(values)
            assert text.count(NOISE) > 3
        assert [question.index(f"VAR {name} =") for name in record.outputs] == sorted(
            question.index(f"VAR {name} =") for name in record.outputs
        )


@pytest.mark.parametrize(
    ("length", "example_times", "times"), [(3600, (3, 1, 20), (6, 1)), (5600, (10, 3, 40), (30, 3))]
)
def test_common_words_are_those_that_counting_finds(make, length, example_times, times):
    for record in make("cwe", length):
        parts = record.prompt.split("Below is a numbered list of words.")[1:]
        assert len(parts) == 2
        for number, part in enumerate(parts):
            listed = read_list(part.split("appear most often.\n")[1].split("\nQuestion:")[0])
            assert [int(position) for position, _ in listed] == list(range(1, len(listed) + 1))
            counts = Counter(word for _, word in listed)
            often, seldom = (example_times[:2], times)[number]
            top = [word for word, count in counts.items() if count == often]
            assert set(counts.values()) == {often, seldom} and len(top) == 10
            if number == 0:
                assert len(counts) == example_times[2]
                told = read_list(part.split("in the list are:")[1])
                assert sorted(word for _, word in told) == sorted(top)
            else:
                assert sorted(top) == sorted(record.outputs)


@pytest.mark.parametrize("length", LENGTHS)
def test_frequent_words_are_those_that_counting_finds(make, length):
    for record in make("fwe", length):
        body = record.input.split("coded words. ")[1].split("\nQuestion:")[0]
        ranked = Counter(body.split(" ")).most_common()
        assert ranked[0][0] == "..."
        assert [word for word, _ in ranked[1:4]] == list(record.outputs)
        assert ranked[3][1] > ranked[4][1]
        assert all(re.fullmatch("[a-z]{6}", word) for word, _ in ranked[1:])
        # Frequencies fall with the square of the rank.
        assert ranked[1][1] == pytest.approx(ranked[0][1] / 4, abs=1)


def test_a_second_key_by_chance_is_drawn_anew(tokenizers, monkeypatch):
    """With three words for keys, distractors often carry the key that is asked for."""
    monkeypatch.setattr("hylora_eval.ruler.needles.key_words", lambda: tuple(f"odd-{n}" for n in range(60)))
    tokenizer = tokenizers["llama2"]
    for record in ruler.generate("niah_multikey_2", tokenizer, 1500, 20):
        key = STATEMENT.fullmatch(record.input[slice(*record.evidence[0])]).group(1)
        assert record.input.count(f" for {key} is: ") == 1
    strict = ruler.generate("niah_multikey_2", tokenizer, 1500, 20, mode="strict")
    assert any(len(solve_needles(record)) > 1 for record in strict)


def test_a_haystack_that_holds_the_answer_everywhere_is_refused(tokenizers):
    digits = ruler.Haystack("digits", " ".join(str(n) for n in range(10**6, 10**6 + 4000)))
    monkey = pytest.MonkeyPatch()
    monkey.setattr("hylora_eval.ruler.needles._random_text", lambda kind, stream: str(10**6 + stream.randrange(5)))
    with monkey.context(), pytest.raises(ValueError, match="the haystack itself held a key or an answer"):
        ruler.generate("niah_single_2", tokenizers["llama2"], 3000, 1, haystack=digits, sentences="rules")
    monkey.undo()
