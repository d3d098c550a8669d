# SPDX-License-Identifier: Apache-2.0
"""Gather `outputs/retrieval/*/*.json` in results/main.json, print the page's tables from it and draw its picture.

With `--kept` from what results/main.json holds already.
"""

import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hylora_eval.retrieval.picture import draw

RESULTS = Path(__file__).parent / "results/main.json"
KINDS = ("hybrid", "transformer")
# Needles of two tokens lie in one block, mostly; options follow from the settings.
LEFT_OUT = ("options", "layers", "hit_rate_of_all", "chance_of_all")


def gather(folder: Path = Path("outputs/retrieval")) -> dict:
    """Every figure of every run, without what can be computed from its settings."""
    runs, recall = [], {}
    for path in sorted(folder.glob("*-?/*_?.json")):
        result = json.loads(path.read_text())
        rows = []
        for found in result["results"]:
            about = {"task": found["task"], "length": found["length"]}
            for rule in found["rules"]:
                layers = [layer["attended"] and round(layer["attended"]["hit_rate"], 4) for layer in rule["layers"]]
                kept = {name: value for name, value in rule.items() if name not in LEFT_OUT}
                size = {"block_size": rule["options"]["block_size"]}
                rows.append({**about, **size, **_rounded(kept), "attended_by_layer": layers})
        kept = {name: result[name] for name in ("created", "settings", "data", "environment")}
        runs.append({"model": path.parent.name, "file": path.stem, **kept, "rows": rows})
    for path in sorted(folder.glob("*-?/recall.json")):
        recall[path.parent.name] = _rounded(json.loads(path.read_text()))
    return {"recall": recall, "runs": runs}


def _rounded(values: dict) -> dict:
    """With numbers of four digits; nested."""
    return {
        name: _rounded(value) if isinstance(value, dict) else round(value, 4) if isinstance(value, float) else value
        for name, value in values.items()
        if not isinstance(value, (list, tuple))
    }


def tables(results: dict) -> Iterator[str]:
    """The page's tables."""
    lengths = (1024, 2048)

    def attended(row: dict) -> float | None:
        return row["attended"] and row["attended"]["hit_rate"]

    columns = [(kind, size) for kind in KINDS for size in (8, 16, 32)]
    yield _table(
        ["rule", *(f"{kind}, S={size}" for kind, size in columns)],
        results,
        lambda rule: [_cell(results, kind, "facts", lengths, rule, size, attended) for kind, size in columns],
    )
    looks: list[tuple[str, Callable[[dict], float | None]]] = [
        ("found", attended),
        ("another's query", lambda row: row["attended"] and row["attended"]["other_query"]),
        ("mass", lambda row: row["mass"]),
    ]
    yield _table(
        ["rule", *(f"{kind}, {name}" for kind in KINDS for name, _ in looks)],
        results,
        lambda rule: [_cell(results, kind, "facts", (2048,), rule, 16, look) for kind in KINDS for _, look in looks],
    )
    short = [(kind, task, size) for kind in KINDS for task in ("recall", "facts") for size in (8, 16)]
    yield _table(
        ["rule", *(f"{kind}, {task}, S={size}" for kind, task, size in short)],
        results,
        lambda rule: [_cell(results, kind, task, (511,), rule, size, attended) for kind, task, size in short],
    )


def _table(headings: list[str], results: dict, cells: Callable[[str], list[str]]) -> str:
    rules = dict.fromkeys(row["rule"] for row in _rows(results))
    lines = [headings, ["---", *(["--:"] * (len(headings) - 1))], *([rule, *cells(rule)] for rule in rules)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rows(results: dict) -> Iterator[dict]:
    """The rows of all runs, with chance as a rule of its own."""
    for run in results["runs"]:
        model = {"model": run["model"]}
        for row in run["rows"]:
            if row["rule"] == "oracle":
                attended = row["attended"] and {"hit_rate": row["attended"]["chance"], "other_query": None}
                yield {**row, **model, "rule": "chance", "attended": attended, "mass": row["mass_of_random"]}
        yield from ({**row, **model} for row in run["rows"])


def _cell(
    results: dict, kind: str, task: str, lengths: tuple[int, ...], rule: str, size: int, look: Callable[[dict], Any]
) -> str:
    """Means over models and draws, per cent, one for each length."""
    size = 64 if rule == "infllm_v2" else size
    means = []
    for length in lengths:
        wanted = {"task": task, "length": length, "rule": rule, "block_size": size}
        fitting = (row for row in _rows(results) if row["model"].startswith(kind) and wanted.items() <= row.items())
        values = [100 * value for value in map(look, fitting) if value is not None]
        means.append(f"{statistics.fmean(values):.0f}" if values else "-")
    return "/".join(means)


def picture(results: dict, length: int = 2048) -> list[dict]:
    """What is drawn: of each kind of model the means over models and draws."""
    panels = []
    for kind in KINDS:
        kinds: dict[tuple[str, int], list[dict]] = {}
        for run in results["runs"]:
            for row in run["rows"]:
                if run["model"].startswith(kind) and (row["task"], row["length"]) == ("facts", length):
                    kinds.setdefault((row["rule"], row["block_size"]), []).append(row["attended"])
        rules = [
            {"rule": rule, "options": {"block_size": size}, "hit_rate": 0.0, "attended": _means(found)}
            for (rule, size), found in kinds.items()
        ]
        if rules:
            panels.append({"task": f"{kind}, facts", "length": length, "rules": rules})
    return panels


def _means(found: list[dict]) -> dict:
    """Of several draws of documents; the standard error too."""
    means = {
        name: statistics.fmean(each[name] for each in found)
        for name in ("hit_rate", "chance", "other_query")
        if found[0][name] is not None
    }
    error = math.hypot(*(each["standard_error"] for each in found)) / len(found)
    return {"other_query": None, **means, "standard_error": error}


if __name__ == "__main__":
    if "--kept" not in sys.argv:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(gather(), separators=(",", ":")).replace('{"task"', '\n{"task"') + "\n")
    results = json.loads(RESULTS.read_text())
    for text in tables(results):
        print(text, end="\n\n")
    draw(picture(results), Path("docs/images/retrieval.png"), "256 tokens retrieved, chunks of 256")
