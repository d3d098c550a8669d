# SPDX-License-Identifier: Apache-2.0
"""Greedy answers, against a loop without a cache, and whether padding can be trusted."""

from __future__ import annotations

import logging

import peft
import pytest
import torch
from transformers import BambaForCausalLM

import hylora
from hylora_eval.ruler.answering import Answerer
from tests.tiny import tiny_bamba, tiny_llama

PROMPTS = [[5, 6, 7, 8, 9] * 5, [11, 12, 13], [20, 21, 22, 23, 24, 25, 26] * 2]


def by_hand(model, prompt, steps, ends=()):
    """Greedy decoding that runs the whole sequence for every token."""
    ids = list(prompt)
    for _ in range(steps):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def test_prompts_beyond_the_models_length_are_no_cause_for_a_reminder(tokenizer):
    logger, heard = logging.getLogger("transformers.generation.stopping_criteria"), []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    try:
        Answerer(tiny_llama(max_position_embeddings=13), tokenizer).answer([PROMPTS[0]], 3)
        logger.warning("something else")
    finally:
        logger.removeHandler(handler)
    assert heard == ["something else"]


def read(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


class DeafBamba(BambaForCausalLM):
    """A model that takes a padding mask and does not look at it, as recurrent layers often do."""

    def forward(self, *args, attention_mask=None, **kwargs):
        return super().forward(*args, **kwargs)


def deaf_bamba(**fields):
    """Built anew in its own class, with the weights of `tiny_bamba`."""
    plain = tiny_bamba(**fields)
    model = DeafBamba._from_config(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    return model


@pytest.mark.parametrize("build", [tiny_llama, tiny_bamba])
def test_answers_are_those_of_a_loop_by_hand(build, tokenizer):
    model = build(seed=2)
    answerer = Answerer(model, tokenizer)
    for prompt in PROMPTS:
        (answer,) = answerer.answer([prompt], 6)
        expected = by_hand(model, prompt, 6, ends=[model.generation_config.eos_token_id])
        assert (answer.text, answer.tokens) == (read(tokenizer, expected), len(expected))


@pytest.mark.parametrize("build", [tiny_llama, tiny_bamba])
def test_answers_do_not_depend_on_those_who_share_a_batch(build, tokenizer):
    answerer = Answerer(build(seed=2), tokenizer)
    assert answerer.honours_padding()
    alone = [answerer.answer([prompt], 6)[0] for prompt in PROMPTS]
    assert answerer.answer(PROMPTS, 6) == alone


def test_a_model_that_does_not_look_at_padding_is_found_out(tokenizer):
    answerer = Answerer(deaf_bamba(), tokenizer)
    assert not answerer.honours_padding()
    alone = [answerer.answer([prompt], 6)[0] for prompt in PROMPTS]
    assert answerer.answer(PROMPTS, 6) != alone


def test_a_model_that_refuses_padding_is_found_out(tokenizer, monkeypatch):
    model = tiny_llama()
    forward = model.forward

    def refuse(*args, attention_mask=None, **kwargs):
        if attention_mask is not None and not attention_mask.all():
            raise ValueError("no padding here")
        return forward(*args, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(model, "forward", refuse)
    assert not Answerer(model, tokenizer).honours_padding()


def test_an_answer_ends_with_any_of_the_end_tokens(tokenizer):
    model = tiny_llama(seed=5)
    free = by_hand(model, PROMPTS[0], 6)
    end = next(token for token in free[1:] if token != free[0])
    kept = free[: free.index(end) + 1]
    for ends in (end, [95, end]):
        model.generation_config.eos_token_id = ends
        answers = Answerer(model, tokenizer).answer(PROMPTS[:2], 6)
        assert answers[0].tokens == len(kept)
        assert answers[0].text == read(tokenizer, kept)
        assert answers[1].tokens <= 6


def test_settings_that_come_with_the_model_are_left_aside_and_kept(tokenizer):
    model = tiny_llama()
    expected = Answerer(model, tokenizer).answer(PROMPTS[:1], 8)
    own = model.generation_config
    own.do_sample, own.temperature, own.repetition_penalty, own.no_repeat_ngram_size = True, 9.0, 5.0, 1
    own.max_length, own.min_new_tokens, own.bad_words_ids = 3, 7, [[token] for token in range(40)]
    assert Answerer(model, tokenizer).answer(PROMPTS[:1], 8) == expected
    assert model.generation_config is own and own.repetition_penalty == 5.0


def test_logits_of_a_whole_prompt_never_exist(tokenizer):
    model, seen = tiny_bamba(), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    Answerer(model, tokenizer).answer([list(range(2, 80))], 3)
    assert seen == [1, 1, 1]


def test_an_adapter_answers(tokenizer):
    model = tiny_llama(seed=6)
    before = Answerer(model, tokenizer).answer(PROMPTS[:1], 6)
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, config).eval()
    (answer,) = Answerer(adapted, tokenizer).answer(PROMPTS[:1], 6)
    assert answer.text == read(tokenizer, by_hand(adapted, PROMPTS[0], 6)) != before[0].text


def test_adapters_that_learn_prompts_are_refused(tokenizer):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="PROMPT_TUNING.* adapters are not supported"):
        Answerer(peft.get_peft_model(tiny_llama(), config), tokenizer)


def test_a_prompt_goes_through_the_attention_that_is_set(tokenizer):
    model = tiny_llama(seed=5)
    prompt = torch.randint(2, 96, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    full = Answerer(model, tokenizer).answer([prompt], 1)
    hylora.set_attention(model, "sw_attn", window=3)
    (windowed,) = Answerer(model, tokenizer).answer([prompt], 1)
    assert windowed.text == read(tokenizer, by_hand(model, prompt, 1)) != full[0].text
