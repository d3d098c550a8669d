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
        ({"sources": []}, r"data\.sources: \[\] .*List at least one"),
        ({"sources": "corpus.txt"}, r"data\.sources: 'corpus\.txt' is not a list"),
        ({"sources": [{"path": "a"}]}, r"data\.sources: .* is not a list of sources"),
        ({"sources": [SourceRecipe("")]}, r"data\.sources\.0\.path: '' .*Give a file"),
        (
            {"sources": [TEXT, SourceRecipe("a", kind="xml")]},
            r"data\.sources\.1\.kind: 'xml' .*text, chat",
        ),
        ({"sources": [SourceRecipe("a", text_field="")]}, r"data\.sources\.0\.text_field: ''"),
        ({"sources": two(0.7, -0.3)}, r"data\.sources\.1\.weight: -0\.3 .*positive"),
        ({"sources": two(0, 1)}, r"data\.sources\.0\.weight: 0 .*positive"),
        ({"sources": two(0.7, float("nan"))}, r"data\.sources\.1\.weight: nan"),
        ({"sources": two(0.7, None)}, r"data\.sources\.1\.weight: None.*all of them a weight, or none"),
        ({"sources": [SourceRecipe("a", max_documents=0)]}, r"data\.sources\.0\.max_documents: 0 .*at least 1"),
        ({"sources": [TEXT], "packing": "tight"}, r"data\.packing: 'tight' .*eos, documents, none"),
        ({"sources": [TEXT], "validation_fraction": 1.0}, r"data\.validation_fraction: 1\.0 is not in \[0, 1\)"),
        ({"sources": [TEXT], "validation_fraction": -0.1}, r"data\.validation_fraction: -0\.1"),
        (
            {"sources": [TEXT], "validation_fraction": 0.1, "validation": [TEXT]},
            r"data\.validation_fraction: 0\.1 .*Keep one",
        ),
        ({"sources": [TEXT], "validation": two(1, 1)}, r"data\.validation\.0\.weight: 1 has no use"),
        ({"sources": [TEXT], "validation": [SourceRecipe("a", kind="x")]}, r"data\.validation\.0\.kind: 'x'"),
        ({"sources": [TEXT], "num_proc": 0}, r"data\.num_proc: 0 .*at least 1"),
        ({"sources": [TEXT], "num_proc": 2, "streaming": True}, r"data\.num_proc: 2 has no use in a stream"),
        ({"sources": [TEXT], "shuffle_buffer": -1}, r"data\.shuffle_buffer: -1"),
        ({"sources": [TEXT], "shuffle_buffer": 100}, r"data\.shuffle_buffer: 100 .*Remove it or stream"),
        (
            {"sources": two(None, None), "streaming": True},
            r"data\.sources\.0\.weight: None.*Give each source",
        ),
    ],
)
def test_wrong_recipes(fields, message):
    with pytest.raises(ValueError, match=message):
        DataRecipe(**fields)


def test_a_path_is_enough():
    data = DataRecipe([TEXT])
    assert (data.packing, data.streaming, data.validation, data.sources[0].kind) == ("eos", False, [], "text")
