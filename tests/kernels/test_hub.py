# SPDX-License-Identifier: Apache-2.0
"""The package as a kernel of the Hub: assembled here, loaded by the `kernels` package, called by transformers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import hylora_kernels
from hylora_kernels import SequenceLayout, flash_attn_forward, sliding_window_attention, span_attention
from tests.kernels.inputs import output_and_gradients, random_inputs
from tests.pages import blocks
from tests.tolerances import assert_close

ROOT = Path(__file__).parents[2]
OPTIONS = {"block_size": 4, "top_k": 2, "chunk_size": 16}


@pytest.fixture(scope="module")
def assembled(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("assemble", ROOT / "kernels/assemble.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("hub")
    module.assemble(folder / "build")
    return folder


def test_the_build_description_names_the_package():
    general = tomllib.loads((ROOT / "kernels/build.toml").read_text())["general"]
    assert general["name"].replace("-", "_") == hylora_kernels.__name__
    assert (ROOT / "kernels/torch-ext" / hylora_kernels.__name__).is_dir()
    assert not (ROOT / "kernels/torch-ext" / hylora_kernels.__name__ / "_ops.py").exists()


def test_the_build_description_has_no_unknown_fields():
    build = pytest.importorskip("kernels._rust").Build.open(ROOT / "kernels")
    assert [str(backend) for backend in build.general.backends] == ["cpu", "cuda"]


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_an_assembled_copy_holds_all_sources_and_launches(assembled, backend):
    variant = assembled / "build" / f"torch-{backend}"
    sources = Path(hylora_kernels.__file__).parent
    for suffix in ("py", "json"):
        names = {path.relative_to(sources) for path in sources.rglob(f"*.{suffix}")}
        assert names <= {path.relative_to(variant) for path in variant.rglob(f"*.{suffix}")}
    metadata = json.loads((variant / "metadata.json").read_text())
    assert (metadata["name"], metadata["backend"]) == ("hylora-kernels", {"type": backend})


def test_a_loaded_copy_computes_the_same_beside_the_package(assembled):
    copy = pytest.importorskip("kernels").get_local_kernel(assembled)
    assert set(copy.__all__) == set(hylora_kernels.__all__)
    assert copy.span_attention.__module__ != span_attention.__module__
    inputs = random_inputs(2, 4, 2, 50)
    expected = output_and_gradients(span_attention, inputs, **OPTIONS)
    for a, e in zip(output_and_gradients(copy.span_attention, inputs, **OPTIONS), expected, strict=True):
        assert torch.equal(a, e)
    # Inside graphs each copy has operators of its own.
    compiled = torch.compile(copy.span_attention, backend="aot_eager", fullgraph=True)
    assert_close(compiled(*inputs, **OPTIONS), expected[0])


def test_the_card_names_everything_public_and_its_example_runs(assembled, monkeypatch):
    kernels = pytest.importorskip("kernels")
    general = tomllib.loads((ROOT / "kernels/build.toml").read_text())["general"]
    template = pytest.importorskip("jinja2").Template((ROOT / "kernels/CARD.md").read_text(), trim_blocks=True)
    card = template.render(repo_id=general["hub"]["repo-id"], version=general["version"])
    for name in hylora_kernels.__all__:
        assert f"`{name}`" in card, name

    def get_kernel(repo_id, *, version, trust_remote_code):
        assert (repo_id, version) == (general["hub"]["repo-id"], general["version"])
        return kernels.get_local_kernel(assembled)

    monkeypatch.setattr(kernels, "get_kernel", get_kernel)
    names = {}
    exec(blocks(card, "python")[0], names)
    assert names["query"].grad.abs().sum() > 0


TRANSFORMERS = """
import importlib.metadata, sys
from transformers.utils import import_utils
version = importlib.metadata.version
# The release of the `kernels` package that this transformers asks for may be another than the installed one.
importlib.metadata.version = lambda name: import_utils.KERNELS_MIN_VERSION if name == "kernels" else version(name)
import torch
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2)
config.span_attention = {"block_size": 4, "top_k": 2, "chunk_size": [8, 16], "selection": "token",
                         "summary": "mean_std"}
torch.manual_seed(0)
model = LlamaForCausalLM(config).eval()
ids = torch.randint(32, (2, 50))
full = model(ids).logits
model.set_attn_implementation("hylora/hylora-kernels")
assert model.config._attn_implementation == "hylora/hylora-kernels"
span = model(ids).logits
torch.testing.assert_close(span[:, :16], full[:, :16])  # the first chunk sees the same
assert not torch.allclose(span[:, 16:], full[:, 16:], atol=1e-4)

# Padding on either side and neighbours in a row change nothing.
mask = torch.ones(2, 57, dtype=torch.long)
mask[0, :7] = 0
mask[1, 50:] = 0
padded = torch.zeros_like(mask).masked_scatter(mask.bool(), ids)
positions = (mask.cumsum(1) - 1).clamp(min=0)
shifted = model(padded, attention_mask=mask, position_ids=positions).logits
torch.testing.assert_close(shifted[mask.bool()].view_as(span), span)
packed = model(ids.view(1, 100), position_ids=torch.arange(50).repeat(2)[None], use_cache=False).logits
torch.testing.assert_close(packed.view_as(span), span)

# With either cache, tokens one by one get what they get in the text as a whole.
settings = dict(max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True)
dynamic, static = (model.generate(ids, cache_implementation=kind, **settings) for kind in (None, "static"))
whole = model(dynamic.sequences).logits[:, 49:-1]
for step, (a, b) in enumerate(zip(dynamic.logits, static.logits)):
    torch.testing.assert_close(a, whole[:, step])
    torch.testing.assert_close(b, whole[:, step])
print("loaded", sorted(name for name in sys.modules if name.startswith("_hylora_kernels_"))[0])
"""


def test_transformers_takes_the_kernel_by_its_name(assembled):
    pytest.importorskip("kernels")
    pytest.importorskip("transformers")
    environment = {
        **os.environ,
        "LOCAL_KERNELS": f"hylora/hylora-kernels={assembled}",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT / "kernels/torch-ext"),
    }
    command = [sys.executable, "-c", TRANSFORMERS]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "loaded _hylora_kernels_" in run.stdout


def layer(**options):
    return SimpleNamespace(config=SimpleNamespace(span_attention={**OPTIONS, **options}), is_causal=True)


def mask_of(layout):
    """What transformers makes of padding and packing: `[B, 1, L, L]`, True where a query sees a key."""
    sequence = torch.full((layout.batch, layout.length), -1)
    for number, (row, start, length) in enumerate(layout.sequences):
        sequence[row, start : start + length] = number
    same = (sequence[:, :, None] == sequence[:, None, :]) & (sequence >= 0)[:, :, None]
    return (same & torch.ones(layout.length, layout.length, dtype=torch.bool).tril())[:, None]


@pytest.mark.parametrize(
    "sequences",
    [
        ((0, 0, 50), (1, 0, 50)),
        ((0, 9, 41), (1, 0, 50)),
        ((0, 0, 33), (1, 0, 49)),
        ((0, 0, 20), (0, 20, 30), (1, 0, 1), (1, 1, 49)),
    ],
    ids=["dense", "left", "right", "packed"],
)
def test_masks_are_read_as_layouts(sequences):
    layout = SequenceLayout(2, 50, sequences)
    query, key, value = random_inputs(2, 4, 2, 50)
    mask = None if layout.is_dense else mask_of(layout)
    output, weights = flash_attn_forward(layer(chunk_size=[8, 16], window=7), query, key, value, mask, scaling=0.3)
    expected = span_attention(query, key, value, layout=layout, scale=0.3, **OPTIONS)
    assert weights is None
    assert_close(output, expected.transpose(1, 2))


TOKEN = {"selection": "token", "summary": "mean_std"}
SINKS = torch.tensor([0.5, -1.0, 2.0, 3.0], dtype=torch.float64)
SCORES = [{"softcap": 1.5}, {"s_aux": SINKS}, {"softcap": 1.5, "s_aux": SINKS}]


def of_functions(scores):
    """What layers call by their own names."""
    return {"sinks" if name == "s_aux" else name: value for name, value in scores.items()}


@pytest.mark.parametrize("scores", SCORES, ids="-".join)
@pytest.mark.parametrize("new", [50, 1, 5], ids=["prompt", "token", "tokens"])
def test_scores_are_bounded_and_sinks_passed_on(new, scores):
    layout = SequenceLayout(2, 50, ((0, 0, 50), (1, 9, 41)))
    query, key, value = random_inputs(2, 4, 2, 50)
    output, _ = flash_attn_forward(
        layer(**TOKEN), query[:, :, -new:], key, value, mask_of(layout)[:, :, -new:], **scores
    )
    expected = span_attention(query, key, value, layout=layout, **{**OPTIONS, **TOKEN}, **of_functions(scores))
    assert_close(output, expected[:, :, -new:].transpose(1, 2))


@pytest.mark.parametrize("scores", [{}, *SCORES], ids="-".join)
@pytest.mark.parametrize("new", [50, 1, 5], ids=["prompt", "token", "tokens"])
@pytest.mark.parametrize(
    "sequences", [((0, 0, 50), (1, 0, 50)), ((0, 9, 41), (1, 3, 20), (1, 23, 27))], ids=["dense", "padded and packed"]
)
def test_a_layers_own_window_stays_what_it_is(sequences, new, scores):
    layout = SequenceLayout(2, 50, sequences)
    query, key, value = random_inputs(2, 4, 2, 50)
    key_of = torch.arange(50)
    mask = mask_of(layout) & (key_of > key_of[:, None] - 7)
    seen = mask[:, :, -new:]
    output, _ = flash_attn_forward(layer(), query[:, :, -new:], key, value, seen, sliding_window=7, **scores)
    expected = sliding_window_attention(query, key, value, layout=layout, window=7, **of_functions(scores))
    assert_close(output, expected[:, :, -new:].transpose(1, 2))
    # A cache that keeps no more than the window needs no mask for one token.
    if new == 1 and layout.is_dense:
        kept = (x[:, :, -7:] for x in (key, value))
        output, _ = flash_attn_forward(layer(), query[:, :, -1:], *kept, None, sliding_window=7, **scores)
        assert_close(output, expected[:, :, -1:].transpose(1, 2))


@pytest.mark.parametrize("masked", [False, True])
def test_a_prompt_in_a_longer_static_cache_is_a_prompt(masked):
    layout = SequenceLayout(1, 50, ((0, 9, 41),)) if masked else SequenceLayout.dense(1, 50)
    query, key, value = random_inputs(1, 4, 2, 50)
    longer = [torch.nn.functional.pad(x, (0, 0, 0, 14)) for x in (key, value)]
    mask = torch.nn.functional.pad(mask_of(layout), (0, 14)) if masked else None
    output, _ = flash_attn_forward(layer(), query, *longer, mask)
    assert_close(output, span_attention(query, key, value, layout=layout, **OPTIONS).transpose(1, 2))


CONTINUING = {
    "token": TOKEN,
    "random": {"retrieval": "random", "seed": 3},
    "none": {"retrieval": "none"},
    "within a chunk": {"chunk_size": 64},
}


def continued(sequences, new, room=0):
    """The mask of the last tokens of padded sequences, with room behind the keys as a static cache has it."""
    return torch.nn.functional.pad(mask_of(SequenceLayout(2, 50, sequences))[:, :, 50 - new :], (0, room))


@pytest.mark.parametrize("new", [1, 5])
@pytest.mark.parametrize("options", CONTINUING.values(), ids=CONTINUING)
@pytest.mark.parametrize("first", [0, 9, 47], ids=["dense", "padded", "padded among the new"])
def test_queries_that_continue_a_cache_get_the_last_rows(options, first, new):
    layout = SequenceLayout(2, 50, ((0, 0, 50), (1, first, 50 - first)))
    query, key, value = random_inputs(2, 4, 2, 50)
    room = 14 if first else 0
    mask = continued(layout.sequences, new, room) if first or new > 1 else None
    longer = [torch.nn.functional.pad(x, (0, 0, 0, room)) for x in (key, value)]
    output, _ = flash_attn_forward(layer(**options), query[:, :, -new:], *longer, mask, scaling=0.3)
    whole = span_attention(query, key, value, layout=layout, scale=0.3, **{**OPTIONS, **options})
    assert_close(output, whole[:, :, -new:].transpose(1, 2))


def test_a_lone_token_is_a_prompt():
    query, key, value = random_inputs(2, 4, 2, 1)
    output, _ = flash_attn_forward(layer(), query.requires_grad_(), key, value, None)
    assert_close(output, span_attention(query, key, value, **OPTIONS).transpose(1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "selection='chunk' with summary='attention'.*chunk_size=16 tokens set selection='token'"),
        ({**TOKEN, "summary": "attention"}, "selection='token' with summary='attention'"),
        ({"selection": "causal", "query_group": 4, "summary": "mean_key"}, "selection='causal' with"),
    ],
)
def test_a_choice_by_queries_that_no_cache_holds_is_refused(options, message):
    query, key, value = random_inputs(1, 4, 2, 30)
    with pytest.raises(ValueError, match=message):
        flash_attn_forward(layer(**options), query[:, :, -1:], key, value, None)


def test_gradients_through_a_cache_are_refused():
    query, key, value = random_inputs(1, 4, 2, 30)
    with pytest.raises(ValueError, match="no gradient flows through a cache"):
        flash_attn_forward(layer(**TOKEN), query[:, :, -1:].requires_grad_(), key, value, None)


def test_a_cache_with_gaps_is_refused():
    query, key, value = random_inputs(2, 4, 2, 50)
    mask = continued(((0, 0, 50), (1, 0, 50)), 1)
    mask[1, :, :, 20:25] = False
    with pytest.raises(ValueError, match="must see one run of keys"):
        flash_attn_forward(layer(**TOKEN), query[:, :, -1:], key, value, mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 0.1}, "dropout.*0.1.*0.0"),
        ({"position_bias": 5}, "position_bias=5"),
        ({"output_attentions": True}, "output_attentions=True"),
        ({"is_causal": False}, "both directions"),
    ],
)
def test_what_is_not_computed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        flash_attn_forward(layer(), *random_inputs(1, 2, 2, 20), None, **options)


def test_masks_of_other_kinds_are_refused():
    inputs = random_inputs(1, 2, 2, 20)
    window = torch.ones(1, 1, 20, 20, dtype=torch.bool).tril().triu(-5)
    both_ways = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    for mask in (window, both_ways):
        with pytest.raises(ValueError, match="unknown kind of mask"):
            flash_attn_forward(layer(), *inputs, mask)
    with pytest.raises(ValueError, match="unknown kind of mask"):
        flash_attn_forward(layer(), *inputs, window, sliding_window=5)
    with pytest.raises(ValueError, match="not a boolean"):
        flash_attn_forward(layer(), *inputs, torch.zeros(1, 1, 20, 20))
