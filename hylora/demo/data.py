# SPDX-License-Identifier: Apache-2.0
"""The miniature's training data as files that a recipe can name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from hylora.demo.corpus import Document
from hylora.demo.facts import FactTask
from hylora.demo.recall import RecallTask

__all__ = ["write_facts", "write_recall", "write_text"]


def write_text(path: Path, documents: Iterable[Document]) -> None:
    """Write documents as JSON lines with the fields "name" and "text"."""
    _write(path, ({"name": document.name, "text": document.text} for document in documents))


def write_recall(path: Path, task: RecallTask, *, documents: int, length: int, seed: str) -> None:
    """Write recall documents as conversations, JSON lines with the field "messages".

    Args:
        path: the file.
        task: the words.
        documents: how many.
        length: tokens of a document, its end-of-text token included; even, so that documents joined by that token
            fill rows of this length exactly.
        seed: names the documents.
    """
    drawn = (task.document(length - 1, f"{seed}-{number}") for number in range(documents))
    _write(path, ({"messages": document.messages()} for document in drawn))


def write_facts(path: Path, task: FactTask, *, documents: int, length: int, facts: int, seed: str) -> None:
    """Write text with facts in it, each of which comes again, as JSON lines with the fields "text" and "messages".

    As text everything is learned, as conversations the answers alone.

    Args:
        path: the file.
        task: words and text.
        documents: how many.
        length: tokens of a document, its end-of-text token included, so that documents joined by that token fill rows
            of this length exactly.
        facts: in each document.
        seed: names the documents.
    """
    drawn = (task.document(length - 1, f"{seed}-{number}", facts, facts) for number in range(documents))
    _write(path, ({"text": document.text, "messages": document.messages()} for document in drawn))


def _write(path: Path, records: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
