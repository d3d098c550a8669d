# SPDX-License-Identifier: Apache-2.0
"""Perplexity: by hand on a model of known probabilities, and against a naive loop on real architectures."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

import hylora
from hylora_eval.estimates import cautions
from hylora_eval.perplexity import perplexity
from tests.eval.known import KnownModel
from tests.tiny import tiny_bamba, tiny_llama


def position_model():
    """Predicts token 0 from p tokens with probability 1 / (p + 1), so its loss at position p is log(p + 1)."""

    def table(ids):
        chance = 1 / torch.arange(2.0, ids.shape[1] + 2)
        return torch.stack([chance.log(), (1 - chance).log()], dim=-1).expand(*ids.shape, 2)

    return KnownModel(table, 2)


def bigram_model(vocabulary=5):
    table = torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(0)).mul(2).log_softmax(-1)
    return KnownModel(lambda ids: table[ids], vocabulary), table


def zeros(*lengths):
    return [torch.zeros(length, dtype=torch.long) for length in lengths]


def draw_documents(*lengths, vocabulary=96):
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(vocabulary, (length,), generator=generator) for length in lengths]


def log(*numbers):
    return sum(math.log(number) for number in numbers)


def test_chunks_by_hand():
    result = perplexity(position_model(), zeros(8, 11, 3), length=4)
    # two whole windows in each of the first two documents; the rest of the second and the third are left out
    assert (result.tokens, result.documents, result.documents_skipped) == (12, 2, 1)
    assert result.nll == pytest.approx(log(2, 3, 4) / 3, abs=1e-6)
    assert result.perplexity == pytest.approx(24 ** (1 / 3), rel=1e-6)
    assert (result.mode, result.length, result.stride) == ("chunks", 4, None)


def test_sliding_by_hand():
    result = perplexity(position_model(), zeros(9), length=4, mode="sliding", stride=2)
    # tokens 1-3 in the first window, then 4-5 and 6-7 at positions 2-3, and 8 at position 3 of the last window
    expected = log(2, 3, 4) + 2 * log(3, 4) + log(4)
    assert result.tokens == 8
    assert result.nll == pytest.approx(expected / 8, abs=1e-6)
    assert result.stride == 2


def test_sliding_by_one_token_gives_each_the_full_context():
    result = perplexity(position_model(), zeros(10), length=4, mode="sliding", stride=1)
    assert result.nll == pytest.approx((log(2, 3, 4) + 6 * log(4)) / 9, abs=1e-6)


def test_bos_is_read_and_not_scored():
    # Every token sees one token more: at position p of its window p + 1, so its loss is log(p + 2).
    model = position_model()
    result = perplexity(model, zeros(9), length=4, mode="sliding", stride=2, bos=1)
    expected = log(3, 4, 5) + 2 * log(4, 5) + log(5)
    assert result.tokens == 8 and result.nll == pytest.approx(expected / 8, abs=1e-6)
    assert model.calls[-1] == (1, 5)
    assert [(part.start, part.tokens) for part in result.positions] == [(1, 1), (2, 3), (3, 4)]


@torch.no_grad()
def test_bos_equals_the_model_on_each_window_behind_it():
    model, (document,) = tiny_llama().double(), draw_documents(24)
    losses = []
    for window in document.split(8):
        logits = model(torch.cat([torch.tensor([3]), window])[None], use_cache=False).logits[0].log_softmax(-1)
        losses += [-float(logits[position, window[position]]) for position in range(1, 8)]
    result = perplexity(model, [document], 8, batch_size=2, bos=3)
    assert result.nll == pytest.approx(statistics.fmean(losses), abs=1e-10)


def test_the_loss_of_each_document_is_kept():
    model, table = bigram_model()
    documents = draw_documents(30, 6, 17, vocabulary=5)
    result = perplexity(model, documents, length=6, batch_size=4)
    for document, total, tokens in zip(documents, result.document_nll, result.document_tokens, strict=True):
        windows = [window for window in document.split(6) if len(window) == 6]
        assert tokens == 5 * len(windows)
        assert total == pytest.approx(-sum(float(table[w[:-1], w[1:]].sum()) for w in windows), abs=1e-5)
    joined = perplexity(model, documents, 6, "longlora", 3)
    assert joined.document_tokens == (joined.tokens,)
    assert joined.document_nll[0] == pytest.approx(joined.nll * joined.tokens, abs=1e-5)


def test_longlora_by_hand():
    # windows at 0, 2 and 4; the one at 6 would be the last that fits and is left out
    result = perplexity(position_model(), zeros(7, 4), length=4, mode="longlora", stride=2)
    assert (result.windows, result.tokens, result.documents, result.documents_skipped) == (3, 9, 2, 0)
    assert result.nll == pytest.approx(log(2, 3, 4) / 3, abs=1e-6)
    assert result.nll_standard_error is None


def test_longlora_starts_every_256_tokens():
    result = perplexity(position_model(), zeros(1024), length=16, mode="longlora")
    assert (result.stride, result.windows) == (256, 3)


def test_sliding_over_one_window_equals_chunks():
    sliding = perplexity(position_model(), zeros(6, 6), length=6, mode="sliding")
    chunks = perplexity(position_model(), zeros(6, 6), length=6)
    assert sliding.stride == 3
    assert (sliding.nll, sliding.tokens) == (chunks.nll, chunks.tokens)


@pytest.mark.parametrize("mode", ["chunks", "sliding", "longlora"])
def test_loss_by_position(mode):
    stride = 2 if mode == "longlora" else None
    result = perplexity(position_model(), zeros(20, 15), length=5, mode=mode, stride=stride, position_bins=10)
    assert [(part.start, part.stop) for part in result.positions] == [(1, 2), (2, 3), (3, 4), (4, 5)]
    assert [part.nll for part in result.positions] == pytest.approx([log(2), log(3), log(4), log(5)], abs=1e-6)
    assert [part.perplexity for part in result.positions] == pytest.approx([2, 3, 4, 5], rel=1e-6)
    assert sum(part.tokens for part in result.positions) == result.tokens


def test_position_bins_have_equal_width_and_cover_the_window():
    result = perplexity(position_model(), zeros(12), length=12, position_bins=4)
    assert [(part.start, part.stop, part.tokens) for part in result.positions] == [
        (1, 4, 3),
        (4, 7, 3),
        (7, 10, 3),
        (10, 12, 2),
    ]
    assert result.positions[1].nll == pytest.approx(log(5, 6, 7) / 3, abs=1e-6)


def test_tokens_weigh_the_same_in_long_and_short_documents():
    model, table = bigram_model()
    documents = draw_documents(30, 6, vocabulary=5)
    result = perplexity(model, documents, length=6)
    losses = [
        -float(table[window[i], window[i + 1]])
        for document in documents
        for window in document.split(6)
        for i in range(5)
    ]
    assert result.tokens == len(losses) == 30
    assert result.nll == pytest.approx(statistics.fmean(losses), abs=1e-6)


def test_standard_error_of_equal_documents_is_that_of_a_mean():
    model, table = bigram_model()
    documents = draw_documents(*[12] * 7, vocabulary=5)
    means = [float(-table[document[:-1], document[1:]].mean()) for document in documents]
    result = perplexity(model, documents, length=12)
    assert result.nll_standard_error == pytest.approx(statistics.stdev(means) / math.sqrt(7), rel=1e-5)
    assert result.perplexity_standard_error == pytest.approx(result.perplexity * result.nll_standard_error)


def test_standard_error_of_unequal_documents_by_hand():
    # A document of one token repeated costs nothing under this model; one that alternates costs log 4 a token.
    same, other = math.log(1 / 2), math.log(1 / 4)
    model = KnownModel(lambda ids: torch.tensor([[same, other, other], [other, same, other], [other] * 3])[ids], 3)
    documents = [torch.tensor([0, 0, 0]), torch.tensor([0, 1, 0, 1, 0])]
    result = perplexity(model, documents, length=3, mode="sliding", stride=1)
    # sums: 2 log 2 over 2 tokens, 8 log 2 over 4 tokens: mean 5/3 log 2, without one of them 2 log 2 and log 2
    assert result.nll == pytest.approx(5 / 3 * math.log(2), rel=1e-6)
    assert result.nll_standard_error == pytest.approx(math.sqrt(1 / 2 * 2 * 0.5**2) * math.log(2), rel=1e-5)
    # Student's t with one degree of freedom
    assert result.high == pytest.approx(math.exp(result.nll + 12.7062 * result.nll_standard_error), rel=1e-4)
    assert result.low == pytest.approx(math.exp(result.nll - 12.7062 * result.nll_standard_error), rel=1e-4)
    assert result.largest_document == pytest.approx(4 / 6)


def test_standard_error_is_that_of_the_jackknife():
    model, table = bigram_model()
    lengths = torch.randint(8, 60, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    documents = draw_documents(*lengths, vocabulary=5)
    result = perplexity(model, documents, length=8, mode="sliding", stride=4)
    sums = [float(-table[document[:-1], document[1:]].sum()) for document in documents]
    left_out = [
        (sum(sums) - sums[i]) / (sum(lengths) - len(lengths) - (lengths[i] - 1)) for i in range(len(documents))
    ]
    jackknife = math.sqrt((len(sums) - 1) ** 2 / len(sums)) * statistics.stdev(left_out)
    assert result.nll_standard_error == pytest.approx(jackknife, rel=1e-4)


def test_one_document_has_no_standard_error():
    result = perplexity(position_model(), zeros(8), length=4)
    assert result.nll_standard_error is None and result.perplexity_standard_error is None
    assert result.low is result.high is None and result.largest_document == 1


def test_few_or_unequal_documents_are_warned_of():
    model = position_model()
    few = cautions(perplexity(model, zeros(8, 8, 8, 8), length=4).to_dict())
    assert len(few) == 1 and "Only 4 documents" in few[0]
    unequal = cautions(perplexity(model, zeros(*[4] * 9, 16), length=4).to_dict())
    assert len(unequal) == 1 and "One document holds 31 % of the tokens" in unequal[0]
    assert cautions(perplexity(model, zeros(*[4] * 10), length=4).to_dict()) == []
    joined = cautions(perplexity(model, zeros(8, 8, 8, 8), 4, "longlora", 2).to_dict())
    assert joined == cautions(perplexity(model, zeros(8), length=4).to_dict()) != []


@torch.no_grad()
def naive_mean(model, documents, length, stride):
    """Each token's loss in the window that the definition gives it, from the full logits of that window."""
    losses = []
    for document in documents:
        for token in range(1, len(document)):
            if stride is None:
                start = token // length * length
                if token == start or start + length > len(document):
                    continue
            elif token < length:
                start = 0
            else:
                start = min(length + ((token - length) // stride + 1) * stride, len(document)) - length
            logits = model(document[None, start : start + length], use_cache=False).logits[0, token - start - 1]
            losses.append(-float(logits.double().log_softmax(-1)[document[token]]))
    return statistics.fmean(losses), len(losses)


@pytest.mark.parametrize("stride", [None, 5], ids=["chunks", "sliding"])
@pytest.mark.parametrize("build", [tiny_bamba, tiny_llama], ids=["bamba", "llama"])
def test_equals_the_naive_loop(build, stride):
    model, documents = build().double(), draw_documents(37, 16, 9)
    expected, tokens = naive_mean(model, documents[:2], 12, stride)
    result = perplexity(model, documents, 12, "sliding" if stride else "chunks", stride, batch_size=2, slice_length=7)
    assert result.tokens == tokens
    assert result.nll == pytest.approx(expected, abs=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("build", [tiny_bamba, tiny_llama], ids=["bamba", "llama"])
def test_longlora_equals_its_protocol_with_the_models_own_loss(build):
    model, documents = build().double(), draw_documents(40, 3, 18)
    stream, losses = torch.cat(documents), []
    starts = list(range(0, len(stream) - 12, 5))
    starts.pop()
    for start in starts:
        window = stream[None, start : start + 12]
        losses.append(float(model(input_ids=window, labels=window, use_cache=False).loss))
    result = perplexity(model, documents, 12, "longlora", 5, batch_size=4, slice_length=7)
    assert result.nll == pytest.approx(statistics.fmean(losses), abs=1e-7)  # transformers' loss is in float32
    assert (result.windows, result.tokens) == (len(losses), 11 * len(losses))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.int32])
def test_any_integer_type_gives_the_same(dtype):
    model, (document,) = tiny_llama(), draw_documents(60)
    assert perplexity(model, [document.to(dtype)], 16) == perplexity(model, [document], 16)


@pytest.mark.parametrize("mode", ["chunks", "sliding"])
@pytest.mark.parametrize("build", [tiny_bamba, tiny_llama], ids=["bamba", "llama"])
def test_batches_and_slices_do_not_change_the_result(build, mode):
    model, documents = build(), draw_documents(60, 33, 45)
    one = perplexity(model, documents, 16, mode)
    many = perplexity(model, documents, 16, mode, batch_size=5, slice_length=3)
    assert many.tokens == one.tokens
    assert many.nll == pytest.approx(one.nll, abs=1e-5)
    assert many.nll_standard_error == pytest.approx(one.nll_standard_error, abs=1e-5)


def test_every_batch_is_full_but_the_last():
    model = position_model()
    perplexity(model, zeros(12, 8), length=4, batch_size=3)
    assert model.calls[-2:] == [(3, 4), (2, 4)]


def test_the_attention_is_named_and_matters():
    model = tiny_llama()
    documents = draw_documents(64, 64)
    full = perplexity(model, documents, 64)
    hylora.set_attention(model, "sw_attn", window=4)
    windowed = perplexity(model, documents, 64)
    assert (full.attention, windowed.attention) == ("sdpa", "sw_attn")
    assert abs(full.nll - windowed.nll) > 1e-3


def test_the_model_is_left_as_it_was():
    model = tiny_llama(attention_dropout=0.5).train()
    first = perplexity(model, draw_documents(20), 10)
    assert model.training and all(module.training for module in model.modules())
    assert first == perplexity(model, draw_documents(20), 10)
    model(torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()


def test_progress_is_told():
    told = []
    perplexity(position_model(), zeros(12, 8), length=4, batch_size=2, progress=lambda *counts: told.append(counts))
    assert told == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 1}, "length=1 must be at least 2"),
        ({"mode": "chunk"}, "mode='chunk' must be one of"),
        ({"stride": 2}, "stride=2 belongs to mode='sliding' or 'longlora'"),
        ({"mode": "longlora", "stride": 0}, "stride=0 must be at least 1"),
        ({"mode": "longlora", "stride": 4}, "documents have 8 tokens together; mode='longlora' needs 9"),
        ({"mode": "sliding", "stride": 4}, r"stride=4 must be between 1 and length - 1 = 3"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"slice_length": 0}, "slice_length=0"),
        ({"position_bins": 0}, "position_bins=0"),
        ({"bos": 2}, "bos=2 is no token of the model, which knows 0 to 1"),
        ({"documents": []}, "documents is empty"),
        ({"documents": zeros(3, 2)}, r"none of 2 documents has 4 tokens; the longest is document 0 with 3"),
        ({"documents": [torch.tensor([0, 1, 0, 7])]}, r"token ids from 0 to 7, the model knows 0 to 1"),
        ({"documents": [torch.zeros(2, 8, dtype=torch.long)]}, "1-D integer"),
        ({"documents": [torch.zeros(8)]}, "1-D integer"),
    ],
)
def test_wrong_input_is_named_before_the_model_runs(change, message):
    model = position_model()
    with pytest.raises(ValueError, match=message):
        perplexity(model, **{"documents": zeros(8), "length": 4, **change})
    assert not model.calls


def test_a_loss_that_is_not_finite_is_an_error_that_says_where():
    def table(ids):
        return torch.where((ids == 1)[..., None], math.nan, torch.zeros(*ids.shape, 2))

    documents = [torch.zeros(32, dtype=torch.long) for _ in range(2)]
    documents[1][21] = 1
    with pytest.raises(ValueError, match=r"not finite in document 1 of those used, tokens 20 to 24"):
        perplexity(KnownModel(table, 2), documents, 4)
