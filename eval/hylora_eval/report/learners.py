# SPDX-License-Identifier: Apache-2.0
"""Masked audio-video learners (chapter 5): which one an encoder was finetuned from, and what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

__all__ = ["FOLD", "PRETRAINING", "learner_name", "learner_order", "pretraining_of"]

# The fact that says which part of the data was held out, where each is in its turn.
FOLD = "clips.fold"

# What a finetuned encoder's learner was pre-trained by: a section of facts like the learner's own, or one fact.
PRETRAINING = "pretraining"

_SCRATCH = "from scratch"

_DESIGN = ("model.video", "model.diffusion", "model.video_attention", "mask.first", "mask.last", "mask.adaptive")

# By whether there is a video, and diffusion.
_NAMES = {
    (True, False): "MAViL",
    (True, True): "DiffMAViL",
    (False, False): "AudioMAE",
    (False, True): "AudioMAE + diffusion",
}


def pretraining_of(path: str | None, result: Path) -> str | dict[str, Any]:
    """The recipe in the folder that an encoder was finetuned from; where there is none, what is known of it in words.

    Args:
        path: of the folder, as a recipe names it; None for an encoder from scratch.
        result: file of the finetuned run. A relative path is looked for from each of the folders above it as well.
    """
    if path is None:
        return _SCRATCH
    recipes = (folder / path / "recipe.yaml" for folder in (Path(), *result.resolve().parents))
    try:
        tree = yaml.safe_load(next(filter(Path.is_file, recipes)).read_text(encoding="utf-8"))
    except (StopIteration, OSError, ValueError, yaml.YAMLError):
        return path
    return tree if isinstance(tree, dict) else path


def learner_name(facts: dict[str, str]) -> str:
    """What tells the rows of tables 5.1 to 5.3 apart, of a learner or of what was finetuned; "" for other networks.

    Args:
        facts: of the run, by `section.key`.
    """
    video, diffusion, attention, first, last, adaptive = _design(facts)
    if first is None:
        return facts.get(PRETRAINING, "")
    return ", ".join(
        (
            _NAMES[video != "false", diffusion == "true"],
            *([f"{attention}-attention"] if video != "false" else []),
            f"masks {first}" if first == last else f"masks {first} to {last}",
            *(["adaptive batches"] if adaptive == "true" else []),
        )
    )


def learner_order(facts: dict[str, str]) -> tuple[bool, ...]:
    """Sorts learners as those tables do: what is plain comes first, and what others are relative to."""
    video, diffusion, attention, first, last, adaptive = _design(facts)
    return (
        first is not None,
        video == "false",
        diffusion == "true",
        attention == "cross",
        first != last,
        adaptive == "true",
    )


def _design(facts: dict[str, str]) -> list[str | None]:
    """What a learner's facts say of its design, or those of the learner that was finetuned."""
    section = f"{PRETRAINING}." if f"{PRETRAINING}.mask.first" in facts else ""
    return [facts.get(f"{section}{name}") for name in _DESIGN]
