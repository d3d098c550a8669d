# SPDX-License-Identifier: Apache-2.0
"""The questions of an audit: how each is asked of a model, why it may fail, and what to do then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from hylora.adapters import merge_adapter
from hylora.adapters.structure import base_model
from hylora.architecture import is_recurrent, shows_positions
from hylora.attention import SpanConfig, set_attention
from hylora.attention.names import PLUG_INS
from hylora.auditing import properties, training
from hylora.auditing.boundaries import untold
from hylora.auditing.comparison import Differs, Probe, takes
from hylora.auditing.features import BEYOND_CAUSAL, survives
from hylora.generation.cache import SpanCache
from hylora.generation.time_steps import bound_time_steps, bounded_mixers

__all__ = ["QUESTIONS", "REFUSALS", "NotAsked", "Question", "Subject"]

# What a model or an attention raises to say that it can't do what is asked.
REFUSALS = (ValueError, NotImplementedError, ImportError)


class NotAsked(Exception):
    """A question that does not arise, and why."""


@dataclass(frozen=True)
class Subject:
    """What the questions are asked of.

    Args:
        model: a transformers model, or a `PeftModel` around one.
        probe: tokens for it.
        packing: how a recipe packs documents; None where there is no recipe.
        checkpointing: whether a recipe recomputes activations; None where there is no recipe.
    """

    model: nn.Module
    probe: Probe
    packing: str | None = None
    checkpointing: bool | None = None

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model."""
        return base_model(self.model)

    @property
    def span(self) -> SpanConfig | None:
        """The options of the attention, where it is one of this package's."""
        text = self.base.config.get_text_config()
        return SpanConfig.of(text) if self.attention in PLUG_INS else None

    @property
    def attention(self) -> str:
        """transformers' name of the attention."""
        return self.base.config._attn_implementation

    def leave_nothing_out(self) -> None:
        """Let the attention read all there is: new tokens read the whole of an ordinary cache, whatever it is."""
        if self.span is not None:
            long = 2 * self.probe.length
            wide = replace(self.span, chunk_size=long, query_group=1, window=long, group=long)
            set_attention(self.model, self.attention, **wide.to_dict())


def _packed(subject: Subject) -> float:
    if subject.packing == "documents" and is_recurrent(subject.base.config):
        raise NotAsked("training passes seq_idx as well, see below")
    return _pack(subject)


def _pack(subject: Subject, *, indexed: bool = False) -> float:
    if subject.packing not in (None, "documents"):
        raise NotAsked(f"the recipe packs no documents side by side (data.packing={subject.packing!r})")
    try:
        return properties.packed(subject.model.eval(), subject.probe, indexed=indexed)
    except Differs as differs:
        if not shows_positions(subject.base.config):
            cause = f"{subject.base.config.model_type!r} does not show position_ids to its mask"
        elif is_recurrent(subject.base.config):
            cause = "recurrent layers carry their state over the boundary"
        else:
            cause = "attention reads over the boundary"
        raise Differs(f"{differs}: {cause}", differs.difference) from differs


def _indexed(subject: Subject) -> float:
    try:
        return _pack(subject, indexed=True)
    except (Differs, *REFUSALS) as error:
        if is_recurrent(subject.base.config):
            error.add_note(_with_kernels(subject))
        raise


def _with_kernels(subject: Subject) -> str:
    """What to do where boundaries in `seq_idx` are not heeded on this machine."""
    silent = untold(subject.model, subject.probe)
    if silent is None or silent:
        named = f" ({', '.join(sorted(silent))})" if silent else ""
        return f"leave packing, for no kernels would help: its recurrent layers do not hand the boundaries on{named}"
    remedy = (
        "run it with kernels, for its layers hand the boundaries to them: those of the Hub (model.use_kernels), "
        "causal-conv1d and mamba-ssm, or flash-linear-attention"
    )
    told = shows_positions(subject.base.config) or subject.attention in PLUG_INS
    return remedy if told else f"{remedy}, and take an attention that reads seq_idx, as 'se_attn' does"


def _trains(check: Callable[[nn.Module, Probe], float]) -> Callable[[Subject], float]:
    def ask(subject: Subject) -> float:
        if not training.trained(subject.model):
            raise NotAsked("nothing is trainable")
        return check(subject.model, subject.probe)

    return ask


def _adapted(check: Callable[[Subject], float]) -> Callable[[Subject], float]:
    def ask(subject: Subject) -> float:
        if not isinstance(subject.model, PeftModel):
            raise NotAsked("it has no adapter")
        if not isinstance(subject.model.base_model, BaseTuner):
            raise NotAsked(f"an adapter of {type(subject.model.base_model).__name__} changes no modules")
        return check(subject)

    return ask


def _merged(merge: Callable[[PeftModel], PreTrainedModel]) -> Callable[[Subject], float]:
    return _adapted(lambda subject: training.merged(subject.model, subject.probe, merge))


def _saved(subject: Subject) -> float:
    if isinstance(subject.model, PeftModel):
        raise NotAsked("it has an adapter; the merged model is asked above")
    return properties.saved(subject.model.eval(), subject.probe)


def _by_steps(check: Callable[[Subject], float]) -> Callable[[Subject], float]:
    """Where a question fails, look whether it would not if single tokens were bounded as whole passes are."""

    def ask(subject: Subject) -> float:
        try:
            return check(subject)
        except Differs as differs:
            limits = {tuple(mixer.time_step_limit) for mixer in bounded_mixers(subject.model)}
            if not limits:
                raise
            try:
                with bound_time_steps(subject.model):
                    check(subject)
            except Exception:  # whatever it is, bounds do not mend it
                raise differs from None
            bounds = " and ".join(f"{low:g} to {high:g}" for low, high in sorted(limits))
            raise Differs(
                f"{differs}: transformers bounds the time step of its Mamba layers (from {bounds}) in whole passes, "
                "and not in steps of one token",
                differs.difference,
                "generate within hylora.bound_time_steps(model), as hylora generate does, or without a cache",
            ) from differs

    return ask


def _cached(subject: Subject) -> float:
    subject.leave_nothing_out()
    model = subject.model.eval()
    plain = properties.cached(model, subject.probe, padding=False)
    try:
        return max(plain, properties.cached(model, subject.probe))
    except Exception as error:
        error.add_note("without padding it is right; generate one prompt at a time")
        raise


def _continued(subject: Subject, **how: bool) -> float:
    subject.leave_nothing_out()
    cache = DynamicCache(config=subject.base.config.get_text_config())
    return properties.continued(subject.model.eval(), subject.probe, cache, **how)


def _positions(subject: Subject) -> float:
    if subject.packing is not None:
        raise NotAsked("hylora generate passes position_ids")
    if not takes(subject.model, "position_ids"):
        raise NotAsked("it takes no position_ids")
    with bound_time_steps(subject.model):
        try:
            _continued(subject, single=True)
        except Differs:
            raise NotAsked("with position_ids such steps are not right either") from None
        return _continued(subject, single=True, position_ids=False)


def _span_cached(subject: Subject) -> float:
    span = subject.span
    if subject.attention != "se_attn" or not span.with_chunks_of(max(span.chunk_sizes)).chooses_per_token:
        raise NotAsked("a SpanCache is for se_attn with selection='token'")
    cache = SpanCache(subject.base.config)
    return properties.cached(subject.model.eval(), subject.probe, past_key_values=cache)


def _own_features(subject: Subject) -> float:
    found = dict(survives(subject.model, subject.probe))
    dropped = [feature for feature, verdict in found.items() if verdict == "dropped"]
    if dropped:
        raise Differs(f"{subject.attention!r} drops the model's own {', '.join(dropped)} without a word")
    for verdict in found.values():
        if verdict != "survives":
            raise ValueError(verdict)
    if not found:
        raise NotAsked("its attention has no window, soft-capping, sinks, dropout or scale of its own")
    return 0.0


def _causal(subject: Subject) -> float:
    span, model = subject.span, subject.model.eval()
    if subject.attention == "se_attn" and span.selection == "chunk" and span.retrieval == "relevance":
        properties.causal(model, subject.probe, start=max(span.chunk_sizes))
        raise Differs(
            "selection='chunk' chooses a chunk's blocks with all of its queries, as published: a token may change "
            "earlier outputs of its own chunk, and none before that chunk; no decoding can repeat that"
        )
    return properties.causal(model, subject.probe)


def _checkpointed(subject: Subject) -> float:
    if subject.checkpointing is False:
        raise NotAsked("the recipe recomputes nothing (training.gradient_checkpointing=false)")
    return properties.checkpointed(subject.model, subject.probe, use_reentrant=False)


def _context_parallel(subject: Subject) -> float:
    causes = []
    if is_recurrent(subject.base.config):
        causes.append("recurrent layers would begin anew on each device, for their state is not passed on")
    if subject.attention in PLUG_INS:
        causes.append(f"{subject.attention!r} has no form in which keys travel around a ring")
    elif subject.attention != "sdpa":
        causes.append(f"accelerate's ring replaces 'sdpa' alone, and not {subject.attention!r}")
    own = [name for name, _ in survives(subject.model, subject.probe) if name in BEYOND_CAUSAL]
    if own:
        causes.append(f"the ring knows causal masks alone, and not the model's own {', '.join(own)}")
    if causes:
        raise Differs("; ".join(causes))
    return 0.0


@dataclass(frozen=True)
class Question:
    """How one question is asked, whose words are among `STATEMENTS`.

    Args:
        ask: returns the largest difference; raises `Differs` for "no" and `NotAsked`. Notes on what it raises come
            before the remedy.
        remedy: what to do about a "no".
        attention: whether the answer depends on the attention.
    """

    ask: Callable[[Subject], float]
    remedy: str
    attention: bool = True


_ROWS = "give each document its own row, or pack without boundaries (end-of-sequence tokens only)"
_FROZEN = "train in full what must train (variant='hylora' for convolutions), and leave it out of the LoRA's targets"

QUESTIONS = {
    "packed": Question(_packed, _ROWS),
    "indexed": Question(_indexed, _ROWS),
    "padded_left": Question(
        lambda subject: properties.padded(subject.model.eval(), subject.probe, left=7),
        "pad on the right if the next answer is yes, or register a mask function beside the attention function "
        "(AttentionMaskInterface)",
    ),
    "padded_right": Question(
        lambda subject: properties.padded(subject.model.eval(), subject.probe, right=7),
        "give the model rows of one length, or register a mask function beside the attention function",
    ),
    "gradients": Question(_trains(training.gradients), _FROZEN),
    "used": Question(_trains(training.used), _FROZEN),
    "precise": Question(
        _trains(lambda model, probe: training.precise(model)),
        "keep what is trained in float32 and train under autocast: hylora.add_adapter does",
        attention=False,
    ),
    "matched": Question(
        _adapted(lambda subject: training.matched(subject.model)),
        "name modules that the architecture has; print(model) lists them",
        attention=False,
    ),
    "merged": Question(_merged(merge_adapter), "load the adapter unmerged"),
    "merged_by_peft": Question(
        _merged(lambda model: model.merge_and_unload()),
        "merge with hylora.merge_adapter, as hylora export does, if the answer before is yes",
    ),
    "saved": Question(_saved, "compare the tied weights of the two models"),
    "cached": Question(_by_steps(_cached), "generate with use_cache=False"),
    "continued": Question(
        _by_steps(_continued),
        "generate from the whole text at once: no prefill in pieces, no assisted decoding, no kept prefixes",
    ),
    "positions": Question(_positions, "pass position_ids, as generate does"),
    "span_cached": Question(
        _by_steps(_span_cached),
        "generate with an ordinary cache if its answer is yes, otherwise with use_cache=False",
    ),
    "own_features": Question(
        _own_features,
        "use 'eager', or change the config if the model may do without",
    ),
    "causal": Question(_causal, "let each token choose: se_attn with selection='token'"),
    "checkpointed": Question(_checkpointed, "train without gradient checkpointing"),
    "context_parallel": Question(
        _context_parallel,
        "give each device whole sequences; shard the weights instead (FSDP2, ZeRO-3)",
    ),
}
