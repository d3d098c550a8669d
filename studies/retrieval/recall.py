# SPDX-License-Identifier: Apache-2.0
"""What a model itself recalls, with full attention: `recall.py MODEL`. Prints JSON."""

import json
import sys

import torch
from transformers import AutoTokenizer

import hylora
from hylora.demo.corpus import load_corpus
from hylora.demo.facts import FactTask
from hylora_eval.recall import draw_recall_sequences, recall_by_distance, tokenize_recall

model = hylora.load(sys.argv[1], "full", dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
task = FactTask(tokenizer, load_corpus("held_out"))
sequences = {f"recall {length}": draw_recall_sequences(tokenizer, length, 24) for length in (255, 511)}
for length, facts in ((256, 12), (1024, 48), (2048, 97)):
    documents = (task.document(length, f"recall-{index}", facts, 8, distance=64) for index in range(24))
    sequences[f"facts {length}"] = tokenize_recall(tokenizer, documents)
found = {name: recall_by_distance(model, drawn, (0, 4096)).accuracy for name, drawn in sequences.items()}
print(json.dumps(found, indent=2))
