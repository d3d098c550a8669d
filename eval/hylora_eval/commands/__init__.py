# SPDX-License-Identifier: Apache-2.0
"""What this package adds to the `hylora` command, one module for each command; this one imports none of them."""

__all__ = ["COMMANDS", "DEMO", "EVAL"]

# As in `hylora_cli`: (module, attribute, one line of help).
DEMO = ("hylora_eval.commands.demo", "demo", "The whole story in miniature, on a CPU and without network.")
EVAL = ("hylora_eval.commands", "COMMANDS", "Evaluate a model: perplexity, benchmarks, retrieval, runtime; report.")
COMMANDS = {
    "compare": ("hylora_eval.commands.compare", "compare", "Whether one result is better than another."),
    "harness": ("hylora_eval.commands.harness", "harness", "Tasks of the LM Evaluation Harness."),
    "ppl": ("hylora_eval.commands.ppl", "ppl", "Perplexity of long documents, by context length."),
    "report": ("hylora_eval.commands.report", "report", "Tables and charts of several results."),
    "retrieval": ("hylora_eval.commands.retrieval", "retrieval", "Which blocks SE-Attn retrieves, and should."),
    "ruler": ("hylora_eval.commands.ruler", "ruler", "The RULER benchmark, by context length."),
    "ruler-generate": (
        "hylora_eval.commands.ruler_elsewhere",
        "generate",
        "Prompts of RULER for a model that runs elsewhere.",
    ),
    "ruler-score": ("hylora_eval.commands.ruler_elsewhere", "score", "Scores of what it answered."),
    "runtime": ("hylora_eval.commands.runtime", "runtime", "Time and memory of attention, by context length."),
}
