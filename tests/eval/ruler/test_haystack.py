# SPDX-License-Identifier: Apache-2.0
"""Prose: where it comes from, what it is called, and where its sentences end."""

from __future__ import annotations

import json
import sys

import pytest

from hylora_eval import ruler
from hylora_eval.ruler.haystack import Essay, SentenceSplitter, load_haystack, sentence_splitter


def test_the_builtin_prose_is_called_so_in_every_record(tokenizers):
    for mode in ("exact", "strict"):
        record = ruler.generate("niah_single_2", tokenizers["demo"], 3000, 1, mode=mode, sentences="rules")[0]
        assert (record.haystack, record.sentences) == ("builtin", "rules")
    noise = ruler.generate("niah_single_1", tokenizers["demo"], 1000, 1)[0]
    assert (noise.haystack, noise.sentences) == (None, None)


def test_files_folders_and_the_official_essays_are_read(tmp_path):
    (tmp_path / "b.txt").write_text("Second text.")
    (tmp_path / "a.md").write_text("First text.")
    (tmp_path / "c.py").write_text("no_text()")
    (tmp_path / "PaulGrahamEssays.json").write_text(json.dumps({"text": "An essay."}))
    assert load_haystack(tmp_path).text == "First text.\nSecond text."
    assert load_haystack(tmp_path / "b.txt") == ruler.Haystack(str(tmp_path / "b.txt"), "Second text.")
    assert load_haystack(str(tmp_path / "PaulGrahamEssays.json")).text == "An essay."
    own = ruler.Haystack("own", "Some text.")
    assert load_haystack(own) is own and len(own.sha256) == 64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"  \n", "holds no text"),
        ("latin.txt", "caf\xe9".encode("latin-1"), "is not UTF-8 text"),
        ("broken.json", b"{", "is not JSON"),
        ("other.json", b'{"texts": []}', "must be an object with the field 'text'"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_haystack(tmp_path / name)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="haystack 'nowhere.txt' does not exist"):
        load_haystack("nowhere.txt")


@pytest.mark.parametrize("words", [1, 7, 100, 6000, 9000, 20_000])
def test_sentences_of_the_first_words_are_the_same_split_at_once_or_anew(essay, words):
    splitter = sentence_splitter("rules")
    anew, once = (Essay(essay, splitter, anew=anew).sentences(words) for anew in (True, False))
    assert len(" ".join(once).split()) == words
    assert once == anew


def test_prose_starts_again_where_it_ends():
    for anew in (True, False):
        prose = Essay(ruler.Haystack("short", "One two. Three\n four"), sentence_splitter("rules"), anew)
        assert " ".join(prose.sentences(10)) == "One two. Three four One two. Three four One two."


def test_rules_split_where_a_reader_would():
    text = 'He met Dr. Smith. It was late! "Why?" she said. See Fig. 3 and e.g. Rome. J. Doe left at 5.30 today. 7 men'
    assert sentence_splitter("rules").split(text) == [
        "He met Dr. Smith.", "It was late!", '"Why?" she said.', "See Fig. 3 and e.g. Rome.",
        "J. Doe left at 5.30 today.", "7 men",
    ]  # fmt: skip


def test_punkt_is_used_where_it_is_installed(monkeypatch, tokenizers, essay):
    import nltk.tokenize

    monkeypatch.setattr(nltk.tokenize, "sent_tokenize", lambda text: text.split("! "))
    assert sentence_splitter("auto").name == sentence_splitter("punkt").name == "punkt"
    assert sentence_splitter("auto").split("a! b! c") == ["a", "b", "c"]
    record = ruler.generate("niah_single_2", tokenizers["demo"], 3000, 1, haystack=essay)[0]
    assert record.sentences == "punkt"


def test_without_punkt_rules_step_in_and_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.tokenize", None)
    assert sentence_splitter("auto").name == "rules"
    with pytest.raises(ValueError, match="sentences='punkt' needs nltk and its data"):
        sentence_splitter("punkt")


def test_a_splitter_that_adds_spaces_is_followed(essay):
    """Punkt may split where no space stands; the text is then that of its sentences, joined."""
    halves = SentenceSplitter("halves", lambda text: [text[:500], text[500:]])
    once = Essay(essay, halves, anew=False)
    assert len(" ".join(once.sentences(300)).split(" ")) == 300
