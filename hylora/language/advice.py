# SPDX-License-Identifier: Apache-2.0
"""What is said when training ends: what came of it, and the commands that look further."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from pathlib import Path

from hylora.language.data.recipe import SourceRecipe
from hylora.language.recipe import LanguageRecipe
from hylora.runs.record import RunRecord

__all__ = ["advise"]


def advise(folder: Path) -> str:
    """Held-out perplexity before and after, and commands to run next.

    Args:
        folder: of a finished run.
    """
    recipe, record = LanguageRecipe.load(folder / "recipe.yaml"), RunRecord.read(folder)
    run = shlex.quote(str(folder))
    commands = [
        f"hylora eval ppl --model {run} --attention same {_held_out(recipe, record)}",
        f"hylora generate {run} --attention same --prompt 'Once'",
        f"hylora export {run} {shlex.quote(f'{folder}-exported')}",
    ]
    return "\n".join([*_comparison(recipe, record), "next:", *(f"  {command}" for command in commands)])


def _comparison(recipe: LanguageRecipe, record: RunRecord) -> Iterator[str]:
    ends = ("untrained", "trained") if recipe.model.from_scratch else ("base", "tuned")
    own = f"{recipe.attention.name} attention"
    rows = [
        (label, record.base[name], record.tuned[name])
        for label, name in ((own, "perplexity"), ("full attention", "full_perplexity"))
        if name in record.base and name in record.tuned
    ]
    if rows:
        limit = record.evaluated_sequences
        sequences = "sequences" if limit is None else f"the first {limit} sequences"
        yield f"held-out perplexity, {sequences} of {recipe.training.sequence_length} tokens, lower is better:"
        yield f"  {'':17}{ends[0]:>10}{ends[1]:>10}"
    for label, base, tuned in rows:
        yield f"  {label:17}{base:10.2f}{tuned:10.2f}  {_change(base, tuned)}".rstrip()


def _change(base: float, tuned: float) -> str:
    """In percent; nothing where that is no number."""
    if base <= 0 or not (math.isfinite(base) and math.isfinite(tuned)):
        return ""
    percent = round(100 * (tuned / base - 1), 1) + 0.0  # so that none is -0.0
    return f"{percent:+.1f} %" + (": worse" if percent > 0 else "")


def _held_out(recipe: LanguageRecipe, record: RunRecord) -> str:
    """The options of `hylora eval ppl` for the run's length and its held-out file, or a word in that one's place."""
    length = recipe.training.sequence_length
    for source, counts in zip(recipe.data.validation, record.data.get("validation", ()), strict=False):
        if source.kind != "text" or source.revision is not None:
            continue
        options = f"--lengths {length} --data {shlex.quote(source.path)}{_reading(source)}"
        # Unless some document must be that long, all of them are read as one.
        if counts.get("tokens", 0) <= (length + 1) * counts.get("documents", 1):
            options += f" --mode longlora --stride {length}"
        return options
    return f"--lengths {length} --data FILE  # a FILE of text that was not trained on"


def _reading(source: SourceRecipe) -> str:
    names = ("text_field", "subset", "split", "max_documents")
    chosen = {name: getattr(source, name) for name in names if getattr(source, name) != getattr(SourceRecipe, name)}
    return "".join(f" --{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in chosen.items())
