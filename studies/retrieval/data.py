# SPDX-License-Identifier: Apache-2.0
"""The data of the models from scratch, from the text that every Python installation carries."""

from pathlib import Path

from hylora.demo.corpus import load_corpus
from hylora.demo.data import write_facts, write_recall, write_text
from hylora.demo.facts import FactTask
from hylora.demo.recall import RecallTask
from hylora.demo.tokenizer import train_tokenizer

FOLDER = Path("outputs/retrieval")

training = load_corpus("train")
tokenizer = train_tokenizer(document.text for document in training)
tokenizer.save_pretrained(FOLDER / "tokenizer")
dense, sparse = RecallTask.for_tokenizer(tokenizer), FactTask(tokenizer, training)
write_text(FOLDER / "data/text.jsonl", training)
write_recall(FOLDER / "data/dense_64.jsonl", dense, documents=64_000, length=64, seed="pretrain")
for length, documents, facts in ((128, 6000, 4), (256, 1500, 8)):
    write_recall(FOLDER / f"data/dense_{length}.jsonl", dense, documents=documents, length=length, seed="mixture")
    write_facts(
        FOLDER / f"data/sparse_{length}.jsonl", sparse, documents=documents, length=length, facts=facts, seed="mixture"
    )
