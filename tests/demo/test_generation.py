# SPDX-License-Identifier: Apache-2.0
"""Recall token by token: the answers are those of one pass, with the cache of each attention."""

from __future__ import annotations

import pytest

import hylora
from hylora.demo.miniature import load_miniature, load_tokenizer
from hylora_eval.demo.generation import recall_by_steps
from hylora_eval.demo.settings import VARIANTS
from hylora_eval.recall import draw_recall_sequences

GENERATING = [variant for variant in VARIANTS if variant.generates]


@pytest.mark.parametrize("variant", GENERATING, ids=[variant.name for variant in GENERATING])
def test_recall_by_steps_is_that_of_one_pass(variant):
    model = load_miniature()
    hylora.set_attention(model, variant.attention, **variant.options)
    sequences = draw_recall_sequences(load_tokenizer(), 191, 2)
    result = recall_by_steps(model, sequences, prefill=101)
    assert result["answers"] > 50
    if variant.name == "published":
        # A chunk's choice depends on all its queries, of which a step knows none that is to come.
        assert result["agreement"] < 0.9
    else:
        assert result["agreement"] > 0.99
        assert result["steps"] == pytest.approx(result["pass"], abs=0.01)
