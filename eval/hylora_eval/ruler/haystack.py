# SPDX-License-Identifier: Apache-2.0
"""The prose that needles hide in, and where its sentences end: needles are put between them."""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from hylora.demo.miniature import ASSETS
from hylora_eval.fingerprints import text_sha256

__all__ = ["BUILTIN", "Essay", "Haystack", "SentenceSplitter", "load_haystack", "sentence_splitter"]

# The name of the prose that comes with the library. It is not the essays of the published figures.
BUILTIN = "builtin"

_END = re.compile(r"""[.!?]+["'”’)\]]*[ ](?=["'“‘(\[]*[A-Z0-9])""")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|cf|al|Fig|Inc|Ltd|Co|Corp)\.[ ]$"
)


@dataclass(frozen=True)
class Haystack:
    """Prose under a name that every record and result repeats.

    Attributes:
        name: "builtin", the path it was read from, or a name of your own.
        text: the prose.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError(f"haystack {self.name!r} holds no text")

    @property
    def sha256(self) -> str:
        """SHA-256 of the text."""
        return text_sha256(self.text)


def load_haystack(source: Haystack | str | os.PathLike | None = None) -> Haystack:
    """Read prose for the tasks that need it.

    Args:
        source: a text file; a folder, whose .txt and .md files are read in order of their names; a JSON file with the
            field "text", such as the official `PaulGrahamEssays.json`; or None for the built-in prose: help topics of
            the Python documentation.

    Returns:
        The haystack; one that is passed in comes back as it is.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if it holds no text.
    """
    if isinstance(source, Haystack):
        return source
    if source is None or os.fspath(source) == BUILTIN:
        return _builtin()
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"haystack {str(path)!r} does not exist; give a text file, a folder or 'builtin'")
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix in (".txt", ".md") and file.is_file())
            text = "\n".join(file.read_text(encoding="utf-8") for file in files)
        else:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".json":
                text = _text_field(path, text)
    except UnicodeDecodeError as error:
        raise ValueError(f"haystack {str(path)!r} is not UTF-8 text: {error}") from error
    return Haystack(str(path), text)


@dataclass(frozen=True)
class SentenceSplitter:
    """A way to split text into sentences.

    Attributes:
        name: what results call it.
        split: the sentences of a text, without the white space between them.
    """

    name: str
    split: Callable[[str], list[str]]


def sentence_splitter(name: str = "auto") -> SentenceSplitter:
    """The way to split sentences.

    Args:
        name: "punkt" for nltk's, which the official generator uses and which needs its data; "rules" for a few rules
            of our own; "auto" for punkt where it is installed and rules otherwise.

    Returns:
        The splitter; its name tells which it is.

    Raises:
        ValueError: if the name is unknown, or punkt is asked for and its data cannot be found.
    """
    if name not in ("auto", "punkt", "rules"):
        raise ValueError(f"sentences={name!r} must be one of 'auto', 'punkt', 'rules'")
    if name != "rules":
        try:
            from nltk.tokenize import sent_tokenize

            sent_tokenize("One. Two.")
            return SentenceSplitter("punkt", sent_tokenize)
        except (ImportError, LookupError) as error:
            if name == "punkt":
                raise ValueError(
                    "sentences='punkt' needs nltk and its data: `pip install nltk` and "
                    "`python -m nltk.downloader punkt_tab`, or say sentences='rules'"
                ) from error
    return SentenceSplitter("rules", _split_by_rules)


def _split_by_rules(text: str) -> list[str]:
    """Sentences end with `.`, `!` or `?` before a space and a capital or digit, unless an abbreviation ends there."""
    starts = [0]
    for end in _END.finditer(text):
        # The longest abbreviation and what precedes it are well within 16 characters.
        if not _ABBREVIATION.search(text[max(0, end.end() - 16) : end.end()]):
            starts.append(end.end())
    return [text[start:stop].strip() for start, stop in zip(starts, [*starts[1:], len(text)], strict=True)]


class Essay:
    """A haystack in words and sentences; it starts again from its beginning where more words are asked for.

    Args:
        haystack: the prose.
        splitter: how it falls into sentences.
        anew: split what was asked for anew every time, as the official generator does, instead of the whole text once.
    """

    def __init__(self, haystack: Haystack, splitter: SentenceSplitter, anew: bool) -> None:
        self.haystack = haystack
        self.splitter = splitter
        self._anew = anew
        self._words = re.sub(r"\s+", " ", haystack.text).split(" ")
        if not anew:
            self._sentences = splitter.split(" ".join(self._words).strip())
            self._ends = list(accumulate(sentence.count(" ") + 1 for sentence in self._sentences))

    def sentences(self, words: int) -> list[str]:
        """The sentences that the first so many words make; the last may be cut short."""
        if self._anew:
            repeats = -(-words // len(self._words))
            return self.splitter.split(" ".join((self._words * repeats)[:words]).strip())
        rounds, rest = divmod(words, self._ends[-1])
        whole = bisect_right(self._ends, rest)
        sentences = self._sentences * rounds + self._sentences[:whole]
        over = rest - (self._ends[whole - 1] if whole else 0)
        if over:
            sentences.append(" ".join(self._sentences[whole].split(" ")[:over]))
        return sentences


@cache
def _builtin() -> Haystack:
    lines = (ASSETS / "text" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return Haystack(BUILTIN, "\n".join(json.loads(line)["text"] for line in lines))


def _text_field(path: Path, text: str) -> str:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"haystack {str(path)!r} is not JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("text"), str):
        raise ValueError(f"haystack {str(path)!r} must be an object with the field 'text'")
    return values["text"]
