# SPDX-License-Identifier: Apache-2.0
"""Which memory blocks span-expanded attention retrieves, and whether they are the right ones.

`retrieval_hit_rate` counts how often a needed block is retrieved, `trace_retrieval` shows each choice, and
`inspect_retrieval` compares with chance and with an oracle by full attention's weights.
"""

from hylora_eval.retrieval.hit_rate import LayerHits, RetrievalResult, retrieval_hit_rate
from hylora_eval.retrieval.inspection import CapturedMass, Inspection, LayerMass, inspect_retrieval
from hylora_eval.retrieval.mass import AttentionMass, attention_mass
from hylora_eval.retrieval.needles import Needles, Sample
from hylora_eval.retrieval.trace import LayerTrace, RetrievalTrace, trace_retrieval

__all__ = [
    "AttentionMass",
    "CapturedMass",
    "Inspection",
    "LayerHits",
    "LayerMass",
    "LayerTrace",
    "Needles",
    "RetrievalResult",
    "RetrievalTrace",
    "Sample",
    "attention_mass",
    "inspect_retrieval",
    "retrieval_hit_rate",
    "trace_retrieval",
]
