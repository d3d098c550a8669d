# SPDX-License-Identifier: Apache-2.0
"""What scores cannot mean is said before they are made."""

from __future__ import annotations

import re
from collections import Counter

from hylora_eval import ruler
from hylora_eval.ruler.generation import check_generation

OPTIONS = {"seed": 42, "mode": "exact"}


def listed(record):
    """The different words of the list that is asked about."""
    body = record.input.rsplit("appear most often.\n", 1)[1].split("\nQuestion:")[0]
    return Counter(re.findall(r"\d+\. (\S+)", body))


def test_a_list_of_nothing_but_answers_is_named_with_a_length_that_is_better(tokenizers):
    tokenizer, length = tokenizers["demo"], 1024
    (caution,) = [text for text in check_generation("cwe", tokenizer, length, 3, **OPTIONS) if "guessing" in text]
    assert caution.startswith(f"cwe at {length} tokens:")
    assert all(len(listed(record)) < 20 for record in ruler.generate("cwe", tokenizer, length, 3))
    better = int(caution.split("at least ")[1])
    assert length < better < 4096
    # Words differ in tokens, and another length draws others.
    assert all(len(listed(record)) > 18 for record in ruler.generate("cwe", tokenizer, better, 3))
    assert check_generation("cwe", tokenizer, better, 3, **OPTIONS) == []


def test_answers_that_fit_need_no_word(tokenizers):
    """With a token for every byte, five names of five letters and four spaces are 29."""
    assert check_generation("vt", tokenizers["bytes"], 6000, 20, **OPTIONS) == []
    assert check_generation("fwe", tokenizers["bytes"], 6000, 20, **OPTIONS) == []


def test_a_perfect_model_scores_what_the_caution_says(tokenizers, monkeypatch):
    """With room for 19 bytes, three names of five letters and a space between them come through whole."""
    monkeypatch.setattr(
        "hylora_eval.ruler.material.TASKS", {"vt": ruler.Task("vt", "variables", ruler.TASKS["vt"].prompt, 19)}
    )
    (caution,) = check_generation("vt", tokenizers["bytes"], 6000, 5, **OPTIONS)
    assert caution.startswith("vt: with this tokenizer an answer has up to 29 tokens and 19 are generated")
    assert caution.endswith("a perfect model scores about 60")
