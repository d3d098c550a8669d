# SPDX-License-Identifier: Apache-2.0
"""What a SpanCache holds after each operation: continued from there, a model says what it says from scratch."""

import copy
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, DynamicCache

import hylora
from hylora.generation import bytes_held
from tests.architectures.zoo import ZOO
from tests.generation.cases import (
    NARROW,
    assert_close,
    mask_with,
    model_of,
    positions_of,
    recomputed,
    tokens,
)
from tests.tiny import tiny_bamba, tiny_llama, tiny_qwen2


class Continued:
    """A batch that goes through a model piece by piece, with a cache, beside what it holds."""

    def __init__(self, model, cache=None):
        self.model = model
        self.cache = hylora.SpanCache(model.config) if cache is None else cache
        self.ids = self.mask = None

    def feed(self, ids, mask=None):
        """The next piece; its logits must be those of the whole batch without a cache."""
        mask = torch.ones_like(ids) if mask is None else mask
        if self.ids is not None:
            ids, mask = torch.cat([self.ids, ids], dim=1), torch.cat([self.mask, mask], dim=1)
        new = slice(self.cache.get_seq_length(), None)
        positions, real = positions_of(mask)[:, new], mask[:, new].bool()
        with torch.no_grad():
            given = {"attention_mask": mask, "position_ids": positions, "past_key_values": self.cache}
            logits = self.model(ids[:, new], **given).logits
        assert_close(logits[real], recomputed_rows(self.model, ids, mask)[:, new][real])
        assert self.cache.get_seq_length() == ids.shape[1]
        self.ids, self.mask = ids, mask

    def take(self, rows):
        self.ids, self.mask = self.ids[rows], self.mask[rows]

    def crop(self, columns):
        self.cache.crop(-columns)
        kept = self.ids.shape[1] - columns
        self.ids, self.mask = self.ids[:, :kept], self.mask[:, :kept]


def recomputed_rows(model, ids, mask):
    """`recomputed`, each row without its padding, which may lie between its pieces as well."""
    logits = ids.new_zeros(*ids.shape, model.config.vocab_size, dtype=model.dtype)
    for row, real in enumerate(mask.bool()):
        if real.any():
            logits[row, real] = recomputed(model, ids[row : row + 1, real])[0]
    return logits


@pytest.fixture(params=["llama", "bamba", "qwen2"], scope="module")
def model(request):
    return model_of(request.param)


def filled(model, length=30):
    batch = Continued(model)
    ids = tokens(3, length)
    batch.feed(ids, mask_with(ids, 7, 0, 3))
    return batch


def test_reorder(model):
    batch = filled(model)
    rows = torch.tensor([2, 2, 0])
    batch.cache.reorder_cache(rows)
    batch.take(rows)
    for seed in range(3):
        batch.feed(tokens(3, 1, seed))


def test_select_and_repeat(model):
    batch = filled(model)
    batch.cache.batch_select_indices(torch.tensor([2, 0]))
    batch.take([2, 0])
    batch.feed(tokens(2, 3))
    batch.cache.batch_repeat_interleave(3)
    batch.take([0, 0, 0, 1, 1, 1])
    batch.feed(tokens(6, 1, seed=1))


def test_a_copy_goes_its_own_way(model):
    """A prefix that several prompts share is computed once."""
    batch = filled(model)
    other = copy.deepcopy(batch)
    other.feed(tokens(3, 5, seed=1))
    batch.feed(tokens(3, 2, seed=2))
    other.feed(tokens(3, 1, seed=3))


def test_reset(model):
    batch = filled(model)
    batch.cache.reset()
    assert batch.cache.get_seq_length() == 0
    Continued(model, batch.cache).feed(tokens(3, 11))


@pytest.mark.parametrize("removed", [1, 3, 4, 13, 28])
def test_crop(removed):
    """Inside a block, to its end, before its beginning, into a chunk before, and into padding."""
    batch = filled(model_of("llama"))
    batch.crop(removed)
    for seed in range(2):
        batch.feed(tokens(3, 1, seed))
    batch.feed(tokens(3, 7, seed=3))


def test_recurrent_layers_refuse_to_be_cropped():
    batch = filled(model_of("bamba"))
    with pytest.raises(ValueError, match="copy.deepcopy"):
        batch.cache.crop(-1)
    batch.feed(tokens(3, 1))
    with pytest.raises(ValueError, match="negative"):
        filled(model_of("llama")).cache.crop(1)


def test_windows_take_back_what_they_still_hold():
    batch = Continued(model_of("qwen2", sliding_window=16))
    batch.feed(tokens(3, 12))
    batch.crop(3)
    batch.feed(tokens(3, 9, seed=1))
    with pytest.raises(ValueError, match="windows of 16 tokens have let go .*activate_past_recording"):
        batch.cache.crop(-1)
    batch.feed(tokens(3, 1, seed=2))
    batch.cache.activate_past_recording()
    batch.feed(tokens(3, 4, seed=3))
    with pytest.raises(ValueError, match="have let go"):
        batch.cache.crop(-5)
    batch.crop(3)
    batch.feed(tokens(3, 2, seed=4))


def test_pieces_may_be_padded_on_either_side():
    """As when every row of a batch of chats has its next turn."""
    batch = filled(model_of("llama"))
    ids = tokens(3, 6, seed=1)
    for side in ("left", "right"):
        mask = mask_with(ids, 4, 6, 2)
        batch.feed(ids, mask if side == "left" else mask.flip(1))
    batch.feed(tokens(3, 1, seed=2))


@pytest.mark.parametrize(("name", "cause"), [("bamba", "recurrent layers would see"), ("qwen2", "would count")])
def test_recurrent_layers_and_windows_refuse_padding_between_tokens(name, cause):
    batch = filled(model_of(name))
    ids = tokens(3, 6, seed=1)
    with pytest.raises(ValueError, match=f"between the tokens of row 2, and .*{cause}"):
        batch.feed(ids, mask_with(ids, 0, 6, 2))


def test_a_row_may_begin_later_than_others(model):
    batch = Continued(model)
    ids = tokens(2, 9)
    batch.feed(ids, mask_with(ids, 9, 2))
    batch.feed(ids, mask_with(ids, 3, 0))
    batch.feed(tokens(2, 1))


ACTIONS = st.one_of(
    st.tuples(st.just("feed"), st.integers(1, 20)),
    st.tuples(st.just("steps"), st.integers(1, 4)),
    st.tuples(st.just("crop"), st.integers(1, 20)),
    st.tuples(st.just("reorder"), st.lists(st.integers(0, 2), min_size=3, max_size=3)),
)


@settings(max_examples=15, deadline=None)
@given(st.booleans(), st.lists(st.integers(0, 9), min_size=3, max_size=3), st.lists(ACTIONS, min_size=1, max_size=6))
def test_any_schedule_holds_what_recomputation_says(offload, left, actions):
    batch, seeds = Continued(_ONE_LAYER, hylora.SpanCache(_ONE_LAYER.config, offload=offload)), iter(range(100))
    ids = tokens(3, 13)
    batch.feed(ids, mask_with(ids, *left))
    for action, what in actions:
        if action == "feed":
            batch.feed(tokens(3, what, next(seeds)))
        elif action == "steps":
            for _ in range(what):
                batch.feed(tokens(3, 1, next(seeds)))
        elif action == "crop":
            batch.crop(min(what, batch.ids.shape[1]))
        else:
            batch.cache.reorder_cache(torch.tensor(what))
            batch.take(what)
    batch.feed(tokens(3, 1, seed=99))


_ONE_LAYER = model_of("llama", num_hidden_layers=1)


@pytest.mark.parametrize("name", ["sdpa", "eager", "sw_attn", "s2_attn"])
def test_another_attention_stops_and_changes_nothing(name):
    model = model_of("llama")
    batch = filled(model)
    model.set_attn_implementation(name)
    with pytest.raises(ValueError, match="SpanCache holds what span-expanded attention reads"):
        batch.feed(tokens(3, 1))
    hylora.set_attention(model, "se_attn")
    batch = Continued(model, batch.cache)
    assert batch.cache.get_seq_length() == 30


def test_a_mask_that_hides_what_is_held_is_refused():
    batch = filled(model_of("llama"))
    arguments = {"position_ids": torch.full((3, 1), 30), "past_key_values": batch.cache}
    for mask, message in (
        (torch.ones(3, 31), r"shows \[30, 30, 30\] tokens .* holds \[23, 30, 27\]"),
        (None, r"shows \[30, 30, 30\] tokens .* holds \[23, 30, 27\]"),
        (torch.ones(3, 1), "of both"),
    ):
        with torch.no_grad(), pytest.raises(ValueError, match=message):
            batch.model(tokens(3, 1), attention_mask=mask, **arguments)


@pytest.mark.parametrize("name", ["llama", "bamba", "qwen2"])
def test_a_pass_that_was_broken_off_is_noticed(name, monkeypatch):
    """As when somebody stops it: the layers behind that one lack its tokens, and would shift those to come."""
    batch = filled(model_of(name))
    last = batch.cache.layers[-1]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), torch.no_grad():
        patch.setattr(last, "attend", Mock(side_effect=KeyboardInterrupt))
        batch.feed(tokens(3, 1))
    with pytest.raises(ValueError, match="31 tokens and others 30"):
        batch.feed(tokens(3, 1))


def test_other_numbers_of_rows_are_refused():
    """As when beams go on from a prefix of one row."""
    model = model_of("llama")
    prefix, prompt = Continued(model), tokens(1, 9)
    prefix.feed(prompt[:, :5])
    with pytest.raises(ValueError, match="3 rows, and the cache holds 1; repeat"):
        model.generate(prompt, past_key_values=prefix.cache, num_beams=3, max_new_tokens=2)
    prefix.cache.batch_repeat_interleave(3)
    found = model.generate(prompt, past_key_values=prefix.cache, num_beams=3, max_new_tokens=2)
    expected = model.generate(prompt, use_cache=False, num_beams=3, max_new_tokens=2)
    assert torch.equal(found, expected)


def test_options_must_stay_those_of_the_cache():
    batch = filled(model_of("llama"))
    hylora.set_attention(batch.model, "se_attn", **{**NARROW, "top_k": 3})
    with pytest.raises(ValueError, match="start with a new cache"):
        batch.feed(tokens(3, 1))


def test_a_cache_filled_in_inference_mode_can_be_used_outside_of_it():
    model = model_of("llama")
    batch = Continued(model)
    with torch.inference_mode():
        batch.feed(tokens(2, 9))
        batch.cache.batch_repeat_interleave(2)
        batch.take([0, 0, 1, 1])
        other = copy.deepcopy(batch)
        other.feed(tokens(4, 1, seed=1))
    other.feed(tokens(4, 1, seed=2))
    batch.feed(tokens(4, 1))


def test_gradients_are_refused(model):
    with pytest.raises(ValueError, match="no gradient flows"):
        model(tokens(1, 9), past_key_values=hylora.SpanCache(model.config))


def test_a_model_without_attention_needs_no_span_cache():
    with pytest.raises(ValueError, match="no full attention"):
        hylora.SpanCache(tiny_bamba(attn_layer_indices=[]).config)


def test_room_for_no_token_is_refused():
    with pytest.raises(ValueError, match="capacity=0"):
        hylora.SpanCache(tiny_llama().config, capacity=0)


def test_layers_that_attend_in_chunks_are_refused():
    config = tiny_llama(layer_types=["chunked_attention", "full_attention"], attention_chunk_size=8).config
    with pytest.raises(ValueError, match="DynamicSlidingWindowLayer"):
        hylora.SpanCache(config)


def test_windows_alone_need_no_span_cache():
    config = tiny_qwen2(layer_types=["sliding_attention"] * 4).config
    with pytest.raises(ValueError, match="no full attention"):
        hylora.SpanCache(config)


def test_latent_vectors_are_refused():
    with pytest.raises(ValueError, match="latent vectors .*kv_lora_rank=512.*DynamicCache"):
        hylora.SpanCache(AutoConfig.for_model("deepseek_v3", num_hidden_layers=2))


def test_a_model_that_forgets_its_state_takes_one_token_at_a_time():
    model = ZOO["jamba"].build()
    hylora.set_attention(model, "se_attn", **NARROW)
    batch = Continued(model)
    batch.feed(tokens(2, 9))
    with pytest.raises(ValueError, match="prefill_chunk_size"):
        batch.feed(tokens(2, 2))
    batch.feed(tokens(2, 1))


def test_bfloat16(model):
    """The same numbers as an ordinary cache, where everything is retrieved."""
    model = copy.deepcopy(model).to(torch.bfloat16)
    ids = tokens(2, 40)
    logits = {}
    for name, make in (("se_attn", hylora.SpanCache), ("full", lambda config: DynamicCache(config=config))):
        hylora.set_attention(model, name, **({**NARROW, "top_k": 64} if name == "se_attn" else {}))
        cache = make(model.config)
        with torch.no_grad():
            model(ids[:, :30], past_key_values=cache)
            steps = [
                model(ids[:, at : at + 1], position_ids=torch.tensor([[at]]), past_key_values=cache).logits
                for at in range(30, 40)
            ]
        logits[name] = torch.cat(steps, dim=1).float()
    assert (logits["se_attn"] - logits["full"]).abs().mean() < 0.02 * logits["full"].abs().mean()


def test_offloaded_keys_give_the_same(model):
    plain, host = filled(model), Continued(model, hylora.SpanCache(model.config, offload=True))
    host.feed(plain.ids, plain.mask)
    for seed in range(3):
        host.feed(tokens(3, 1, seed))
    host.feed(tokens(3, 20, seed=3))


@pytest.mark.slow
def test_a_thousand_tokens_take_the_room_of_a_thousand_tokens():
    model = model_of("llama", num_hidden_layers=1)
    cache = hylora.SpanCache(model.config, capacity=1500)
    with torch.no_grad():
        model(tokens(1, 500), past_key_values=cache)
        at_first = bytes_held(cache)
        for seed in range(1000):
            model(tokens(1, 1, seed), past_key_values=cache)
    # Keys and values of 2 heads of 8, and for each block of 4 two float32 vectors, for 1500 tokens.
    assert bytes_held(cache) == at_first
    assert at_first < 1.01 * 4 * (1500 * 2 * 2 * 8 + 375 * 2 * 2 * 8)
    assert cache.layers[0].columns._runs == [[(0, 1500)]]
    grown = hylora.SpanCache(model.config)
    with torch.no_grad():
        for seed in range(15):
            model(tokens(1, 100, seed), past_key_values=grown)
    assert bytes_held(grown) < 1.3 * at_first
