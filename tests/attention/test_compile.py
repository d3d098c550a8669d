# SPDX-License-Identifier: Apache-2.0
"""Whole models inside `torch.compile`, checkpointed and sharded: the attention operators among everything else."""

import copy
from functools import partial

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import hylora
from hylora.training.processes import whole
from hylora_kernels import backends, torch_backend
from tests.node_counter import NodeCounter
from tests.tiny import tiny_bamba, tiny_llama, tiny_qwen2
from tests.tolerances import assert_close

# A window in one layer, and full attention in the other.
WINDOWED = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
BUILDERS = {"bamba": tiny_bamba, "llama": tiny_llama, "qwen2": partial(tiny_qwen2, **WINDOWED)}
OPERATORS = {
    "se_attn": "span_attention",
    "sw_attn": "sliding_window_attention",
    "s2_attn": "shifted_sparse_attention",
}
SMALL = {"block_size": 4, "top_k": 2, "chunk_size": 16, "window": 12, "query_group": 8}
IDS = torch.randint(1, 96, (2, 50), generator=torch.Generator().manual_seed(0))
PADDING = torch.ones_like(IDS)
PADDING[0, :7] = 0
PACKED = torch.cat([torch.arange(20), torch.arange(30)])[None]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def build(kind, name="se_attn", **options):
    model = BUILDERS[kind]()
    hylora.set_attention(model, name, **{**SMALL, **options})
    return model


def logits(model, ids=IDS, **arguments):
    with torch.no_grad():
        return model(ids, **{"use_cache": False, **arguments}).logits


def train(model, **arguments):
    model.train()
    loss = model(IDS, labels=IDS, use_cache=False, **arguments).loss
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


def compiled(model, backend=None):
    return torch.compile(model, fullgraph=True, backend=backend or NodeCounter())


@pytest.mark.parametrize(
    "name", ["se_attn", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sw_attn", "s2_attn"))]
)
@pytest.mark.parametrize(
    "kind", ["qwen2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("llama", "bamba"))]
)
def test_a_model_is_one_graph_with_one_node_per_layer(kind, name):
    model, counter = build(kind, name), NodeCounter()
    whole_graph = compiled(model, counter)
    assert_close(logits(whole_graph), logits(model))
    found = [counter.operators[operator] for operator in (OPERATORS[name], "sliding_window_attention")]
    # Two layers have attention; one of Qwen2's has a window of its own.
    assert found == ([2, 2] if name == "sw_attn" else [1, 1] if kind == "qwen2" else [2, 0])
    for actual, expected in zip(train(whole_graph), train(copy.deepcopy(model)), strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"attention_mask": PADDING}, id="left padding"),
        pytest.param({"attention_mask": PADDING.flip(1)}, id="right padding", marks=pytest.mark.slow),
        pytest.param({"position_ids": PACKED}, id="packed"),
        pytest.param({"use_cache": True}, id="cache", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", ["llama", pytest.param("qwen2", marks=pytest.mark.slow)])
def test_the_values_of_masks_and_positions_are_read_inside_the_graph(kind, arguments):
    model = build(kind)
    graph = compiled(model)
    assert_close(logits(graph, **arguments), logits(model, **arguments))
    assert not torch.allclose(logits(graph, **arguments), logits(graph), atol=1e-3) or arguments == {"use_cache": True}


@pytest.mark.filterwarnings("ignore:selection='causal'")
@pytest.mark.parametrize("options", [{"selection": "causal"}, {"preset": "recall"}], ids=["causal", "recall"])
def test_other_choices_are_compiled_too(options):
    model = build("llama", **options)
    assert_close(logits(compiled(model)), logits(model))


def test_other_lengths_and_masks_need_no_other_graph():
    model = build("llama")
    graph = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for length, mask in ((50, PADDING), (50, torch.ones_like(PADDING)), (37, PADDING), (9, PADDING)):
            ids, mask = IDS[:, :length].clone(), mask[:, :length].clone()
            assert_close(logits(graph, ids, attention_mask=mask), logits(model, ids, attention_mask=mask))


def test_positions_that_contradict_the_mask_are_refused_inside_a_graph():
    for kind in ("llama", "qwen2"):
        with pytest.raises(ValueError, match="position_ids of row 0 restart inside"):
            logits(compiled(build(kind)), position_ids=PACKED, use_cache=True)
    with pytest.raises(ValueError, match="padding mask row 0 has a gap"):
        logits(compiled(build("llama")), attention_mask=torch.ones_like(IDS).index_fill(1, torch.tensor(9), 0))


@pytest.mark.slow
def test_packing_on_a_recurrent_model_is_refused_inside_a_graph():
    with pytest.raises(ValueError, match="recurrent layers would carry state"):
        logits(compiled(build("bamba")), position_ids=PACKED)


@pytest.mark.parametrize(
    "arguments",
    [pytest.param({}, id="dense", marks=pytest.mark.slow), pytest.param({"attention_mask": PADDING}, id="padded")],
)
def test_checkpointing_inside_a_graph(arguments):
    model = build("llama")
    expected = train(copy.deepcopy(model), **arguments)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for actual, plain in zip(train(compiled(model), **arguments), expected, strict=True):
        assert_close(actual, plain)


@pytest.mark.parametrize(
    "options",
    [{"chunk_size": (8, 16)}, {"retrieval": "random"}],
    ids=["sizes", "random"],
)
@pytest.mark.slow
def test_what_training_draws_is_refused_in_a_single_graph_and_drawn_around_several(options):
    model = build("llama", **options)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="is drawn anew in every training step"):
        train(compiled(model))
    torch._dynamo.reset()
    model = build("llama", **options)
    graphs = torch.compile(copy.deepcopy(model), backend=NodeCounter())
    torch.manual_seed(3)
    expected = train(model)
    torch.manual_seed(3)
    for actual, plain in zip(train(graphs), expected, strict=True):
        assert_close(actual, plain)


@pytest.mark.slow
def test_seq_idx_is_refused_in_a_single_graph_and_read_between_several():
    model = build("llama")
    seq_idx = torch.tensor([[0] * 20 + [1] * 30] * 2)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="seq_idx is not read inside a compiled graph"):
        logits(compiled(model), seq_idx=seq_idx)
    torch._dynamo.reset()
    apart = logits(torch.compile(model, backend=NodeCounter()), seq_idx=seq_idx)
    assert_close(apart, logits(model, seq_idx=seq_idx))
    assert not torch.allclose(apart, logits(model), atol=1e-3)


def test_random_retrieval_in_evaluation_differs_between_layers_inside_a_graph_too():
    model = build("llama", retrieval="random", chunk_size=(8, 16))
    assert_close(logits(compiled(model)), logits(model))


@pytest.fixture
def operators(monkeypatch):
    """Sends all attention through operators, as on a GPU."""
    monkeypatch.setattr(backends, "shows_operations", lambda name, query: False)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_repeats_the_retrieval(operators, monkeypatch, use_reentrant):
    chosen = []
    forward = torch_backend.span_forward

    def recording(*arguments):
        result = forward(*arguments)
        chosen.append(result[2])
        return result

    monkeypatch.setattr(torch_backend, "span_forward", recording)
    model = build("llama", chunk_size=(8, 16), selection="causal")
    torch.manual_seed(5)
    expected = train(copy.deepcopy(model))
    chosen.clear()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    torch.manual_seed(5)
    for actual, plain in zip(train(model), expected, strict=True):
        assert_close(actual, plain)
    first, second, second_again, first_again = chosen
    assert torch.equal(first, first_again) and torch.equal(second, second_again)


@pytest.fixture
def mesh():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_sharded_models_give_the_same_loss_and_gradients(operators, mesh):
    model = build("llama")
    expected = train(copy.deepcopy(model))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for actual, plain in zip(train(model), expected, strict=True):
        assert_close(whole(actual), plain)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUILDERS)
def test_inductor_gives_the_same(kind):
    model = build(kind)
    graph = compiled(model, "inductor")
    for arguments in ({}, {"attention_mask": PADDING}):
        assert_close(logits(graph, **arguments), logits(model, **arguments))
    for actual, expected in zip(train(graph), train(copy.deepcopy(model)), strict=True):
        assert_close(actual, expected)
