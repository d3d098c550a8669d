# SPDX-License-Identifier: Apache-2.0
"""Rules on the queries and keys of a model: which blocks they choose, and whether those are the right ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hylora.architecture import full_attention_layers
from hylora.attention import SpanConfig, kernel_options
from hylora.training.evaluation import evaluation_mode
from hylora_eval.recall import RecallSequence, check_sequences, same_lengths
from hylora_eval.retrieval.capture import AttentionCall, observe_attention
from hylora_eval.retrieval.findings import Comparison, RuleResult, Tally, average
from hylora_eval.retrieval.mass import NeedleAttention, attention_weights, block_mass, candidates, query_slices
from hylora_eval.retrieval.needles import NeededBlocks, Needles, Sample
from hylora_eval.retrieval.rules import OWN, Chooser, Rule
from hylora_kernels.options import SpanOptions

__all__ = ["Choices", "check_samples", "compare_rules", "own_options", "retrieval_hit_rate"]


@dataclass(frozen=True, eq=False)
class Choices:
    """The blocks that tokens choose in one layer by one rule; all tensors are on the CPU.

    Attributes:
        sample: index of the sample.
        layer: index of the layer in the model.
        rule: name of the rule.
        block_size: tokens of a block.
        positions: of the tokens [N].
        blocks: int64 [Hkv, N, top_k], best first, filled up with -1.
        mass: share of full attention's weight on them [Hkv, N].
    """

    sample: int
    layer: int
    rule: str
    block_size: int
    positions: Tensor
    blocks: Tensor
    mass: Tensor

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row of plain JSON types for each KV head and token."""
        same = {name: getattr(self, name) for name in ("sample", "layer", "rule", "block_size")}
        for head, (of_head, mass) in enumerate(zip(self.blocks.tolist(), self.mass.tolist(), strict=True)):
            for token, blocks, share in zip(self.positions.tolist(), of_head, mass, strict=True):
                chosen = [block for block in blocks if block >= 0]
                yield {**same, "head": head, "token": token, "blocks": chosen, "mass": share}


@torch.no_grad()
def compare_rules(
    model: nn.Module,
    samples: Sequence[Sample],
    rules: Sequence[Rule],
    tokens: int = 1024,
    batch_size: int = 1,
    observe: Callable[[Choices], None] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Compare what rules retrieve with what is needed, with full attention and with chance.

    The model reads with its own attention. All rules choose by the same queries and keys, those of its layers.

    Args:
        model: a causal language model, or a PEFT model around one.
        samples: to read; all with needles or none.
        rules: to compare (`parse_rules`); "own" needs a model whose attention is "se_attn".
        tokens: of each sample, evenly spaced, over which mass is averaged; 0 leaves it out.
        batch_size: samples in one forward pass; neighbours of equal length share one.
        observe: called with the choices of those tokens, which are not kept.
        progress: called with the number of samples that have been read.

    Returns:
        The comparison.

    Raises:
        ValueError: if there is no sample or no rule, some samples have needles and others none, every needle lies in
            the chunk that asks for it, no sample is longer than a chunk, or the model's attention cannot be observed.
    """
    if batch_size < 1 or tokens < 0:
        raise ValueError(f"batch_size={batch_size} must be at least 1, and tokens={tokens} at least 0")
    if not samples or not rules:
        raise ValueError(f"there is nothing to compare: {len(samples)} samples, {len(rules)} rules")
    options = [own_options(model) if rule.options is None else rule.options for rule in rules]
    check_samples(samples, options)
    tallies = [
        [Tally(each, sample.needles and NeededBlocks.of(sample.needles, each)) for each in options]
        for sample in samples
    ]
    layers = full_attention_layers(model.config)

    def look(call: AttentionCall, sample: int, layer: int) -> None:
        choosers = [rule.chooser(call) for rule in rules]
        attended: dict[int, NeedleAttention] = {}
        outliers: dict[tuple[int, int], Tensor] = {}
        for rule, choose, tally in zip(rules, choosers, tallies[sample], strict=True):
            tally.layers.append({})
            if tally.needed is not None:
                chunk, block = tally.options.chunk_size, tally.options.block_size
                if chunk not in attended:
                    attended[chunk] = NeedleAttention.of(call, tally.needed)
                if (chunk, block) not in outliers:
                    outliers[chunk, block] = attended[chunk].outliers(call.key, block)
                tally.layers[-1] = _hits(call, rule, choose, tally, attended[chunk].finds)
                tally.layers[-1]["outliers"] = outliers[chunk, block]
        if tokens:
            for index, choices in enumerate(_weigh(call, choosers, tallies[sample], tokens)):
                if observe is not None:
                    observe(Choices(sample, layer, rules[index].name, options[index].block_size, *choices))

    done = 0
    for batch in same_lengths(samples, batch_size):
        _read(model, batch, layers, done, look)
        done += len(batch)
        progress(done)
    return Comparison(
        len(samples),
        tuple(average(rule.name, [each[index] for each in tallies], layers) for index, rule in enumerate(rules)),
    )


def check_samples(samples: Sequence[Sample], options: Sequence[SpanOptions]) -> None:
    """Find out before a model reads whether anything is there to be retrieved.

    Args:
        samples: to read.
        options: of each rule.

    Raises:
        ValueError: as `compare_rules`.
    """
    needles = [sample.needles for sample in samples if sample.needles is not None]
    if 0 < len(needles) < len(samples):
        raise ValueError(f"{len(needles)} of {len(samples)} samples have needles; compare the others on their own")
    longest = max(len(sample.input_ids) for sample in samples)
    for size in {each.chunk_size for each in options}:
        if longest <= size:
            raise ValueError(
                f"the longest sample has {longest} tokens, all in its first chunk (chunk_size={size}), so nothing is "
                "retrieved; use longer samples or smaller chunks"
            )
        if needles and not any(bool((each.starts < each.queries // size * size).any()) for each in needles):
            raise ValueError(
                f"no answer lies further back than its own chunk (chunk_size={size}); use longer samples or smaller "
                "chunks"
            )


def own_options(model: nn.Module) -> SpanOptions:
    """How a model chooses blocks in evaluation.

    Args:
        model: a causal language model, or a PEFT model around one.

    Raises:
        ValueError: if its attention is not "se_attn".
    """
    name = model.config._attn_implementation
    if not name.startswith("se_attn"):
        raise ValueError(
            f"the model's attention is {name!r}, which retrieves nothing; choose hylora.set_attention(model, "
            "'se_attn', ...) first, or other rules than 'own'"
        )
    return kernel_options(SpanConfig.of(model.config.get_text_config()), None, 0)


def retrieval_hit_rate(model: nn.Module, sequences: Sequence[RecallSequence], batch_size: int = 8) -> RuleResult:
    """How often span-expanded attention retrieves the memory block that holds what a query must recall.

    An answer is predicted at the token before it; for that token `top_k` of the memory blocks are retrieved that end
    at or before its chunk's start. It is a hit for a layer and KV head if one of them holds the answer's source.
    Recall can be right without a hit (the recurrent layers remember too) and wrong in spite of one.

    Args:
        model: a causal language model, or a PEFT model around one, with "se_attn" as its attention.
        sequences: the sequences; neighbours of equal length share a batch.
        batch_size: sequences in one forward pass.

    Returns:
        The result of the rule "own", without mass.

    Raises:
        ValueError: if the attention is another one, a position is wrong, or every source lies in its query's chunk.
    """
    own_options(model)
    check_sequences(sequences)
    samples = [Sample(sequence.input_ids, Needles.of_recall(sequence)) for sequence in sequences]
    (result,) = compare_rules(model, samples, [Rule(OWN, None)], tokens=0, batch_size=batch_size).rules
    return result


def _read(
    model: nn.Module,
    batch: Sequence[Sample],
    layers: Sequence[int],
    first: int,
    look: Callable[[AttentionCall, int, int], None],
) -> None:
    """Read samples, the first of which has this number, and look at each call of each layer."""
    remaining = iter(layers)

    def observe(calls: list[AttentionCall]) -> None:
        layer = next(remaining)
        for row, call in enumerate(calls):
            look(call, first + row, layer)

    input_ids = torch.stack([sample.input_ids for sample in batch]).to(model.get_input_embeddings().weight.device)
    decoder = (model.get_base_model() if hasattr(model, "get_base_model") else model).get_decoder()
    with evaluation_mode(model), observe_attention(model, observe):
        decoder(input_ids=input_ids, use_cache=False)


def _hits(call: AttentionCall, rule: Rule, choose: Chooser, tally: Tally, attended: Tensor) -> dict[str, Tensor]:
    """Needles that a rule retrieves in one layer of one sample, by KV head."""
    asked, needle_of = tally.needed.queries.unique(return_inverse=True)
    # Some token from no farther back than a chunk; the same in each layer and for each rule.
    draw = torch.rand(len(asked), generator=torch.Generator().manual_seed(0))
    others = asked - 1 - (draw * asked.clamp(max=tally.options.chunk_size)).long()

    def hits(by: Tensor) -> tuple[Tensor, Tensor]:
        parts = zip(*(query_slices(call, at) for at in (asked, by)), strict=True)
        return tally.needed.hits(torch.cat([choose(*part).cpu() for part in parts], dim=1)[:, needle_of])

    some, whole = hits(asked)
    found = {"any": some, "all": whole, "any_attended": some & attended, "attended": attended}
    found["chance_attended"] = tally.needed.chances * attended
    if rule.by_query:
        other = hits(others)[0]
        found |= {"other": other, "other_attended": other & attended}
    return {name: values.sum(dim=1) for name, values in found.items()}


def _weigh(
    call: AttentionCall, choosers: Sequence[Chooser], tallies: Sequence[Tally], tokens: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Sum full attention's weight on what each rule retrieves in one layer of one sample.

    Returns:
        For each rule the positions, and the blocks and mass of its choices as `Choices` has them.
    """
    length, first = call.key.shape[1], min(tally.options.chunk_size for tally in tallies)
    if length <= first:
        return []
    positions = torch.linspace(first, length - 1, min(tokens, length - first)).long()
    choices: list[list[tuple[Tensor, Tensor]]] = [[] for _ in tallies]
    sums = [torch.zeros(4, len(call.key), dtype=torch.float64) for _ in tallies]
    for part in query_slices(call, positions):
        weights, on_blocks = attention_weights(call, call.query[:, part], part), {}
        for index, (choose, tally) in enumerate(zip(choosers, tallies, strict=True)):
            options = tally.options
            grid = (options.block_size, options.chunk_size)
            if grid not in on_blocks:
                on_blocks[grid] = block_mass(weights, part, options)
            mass, counts, blocks = on_blocks[grid], candidates(part, options), choose(part, part)
            retrieved = mass.gather(2, blocks.clamp(min=0)).masked_fill(blocks < 0, 0).sum(dim=2)
            on_all = mass.sum(dim=2)
            drawn = on_all * (options.top_k / counts.clamp(min=1))
            shares = torch.stack([retrieved, drawn, on_all, torch.ones_like(on_all)]).double()
            sums[index] += (shares * (counts > options.top_k)).sum(dim=2).cpu()
            choices[index].append((blocks.cpu(), retrieved.cpu()))
    for tally, values in zip(tallies, sums, strict=True):
        tally.layers[-1].update(zip(("mass", "random", "candidates", "tokens"), values, strict=True))
    return [(positions, *(torch.cat(parts, dim=1) for parts in zip(*of_rule, strict=True))) for of_rule in choices]
