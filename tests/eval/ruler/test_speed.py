# SPDX-License-Identifier: Apache-2.0
"""How long the benchmark takes to generate at 128k tokens."""

from __future__ import annotations

import time

import pytest

from hylora.demo.miniature import load_tokenizer
from hylora_eval import ruler

SAMPLES = 100
# Six minutes on a busy core.
SECONDS = 720


@pytest.mark.slow
def test_a_hundred_samples_of_every_task_at_128k_tokens(capsys):
    tokenizer, total = load_tokenizer(), 0.0
    for task in ruler.ALL_TASKS:
        started = time.process_time()
        records = ruler.generate(task, tokenizer, 131072, SAMPLES, sentences="rules")
        seconds = time.process_time() - started
        total += seconds
        shortest = min(record.length for record in records)
        with capsys.disabled():
            print(f"{task:16} {seconds:6.1f} s of CPU, {shortest} to {max(r.length for r in records)} tokens")
        assert shortest > 131072 - 200
    with capsys.disabled():
        print(f"{'all':16} {total:6.1f} s of CPU")
    assert total < SECONDS
