# SPDX-License-Identifier: Apache-2.0
"""Chat and instruction data: which tokens are learned."""

from __future__ import annotations

import pytest
from tokenizers import processors
from transformers import ByT5Tokenizer

from hylora.language.data import SourceRecipe

CHATML = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TAGGED = (
    "{% for message in messages %}<{{ message.role }}>"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<eos>{% endgeneration %}"
    "{% else %}{{ message.content }}<eos>{% endif %}{% endfor %}"
)
# Forgets what the assistant thought in earlier turns, as reasoning models do.
FORGETFUL = (
    "{% for message in messages %}<{{ message.role }}>"
    "{% if message.role == 'assistant' and not loop.last %}{{ message.content.split('|')[-1] }}"
    "{% else %}{{ message.content }}{% endif %}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def turns(*contents):
    """A conversation in which user and assistant take turns."""
    return [
        {"role": "assistant" if index % 2 else "user", "content": content} for index, content in enumerate(contents)
    ]


@pytest.fixture
def chat(write):
    def chat(*conversations):
        return SourceRecipe(write("chat.jsonl", [{"messages": messages} for messages in conversations]), kind="chat")

    return chat


@pytest.mark.parametrize("template", [CHATML, TAGGED])
def test_only_the_answers_of_a_conversation_are_learned(build, chat, make_tokenizer, show, template):
    source = chat([{"role": "system", "content": "S"}, *turns("hé", "ok ✓", "bye", " ciao")])
    (row,) = build(source, tokenizer=make_tokenizer(chat_template=template), length=65).train
    assert show(row) == "<system>S<eos><user>hé<eos><assistant>ok ✓<eos><user>bye<eos><assistant> ciao<eos>"
    labels = show(row, labels=True)
    learned = [part for part in labels.split(".") if part]
    # The check mark is three tokens of one byte each, none of which is text by itself.
    assert learned[0].startswith("ok ") and learned[0].endswith("<eos>")
    assert learned[1:] == [" ciao<eos>"]
    assert int((row["labels"] != -100).sum()) == len("ok ") + 3 + 1 + len(" ciao") + 1


def test_conversations_are_packed_with_their_labels(build, chat, make_tokenizer, show):
    source = chat(turns("a", "bc"), turns("d", "e"))
    data = build(source, tokenizer=make_tokenizer(chat_template=CHATML), length=43)
    (row,) = data.train
    assert show(row) == "<user>a<eos><assistant>bc<eos><user>d<eos><assistant>e<eos>"
    assert show(row, labels=True) == "." * 19 + "bc<eos>" + "." * 19 + "e<eos>"


def test_a_template_without_eos_is_joined_by_one_that_is_not_learned(build, chat, make_tokenizer, show):
    template = CHATML.replace("<eos>", ";")
    data = build(chat(turns("a", "b"), turns("c", "d")), tokenizer=make_tokenizer(chat_template=template), length=44)
    assert show(data.train[0]).startswith("<user>a;<assistant>b;<eos><user>c;")
    assert show(data.train[0], labels=True).startswith("." * 19 + "b;" + "." * 20 + "d;")


def test_conversations_without_an_answer_are_dropped(build, chat, make_tokenizer):
    source = chat(turns("a", "b"), turns("c"), [], turns("d", "e"))
    data = build(source, tokenizer=make_tokenizer(chat_template=CHATML), length=22)
    (counts,) = data.description["train"]
    assert (counts["documents"], counts["dropped_documents"]) == (2, 2)


def test_rows_without_a_label_are_dropped_and_counted(build, chat, make_tokenizer, show):
    source = chat(turns("a" * 40, "bc"))
    data = build(source, tokenizer=make_tokenizer(chat_template=CHATML), length=20)
    # 61 tokens: two rows of the question, one that reaches into the answer, and a tail.
    (row,) = data.train
    assert show(row, labels=True) == "." * 18 + "bc"
    (counts,) = data.description["train"]
    assert (counts["rows"], counts["dropped_rows"], counts["dropped_tokens"]) == (1, 2, 41)
    message = r"data\.sources\.0\.path=\S+ must hold an answer .*none of its 3 rows of 16 tokens does"
    with pytest.raises(ValueError, match=message):
        build(source, tokenizer=make_tokenizer(chat_template=CHATML), length=16)


def test_a_template_that_rewrites_the_past_is_refused(build, chat, make_tokenizer):
    stable = turns("a", "hm|b")
    build(chat(stable), tokenizer=make_tokenizer(chat_template=FORGETFUL), length=8)
    with pytest.raises(ValueError, match=r"data\.sources\.0\.kind='chat' must come .* rewrites them .* generation"):
        build(chat([*stable, *turns("c", "d")]), tokenizer=make_tokenizer(chat_template=FORGETFUL))


def test_a_conversation_that_the_template_refuses(build, chat, make_tokenizer):
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match=r"data\.sources\.0\.path=\S+ must hold conversations .*roles must alternate"):
        build(chat(turns("a", "b")), tokenizer=make_tokenizer(chat_template=template))


def test_chat_needs_a_template(build, chat):
    with pytest.raises(ValueError, match=r"data\.sources\.0\.kind='chat' must come with a chat template"):
        build(chat(turns("a", "b")))


def test_labels_need_a_fast_tokenizer(build, chat):
    message = r"data\.sources\.0\.kind='chat' must come with a fast tokenizer.*ByT5Tokenizer"
    with pytest.raises(ValueError, match=message):
        build(chat(turns("a", "b")), tokenizer=ByT5Tokenizer())


@pytest.mark.parametrize(
    "message",
    [
        {"from": "human", "value": "hi"},
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": 3, "content": "hi"},
    ],
)
@pytest.mark.parametrize("template", [CHATML, TAGGED])
def test_messages_need_a_role_and_a_content(build, chat, make_tokenizer, message, template):
    source = chat([message, {"role": "assistant", "content": "ho"}])
    message = r"messages_field='messages' must hold messages with 'role' and 'content', not"
    with pytest.raises(ValueError, match=message):
        build(source, tokenizer=make_tokenizer(chat_template=template))


def test_a_turn_that_calls_a_tool_may_say_nothing(build, chat, make_tokenizer, show):
    template = CHATML.replace("{{ message.content }}", "{{ message.content or message.tool_calls[0].name }}")
    source = chat([*turns("a")[:1], {"role": "assistant", "content": None, "tool_calls": [{"name": "find"}]}])
    (row,) = build(source, tokenizer=make_tokenizer(chat_template=template), length=24).train
    assert show(row, labels=True).endswith(".find<eos>")


def test_a_template_that_fails_in_its_own_way(build, chat, make_tokenizer):
    template = "{{ messages[0].content + 1 }}"
    with pytest.raises(ValueError, match=r"must hold conversations that the chat template takes, not .*concatenate"):
        build(chat(turns("a", "b")), tokenizer=make_tokenizer(chat_template=template))


def test_a_response_is_learned_with_its_end(build, write, show, make_tokenizer):
    path = write("a.jsonl", [{"prompt": "1+1=", "response": " 2"}, {"prompt": "hi", "response": "ho"}])
    data = build(SourceRecipe(path, kind="instruction"), length=12)
    assert show(data.train[0]) == "1+1= 2<eos>hi" + "ho<eos>"
    assert show(data.train[0], labels=True) == ".... 2<eos>..ho<eos>"
    # The beginning-of-sequence token is not learned either.
    tokenizer = make_tokenizer(bos="<bos>")
    row = build(SourceRecipe(path, kind="instruction"), length=14, tokenizer=tokenizer).train[0]
    assert row["labels"].tolist()[:6] == [-100] * 5 + [row["input_ids"][5].item()]


def test_an_instruction_goes_through_the_chat_template_if_there_is_one(build, write, show, make_tokenizer):
    path = write("a.jsonl", [{"question": "a", "answer": "bc"}])
    source = SourceRecipe(path, kind="instruction", prompt_field="question", response_field="answer")
    data = build(source, length=22, tokenizer=make_tokenizer(chat_template=CHATML))
    assert show(data.train[0]) == "<user>a<eos><assistant>bc<eos>"
    assert show(data.train[0], labels=True) == "." * 19 + "bc<eos>"


def test_packed_conversations_keep_labels_and_positions(build, chat, make_tokenizer, show):
    source = chat(turns("a", "bc"), turns("d", "e"))
    tokenizer = make_tokenizer(chat_template=CHATML)
    row = build(source, tokenizer=tokenizer, length=40, packing="documents").train[0]
    assert row["position_ids"].tolist() == [*range(22), *range(18)]
    assert show(row, labels=True).startswith("." * 19 + "bc<eos>.")


def test_a_tokenizer_with_trimmed_offsets_does_not_learn_the_prompt(build, write, make_tokenizer, show):
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    path = write("a.jsonl", [{"prompt": "q: ", "response": "a b"}])
    data = build(SourceRecipe(path, kind="instruction"), length=7, tokenizer=tokenizer)
    assert show(data.train[0], labels=True) == "...a b<eos>"
