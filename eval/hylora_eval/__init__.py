# SPDX-License-Identifier: Apache-2.0
"""Evaluation of language models on long contexts.

The benchmark `ruler`, `perplexity` by context length, lm-eval's `harness`, `recall` by distance, the blocks of
`retrieval` and the `runtime` of attentions, with `documents` to read the data, `results` to keep what came out and
`report` for tables and charts of several of them. Every result names the attention the model was
evaluated with.
"""

__all__ = [
    "documents",
    "estimates",
    "fingerprints",
    "harness",
    "nll",
    "perplexity",
    "recall",
    "report",
    "results",
    "retrieval",
    "ruler",
    "runtime",
    "windows",
]
