# SPDX-License-Identifier: Apache-2.0
"""What other libraries do with hybrids where hylora refuses: the measured table of docs/reference/beside_others.md.

`python -m tests.architectures.beside docs/reference/beside_others.md` brings the page up to date.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorWithFlattening, PreTrainedConfig, PreTrainedModel
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as SFTCollator

from hylora.adapters import HyLoraConfig, add_adapter
from hylora.adapters.config import check_targets
from hylora.adapters.structure import base_model, find_groups
from hylora.language.data import DataRecipe, SourceRecipe, check_packing
from hylora.language.data.packing import check_kernels
from tests.architectures.checks import logits, tokens
from tests.architectures.kernels import boundary_kernels
from tests.architectures.table import markdown_table, replace_between
from tests.architectures.zoo import HYBRIDS, ZOO, Architecture

# Beyond it two logits differ by more than float32's rounding.
_LEAK = 1e-3
_STEPS = 20


def packed_leak(model: PreTrainedModel, told: bool) -> str:
    """How far a document's logits move when another one is packed before it, as a share of the largest logit.

    Args:
        told: the batch as TRL packs it, which names the boundaries in every way that a model may read them; otherwise
            only `position_ids` restart, as in transformers' collator by default.
    """
    first, second = tokens(length=33), tokens(length=45, seed=1)
    features = [{"input_ids": document[0].tolist()} for document in (first, second)]
    if told:
        batch = SFTCollator(pad_token_id=0, padding_free=True)(features)
    else:
        batch = DataCollatorWithFlattening()(features)
    del batch["labels"]
    alone = logits(model, second)
    try:
        together = logits(model, batch.pop("input_ids"), **batch)[:, 33:]
    except ValueError:
        return "refused"
    difference = float((together - alone).abs().max() / alone.abs().max())
    return f"leaks, {100 * difference:.0f} %" if difference > _LEAK else "kept apart"


def _packing(architecture: Architecture) -> list[str]:
    """Batches of transformers and TRL without kernels, TRL's with kernels, and hylora's answer without kernels."""
    model = architecture.build()
    plain, told = (packed_leak(model, told) for told in (False, True))
    with boundary_kernels(model):
        on_kernels = packed_leak(model, told=True)
    return [plain, told, on_kernels, _answer(lambda: _take_documents(model.config))]


def _take_documents(config: PreTrainedConfig) -> None:
    data = DataRecipe([SourceRecipe("text.jsonl")], packing="documents")
    check_packing(data, config)
    check_kernels(data, config)


def _answer(attempt) -> str:
    try:
        attempt()
    except ValueError:
        return "refused"
    return "accepted"


def _out_proj(architecture: Architecture) -> list[str]:
    """A LoRA on the projection that the mixers' fused kernel reads as a bare weight: PEFT's answer and hylora's."""
    model = architecture.build()
    names = [name for name, _ in base_model(model).named_modules() if name.endswith(("out_proj", "o_proj"))]
    mixers = [name for name in names if name not in find_groups(model)["attention"]]
    config = LoraConfig(target_modules=mixers)
    ours = _answer(lambda: check_targets(model, config))
    return [_answer(lambda: get_peft_model(model, config)), ours]


def packing_table() -> str:
    """Markdown: a row per hybrid."""
    rows = [[f"`{item.model_type}`", *_packing(item), *_out_proj(item)] for item in HYBRIDS]
    header = ["", "transformers' batch", "TRL's batch", "TRL's, with kernels", "hylora", "PEFT: `out_proj`", "hylora"]
    return "\n".join(markdown_table(header, rows))


def moved_norms(peft_alone: bool) -> str:
    """How many norms of a bfloat16 Llama move in some AdamW updates at 2e-4."""
    model = ZOO["llama"].build(dtype=torch.bfloat16)
    config = HyLoraConfig.for_model(model, "longlora", r=4)
    model = get_peft_model(model, config) if peft_alone else add_adapter(model, config)
    norms = {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and "norm" in name
    }
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4, weight_decay=0.0)
    for step in range(_STEPS):
        with torch.autocast("cpu", torch.bfloat16):
            ids = tokens(2, seed=step)
            model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = sum(not torch.equal(dict(model.named_parameters())[name], before) for name, before in norms.items())
    return f"{moved} of {len(norms)}"


def norms_table() -> str:
    """Markdown: PEFT alone beside hylora."""
    rows = [["PEFT", moved_norms(peft_alone=True)], ["hylora", moved_norms(peft_alone=False)]]
    return "\n".join(markdown_table(["", f"norms that moved in {_STEPS} updates"], rows))


def versions() -> str:
    """What was measured."""
    names = ("torch", "transformers", "peft", "trl")
    return "Measured with " + ", ".join(f"{name} {version(name).split('+')[0]}" for name in names) + "."


TABLES = {"versions": versions, "packing": packing_table, "norms": norms_table}


def update_page(text: str) -> str:
    """A page with each table between its marks renewed."""
    return replace_between(text, TABLES)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(update_page(page.read_text(encoding="utf-8")), encoding="utf-8")
