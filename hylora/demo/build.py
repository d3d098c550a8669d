# SPDX-License-Identifier: Apache-2.0
"""Build the shipped checkpoint again: `python -m hylora.demo.build`, from the root of the repository.

Writes the data and the tokenizer to `outputs/miniature`, trains the three stages of `recipes/demo`, and copies the
result to `hylora/demo/assets`. Takes about half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hylora.demo.corpus import describe_corpus, load_corpus
from hylora.demo.data import write_facts, write_recall, write_text
from hylora.demo.facts import FactTask
from hylora.demo.miniature import ASSETS, CONTEXT, FACTS
from hylora.demo.recall import RecallTask
from hylora.demo.tokenizer import train_tokenizer
from hylora.language import LanguageRecipe, train

__all__ = ["main", "write_data"]

FOLDER = Path("outputs/miniature")
RECIPES = Path("recipes/demo")
STAGES = ("1_recall", "2_text", "3_facts")
RECALL_DOCUMENTS = 60_000
FACT_DOCUMENTS = 10_000


def write_data() -> None:
    """The tokenizer and the files that the recipes name."""
    training = load_corpus("train")
    tokenizer = train_tokenizer(document.text for document in training)
    tokenizer.save_pretrained(FOLDER / "tokenizer")
    write_text(FOLDER / "data" / "text.jsonl", training)
    write_text(FOLDER / "data" / "held_out.jsonl", load_corpus("held_out"))
    task = RecallTask.for_tokenizer(tokenizer)
    write_recall(FOLDER / "data" / "recall.jsonl", task, documents=RECALL_DOCUMENTS, length=CONTEXT, seed="pretrain")
    sparse = FactTask(tokenizer, training)
    write_facts(
        FOLDER / "data" / "facts.jsonl", sparse, documents=FACT_DOCUMENTS, length=CONTEXT, facts=FACTS, seed="pretrain"
    )


def ship(folder: Path, assets: Path) -> None:
    """Copy a run's model to the assets, with a record of the corpus and its prose for recipes to name.

    The weights are stored in bfloat16: half the size, and rounding them changes no figure that matters here.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(assets)
    AutoTokenizer.from_pretrained(folder).save_pretrained(assets)
    (assets / "corpus.json").write_text(json.dumps(describe_corpus(), indent=2) + "\n", encoding="utf-8")
    for split in ("train", "held_out"):
        # The prose alone: recipes need a sample of text, and no copy of anybody's code.
        prose = (document for document in load_corpus(split) if document.name.startswith("pydoc_data/"))
        write_text(assets / "text" / f"{split}.jsonl", prose)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, default=ASSETS, help="where the checkpoint goes")
    parser.add_argument("--only", choices=("data", *STAGES, "ship"), help="one part instead of all")
    arguments = parser.parse_args()
    if arguments.only in (None, "data"):
        write_data()
    for stage in STAGES:
        if arguments.only in (None, stage):
            train(LanguageRecipe.load(RECIPES / f"{stage}.yaml", ["training.resume=true"]))
    if arguments.only in (None, "ship"):
        ship(FOLDER / STAGES[-1], arguments.assets)


if __name__ == "__main__":
    main()
