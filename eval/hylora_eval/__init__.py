# SPDX-License-Identifier: Apache-2.0
"""Evaluation of language models on long contexts.

`hylora_eval.perplexity` and what it is made of (`hylora_eval.nll`), `hylora_eval.documents` to read the data and
`hylora_eval.results` to keep what came out. Long-context benchmarks and reports over several runs will join them.
Every result names the attention the model was evaluated with.
"""

__all__ = ["documents", "nll", "perplexity", "results"]
