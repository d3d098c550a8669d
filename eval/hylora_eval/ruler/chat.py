# SPDX-License-Identifier: Apache-2.0
"""Samples as a chat: the question is the user's turn, and the assistant's begins with the answer's prefix."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from hylora_eval.fingerprints import text_sha256
from hylora_eval.ruler.family import Draft, Family
from hylora_eval.ruler.streams import Streams

__all__ = ["Chat", "ChatTemplate"]

# What stands for the two turns while the text around them is found.
QUESTION, ANSWER = "a-question-to-be-put-here", "an-answer-to-be-put-here"

# Some templates write the day. It is always the same, so that prompts are: an evaluation may go on tomorrow.
_DAY = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24", "%A": "Friday", "%a": "Fri"}
_SAME_DAY = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('{code}', '{text}')" for code, text in _DAY.items())
    + " }}{% endmacro %}\n"
)


class ChatTemplate:
    """The text that a tokenizer's chat template puts around a question and before an answer.

    A template that leaves a begun answer open is let do so; where it cannot, the answer's prefix follows what the
    template puts before any answer.

    Args:
        tokenizer: with a chat template.

    Attributes:
        sha256: over that text.

    Raises:
        ValueError: if the tokenizer has no chat template, or one that changes the user's words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template; leave --chat-template out, as for "
                "any base model"
            )
        text = _open_chat(tokenizer)
        self._before, question, rest = text.partition(QUESTION)
        self._between, answer, after = rest.rpartition(ANSWER)
        if not question or not answer or after or QUESTION in rest:
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path!r} does not repeat the user's words once and then let "
                "the assistant begin; leave --chat-template out"
            )
        self.sha256 = text_sha256(text)

    def wrap(self, draft: Draft) -> Draft:
        """The sample with this text around it."""
        shift = len(self._before)
        return replace(
            draft,
            input=self._before + draft.input + self._between,
            # What a template puts between turns brings the white space before an answer.
            answer_prefix=draft.answer_prefix.lstrip() if self._between else draft.answer_prefix,
            evidence=tuple((start + shift, stop + shift) for start, stop in draft.evidence),
        )


class Chat(Family):
    """Draws what another family draws, as a chat.

    Args:
        family: the other.
        template: that is put around it.
    """

    def __init__(self, family: Family, template: ChatTemplate) -> None:
        self._family, self._template = family, template
        self.name, self.unit = family.name, family.unit
        self.smallest, self.largest, self.useful = family.smallest, family.largest, family.useful

    def draw(self, size: int, streams: Streams) -> Draft:
        return self._template.wrap(self._family.draw(size, streams))


def _open_chat(tokenizer: PreTrainedTokenizerBase) -> str:
    """A chat that ends within the assistant's turn."""
    from jinja2 import TemplateError

    user, assistant = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
    options = {"tokenize": False, "chat_template": _SAME_DAY + tokenizer.get_chat_template()}
    try:
        return tokenizer.apply_chat_template([user, assistant], continue_final_message=True, **options)
    except (TemplateError, ValueError):
        return tokenizer.apply_chat_template([user], add_generation_prompt=True, **options) + ANSWER
