# SPDX-License-Identifier: Apache-2.0
"""The shipped checkpoint: it loads with the flag, is small, and recalls by attention."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

import hylora
from hylora.demo.corpus import load_corpus
from hylora.demo.facts import FactTask
from hylora.demo.miniature import ASSETS, CONTEXT, load_miniature, load_tokenizer
from hylora_eval.perplexity import perplexity
from hylora_eval.recall import draw_recall_sequences, recall_by_distance, tokenize_recall

WINDOW = 16


@pytest.fixture(scope="module")
def recall():
    """Recall by distance within the context (0-15, 16-31, 32-63 tokens), under an attention."""
    model = load_miniature()
    sequences = draw_recall_sequences(load_tokenizer(), CONTEXT - 1, 48)

    def measure(name, **options):
        hylora.set_attention(model, name, **options)
        result = recall_by_distance(model, sequences, (0, WINDOW, 2 * WINDOW, CONTEXT))
        assert all(part.answers > 50 for part in result.bins)
        return [part.accuracy for part in result.bins]

    return measure


def test_assets_are_complete_and_small():
    files = {path.name: path.stat().st_size for path in ASSETS.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "corpus.json", "README.md"} <= set(files)
    assert sum(files.values()) < 6e6
    corpus = json.loads((ASSETS / "corpus.json").read_text(encoding="utf-8"))
    assert corpus["python"]
    assert "PSF License" in corpus["notice"]


def test_loads_with_the_flag_through_transformers():
    model = AutoModelForCausalLM.from_pretrained(ASSETS, attn_implementation="se_attn", dtype=torch.float32)
    assert model.config.model_type == "bamba"
    tokens = torch.arange(1, 41)[None]
    full = AutoModelForCausalLM.from_pretrained(ASSETS, dtype=torch.float32)
    with torch.no_grad():
        # 40 tokens fit one chunk, where span-expanded attention is full attention.
        torch.testing.assert_close(model(tokens).logits, full(tokens).logits, rtol=1e-4, atol=1e-4)


def test_recalls_within_its_context(recall):
    assert min(recall("full")) > 0.8


def test_attention_does_the_recalling(recall):
    """Beyond a sliding window nothing is recalled, so the state-space layers carry no fact that far."""
    near, straddling, beyond = recall("sw_attn", window=WINDOW)
    assert near > 0.8
    # A pair is two tokens, and three convolutions of width four lie below the attention layer.
    assert straddling < 0.4
    assert beyond < 0.03


def test_recalls_facts_scattered_in_unseen_text():
    model, tokenizer = load_miniature(), load_tokenizer()
    task = FactTask(tokenizer, load_corpus("held_out"))
    drawn = [task.document(CONTEXT - 1, str(number), facts=3, asked=3, distance=16) for number in range(64)]
    sequences = tokenize_recall(tokenizer, drawn)
    assert recall_by_distance(model, sequences, (0, CONTEXT)).accuracy > 0.8
    # By attention: a window shorter than the distance recalls nothing.
    hylora.set_attention(model, "sw_attn", window=4)
    assert recall_by_distance(model, sequences, (0, CONTEXT)).accuracy < 0.05


@torch.no_grad()
def test_bounded_steps_of_one_token_equal_a_whole_pass():
    model = load_miniature()
    tokens = torch.randint(1, 2048, (2, 40), generator=torch.Generator().manual_seed(0))
    expected = model(tokens, use_cache=False).logits
    with hylora.bound_time_steps(model):
        torch.testing.assert_close(model(tokens, use_cache=False).logits, expected)
        cache, places = DynamicCache(config=model.config), torch.arange(40)[None]
        steps = [
            model(tokens[:, part], position_ids=places[:, part], past_key_values=cache, use_cache=True).logits
            for part in (slice(0, 21), *(slice(place, place + 1) for place in range(21, 40)))
        ]
        torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=1e-4, atol=1e-3)


def test_knows_library_text():
    """A uniform guess over the vocabulary has a perplexity of 2048."""
    tokenizer = load_tokenizer()
    texts = [document.text for document in load_corpus("held_out")][:6]
    documents = [torch.tensor(tokenizer(text)["input_ids"])[:512] for text in texts]
    assert perplexity(load_miniature(), documents, CONTEXT, batch_size=32).perplexity < 200
