# SPDX-License-Identifier: Apache-2.0
"""Which memory blocks rules retrieve, and whether they are the right ones.

`compare_rules` lets rules choose by the queries and keys of a model and compares with needles, full attention and
chance; `retrieval_hit_rate` counts how often a model's own attention retrieves a needed block.
"""

from hylora_eval.retrieval.comparison import Choices, compare_rules, retrieval_hit_rate
from hylora_eval.retrieval.findings import AttendedHits, Comparison, LayerResult, RuleResult
from hylora_eval.retrieval.needles import Needles, Sample
from hylora_eval.retrieval.rules import DEFAULT_RULES, Rule, parse_rules

__all__ = [
    "DEFAULT_RULES",
    "AttendedHits",
    "Choices",
    "Comparison",
    "LayerResult",
    "Needles",
    "Rule",
    "RuleResult",
    "Sample",
    "compare_rules",
    "parse_rules",
    "retrieval_hit_rate",
]
