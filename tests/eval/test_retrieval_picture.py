# SPDX-License-Identifier: Apache-2.0
"""Pictures of rules with needles and without."""

from __future__ import annotations

from hylora_eval.retrieval.picture import draw


def rule(name, size, **changes):
    found = {
        "rule": name, "options": {"block_size": size}, "hit_rate": 0.5, "standard_error": None, "chance": 0.1,
        "other_query": 0.2, "attended": None, "mass": 0.4, "mass_of_random": 0.1, "mass_standard_error": 0.1,
    }  # fmt: skip
    return {**found, **changes}


def test_every_task_has_a_panel(tmp_path):
    needles = [rule("min_max", 8), rule("min_max", 16, hit_rate=0.9), rule("published", 8, other_query=None)]
    documents = [rule("min_max", 8, hit_rate=None, other_query=None, chance=None)]
    one = {"task": "facts", "length": 512, "rules": needles}
    two = {"task": "documents", "length": 512, "rules": documents}
    for name, results in (("one", [one]), ("two", [one, two])):
        draw(results, tmp_path / f"{name}.png", "title")
    first, second = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "two"))
    assert first.startswith(b"\x89PNG") and first != second
