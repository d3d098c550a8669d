# SPDX-License-Identifier: Apache-2.0
"""RoPE scaling gives the rotations of its formula, in real models, and nothing where there is nothing to rotate."""

from __future__ import annotations

import copy
import logging
import math
import re

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import hylora
from hylora import RopeScaling
from hylora_eval.commands.model_options import ModelOptions
from tests.architectures.zoo import ZOO
from tests.command_line import run
from tests.pages import page
from tests.tiny import tiny_bamba, tiny_llama, tiny_mamba2attn
from tests.tolerances import assert_close

ORIGINAL, LENGTH, FACTOR = 24, 60, 3.0
IDS = torch.arange(1, LENGTH + 1)[None]
SPAN = {"block_size": 4, "top_k": 2, "chunk_size": 16, "summary": "mean_std"}
TYPES = ("linear", "dynamic", "yarn")
BUILD = {**{name: architecture.build for name, architecture in ZOO.items()}, "mamba2attn": tiny_mamba2attn}
# Configurations of these architectures that have rotary positions.
ROTATING = {name: {} for name in BUILD if name not in ("jamba", "nemotron_h")}
# A quarter of its heads is rotated; dynamic scaling has no base for one pair alone.
ROTATING["qwen3_next"] = {"head_dim": 32}
ROTATING["granitemoehybrid"] = {"position_embedding_type": "rope"}
ROTATING["zamba2"] = {"use_mem_rope": True}
# Of these, the ones with parameters of their own, which no scaling replaces.
OWN_ROTATION = ("gemma3_text", "gpt_oss")
# Configurations of architectures that have none.
NOT_ROTATING = {
    "jamba": {},
    "nemotron_h": {},
    "granitemoehybrid": {"position_embedding_type": None},
    "zamba2": {"use_mem_rope": False},
    "olmo_hybrid": {"rope_parameters": {"rope_theta": None, "rope_type": "default"}},
}


def frequencies(kind: str, theta: float, dim: int, factor: float, original: int, length: int) -> Tensor:
    """Radians per position of each rotated pair, in float64, written from the papers."""
    exponent = torch.arange(0, dim, 2, dtype=torch.float64) / dim
    if kind == "dynamic":
        stretch = factor * max(length, original) / original - (factor - 1)
        return (theta * stretch ** (dim / (dim - 2))) ** -exponent
    plain = theta**-exponent
    if kind == "default":
        return plain
    if kind == "linear":
        return plain / factor

    def pair_that_turns(times: float) -> float:
        """The (fractional) pair i with original * theta^(-2i/dim) = 2 pi times."""
        return dim / 2 * math.log(original / (2 * math.pi * times), theta)

    first, last = max(math.floor(pair_that_turns(32)), 0), min(math.ceil(pair_that_turns(1)), dim - 1)
    divided = ((torch.arange(dim // 2) - first) / max(last - first, 0.001)).clamp(0, 1).double()
    return plain * (1 - divided) + plain / factor * divided


def magnitude(kind: str, factor: float) -> float:
    """What YaRN multiplies queries and keys with."""
    return 0.1 * math.log(factor) + 1 if kind == "yarn" else 1.0


def scaled(model, scaling, length=None):
    """The same weights under another RoPE."""
    config = copy.deepcopy(model.config)
    scaling.apply(config, length)
    other = type(model)._from_config(config, attn_implementation=model.config._attn_implementation).eval()
    other.load_state_dict(model.state_dict())
    return other


def rotary(model):
    return next(module for module in model.modules() if hasattr(module, "inv_freq"))


def rotate_by(model, angles):
    """Make a model rotate by `angles(position_ids)` [B, L, pairs], scaled by the second value it returns."""

    def replace(module, args, kwargs, output):
        position_ids = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        angle, scale = angles(position_ids)
        return tuple(
            (function(torch.cat([angle, angle], -1)) * scale).to(output[0]) for function in (torch.cos, torch.sin)
        )

    rotary(model).register_forward_hook(replace, with_kwargs=True)


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids, use_cache=False).logits


@pytest.mark.parametrize("attention", ["full", "se_attn"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", [name for name in ROTATING if name not in OWN_ROTATION])
def test_a_scaled_model_rotates_by_the_formula(name, kind, attention):
    model = BUILD[name](max_position_embeddings=ORIGINAL, **ROTATING[name])
    if attention == "se_attn":
        hylora.set_attention(model, "se_attn", **SPAN)
    found, plain = logits(scaled(model, RopeScaling(type=kind, factor=FACTOR))), logits(model)
    theta, dim = model.config.rope_parameters["rope_theta"], 2 * len(rotary(model).inv_freq)
    expected = frequencies(kind, theta, dim, FACTOR, ORIGINAL, LENGTH)
    rotate_by(model, lambda positions: (positions[..., None].double() * expected, magnitude(kind, FACTOR)))
    # Zamba2's logits move by 1e-4 if its weights do by float32's precision.
    torch.testing.assert_close(found, logits(model), atol=2e-4, rtol=0)
    assert (found - plain).abs().max() > 5e-3


def test_linear_scaling_is_feeding_positions_divided_by_the_factor():
    model = tiny_bamba(max_position_embeddings=ORIGINAL)
    found = logits(scaled(model, RopeScaling(factor=4.0)))

    def divide(module, args, kwargs):
        kwargs["position_ids"] = kwargs["position_ids"] / 4 if "position_ids" in kwargs else args[1] / 4
        return args[:1], kwargs

    rotary(model).register_forward_pre_hook(divide, with_kwargs=True)
    assert_close(found, logits(model))


@pytest.mark.parametrize("partial", [1.0, 0.5])
@pytest.mark.parametrize("length", [2048, 5000])
@pytest.mark.parametrize("kind", TYPES)
def test_frequencies_of_a_real_size_are_the_formulas(kind, length, partial):
    config = LlamaConfig(
        head_dim=128,
        max_position_embeddings=2048,
        rope_parameters={"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": partial},
    )
    RopeScaling(type=kind, factor=8).apply(config)
    embedding = LlamaRotaryEmbedding(config)
    cos, sin = embedding(torch.zeros(1), torch.tensor([[length - 1]]))
    expected = frequencies(kind, 1e4, int(128 * partial), 8.0, 2048, length)
    torch.testing.assert_close(embedding.inv_freq.double(), expected, rtol=2e-6, atol=0)
    assert_close((cos**2 + sin**2).sqrt(), torch.full_like(cos, magnitude(kind, 8.0)))


def test_yarn_spares_fast_rotations_and_divides_slow_ones():
    """The bounds of the paper (its equations 17 and 18), whatever lies between them."""
    config = LlamaConfig(head_dim=128, max_position_embeddings=2048)
    plain = LlamaRotaryEmbedding(config).inv_freq
    RopeScaling(type="yarn", factor=8, beta_fast=16, beta_slow=2, attention_factor=1.0).apply(config)
    embedding = LlamaRotaryEmbedding(config)
    turns = 2048 * plain / (2 * math.pi)
    ratio = embedding.inv_freq / plain
    assert (turns > 16).sum() > 10 and (turns < 2).sum() > 10
    assert_close(ratio[turns > 16], torch.ones_like(ratio[turns > 16]))
    assert_close(ratio[turns < 2], torch.full_like(ratio[turns < 2], 1 / 8))
    assert (ratio.diff() <= 1e-6).all()
    assert embedding.attention_scaling == 1.0


def test_dynamic_scaling_leaves_short_sequences_alone():
    model = tiny_llama(max_position_embeddings=ORIGINAL)
    dynamic = scaled(model, RopeScaling(type="dynamic", factor=FACTOR))
    assert torch.equal(logits(dynamic, IDS[:, :ORIGINAL]), logits(model, IDS[:, :ORIGINAL]))


def test_dynamic_scaling_remembers_the_longest_sequence_until_a_short_one():
    """The trap of it, as documented: what came before decides how a sequence between both lengths is read."""
    dynamic = scaled(tiny_llama(max_position_embeddings=ORIGINAL), RopeScaling(type="dynamic", factor=FACTOR))
    between = IDS[:, : ORIGINAL + 8]
    fresh = logits(dynamic, between)
    logits(dynamic, IDS)
    assert not torch.allclose(logits(dynamic, between), fresh, atol=1e-3)
    logits(dynamic, IDS[:, :1])
    assert torch.equal(logits(dynamic, between), fresh)


@pytest.mark.parametrize("kind", TYPES)
def test_decoding_equals_a_full_forward_unless_the_base_moves(kind):
    model = scaled(tiny_llama(max_position_embeddings=ORIGINAL), RopeScaling(type=kind, factor=FACTOR))
    ids = IDS[:, : ORIGINAL + 12]
    cache, steps = DynamicCache(config=model.config), []
    with torch.no_grad():
        for token in ids.split(1, dim=1):
            steps.append(model(token, past_key_values=cache, use_cache=True).logits)
    error = (
        torch.cat(steps, 1) - torch.cat([logits(model, ids[:, :end])[:, -1:] for end in range(1, ids.shape[1] + 1)], 1)
    ).abs()
    assert error[:, :ORIGINAL].max() < 2e-5
    # Under dynamic scaling, cached keys keep the base of the length at which they were rotated.
    assert (error[:, ORIGINAL:].max() < 2e-5) == (kind != "dynamic")


@pytest.mark.parametrize("kind", TYPES)
def test_gradients_survive_checkpointing(kind):
    scaling = RopeScaling(type=kind, factor=FACTOR)
    gradients = []
    for checkpointing in (False, True):
        model = tiny_bamba(max_position_embeddings=ORIGINAL)
        hylora.set_attention(model, "se_attn", **SPAN)
        model = scaled(model, scaling).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        # Two lengths: under dynamic scaling the base changes from one pass to the next.
        for length in (LENGTH, ORIGINAL + 1):
            model(IDS[:, :length], labels=IDS[:, :length], use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    plain, checkpointed = gradients
    assert any("q_proj" in name and grad.abs().max() > 0 for name, grad in plain.items())
    for name in plain:
        assert_close(checkpointed[name], plain[name])


@pytest.mark.parametrize("kind", TYPES)
def test_the_longest_sequence_is_in_the_config(kind, tmp_path):
    model = tiny_llama(max_position_embeddings=ORIGINAL)
    config = copy.deepcopy(model.config)
    applied = RopeScaling(type=kind, factor=2.5).apply(config)
    # transformers computes the base of dynamic scaling from max_position_embeddings: there it must stay.
    assert applied["max_position_embeddings"] == (ORIGINAL if kind == "dynamic" else 60)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    for name, value in applied.items():
        assert getattr(again, name) == value == getattr(config, name)
    # Plain transformers builds the same model from it.
    other = AutoModelForCausalLM.from_config(again)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other.eval()), logits(scaled(model, RopeScaling(type=kind, factor=2.5))))


@pytest.mark.parametrize("kind", TYPES)
def test_a_config_that_promises_too_much_can_be_corrected(kind):
    """Some hybrids were trained with 4096 tokens and say 262,144."""
    model = tiny_bamba(max_position_embeddings=262144)
    corrected = RopeScaling(type=kind, original_max_position_embeddings=ORIGINAL)
    honest = tiny_bamba(max_position_embeddings=ORIGINAL)
    found = scaled(model, corrected, length=48)
    assert torch.equal(logits(found), logits(scaled(honest, RopeScaling(type=kind, factor=2))))
    assert found.config.max_position_embeddings == (ORIGINAL if kind == "dynamic" else 48)


def test_dynamic_scaling_of_a_config_that_sets_its_context_itself(tmp_path):
    """Zamba2's `use_long_context` makes it 16384, whatever was saved."""
    corrected = RopeScaling(type="dynamic", factor=2.0, original_max_position_embeddings=ORIGINAL)
    config = ZOO["zamba2"].build(use_mem_rope=True, use_long_context=True).config
    with pytest.raises(ValueError, match=r"starts from max_position_embeddings=24, but .*'zamba2'.* read with 16384"):
        corrected.apply(config)
    applied = RopeScaling(type="dynamic", factor=2.0).apply(config)
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).max_position_embeddings == applied["max_position_embeddings"] == 16384


def test_auto_is_the_length_over_the_models_own():
    config = tiny_llama(max_position_embeddings=2048).config
    assert RopeScaling().apply(config, 16384)["rope_parameters"]["factor"] == 8.0
    assert config.max_position_embeddings == 16384
    with pytest.raises(ValueError, match=r"linear:auto has no sequence length"):
        RopeScaling().apply(tiny_llama().config)


def test_auto_leaves_alone_what_fits_and_says_so(caplog):
    config = tiny_llama().config
    before = config.to_dict()
    with caplog.at_level(logging.WARNING):
        assert RopeScaling(type="yarn").apply(config, 4096) == {}
    assert "yarn:auto: nothing is scaled, for 4096 tokens fit into the 4096 positions" in caplog.text
    assert config.to_dict() == before


@pytest.mark.parametrize("name", NOT_ROTATING)
def test_models_without_rotary_positions_are_left_alone_or_refused(name, caplog):
    config = BUILD[name](max_position_embeddings=ORIGINAL, **NOT_ROTATING[name]).config
    before = config.to_dict()
    with caplog.at_level(logging.WARNING):
        assert RopeScaling().apply(config, LENGTH) == {}
    assert f"model_type='{name}', as configured, has no rotary positions" in caplog.text
    with pytest.raises(ValueError, match="linear:2 has nothing to scale.*no rotary positions; leave the scaling out"):
        RopeScaling(factor=2.0).apply(config)
    assert config.to_dict() == before


@pytest.mark.parametrize(
    "rope_parameters",
    [
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 2048},
    ],
)
def test_a_model_with_scaling_of_its_own_is_refused(rope_parameters):
    config = tiny_llama(rope_parameters=rope_parameters).config
    with pytest.raises(ValueError, match="would replace the model's own RoPE parameters"):
        RopeScaling(factor=2.0).apply(config)
    # A recipe shared by several models asks for nothing here.
    assert RopeScaling().apply(config, 4096) == {}


def test_parameters_by_layer_type_are_refused():
    plain = {"rope_type": "default", "rope_theta": 1e4}
    config = AutoConfig.for_model(
        "gemma3_text",
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=32,
        vocab_size=64,
        rope_parameters={"full_attention": dict(plain), "sliding_attention": dict(plain)},
        layer_types=["sliding_attention", "full_attention"],
    )
    with pytest.raises(ValueError, match="own RoPE parameters .*sliding_attention.*not the plain ones"):
        RopeScaling(factor=2.0).apply(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "ntk"}, "type='ntk' is not one of linear, dynamic, yarn"),
        ({"factor": 0.5}, "factor=0.5 must be at least 1"),
        ({"factor": math.inf}, "factor=inf must be"),
        ({"factor": "4"}, "factor='4' must be"),
        ({"beta_fast": 16.0}, "beta_fast=16.0 is an option of type='yarn', but type='linear'"),
        ({"type": "yarn", "beta_fast": 1.0}, "beta_slow=1.0 must be above 0 and below beta_fast=1.0"),
        ({"type": "yarn", "attention_factor": 0.0}, "attention_factor=0.0 must be above 0"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings=0 must be at least 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        RopeScaling(**options)


def test_a_scaling_is_written_as_it_is_read():
    assert RopeScaling.parse("yarn:4") == RopeScaling(type="yarn", factor=4.0)
    assert str(RopeScaling.parse("dynamic:2.5")) == "dynamic:2.5"
    for text in ("yarn", "yarn:", "yarn:auto", "4"):
        with pytest.raises(ValueError, match="TYPE:FACTOR"):
            RopeScaling.parse(text)


@pytest.mark.parametrize("kind", TYPES)
def test_a_model_can_be_stretched_when_it_is_loaded(kind, tmp_path):
    model = tiny_bamba(max_position_embeddings=ORIGINAL)
    model.save_pretrained(tmp_path)
    rope = RopeScaling(type=kind, factor=FACTOR)
    loaded = hylora.load(tmp_path, "se_attn", rope=rope, **SPAN)
    hylora.set_attention(model, "se_attn", **SPAN)
    assert torch.equal(logits(loaded), logits(scaled(model, rope)))
    # In a bfloat16 model too, angles are computed from float32 frequencies.
    half = hylora.load(tmp_path, rope=rope, dtype=torch.bfloat16)
    logits(half)
    assert torch.equal(rotary(half).inv_freq, rotary(loaded).inv_freq)
    assert rotary(half).inv_freq.dtype == torch.float32
    with pytest.raises(ValueError, match="auto has no sequence length"):
        hylora.load(tmp_path, rope=RopeScaling(type=kind))


def test_a_model_can_be_stretched_on_the_command_line(tmp_path):
    model = tiny_llama(max_position_embeddings=ORIGINAL)
    model.save_pretrained(tmp_path)
    options = ModelOptions(str(tmp_path), device="cpu", rope="yarn:3")
    loaded = options.load_model()
    assert torch.equal(logits(loaded), logits(scaled(model, RopeScaling(type="yarn", factor=FACTOR))))
    assert options.header("perplexity", loaded)["model"]["rope_parameters"]["factor"] == FACTOR
    with pytest.raises(ValueError, match="--rope: factor=0.5 must be at least 1"):
        ModelOptions(str(tmp_path), rope="yarn:0.5")
    assert "TYPE:FACTOR" in run("eval", "ppl", "--help", terminal_width=200).output


def test_the_table_of_architectures_is_what_transformers_builds():
    text = page("docs/guides/rope.md")
    rows = re.findall(r"^\| `(\w+)` \| (yes|no|if|unless)\b[^|]*\| ([^|]*)\|", text, flags=re.MULTILINE)
    assert {name for name, _, _ in rows} == set(BUILD)
    for name, rotates, share in rows:
        # Under "if" and "unless", the configurations that the tests above use rotate, or do not.
        assert (name in ROTATING, name in NOT_ROTATING) == (rotates != "no", rotates != "yes"), name
        if name in ROTATING:
            model = BUILD[name](**ROTATING[name])
            attention = [module for module in model.modules() if hasattr(module, "q_proj")]
            sizes = (getattr(module, name, None) for module in attention for name in ("qk_head_dim", "head_dim"))
            pairs = next(len(buffer) for name, buffer in model.named_buffers() if name.endswith("inv_freq"))
            assert float(share) == pytest.approx(2 * pairs / next(filter(None, sizes)), abs=0.005), name
        if rotates in ("if", "unless"):
            default = AutoConfig.for_model(name)
            unset = all(getattr(default, field) == value for field, value in NOT_ROTATING[name].items())
            assert unset == (rotates == "if"), name
