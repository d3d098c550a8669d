# SPDX-License-Identifier: Apache-2.0
"""From raw records to tokenised documents."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import datasets
import numpy as np
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerFast

from hylora.language.data.recipe import SourceRecipe
from hylora.language.loss import IGNORED
from hylora.runs.fingerprint import tokenizer_fingerprint

__all__ = ["DocumentEncoder", "tokenize"]

# Part of every cache key: to be raised when the same record would give other tokens or labels.
_VERSION = 2

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


class DocumentEncoder:
    """Turns records of one source into token ids, labels and a key of the content.

    A document ends in the EOS token where the tokenizer has one, whatever the packing. Only tokens that answer carry a
    label in chat and instruction data; text has no labels of its own (every token is one).

    Args:
        source: which fields make a document, and how.
        tokenizer: a transformers tokenizer; a fast one for chat and instruction data.
        key: how the recipe names the source, for messages.

    Raises:
        ValueError: if the tokenizer lacks what the kind of data needs.
    """

    def __init__(self, source: SourceRecipe, tokenizer: Any, key: str) -> None:
        self.kind = source.kind
        self.path = source.path
        self.tokenizer = tokenizer
        self.key = key
        self.columns = {
            "text": [source.text_field],
            "chat": [source.messages_field],
            "instruction": [source.prompt_field, source.response_field],
        }[source.kind]
        if self.kind != "text" and not tokenizer.is_fast:
            raise ValueError(
                f"{key}.kind={self.kind!r} must come with a fast tokenizer, which tells where the answers are, and "
                f"{type(tokenizer).__name__} is not one; load it with use_fast=True or convert it to a tokenizer.json"
            )
        if self.kind == "chat" and not tokenizer.chat_template:
            raise ValueError(
                f"{key}.kind='chat' must come with a chat template, and the tokenizer has none; set "
                "tokenizer.chat_template, take the tokenizer of an instruction-tuned model, or use kind 'instruction'"
            )

    @property
    def fingerprint(self) -> str:
        """The same for the same output, in any process."""
        return json.dumps([_VERSION, self.kind, self.columns, tokenizer_fingerprint(self.tokenizer)])

    @property
    def features(self) -> datasets.Features:
        """Columns of the tokenised documents; "labels" only where they differ from the tokens."""
        ids = datasets.List(datasets.Value("int32"))
        labels = {} if self.kind == "text" else {"labels": ids}
        return datasets.Features({"input_ids": ids, **labels, "key": datasets.Value("int64")})

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        """Tokenise records given column by column.

        Returns:
            The columns of `features`. Empty documents and those without anything to learn are left out.
        """
        records = [_without_none(record) for record in zip(*(batch[name] for name in self.columns), strict=True)]
        records = [record for record in records if self._is_filled(record)]
        if self.kind == "text":
            encoded = [(ids, ids) for ids in self._encode_texts([text for (text,) in records])]
        else:
            encode = self._encode_chat if self.kind == "chat" else self._encode_instruction
            encoded = [encode(*record) for record in records]
        kept = [index for index, (_, labels) in enumerate(encoded) if any(label != IGNORED for label in labels)]
        columns = {
            "input_ids": [encoded[index][0] for index in kept],
            "labels": [encoded[index][1] for index in kept],
            "key": [self.content_key(records[index]) for index in kept],
        }
        return {name: columns[name] for name in self.features}

    def content_key(self, record: tuple) -> int:
        """A 63-bit hash of a document's content, whatever its source, its place in it or the names of its fields."""
        content = json.dumps([_without_none(value) for value in record], sort_keys=True)
        return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") >> 1

    def _is_filled(self, record: tuple) -> bool:
        """Whether there is anything in a record; raises when it is not what the kind of data promises."""
        if record[-1] in (None, "", []):
            return False
        expected = list if self.kind == "chat" else str
        for name, value in zip(self.columns, record, strict=True):
            if not isinstance(value, expected):
                wanted = "a list of messages" if self.kind == "chat" else "text"
                raise ValueError(
                    f"{self.key}.path={self.path!r} must hold {wanted} in the field {name!r}, not {_shorten(value)}; "
                    "name another field, or another kind of data"
                )
        return True

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        """Token ids of plain texts, with the special tokens that the tokenizer adds."""
        if not texts:
            return []
        if _adds_nothing(self.tokenizer):
            backend = self.tokenizer.backend_tokenizer
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = self.tokenizer.split_special_tokens
            # Without the offsets, which nobody asks for here: about 1.4 times as fast.
            return [self._end(encoding.ids) for encoding in backend.encode_batch_fast(texts)]
        # verbose=False: documents are longer than the model's context by design.
        encoded = self.tokenizer(texts, verbose=False, return_attention_mask=False, return_token_type_ids=False)
        return [self._end(ids) for ids in encoded["input_ids"]]

    def _encode_instruction(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """Token ids and labels of a prompt and its response: through the chat template if there is one."""
        if self.tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            return self._encode_chat(messages)
        spans = [(len(prompt), len(prompt) + len(response))]
        ids, labels = self._label_spans(prompt + response, spans, add_special_tokens=True)
        ids = self._end(ids)
        end = self.tokenizer.eos_token_id
        if end is not None:
            # The response is over here, which is for the model to learn.
            labels = labels[: len(ids) - 1] + [end]
        return ids, labels

    def _encode_chat(self, messages: list[dict]) -> tuple[list[int], list[int]]:
        """Token ids of a conversation, with labels on the assistant's turns."""
        for message in messages:
            named = isinstance(message, dict) and isinstance(message.get("role"), str)
            # A turn that calls tools may say nothing.
            if not named or not message.keys() & {"content", "tool_calls"}:
                raise ValueError(
                    f"{self.key}.messages_field={self.columns[0]!r} must hold messages with 'role' and 'content', not "
                    f"{_shorten(message)} as in {self.path!r}; correct or remove it, or name another field"
                )
        if _GENERATION_TAG.search(self.tokenizer.get_chat_template()):
            encoded = self._apply_template(
                messages, return_dict=True, return_assistant_tokens_mask=True, tokenizer_kwargs={"verbose": False}
            )
            ids = encoded["input_ids"]
            answers = encoded["assistant_masks"]
            labels = [token if answer else IGNORED for token, answer in zip(ids, answers, strict=True)]
        else:
            text = self._apply_template(messages, tokenize=False)
            # The template has written every special token it wants.
            ids, labels = self._label_spans(text, self._answer_spans(messages, text), add_special_tokens=False)
        ended = self._end(ids)
        return ended, labels + [IGNORED] * (len(ended) - len(labels))

    def _answer_spans(self, messages: list[dict], text: str) -> list[tuple[int, int]]:
        """Where the assistant's turns lie in the rendered conversation, from rendering its beginnings."""
        spans = []
        for index, message in enumerate(messages):
            # A turn that answers nothing is context.
            if message["role"] != "assistant" or index == 0:
                continue
            before = self._apply_template(messages[:index], tokenize=False, add_generation_prompt=True)
            after = self._apply_template(messages[: index + 1], tokenize=False)
            if not (after.startswith(before) and text.startswith(after)):
                raise ValueError(
                    f"{self.key}.kind='chat' must come with a chat template that leaves earlier turns alone, and it "
                    f"rewrites them (in a conversation of {len(messages)} messages): the assistant's cannot be found; "
                    "mark them in tokenizer.chat_template with {% generation %} and {% endgeneration %}"
                )
            spans.append((len(before), len(after)))
        return spans

    def _apply_template(self, messages: list[dict], **options: Any) -> Any:
        """The tokenizer's own method, with a message that says where the conversation came from."""
        try:
            return self.tokenizer.apply_chat_template(messages, **options)
        except Exception as error:  # a template is a program, and may fail in any way
            raise ValueError(
                f"{self.key}.path={self.path!r} must hold conversations that the chat template takes, not "
                f"{_shorten(messages)} ({error}); correct or remove it, or change tokenizer.chat_template"
            ) from error

    def _label_spans(
        self, text: str, spans: list[tuple[int, int]], add_special_tokens: bool
    ) -> tuple[list[int], list[int]]:
        """Token ids of a text, and labels for the tokens that begin inside the spans of characters."""
        encoded = self.tokenizer(
            text, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False
        )
        ids = np.array(encoded["input_ids"], dtype=np.int64)
        begins, ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
        learned = np.zeros(len(ids), dtype=bool)
        for start, stop in spans:
            # An empty token at the very start is whitespace trimmed from the prompt, or a special token.
            learned |= (begins >= start) & (begins < stop) & ((begins > start) | (ends > start))
        return ids.tolist(), np.where(learned, ids, IGNORED).tolist()

    def _end(self, ids: list[int]) -> list[int]:
        """The ids with one EOS token at the end, if there is such a token."""
        end = self.tokenizer.eos_token_id
        return ids if end is None or ids[-1:] == [end] else [*ids, end]


def tokenize(dataset: datasets.Dataset, encoder: DocumentEncoder, num_proc: int | None) -> datasets.Dataset:
    """Tokenise a dataset once; later calls, in any process, read the result from the cache.

    Args:
        dataset: raw records with the encoder's columns.
        encoder: makes the documents.
        num_proc: processes to use; `None` for this one.

    Returns:
        A memory-mapped dataset with the columns of `encoder.features`.
    """
    # Our own key: hashing the function would hash the tokenizer's Python state, which changes as it is used.
    fingerprint = Hasher.hash([dataset._fingerprint, encoder.fingerprint])
    return dataset.map(
        encoder,
        batched=True,
        batch_size=64,
        num_proc=num_proc,
        remove_columns=dataset.column_names,
        features=encoder.features,
        new_fingerprint=fingerprint,
        desc=f"Tokenising {encoder.path}",
    )


def _adds_nothing(tokenizer: Any) -> bool:
    """Whether calling a tokenizer is calling its backend: some architectures' do more."""
    return isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(type(tokenizer), name, None) is getattr(PreTrainedTokenizerFast, name, None)
        for name in ("__call__", "_encode_plus")
    )


def _without_none(value: Any) -> Any:
    """The value without the empty fields that Arrow adds so that all records look alike."""
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_none(item) for item in value)
    return value


def _shorten(value: Any) -> str:
    """A value's beginning, for messages."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
