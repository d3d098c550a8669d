# SPDX-License-Identifier: Apache-2.0
"""What the models of the study learn from, written to outputs/language/data.

Text is that of the Python library. Facts are hidden in it, and asked for; prompts of RULER's needles have library text
around them, too. What models are measured on is hidden in text that is held out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hylora.demo.corpus import Document, load_corpus
from hylora.demo.data import write_facts, write_recall
from hylora.demo.facts import FactTask
from hylora.demo.recall import RecallTask
from hylora_eval.ruler import Haystack, generate

DATA = Path("outputs/language/data")
# Tokens of a document: those of pre-training and of fine-tuning. How many there are of each kind, and facts in each.
DOCUMENTS = {256: 6000, 1024: 1500}
FACTS = {256: 8, 1024: 32}
# RULER keeps so many tokens free for an answer; here an answer takes ten at most, its end included.
ROOM, ANSWER = 128, 10
TASKS = ("niah_single_1", "niah_single_2", "niah_multikey_2")


def write_needles(path: Path, tokenizer: PreTrainedTokenizerBase, text: Iterable[Document], length: int) -> None:
    """Write prompts of RULER's needles with their answers, as conversations of no more than so many tokens."""
    haystack = Haystack("library", "\n\n".join(document.text for document in text))
    each = math.ceil(DOCUMENTS[length] / len(TASKS))
    # Other random numbers than the benchmark's own.
    options = {"length": length + ROOM - ANSWER, "samples": each, "seed": length, "haystack": haystack}
    lines = []
    for task in TASKS:
        for record in generate(task, tokenizer, **options):
            answer = f" {', '.join(record.outputs)}{tokenizer.eos_token}"
            turns = [{"role": "user", "content": record.prompt}, {"role": "assistant", "content": answer}]
            lines.append(json.dumps({"messages": turns}) + "\n")
    path.write_text("".join(lines))


def main() -> None:
    text = load_corpus("train")
    tokenizer = AutoTokenizer.from_pretrained("outputs/retrieval/tokenizer")
    dense, sparse = RecallTask.for_tokenizer(tokenizer), FactTask(tokenizer, text)
    for length, documents in DOCUMENTS.items():
        names = {"documents": documents, "length": length, "seed": "study"}
        write_recall(DATA / f"dense_{length}.jsonl", dense, **names)
        write_facts(DATA / f"sparse_{length}.jsonl", sparse, facts=FACTS[length], **names)
        write_needles(DATA / f"needles_{length}.jsonl", tokenizer, text, length)


if __name__ == "__main__":
    main()
