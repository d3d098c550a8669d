# SPDX-License-Identifier: Apache-2.0
"""`generate` with a SpanCache: every way of decoding gives what it gives without one."""

import copy

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import DynamicCache

import hylora
from tests.generation.cases import NARROW, WIDE, assert_close, mask_with, model_of, tokens

PROMPT = tokens(2, 37)
MASK = mask_with(PROMPT, 5, 0)
WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "num_return_sequences": 3, "temperature": 0.8, "top_p": 0.9},
    "chunked prefill": {"prefill_chunk_size": 7},
}


def generate(model, cache=None, prompt=PROMPT, mask=MASK, **way):
    torch.manual_seed(0)
    settings = {"max_new_tokens": 12, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    if cache is not None:
        way = {"past_key_values": cache, **way}
    found = model.generate(prompt, attention_mask=mask, **{**settings, **way})
    return found.sequences, torch.stack(found.logits)


def assert_same(found, expected):
    assert torch.equal(found[0], expected[0])
    assert_close(found[1], expected[1])


@pytest.fixture(params=["llama", "bamba", "qwen2"], scope="module")
def model(request):
    return model_of(request.param)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_equals_full_attention_where_everything_is_retrieved(model, way):
    hylora.set_attention(model, "full")
    expected = generate(model, DynamicCache(config=model.config), **way)
    hylora.set_attention(model, "se_attn", **WIDE)
    assert_same(generate(model, hylora.SpanCache(model.config), **way), expected)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_equals_recomputation(model, way):
    hylora.set_attention(model, "se_attn", **NARROW)
    anew = {name: value for name, value in way.items() if name != "prefill_chunk_size"}
    assert_same(generate(model, hylora.SpanCache(model.config), **way), generate(model, use_cache=False, **anew))


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("draft", ["assistant", "lookup"])
def test_assisted_decoding_equals_greedy(draft, name):
    """Drafts of several tokens are taken back where they are wrong."""
    if name == "qwen2" and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("in transformers 5.17 windows that drafts may be taken from hand over more than their mask shows")
    model = model_of(name)
    prompt = PROMPT[1:, :20].repeat(1, 2)  # for the lookup to find something
    mask = torch.ones_like(prompt)
    expected = generate(model, hylora.SpanCache(model.config), prompt, mask)
    way = {"prompt_lookup_num_tokens": 4}
    if draft == "assistant":
        assistant = copy.deepcopy(model)
        with torch.no_grad():
            assistant.lm_head.weight += 0.1 * torch.randn(assistant.lm_head.weight.shape)
        assistant.generation_config.num_assistant_tokens = 4
        assistant.generation_config.assistant_confidence_threshold = 0
        way = {"assistant_model": assistant}
    assert_same(generate(model, hylora.SpanCache(model.config), prompt, mask, **way), expected)


def test_a_chat_goes_on(model):
    """The second turn passes everything so far; what the cache holds is not computed again."""
    hylora.set_attention(model, "se_attn", **NARROW)
    cache, (ids, mask) = hylora.SpanCache(model.config), (PROMPT, MASK)
    for turn in range(2):
        answer, _ = found = generate(model, cache, ids, mask)
        assert_same(found, generate(model, hylora.SpanCache(model.config), ids, mask))
        ids = torch.cat([answer, tokens(2, 9, seed=turn)], dim=1)
        mask = torch.cat([mask, torch.ones_like(ids[:, mask.shape[1] :])], dim=1)
    assert cache.get_seq_length() == answer.shape[1] - 1


def test_a_prefix_serves_several_prompts(model):
    hylora.set_attention(model, "se_attn", **NARROW)
    prefix = hylora.SpanCache(model.config)
    with torch.no_grad():
        model(PROMPT[1:], past_key_values=prefix)
    for seed in (1, 2):
        prompt = torch.cat([PROMPT[1:], tokens(1, 6, seed)], dim=1)
        mask = torch.ones_like(prompt)
        found = generate(model, copy.deepcopy(prefix), prompt, mask)
        assert_same(found, generate(model, hylora.SpanCache(model.config), prompt, mask))


def test_without_a_span_cache_steps_attend_to_all():
    """As the thesis evaluates."""
    model = model_of("llama")
    _, logits = generate(model)
    _, sparse = generate(model, hylora.SpanCache(model.config))
    assert_close(logits[0], sparse[0])
    assert (logits[1:] - sparse[1:]).abs().max() > 1e-2


def test_under_the_published_rule_the_queries_so_far_choose():
    """Seen where no layer's keys depend on earlier choices."""
    model = model_of("llama", {"block_size": 4, "top_k": 2, "chunk_size": 16}, num_hidden_layers=1)
    assert_same(generate(model, hylora.SpanCache(model.config)), generate(model, use_cache=False))


def test_a_model_may_be_asked_for_the_preset_by_name():
    model = model_of("llama")
    expected = generate(model, hylora.SpanCache(model.config))
    model.set_attn_implementation("se_attn_recall")
    assert_same(generate(model, hylora.SpanCache(model.config)), expected)


@pytest.mark.slow
def test_a_compiled_model_takes_steps():
    """In graphs between the attentions, made once."""
    model = model_of("llama")
    ids = tokens(2, 40)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        cache = hylora.SpanCache(model.config)
        model(ids[:, :20], past_key_values=cache)
        step = torch.compile(model.forward)
        logits = [step(input_ids=ids[:, at : at + 1], past_key_values=cache).logits for at in range(20, 25)]
        with torch._dynamo.config.patch(error_on_recompile=True):
            logits += [step(input_ids=ids[:, at : at + 1], past_key_values=cache).logits for at in range(25, 40)]
    assert_close(torch.cat(logits, dim=1), expected[:, 20:])
