# SPDX-License-Identifier: Apache-2.0
"""Text that every Python installation carries: the standard library's sources and the prose of its help topics.

The text is read from the running interpreter, so it differs a little between Python versions; `describe_corpus`
records which one was read. It is published under the PSF License Agreement (see `NOTICE`).
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

# Besides the tests: what is optional (tkinter, idlelib), leaves or has left the library (lib2to3, distutils), carries
# other people's packages (ensurepip, site-packages), or is tables rather than text (encodings).
EXCLUDED = frozenset(
    ["site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "distutils", "tkinter"]
    + ["turtledemo", "ensurepip", "encodings", "pydoc_data", "__pycache__"]
)
HELD_OUT_SHARE = 0.08
NOTICE = (
    "Text from the Python standard library and its documentation topics, Copyright (c) 2001 Python Software "
    "Foundation; All Rights Reserved. Used under the PSF License Agreement, https://docs.python.org/3/license.html"
)

__all__ = ["NOTICE", "Document", "describe_corpus", "is_held_out", "load_corpus"]


@dataclass(frozen=True)
class Document:
    """One document: `name` is its path below the library (or `pydoc_data/topics/<topic>`), `text` its content."""

    name: str
    text: str


def is_held_out(name: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether a document is held out for evaluation: decided by a hash of its name alone.

    Args:
        name: the document's name, with forward slashes on every system.
        share: expected fraction of held-out names, in [0, 1].

    Returns:
        The same answer on every machine and for every Python version that has a document of this name.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def load_corpus(split: str) -> list[Document]:
    """The documents of one split, sorted by name.

    Args:
        split: "train" or "held_out".

    Returns:
        The documents; never empty.

    Raises:
        ValueError: if `split` is neither.
        FileNotFoundError: if the interpreter has no library sources (a stripped or zipped installation).
    """
    if split not in ("train", "held_out"):
        raise ValueError(f"split={split!r} must be 'train' or 'held_out'")
    documents = [document for document in _all_documents() if is_held_out(document.name) == (split == "held_out")]
    if not documents:
        raise FileNotFoundError(
            f"no standard-library sources below {_library()}; run with a Python that ships its .py files"
        )
    return documents


def describe_corpus() -> dict[str, object]:
    """What was read: Python version, notice, and documents and characters of each split."""
    sizes = {
        split: {"documents": len(documents), "characters": sum(len(document.text) for document in documents)}
        for split in ("train", "held_out")
        for documents in [load_corpus(split)]
    }
    return {"python": platform.python_version(), "notice": NOTICE, **sizes}


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


@lru_cache(maxsize=1)
def _all_documents() -> tuple[Document, ...]:
    documents = sorted([*_sources(_library()), *_topics()], key=lambda document: document.name)
    # Some topics share one text under two names, which could fall on both sides of the split: the first name counts.
    first = {document.text: document for document in reversed(documents)}
    return tuple(document for document in documents if first[document.text] is document)


def _sources(library: Path) -> Iterator[Document]:
    for path in library.rglob("*.py"):
        relative = path.relative_to(library)
        # Build settings (_sysconfigdata*) hold the builder's paths and flags, which differ between machines.
        if EXCLUDED.intersection(relative.parts) or relative.name.startswith("_sysconfigdata"):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if text.strip():
            yield Document(relative.as_posix(), text)


def _topics() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    for topic, text in topics.items():
        yield Document(f"pydoc_data/topics/{topic}", text)
