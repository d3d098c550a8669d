# SPDX-License-Identifier: Apache-2.0
"""Samples within a chat template: where the turns are, what counts, and what is refused."""

from __future__ import annotations

import copy

import pytest

from hylora_eval import ruler

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Leaves the last answer out, as templates do that let a model think first.
STUBBORN = (
    "<s>{% for m in messages if m['role'] == 'user' %}[U] {{ m['content'] }} [/U]{% endfor %}"
    "{% if add_generation_prompt %}[A]{% endif %}"
)
TWICE = "{% for m in messages %}{{ m['content'] }} {{ m['content'] }}{% endfor %}"
LENGTH = 1500


def chatting(tokenizer, template):
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


@pytest.mark.parametrize("kind", ["demo", "llama2"])
@pytest.mark.parametrize("task", ["vt", "niah_single_1", "fwe"])
def test_the_question_is_the_users_turn_and_the_answer_has_begun(tokenizers, kind, task):
    tokenizer = chatting(tokenizers[kind], CHATML)
    plain = ruler.generate(task, tokenizer, LENGTH, 2)
    for record, bare in zip(ruler.generate(task, tokenizer, LENGTH, 2, chat_template=True), plain, strict=True):
        question = record.input.split("user\n", 1)[1].split("<|im_end|>")[0]
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": record.answer_prefix}]
        # As transformers renders it, but for white space at the very end, which it may drop.
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
        assert record.prompt.rstrip() == rendered.rstrip()
        assert question.startswith(("Memorize", "A special", "Read")) and not record.answer_prefix.startswith(" ")
        # The template brings its special tokens, so that none is put before it.
        ids = tokenizer(record.prompt, add_special_tokens=False)["input_ids"]
        assert record.tokens(tokenizer) == ids and record.length == len(ids) + record.tokens_to_generate
        assert LENGTH - 120 < record.length <= LENGTH and record.chat_template
        # The same question, and its evidence where it is now.
        assert record.outputs == bare.outputs
        assert [record.input[a:b] for a, b in record.evidence] == [bare.input[a:b] for a, b in bare.evidence]
        for (first, last), (start, stop) in zip(record.evidence_tokens(tokenizer), record.evidence, strict=True):
            words = tokenizer.decode(ids[first:last]).split()
            assert set(record.input[start:stop].split()[1:-1]) <= set(words)


def test_where_a_template_leaves_no_answer_open_the_prefix_follows_its_beginning(tokenizers):
    (record,) = ruler.generate("vt", chatting(tokenizers["demo"], STUBBORN), LENGTH, 1, chat_template=True)
    assert record.input.startswith("<s>[U] Memorize") and record.input.endswith(" [/U][A]")
    assert record.answer_prefix.startswith("Answer: According to the chain(s)")


def test_turns_with_nothing_between_them_stay_apart(tokenizers):
    bare = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (record,) = ruler.generate("vt", chatting(tokenizers["demo"], bare), LENGTH, 1, chat_template=True)
    assert " in the text above. Answer: According to" in record.prompt


def test_prompts_are_the_same_tomorrow(tokenizers):
    """Templates that write the day would make other prompts of it, which neither resume nor compare."""
    dated = "\n  {% if strftime_now is defined %}Today: {{ strftime_now('%d %b %Y') }}\n{% endif %}" + CHATML
    (record,) = ruler.generate("vt", chatting(tokenizers["demo"], dated), LENGTH, 1, chat_template=True)
    assert record.input.startswith("\nToday: 26 Jul 2024\n<|im_start|>user\nMemorize")


def test_what_cannot_be_a_chat_is_refused(tokenizers):
    with pytest.raises(ValueError, match="has no chat template"):
        ruler.generate("vt", tokenizers["llama2"], LENGTH, 1, chat_template=True)
    with pytest.raises(ValueError, match="does not repeat the user's words once"):
        ruler.generate("vt", chatting(tokenizers["demo"], TWICE), LENGTH, 1, chat_template=True)
    with pytest.raises(ValueError, match="mode='strict' repeats the official prompts"):
        ruler.generate("vt", chatting(tokenizers["demo"], CHATML), LENGTH, 1, mode="strict", chat_template=True)
