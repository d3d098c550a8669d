# SPDX-License-Identifier: Apache-2.0
"""`hylora.audit`: ask a model all questions, and leave it as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers.utils import logging

from hylora.adapters.structure import base_model
from hylora.architecture import attention_layers, windowed_layers
from hylora.attention import resolve_name, set_attention
from hylora.auditing.answers import NO, NOT_ASKED, REFUSED, YES, Answer, Audit
from hylora.auditing.comparison import Differs, Probe
from hylora.auditing.preserve import preserved
from hylora.auditing.questions import QUESTIONS, REFUSALS, NotAsked, Subject
from hylora.auditing.statements import BY_NAME, STATEMENTS, check_asked
from hylora.auditing.training import perturb, trained

__all__ = ["audit"]

# Of sparse attention at audit scale: short sequences hold several chunks, and most tokens read less than all.
_SMALL = {"block_size": 4, "top_k": 2, "window": 12}
_CHUNK, _CHUNKS = 16, (8, 16)


def audit(
    model: nn.Module,
    attention: str | None = None,
    *,
    ask: Iterable[str] = (),
    tolerance: float = 3e-5,
    packing: str | None = None,
    checkpointing: bool | None = None,
    progress: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Audit:
    """Ask what training and generation take for granted, by running the model on random tokens.

    The questions are those of `hylora.auditing.statements`. They are asked in float32, and of an adapter changed by
    noise as after training. Afterwards the model is as it was.

    Args:
        model: a causal language model of transformers, or a `PeftModel` around one, on one device.
        attention: the attention to ask about; None for the one it has.
        ask: names of the questions to ask; all but those of `BY_NAME` if none.
        tolerance: the largest difference that counts as rounding, relative to the largest value.
        packing: how a recipe packs documents ("none", "eos" or "documents"); questions it does not raise aren't asked.
        checkpointing: whether a recipe uses gradient checkpointing.
        progress: called with each question.
        **options: fields of `SpanConfig` for the attention. Sizes of blocks and chunks are replaced by small ones.

    Returns:
        The answers.

    Raises:
        ValueError: if the attention, an option or a name in `ask` is unknown.
    """
    asked = set(ask)
    check_asked(asked, attention, options)
    base = base_model(model)
    text = base.config.get_text_config()
    embedding = base.get_input_embeddings().weight
    probe = Probe(min(text.vocab_size, embedding.shape[0]), tolerance=tolerance, device=embedding.device)
    subject = Subject(model, probe, packing, checkpointing)
    conditions = [f"{probe.length} random tokens, float32, differences up to {tolerance:g} are rounding"]
    answers = []
    with preserved(model), _quiet():
        refusal = _choose(subject, attention, options, conditions)
        for name, question in QUESTIONS.items():
            if asked and name not in asked:
                continue
            statement = STATEMENTS[name]
            progress(statement)
            if name in BY_NAME and name not in asked:
                answers.append(Answer(name, statement, NOT_ASKED, BY_NAME[name]))
            elif refusal and question.attention and any(answer.status == REFUSED for answer in answers):
                answers.append(Answer(name, statement, NOT_ASKED, "the model refuses this attention, see above"))
            elif refusal and question.attention:
                remedy = "change what it names, or use the attention that the model was trained with"
                answers.append(Answer(name, statement, REFUSED, str(refusal), remedy))
            else:
                answers.append(_ask(name, subject))
        if isinstance(model, PeftModel):
            conditions.append("what the adapter trains was changed by noise, as training would")
    conditions.append(f"attention: {attention or base.config._attn_implementation}")
    if windowed := windowed_layers(text):
        layers = len(attention_layers(text))
        conditions.append(
            f"{len(windowed)} of {layers} attention layers have a sliding window of their own, and keep it"
        )
    return Audit(_describe(model), tuple(conditions), tuple(answers))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and warnings about what an audit merges, saves and loads, which nobody keeps."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _choose(
    subject: Subject, attention: str | None, options: dict[str, Any], conditions: list[str]
) -> ValueError | None:
    """Set the attention, at audit scale; returns why the model refuses it, if it does."""
    base = subject.base
    if attention is not None:
        wanted = resolve_name(attention, base.config)
        try:
            set_attention(subject.model, attention, **options)
            if base.config._attn_implementation != wanted:
                raise ValueError(f"{type(base).__name__} computes attention itself, and {attention!r} is not used")
        except ValueError as error:
            return error
    if (span := subject.span) is not None:
        chunks = _CHUNKS if len(span.chunk_sizes) > 1 else _CHUNK
        small = replace(
            span,
            **_SMALL,
            chunk_size=chunks,
            query_group=min(span.query_group, 4),
            representatives=min(span.representatives, _SMALL["block_size"]),
            group=span.group if isinstance(span.group, float) else _CHUNK,
        )
        set_attention(subject.model, subject.attention, **small.to_dict())
        sizes = ", ".join(f"{name}={value}" for name, value in {**_SMALL, "chunk_size": chunks}.items())
        conditions.append(f"sparse attention at the scale of the audit ({sizes}), its rule as asked for")
    return None


def _ask(name: str, subject: Subject) -> Answer:
    question, statement, model = QUESTIONS[name], STATEMENTS[name], subject.model
    with preserved(model):
        # Of the types in which the model is kept, one question asks.
        if name != "precise":
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.dtype in (torch.bfloat16, torch.float16):
                    tensor.data = tensor.data.float()
            if isinstance(model, PeftModel):
                perturb(list(trained(model).values()))
        try:
            difference = question.ask(subject)
        except NotAsked as reason:
            return Answer(name, statement, NOT_ASKED, str(reason))
        except Differs as differs:
            return Answer(
                name,
                statement,
                NO,
                str(differs),
                _remedy(differs, differs.remedy or question.remedy),
                differs.difference,
            )
        except Exception as error:
            refused = isinstance(error, REFUSALS)
            cause = str(error) if refused else f"{type(error).__name__}: {error}"
            remedy = _remedy(error, "" if refused else question.remedy)
            return Answer(name, statement, REFUSED if refused else NO, cause.strip(), remedy)
    return Answer(name, statement, YES, difference=difference)


def _remedy(error: Exception, remedy: str) -> str:
    return "; or ".join(filter(None, [*getattr(error, "__notes__", []), remedy]))


def _describe(model: nn.Module) -> str:
    base = base_model(model)
    adapter = f" with the adapter {model.active_adapter!r}" if isinstance(model, PeftModel) else ""
    where = f" ({base.config.name_or_path})" if base.config.name_or_path else ""
    return f"{type(base).__name__}{where}{adapter}, {base.config.get_text_config().num_hidden_layers} layers"
