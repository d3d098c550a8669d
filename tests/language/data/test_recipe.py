# SPDX-License-Identifier: Apache-2.0
"""Wrong recipes, each with a message that names the key, the value and the remedy."""

from __future__ import annotations

import re

import pytest

from hylora.language.data import DataRecipe, SourceRecipe
from hylora.training.recipe_loading import RecipeError, build

TEXT = SourceRecipe("corpus.txt")


def two(first, second):
    return [SourceRecipe("a.txt", weight=first), SourceRecipe("b.txt", weight=second)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": ""}, "path='' must be text"),
        ({"path": "a", "kind": "xml"}, "kind='xml' must be text | chat | instruction; the nearest is"),
        ({"path": "a", "text_field": ""}, "text_field='' must be text"),
        ({"path": "a", "weight": -0.3}, "weight=-0.3 must be above 0"),
        ({"path": "a", "weight": 0.0}, "weight=0.0 must be above 0"),
        ({"path": "a", "weight": float("nan")}, "weight=nan must be finite"),
        ({"path": "a", "max_documents": 0}, "max_documents=0 must be at least 1"),
    ],
)
def test_wrong_sources(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        SourceRecipe(**fields)
    # A recipe names the source too.
    for name in ("sources", "validation"):
        tree = {"sources": [{"path": "corpus.txt"}], name: [{"path": "corpus.txt"}, fields]}
        with pytest.raises(RecipeError, match=f"^data.{name}.1.{re.escape(message)}"):
            build(DataRecipe, tree, key="data")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sources": []}, "sources=[] must have at least one source; list one"),
        ({"sources": "corpus.txt"}, "sources='corpus.txt' must be a list"),
        ({"sources": [{"path": "a"}]}, "sources=[{'path': 'a'}] must be a list of sources"),
        ({"sources": [TEXT], "validation": TEXT}, "validation=SourceRecipe("),
        ({"sources": two(0.7, None)}, "sources.1.weight=None must be a number, as others have one"),
        ({"sources": [TEXT], "packing": "tight"}, "packing='tight' must be eos | documents | none"),
        ({"sources": [TEXT], "validation_fraction": 1.0}, "validation_fraction=1.0 must be at least 0 and below 1"),
        ({"sources": [TEXT], "validation_fraction": -0.1}, "validation_fraction=-0.1 must be"),
        (
            {"sources": [TEXT], "validation_fraction": 0.1, "validation": [TEXT]},
            "validation_fraction=0.1 must not come with data.validation; keep one",
        ),
        ({"sources": [TEXT], "validation": two(1, 1)}, "validation.0.weight=1 must be left out"),
        ({"sources": [TEXT], "num_proc": 0}, "num_proc=0 must be at least 1"),
        ({"sources": [TEXT], "num_proc": 2, "streaming": True}, "num_proc=2 must be left out with data.streaming"),
        ({"sources": [TEXT], "shuffle_buffer": -1}, "shuffle_buffer=-1 must be at least 0"),
        ({"sources": [TEXT], "shuffle_buffer": 100}, "shuffle_buffer=100 must be left out without data.streaming"),
        (
            {"sources": two(None, None), "streaming": True},
            "sources.0.weight=None must be a number, for the sizes of streams are unknown; give each",
        ),
    ],
)
def test_wrong_recipes(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        DataRecipe(**fields)


def test_a_path_is_enough():
    data = DataRecipe([TEXT])
    assert (data.packing, data.streaming, data.validation, data.sources[0].kind) == ("eos", False, [], "text")
