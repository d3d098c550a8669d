# SPDX-License-Identifier: Apache-2.0
"""Wrong recipes, each with a message that names the key, the value and the remedy."""

from __future__ import annotations

import pytest

from hylora.language.data import DataRecipe, SourceRecipe

TEXT = SourceRecipe("corpus.txt")


def two(first, second):
    return [SourceRecipe("a.txt", weight=first), SourceRecipe("b.txt", weight=second)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sources": []}, r"data\.sources=\[\] must hold at least one"),
        ({"sources": "corpus.txt"}, r"data\.sources='corpus\.txt' must be a list"),
        ({"sources": [{"path": "a"}]}, r"data\.sources=\[.*\] must be a list of sources"),
        ({"sources": [SourceRecipe("")]}, r"data\.sources\.0\.path='' must be a path: a file"),
        (
            {"sources": [TEXT, SourceRecipe("a", kind="xml")]},
            r"data\.sources\.1\.kind='xml' must be one of text, chat",
        ),
        ({"sources": [SourceRecipe("a", text_field="")]}, r"data\.sources\.0\.text_field='' must be a name"),
        ({"sources": two(0.7, -0.3)}, r"data\.sources\.1\.weight=-0\.3 must be a positive"),
        ({"sources": two(0, 1)}, r"data\.sources\.0\.weight=0 must be a positive"),
        ({"sources": two(0.7, float("nan"))}, r"data\.sources\.1\.weight=nan must be a positive"),
        ({"sources": two(0.7, None)}, r"data\.sources\.1\.weight=None must .*all of them a weight, or none"),
        ({"sources": [SourceRecipe("a", max_documents=0)]}, r"data\.sources\.0\.max_documents=0 must .*at least 1"),
        ({"sources": [TEXT], "packing": "tight"}, r"data\.packing='tight' must be one of eos, documents, none"),
        ({"sources": [TEXT], "validation_fraction": 1.0}, r"data\.validation_fraction=1\.0 must be in \[0, 1\)"),
        ({"sources": [TEXT], "validation_fraction": -0.1}, r"data\.validation_fraction=-0\.1 must be in"),
        (
            {"sources": [TEXT], "validation_fraction": 0.1, "validation": [TEXT]},
            r"data\.validation_fraction=0\.1 must be 0 .*keep one",
        ),
        ({"sources": [TEXT], "validation": two(1, 1)}, r"data\.validation\.0\.weight=1 must be null"),
        ({"sources": [TEXT], "validation": [SourceRecipe("a", kind="x")]}, r"data\.validation\.0\.kind='x' must"),
        ({"sources": [TEXT], "num_proc": 0}, r"data\.num_proc=0 must .*at least 1"),
        ({"sources": [TEXT], "num_proc": 2, "streaming": True}, r"data\.num_proc=2 must be null in a stream"),
        ({"sources": [TEXT], "shuffle_buffer": -1}, r"data\.shuffle_buffer=-1 must"),
        ({"sources": [TEXT], "shuffle_buffer": 100}, r"data\.shuffle_buffer=100 must be 0 .*remove it or stream"),
        (
            {"sources": two(None, None), "streaming": True},
            r"data\.sources\.0\.weight=None must .*give each source",
        ),
    ],
)
def test_wrong_recipes(fields, message):
    with pytest.raises(ValueError, match=message):
        DataRecipe(**fields)


def test_a_path_is_enough():
    data = DataRecipe([TEXT])
    assert (data.packing, data.streaming, data.validation, data.sources[0].kind) == ("eos", False, [], "text")
