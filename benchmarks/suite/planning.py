# SPDX-License-Identifier: Apache-2.0
"""Memory of training steps as `hylora plan` foretells it, against what they take."""

from __future__ import annotations

from .checks import describe_error
from .results import Results
from .sizes import Sizes
from .steps import missing_kernels
from .timing import Budget


def compare_plans(sizes: Sizes, results: Results, budget: Budget) -> None:
    """Compare the cases of benchmarks/planner.py for this device; for small sizes the first one alone."""
    section = results.start("planner", {"results": [], "left_out": []})
    try:
        import planner
    except ImportError as error:  # the training loop reads documents with `datasets`
        section["left_out"].append({"reason": describe_error(error)})
        results.save()
        return
    device = sizes.options.device
    cases = planner.cpu_cases()[:1] if sizes.model else planner.gpu_cases()
    if missing := missing_kernels() if device == "cuda" else []:
        section["left_out"].append({"reason": f"{' and '.join(missing)} not installed"})
        cases = []
    for case in cases:
        if budget.spent:
            section["left_out"].append({"case": case.name, "reason": "no time left"})
            continue
        try:
            section["results"].append(planner.compare(case, device))
        except Exception as error:
            section["left_out"].append({"case": case.name, "reason": describe_error(error)})
        results.save()
    results.save()
