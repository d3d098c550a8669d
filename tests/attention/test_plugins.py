# SPDX-License-Identifier: Apache-2.0
"""The attention plug-ins inside real (tiny) models."""

import copy

import pytest
import torch
from accelerate.big_modeling import _attach_context_parallel_hooks
from transformers import AutoModelForCausalLM, StaticCache

import hylora
from hylora.attention import chunk_size_of
from hylora_kernels import span_attention
from tests.architectures.zoo import ZOO
from tests.tiny import tiny_bamba, tiny_llama, tiny_qwen2
from tests.tolerances import assert_close

BUILDERS = {"bamba": tiny_bamba, "llama": tiny_llama, "qwen2": tiny_qwen2}
NAMES = ("se_attn", "sw_attn", "s2_attn")
SMALL = {"block_size": 4, "top_k": 2, "chunk_size": 16, "window": 12, "query_group": 8}


def ids(batch=2, length=50, seed=0):
    return torch.randint(1, 96, (batch, length), generator=torch.Generator().manual_seed(seed))


def with_attention(model, name, **options):
    hylora.set_attention(model, name, **{**SMALL, **options})
    return model


def logits(model, tokens, **arguments):
    with torch.no_grad():
        return model(tokens, use_cache=False, **arguments).logits


@pytest.fixture(params=BUILDERS)
def model(request):
    return BUILDERS[request.param]()


@pytest.mark.parametrize("model", ["bamba", "llama"], indirect=True)
def test_a_chunk_as_long_as_the_sequence_is_full_attention(model):
    tokens = ids()
    full = logits(model, tokens)
    assert torch.equal(logits(with_attention(model, "se_attn", chunk_size=50), tokens), full)
    assert not torch.allclose(logits(with_attention(model, "se_attn", chunk_size=16), tokens), full, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_backends_agree_in_logits_and_gradients(model, name):
    gradients = {}
    for backend in ("reference", "torch"):
        other = with_attention(copy.deepcopy(model).double(), name, backend=backend)
        loss = other(ids(), labels=ids(), use_cache=False).loss
        loss.backward()
        gradients[backend] = [parameter.grad for parameter in other.parameters() if parameter.grad is not None]
    for fast, slow in zip(gradients["torch"], gradients["reference"], strict=True):
        assert_close(fast, slow)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(model, name, side):
    with_attention(model, name)
    tokens = ids(1, 41)
    pad = torch.zeros(1, 9, dtype=torch.long)
    ones, zeros = torch.ones_like(tokens), pad
    parts = (pad, tokens), (zeros, ones)
    padded, mask = (torch.cat(part if side == "left" else part[::-1], dim=1) for part in parts)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    batch = torch.cat([padded, ids(1, 50, seed=1)])
    mask = torch.cat([mask, torch.ones(1, 50, dtype=torch.long)])
    positions = torch.cat([positions, torch.arange(50)[None]])
    output = logits(model, batch, attention_mask=mask, position_ids=positions)
    assert_close(output[:1][:, mask[0].bool()], logits(model, tokens))
    assert_close(output[1:], logits(model, batch[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_packed_sequences_do_not_see_each_other(name):
    model = with_attention(tiny_llama(), name)
    first, second = ids(1, 33), ids(1, 45, seed=1)
    positions = torch.cat([torch.arange(33), torch.arange(45)])[None]
    packed = logits(model, torch.cat([first, second], dim=1), position_ids=positions)
    assert_close(packed[:, :33], logits(model, first))
    assert_close(packed[:, 33:], logits(model, second))


def test_packed_input_on_a_recurrent_model_is_refused():
    model = with_attention(tiny_bamba(), "se_attn")
    positions = torch.cat([torch.arange(20), torch.arange(30)])[None]
    with pytest.raises(ValueError, match="recurrent layers would carry state"):
        logits(model, ids(1, 50), position_ids=positions)


def test_boundaries_that_only_attention_reads_do_not_help_a_recurrent_model():
    model = with_attention(tiny_bamba(), "se_attn")
    positions = torch.cat([torch.arange(20), torch.arange(30)])[None]
    with pytest.raises(ValueError, match="recurrent layers would carry state"):
        logits(model, ids(1, 50), position_ids=positions, cu_seq_lens_q=torch.tensor([0, 20, 50]))


def test_boundaries_must_be_those_of_the_positions():
    model = with_attention(tiny_llama(), "se_attn")
    boundaries = torch.tensor([0, 20, 50])
    positions = torch.cat([torch.arange(20), torch.arange(30)])[None]
    packed = logits(model, ids(1, 50), position_ids=positions, cu_seq_lens_q=boundaries)
    assert torch.equal(packed, logits(model, ids(1, 50), position_ids=positions))
    with pytest.raises(ValueError, match="position_ids that restart"):
        logits(model, ids(1, 50), cu_seq_lens_q=boundaries)


def test_attention_weights_are_refused(model):
    with_attention(model, "se_attn")
    with pytest.raises(ValueError, match="attention weights"):
        logits(model, ids(), output_attentions=True)


def test_packing_that_the_mask_does_not_show_is_refused():
    model = with_attention(tiny_llama(), "se_attn")
    positions = torch.cat([torch.arange(20), torch.arange(30)])[None]
    with pytest.raises(ValueError, match="use_cache=False"):
        model(ids(1, 50), position_ids=positions, use_cache=True)


def test_causal_selection_never_looks_ahead(model):
    with_attention(model, "se_attn", selection="causal")
    tokens = ids(1, 64)
    before = logits(model, tokens)
    for position in (63, 40, 17):
        changed = tokens.clone()
        changed[0, position] = changed[0, position] % 94 + 1
        after = logits(model, changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.equal(after[:, position], before[:, position])


@pytest.mark.parametrize("name", NAMES)
def test_generation_continues_the_prompt_with_full_attention(model, name):
    """Prefill with the plug-in, then one full-attention step per token: the same as doing so by hand."""
    with_attention(model, name)
    prompt = ids(2, 37)
    mask = torch.ones_like(prompt)
    mask[0, :5] = 0
    generated = model.generate(
        prompt,
        attention_mask=mask,
        max_new_tokens=3,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = logits(model, prompt, attention_mask=mask, position_ids=positions)[:, -1]
    assert_close(generated.logits[0], expected)
    assert generated.sequences.shape == (2, 40)


def test_a_static_cache_gives_the_same_prefill():
    model = with_attention(tiny_llama(), "se_attn")
    tokens = ids(1, 50)
    with torch.no_grad():
        output = model(tokens, past_key_values=StaticCache(config=model.config, max_cache_len=80)).logits
    assert_close(output, logits(model, tokens))


def test_generation_with_a_static_cache(model):
    """`generate` then builds the masks itself, ahead of the model."""
    with_attention(model, "se_attn")
    prompt, mask = ids(2, 37), torch.ones(2, 37, dtype=torch.long)
    mask[0, :5] = 0
    arguments = {"attention_mask": mask, "max_new_tokens": 4, "output_logits": True, "return_dict_in_generate": True}
    static = model.generate(prompt, do_sample=False, cache_implementation="static", **arguments)
    dynamic = model.generate(prompt, do_sample=False, **arguments)
    assert torch.equal(static.sequences, dynamic.sequences)
    assert_close(torch.stack(static.logits), torch.stack(dynamic.logits))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_replays_random_chunk_sizes(model, use_reentrant):
    with_attention(model, "se_attn", chunk_size=(8, 16, 24, 32), seed=3)
    model.train()

    def gradients(checkpointing):
        other = copy.deepcopy(model)
        if checkpointing:
            other.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            other.enable_input_require_grads()
        torch.manual_seed(11)
        other(ids(), labels=ids(), use_cache=False).loss.backward()
        return [parameter.grad for parameter in other.parameters()]

    for plain, replayed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, replayed, atol=1e-6, rtol=1e-5)


def test_chunk_sizes_vary_over_layers_and_steps_and_repeat_with_the_draw():
    options = hylora.SpanConfig(block_size=4, chunk_size=(8, 16, 32))
    drawn = {(draw, layer): chunk_size_of(options, draw, layer) for draw in range(20) for layer in range(4)}
    assert set(drawn.values()) == {8, 16, 32}
    assert all(chunk_size_of(options, draw, layer) == size for (draw, layer), size in drawn.items())
    assert any(drawn[draw, 0] != drawn[draw, 1] for draw in range(20))
    assert chunk_size_of(options, None, 0) == 32


def test_layers_that_share_attention_draw_each_their_own(monkeypatch):
    """Zamba2 numbers all its attention -1. A layer that checkpointing runs again draws what it drew before."""
    model = ZOO["zamba2"].build().train()
    with_attention(model, "se_attn", chunk_size=(8, 16, 24, 32), retrieval="random")
    model.gradient_checkpointing_enable()
    drawn = []

    def recording(query, key, value, options, **arguments):
        drawn.append((options.chunk_size, options.seed))
        return span_attention(query, key, value, options, **arguments)

    monkeypatch.setattr("hylora.attention.functions.span_attention", recording)
    seen = set()
    for step in range(6):
        drawn.clear()
        torch.manual_seed(step)
        model(ids(), labels=ids(), use_cache=False).loss.backward()
        forward, again = drawn[:3], drawn[3:]
        assert again == forward[::-1]
        assert len({seed for _, seed in forward}) == 3
        seen.add(tuple(size for size, _ in forward))
    assert any(len(set(sizes)) > 1 for sizes in seen) and len(seen) > 1


def test_evaluation_uses_the_largest_chunk(model):
    tokens = ids()
    several = logits(with_attention(model, "se_attn", chunk_size=(8, 24)), tokens)
    assert torch.equal(several, logits(with_attention(model, "se_attn", chunk_size=24), tokens))


def test_bfloat16_stays_close(model):
    with_attention(model, "se_attn", retrieval="none")
    expected = logits(model, ids())
    actual = logits(model.to(torch.bfloat16), ids()).float()
    assert (actual - expected).abs().mean() < 0.1 * expected.abs().mean()


def test_options_survive_saving(model, tmp_path):
    with_attention(model, "se_attn", top_k=1)
    expected = logits(model, ids())
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="se_attn")
    assert torch.equal(logits(loaded, ids()), expected)


def test_four_dimensional_masks_are_refused(model):
    with_attention(model, "se_attn")
    mask = torch.ones(2, 1, 50, 50, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match="two-dimensional attention_mask"):
        logits(model, ids(), attention_mask=mask)


@pytest.mark.parametrize("name", NAMES)
def test_context_parallelism_is_refused_by_name(name):
    """accelerate takes the mask away, under which every process would attend within its part of a sequence."""
    model = tiny_llama(attn_implementation=name)
    _attach_context_parallel_hooks(model)
    with pytest.raises(ValueError, match=rf"{name} got no mask, as context parallelism .*cp_size to 1; FSDP2"):
        model(torch.arange(8)[None])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"position_bias": torch.zeros(4, 8, 8)}, "additive position bias"),
        ({"dropout": 0.1}, "no attention dropout"),
        ({"is_causal": False}, "attends in both directions"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_features_that_are_not_computed_are_refused(arguments, message):
    from hylora.attention.functions import FUNCTIONS

    module = tiny_llama().model.layers[0].self_attn
    states = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match=message):
        FUNCTIONS["se_attn"](module, states, states, states, None, **arguments)


def test_a_layer_keeps_its_window_and_no_other():
    """Under a plug-in that reads all there is the whole model is what it is without; a window as wide changes that."""
    model, tokens = tiny_qwen2(), ids()
    full = logits(model, tokens)
    with_attention(model, "sw_attn", window=50)
    assert_close(logits(model, tokens), full)
    model.config.sliding_window = 50
    assert not torch.allclose(logits(tiny_qwen2(sliding_window=50), tokens), full, atol=1e-3)


def test_a_window_that_the_mask_does_not_show_is_refused():
    model = with_attention(tiny_qwen2(), "se_attn")
    model.model.layers[1].self_attn.sliding_window = 8
    with pytest.raises(ValueError, match="Qwen2Attention asks for .*sliding_window=8.*its mask shows none"):
        logits(model, ids())


def test_windows_beside_full_attention_change_none_of_its_draws(monkeypatch):
    drawn = []

    def recording(query, key, value, options, **arguments):
        drawn.append((options.chunk_size, options.seed))
        return span_attention(query, key, value, options, **arguments)

    monkeypatch.setattr("hylora.attention.functions.span_attention", recording)
    for build in (tiny_qwen2, tiny_llama):
        model = with_attention(build(), "se_attn", chunk_size=(8, 16, 24, 32), retrieval="random").train()
        torch.manual_seed(5)
        model(ids(), labels=ids(), use_cache=False)
    assert len(drawn) == 4
    assert drawn[:2] == drawn[2:]
