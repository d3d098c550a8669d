# SPDX-License-Identifier: Apache-2.0
"""Result files with items, as `hylora eval ppl` and `hylora eval ruler` write them."""

from __future__ import annotations

import json
import math

from hylora_eval.results import Result

COUNTS = [100, 50, 200, 80]
LOSSES = [300.0, 160.0, 610.0, 230.0]


def losses(sums=LOSSES, counts=COUNTS, lengths=(64, 128), tokens="a" * 64, mode="chunks", stride=None, **fields):
    """Of `hylora eval ppl`; `sums=None` is one of before sums were kept."""
    nll = 3.0 if sums is None else sum(sums) / sum(counts)
    row = {"perplexity": math.exp(nll), "nll": nll, "nll_standard_error": 0.1, "documents": 4, "stride": stride}
    if sums is not None:
        row |= {"document_nll": list(sums), "document_tokens": list(counts)}
    return Result(
        kind="perplexity",
        data={"tokens_sha256": tokens},
        settings={"mode": mode},
        results=[{"length": length, **row, **fields} for length in lengths],
    )


def shifted(gain, noise=0.001, **options):
    """Losses lower by `gain` a token, give or take `noise` from document to document."""
    signs = (1, -1, 1, -1)
    sums = [total - (gain + noise * sign) * n for total, n, sign in zip(LOSSES, COUNTS, signs, strict=True)]
    return losses(sums, **options)


def scores(tasks, length=4096, prompts="b" * 64, kept=True):
    """Of `hylora eval ruler`."""
    rows = []
    for task, values in tasks.items():
        row = {"task": task, "length": length, "score": sum(values) / len(values), "samples": len(values)}
        rows.append({**row, "prompts_sha256": prompts, **({"scores": list(values)} if kept else {})})
    return Result(kind="ruler", settings={}, results=rows)


def write(path, result):
    """A file of a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return path
