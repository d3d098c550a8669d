# SPDX-License-Identifier: Apache-2.0
"""Every attention and option on every architecture, for the nightly run."""

from itertools import product

import pytest
import torch

import hylora
from hylora.auditing import properties
from tests.architectures.checks import (
    PROBE,
    SMALL,
    assert_different,
    assert_same,
    assert_same_outcome,
    checkpointing,
    logits,
    outcome,
    tokens,
    with_attention,
)
from tests.architectures.kernels import boundary_kernels
from tests.architectures.matrix import MATRIX, YES
from tests.architectures.zoo import TRANSFORMERS, ZOO

pytestmark = pytest.mark.slow

SPAN = [
    {"selection": selection, "retrieval": retrieval, "summary": summary}
    for selection, retrieval, summary in product(
        ("chunk", "token"), ("relevance", "random", "none"), ("attention", "landmark", "mean_std", "representatives")
    )
    # Only relevance looks at summaries.
    if retrieval == "relevance" or summary == "attention"
]
VARIANTS = {
    **{"-".join(["se_attn", *options.values()]): ("se_attn", {**SMALL, **options}) for options in SPAN},
    "sw_attn": ("sw_attn", {"window": 12}),
    "s2_attn": ("s2_attn", {"group": 0.25}),
    "s2_attn-tokens": ("s2_attn", {"group": 16}),
}
architectures = pytest.mark.parametrize("architecture", ZOO.values(), ids=ZOO)


def suits(architecture, options):
    """Whether values are of the queries' size, where they are compared."""
    return not architecture.options or options.get("retrieval") != "relevance" or options["summary"] == "mean_std"


everything = pytest.mark.parametrize(
    ("architecture", "name", "options"),
    [
        pytest.param(architecture, *variant, id=f"{model_type}-{label}")
        for (model_type, architecture), (label, variant) in product(ZOO.items(), VARIANTS.items())
        if suits(architecture, variant[1])
    ],
)
variants = pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS)


@everything
def test_backends_agree(architecture, name, options):
    model = with_attention(architecture, name, **options, backend="reference")
    expected = outcome(model)
    hylora.set_attention(model, name, **options, backend="torch")
    assert_same_outcome(model, expected)


@everything
def test_backends_agree_in_training(architecture, name, options):
    """With drawn chunk sizes, and random blocks that change from step to step."""
    several = {**options, "chunk_size": (8, 16, 24)} if name == "se_attn" else options
    model = with_attention(architecture, name, **several, backend="reference").train()
    torch.manual_seed(3)
    expected = outcome(model)
    hylora.set_attention(model, name, **several, backend="torch")
    torch.manual_seed(3)
    assert_same_outcome(model, expected)


@everything
def test_bfloat16_under_autocast(architecture, name, options):
    """Choices of blocks may differ by rounding; what is chosen at random or not at all must come out close."""
    model = with_attention(architecture, name, **options)
    expected = logits(model, tokens(2))
    with torch.autocast("cpu", torch.bfloat16):
        actual = outcome(model.to(torch.bfloat16))
    assert all(value.isfinite().all() for value in actual.values())
    if options.get("retrieval", "none") != "relevance":
        assert (actual["logits"].float() - expected).abs().mean() < 0.1 * expected.abs().mean()


@everything
def test_no_option_sees_later_tokens(architecture, name, options):
    """A token inside a chunk: under the published rule it may change its whole chunk, under all others no past token.

    Recurrent layers and embeddings pass nothing back, so that a change before the chunk's start would be attention's.
    """
    model = with_attention(architecture, name, **options)
    ids = tokens()
    before = logits(model, ids)
    position = 40
    looks_ahead = options.get("selection") == "chunk" and options["retrieval"] == "relevance"
    first = position // options["chunk_size"] * options["chunk_size"] if looks_ahead else position
    for token in range(1, 5):
        changed = ids.clone()
        changed[0, position] = (changed[0, position] + 17 * token) % 94 + 1
        after = logits(model, changed)
        assert_same(after[:, :first], before[:, :first])
        assert_different(after[:, position], before[:, position])


def test_the_published_rule_does_look_ahead_inside_its_chunk():
    """Otherwise the test above would not be able to tell the rules apart."""
    model = with_attention(ZOO["llama"])
    ids = tokens()
    before = logits(model, ids)
    seen = []
    for token in range(1, 95):
        changed = ids.clone()
        changed[0, 40] = token
        seen.append((logits(model, changed) - before)[0, 32:40].abs().max())
    assert max(seen) > 1e-3


@everything
def test_no_option_sees_padding(architecture, name, options):
    model = with_attention(architecture, name, **options)
    ids = tokens()
    before = logits(model, ids)
    mask = torch.nn.functional.pad(torch.ones_like(ids), (6, 0))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = torch.nn.functional.pad(ids, (6, 0))
    assert_same(logits(model, padded, attention_mask=mask, position_ids=positions)[:, 6:], before)


@pytest.mark.parametrize("architecture", TRANSFORMERS, ids=lambda architecture: architecture.model_type)
@variants
def test_packed_rows(architecture, name, options):
    if MATRIX[architecture.model_type, "packed"] != YES or not suits(architecture, options):
        pytest.skip("refused")
    properties.packed(with_attention(architecture, name, **options), PROBE)


@pytest.mark.parametrize("model_type", sorted(ZOO.keys() - {"jamba"}))
@variants
def test_packed_rows_on_kernels(model_type, name, options):
    if not suits(ZOO[model_type], options):
        pytest.skip("refused")
    model = with_attention(ZOO[model_type], name, **options)
    with boundary_kernels(model):
        properties.packed(model, PROBE, indexed=True)


@architectures
def test_reentrant_checkpointing(architecture):
    checkpointing(architecture, use_reentrant=True)
