# SPDX-License-Identifier: Apache-2.0
"""What an audit answers, and that it leaves the model as it was."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

import hylora
from hylora import audit
from hylora.adapters import HyLoraConfig, add_adapter
from hylora.auditing.preserve import preserved
from hylora.auditing.questions import QUESTIONS
from tests.architectures.zoo import ZOO
from tests.auditing.asking import ask


def flags(model):
    """All that an audit might leave changed, beside tensors."""
    return {
        name: (
            module.training,
            getattr(module, "gradient_checkpointing", None),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
        )
        for name, module in model.named_modules()
    }


def test_the_model_is_left_as_it_was():
    model = ZOO["falcon_h1"].build(dtype=torch.bfloat16)
    hylora.set_attention(model, "se_attn", block_size=8, chunk_size=(64, 128))
    model = add_adapter(model, HyLoraConfig.for_model(model, r=2, lora_alpha=4)).train()
    kept = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    kept.grad = torch.ones_like(kept)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    places = {name: value.data_ptr() for name, value in model.state_dict().items()}
    before, config, drawn = flags(model), model.config.to_dict(), torch.get_rng_state()

    assert audit(model, "se_attn_recall")["merged"].status == "yes"

    state = model.state_dict()
    assert {name: value.data_ptr() for name, value in state.items()} == places
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    assert flags(model) == before
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == "se_attn"
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(kept.grad, torch.ones_like(kept))
    assert [p.requires_grad for p in model.parameters()].count(True) > 0


def test_hooks_can_be_removed_behind_an_audit():
    """Their handles hold on to the dictionaries that they are entries of."""
    model = ZOO["llama"].build()
    model.enable_input_require_grads()
    embedding = model.get_input_embeddings()
    hooks, handle = embedding._forward_hooks, embedding.register_forward_pre_hook(print)
    with preserved(model):
        model.lm_head.register_forward_hook(print)
        handle.remove()
    assert embedding._forward_hooks is hooks
    assert len(embedding._forward_pre_hooks) == 1
    handle.remove()
    model.disable_input_require_grads()
    assert flags(model) == flags(ZOO["llama"].build())


def test_a_peft_model_and_its_tuner_know_the_same_adapters():
    model = get_peft_model(ZOO["llama"].build(), LoraConfig(r=2, target_modules=["q_proj"]))
    known = model.peft_config
    assert ask(model, "merged")["merged"].status == "yes"
    assert model.peft_config is known
    model.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj"]))
    assert list(model.base_model.peft_config) == list(model.peft_config) == ["default", "second"]


def test_what_fails_inside_is_restored_too():
    model = ZOO["llama"].build()
    weight, data = model.lm_head.weight, model.lm_head.weight.data
    with pytest.raises(RuntimeError, match="stop"), preserved(model):
        weight.data = weight.data + 1
        model.train()
        model.lm_head.register_forward_hook(print)
        raise RuntimeError("stop")
    assert weight.data_ptr() == data.data_ptr()
    assert not model.training
    assert not model.lm_head._forward_hooks


def test_a_plain_transformer_passes():
    found = audit(ZOO["llama"].build())
    assert found.passed
    asked = {answer.name for answer in found.answers if answer.status != "not asked"}
    without = {"matched", "merged", "merged_by_peft", "span_cached", "own_features", "context_parallel"}
    assert QUESTIONS.keys() - asked == without
    assert all(answer.cause for answer in found.answers if answer.status == "not asked")


def test_the_plug_ins_refuse_what_would_leak():
    found = ask(ZOO["bamba"].build(), "packed", "context_parallel", attention="se_attn")
    assert found["packed"].status == "refused"
    assert "recurrent layers would carry state" in found["packed"].cause
    assert found["context_parallel"].status == "no"
    assert "recurrent layers" in found["context_parallel"].cause
    assert "'se_attn' has no form" in found["context_parallel"].cause


def test_a_refused_attention_leaves_nothing_to_ask():
    found = audit(ZOO["mistral"].build(sliding_window=8), "se_attn")
    refused, *others = (answer for answer in found.answers if QUESTIONS[answer.name].attention)
    assert refused.status == "refused"
    assert "sliding window of its own" in refused.cause
    assert {answer.status for answer in others} == {"not asked"}
    assert found["precise"].status == "yes"


@pytest.mark.parametrize("model_type", ["gemma2", "gpt_oss"])
def test_what_attention_does_of_its_own_is_kept(model_type):
    """Windows, bounded scores and sinks."""
    found = ask(ZOO[model_type].build(), "own_features", "span_cached", attention="se_attn_recall")
    assert [answer.status for answer in found.answers] == ["yes", "yes"]
    assert "2 of 4 attention layers have a sliding window of their own, and keep it" in found.conditions


def test_the_published_rule_is_told_for_what_it_is():
    model = ZOO["llama"].build()
    published, chosen = (ask(model, "causal", "span_cached", attention=n) for n in ("se_attn", "se_attn_recall"))
    assert published["causal"].status == "no"
    assert "before that chunk" in published["causal"].cause
    assert "selection='token'" in published["causal"].remedy
    assert published["span_cached"].status == "not asked"
    assert chosen["causal"].status == chosen["span_cached"].status == "yes"


@pytest.mark.parametrize(
    ("packing", "model_type", "statuses"),
    [
        ("eos", "bamba", ("not asked", "not asked")),
        ("documents", "bamba", ("not asked", "refused")),
        ("documents", "llama", ("yes", "yes")),
    ],
)
def test_packing_is_asked_as_a_recipe_packs(packing, model_type, statuses):
    found = ask(ZOO[model_type].build(), "packed", "indexed", attention="se_attn", packing=packing)
    assert (found["packed"].status, found["indexed"].status) == statuses


def test_outputs_that_are_no_numbers_are_no_difference():
    model = ZOO["llama"].build()
    torch.nn.init.constant_(model.lm_head.weight, torch.nan)
    answer = ask(model, "padded_left")["padded_left"]
    assert (answer.status, answer.difference) == ("no", None)
    assert "differs by nan" in answer.cause


def test_context_parallelism_needs_causal_masks_and_sdpa_alone():
    plain = ask(ZOO["llama"].build(attention_dropout=0.1), "context_parallel")
    assert plain.passed
    window = ask(ZOO["mistral"].build(sliding_window=8), "context_parallel")["context_parallel"]
    assert "not the model's own sliding window" in window.cause
    eager = ask(ZOO["llama"].build(attn_implementation="eager"), "context_parallel")["context_parallel"]
    assert "replaces 'sdpa' alone" in eager.cause


def test_an_unexpected_error_is_a_no_with_its_text(monkeypatch):
    model = ZOO["llama"].build()
    monkeypatch.setattr(model, "generate", lambda *args, **kwargs: 1 / 0)
    answer = ask(model, "cached")["cached"]
    assert answer.status == "no"
    assert answer.cause == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ask": ["paked"]}, "did you mean 'packed'"),
        ({"attention": "se_atn"}, "unknown attention 'se_atn'"),
        ({"attention": "full", "top_k": 2}, "takes no options"),
        ({"attention": "se_attn", "topk": 2}, "did you mean 'top_k'"),
        ({"top_k": 2}, "must come with an attention"),
    ],
    ids=["question", "attention", "no options", "option", "no attention"],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        audit(ZOO["llama"].build(), **arguments)
