# SPDX-License-Identifier: Apache-2.0
"""From results of training, and of evaluating what was trained on other images, to their numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hylora_eval.report.learners import FOLD, PRETRAINING, pretraining_of
from hylora_eval.report.measurements import Measurement, Place, Source, Subject
from hylora_eval.results import Result, pointer

__all__ = ["SEED", "SPARSE", "read_comparison", "read_images", "read_training"]

SEED = "training.seed"

# What may differ between runs without making them runs of another setting.
_FREE = ("output.", "tracking.", "evaluation.", "training.workers", "training.resume", "one_shot.levels")

# What says "none" where a section does nothing, and its other keys tell no runs apart.
_SWITCHES = {"sparse": "schedule", "cram": "update"}

# What is learned from, by section: runs that differ in it are not compared.
_DATA = {
    "images": ("name", "path", "config", "train_split", "held_out_split", "held_out"),
    "objects": ("name", "path", "train_split", "held_out_split", "held_out", "scenes", "side", "most"),
    "clips": ("name", "path", "config", "train_split", "held_out_split", "held_out"),
}

# Clips that come with their splits, whose held-out share nobody reads.
_CUT_ALREADY = ("esc50", "speech_commands", "audioset", "vggsound")

# What depends on the machine.
_OF_MACHINE = ("seconds", "relative_seconds", "peak_bytes")

# Numbers by side in pixels, and by level of compression several at each.
_BY_SIDE = "accuracy_by_side"
_BY_LEVEL = ("curve", "costs")

# What is told of sparse networks; its items begin so, such as `one_shot.2:4.accuracy`.
SPARSE = ("one_shot", "dense", "sparse")


def read_training(result: Result, source: Source, *root: str | int) -> Iterator[Measurement]:
    """What a run took and what was measured of it; its results stand under `root`."""
    shared = _shared(result, source, *root)
    result.pick(*root, "evaluation", kind=dict)
    machine = {name: result.get_at("environment", name) for name in ("device", "processor", "threads")}
    for keys in (*_metrics(result, *root), *_metrics(result, *root, "evaluation")):
        options = {"variations": _known(machine)} if keys[-1] in _OF_MACHINE else {}
        yield _measurement(result, source, "training", keys, **shared, **options)
    for item, length, keys in _of_sparse(result, *root):
        yield replace(_measurement(result, source, "training", keys, **shared), item=item, length=length)


def read_comparison(result: Result, source: Source) -> Iterator[Measurement]:
    """The runs that a comparison has gathered, with the names that it gives to their settings."""
    for number in range(len(result.pick("runs", kind=list))):
        yield from read_training(result, source, "runs", number)


def read_images(result: Result, source: Source) -> Iterator[Measurement]:
    """What was measured of a run's network on some images; items are `metric, images`."""
    name, shared = result.pick("data", "name", kind=str), _shared(result, source)
    result.pick("evaluation", kind=dict)
    variations = {"images": result.get_at("data", "fingerprint"), "shape": result.get_at("shape")}
    for keys in _metrics(result, "evaluation"):
        found = _measurement(result, source, "images", keys, **shared, data=name, variations=_known(variations))
        yield replace(found, item=f"{found.item}, {name}")


def _metrics(result: Result, *root: str | int) -> Iterator[tuple[str | int, ...]]:
    """Where each metric of a section stands; what is no finite number is none."""
    for name in result.get_at(*root) if root else result:
        # The recipe has the seed.
        if name != "seed" and result.optional_number(*root, name) is not None:
            yield (*root, name)
    for side in result.get_at(*root, _BY_SIDE) or ():
        yield (*root, _BY_SIDE, side)
    for section in _BY_LEVEL:
        for level in result.get_at(*root, section) or ():
            for name in result.pick(*root, section, level, kind=dict):
                if result.optional_number(*root, section, level, name) is not None:
                    yield (*root, section, level, name)


def _of_sparse(result: Result, *root: str | int) -> Iterator[tuple[str, float | None, tuple[str | int, ...]]]:
    """Item, length and place of each number of sparse networks; the length is the first epoch of a phase."""
    levels = result.get_at(*root, "one_shot") or ()
    for section in (("dense",), ("sparse", "flops"), *(("one_shot", level) for level in levels)):
        for name in result.get_at(*root, *section) or ():
            keys = (*root, *section, name)
            if result.optional_number(*keys) is not None:
                yield ".".join((*section, name)), None, keys
    for number in range(len(result.get_at(*root, "sparse", "phases") or ())):
        phase = (*root, "sparse", "phases", number)
        if result.optional_number(*phase, "mask_change") is not None:
            yield "sparse.mask_change", result.finite_number(*phase, "first"), (*phase, "mask_change")


def _measurement(
    result: Result, source: Source, kind: str, keys: tuple[str | int, ...], **options: Any
) -> Measurement:
    item, length = keys[-1], None
    if keys[-2:-1] == (_BY_SIDE,):
        item, length = _BY_SIDE, int(keys[-1])
    elif keys[-3:-2] and keys[-3] in _BY_LEVEL:
        item, length = f"{keys[-3]}.{keys[-1]}", float(keys[-2])
    return Measurement(
        kind=kind,
        item=item,
        length=length,
        value=result.finite_number(*keys),
        error=None,
        places=(Place(source, pointer(*keys)),),
        **options,
    )


def _shared(result: Result, source: Source, *root: str | int) -> dict[str, Any]:
    """The setting that was trained, and what it learned from."""
    recipe = result.pick(*root, "recipe", kind=dict)
    data = {
        f"{section}.{name}": value
        for section, names in _DATA.items()
        for name in names
        if (value := (recipe.get(section) or {}).get(name)) is not None
    }
    clips = data.get("clips.name")
    if clips in _CUT_ALREADY:
        data.pop("clips.held_out", None)
    if recipe.get("task") == "sounds":
        model = dict(result.pick(*root, "recipe", "model", kind=dict))
        recipe = {**recipe, "model": model, PRETRAINING: pretraining_of(model.pop("path", None), source.path)}
    off = tuple(f"{name}." for name, key in _SWITCHES.items() if (recipe.get(name) or {}).get(key) == "none")
    facts = {
        name: value
        for name, value in _flat(recipe).items()
        if (key := name.removeprefix(f"{PRETRAINING}.")) != "task"
        and name not in data
        and not key.startswith((*_FREE, *off))
        and (name != FOLD or clips == "esc50")
    }
    # The folds of a comparison are one setting.
    given = "" if FOLD in facts else result.get_at(*root, "setting") or ""
    return {
        "subject": Subject(given, "", "", "", facts=tuple(sorted(facts.items()))),
        "conditions": _known({"task": result.pick(*root, "recipe", "task", kind=str), **data}),
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Leaves by `section.key`, as they are written in a recipe."""
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _known(values: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in values.items() if value is not None)
