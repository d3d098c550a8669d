# SPDX-License-Identifier: Apache-2.0
"""What the docs say of the memory that a trainer's loss takes, counted by torch's own profiler."""

from __future__ import annotations

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from hylora.language.head import decoder_and_head
from hylora.language.loss import sliced_causal_loss
from tests.ecosystem.scripts import trainer
from tests.tiny import tiny_llama

LENGTH, VOCABULARY = 1024, 8192


def peak_bytes_per_logit(step, folder) -> float:
    """The most that is allocated at once while `step` runs, beyond what was before, per entry of [L, V]."""
    step()  # once beforehand, so that the gradients of parameters are there already
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    record.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    allocated = [event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]"]
    return (max(allocated) - allocated[0]) / (LENGTH * VOCABULARY)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16 autocast"])
def test_the_trainers_loss_takes_twelve_bytes_per_logit(bf16, tmp_path):
    row = {"input_ids": torch.arange(LENGTH), "labels": torch.arange(LENGTH)}
    run = trainer(tiny_llama(vocab_size=VOCABULARY), tmp_path, train_dataset=[row], bf16=bf16, max_steps=1)
    peak = peak_bytes_per_logit(run.train, tmp_path)
    assert 12 <= peak < 14


def test_the_loss_in_slices_does_not_build_the_logits(tmp_path):
    model = tiny_llama(vocab_size=VOCABULARY)
    ids = torch.arange(LENGTH)[None]

    def step():
        parts = decoder_and_head(model)
        hidden = parts.decoder(input_ids=ids, use_cache=False).last_hidden_state
        total, count = sliced_causal_loss(hidden, parts.weight, ids, slice_length=64)
        (total / count).backward()

    assert peak_bytes_per_logit(step, tmp_path) < 3
