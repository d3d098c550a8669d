# SPDX-License-Identifier: Apache-2.0
"""`hylora eval`: evaluate a model, one module for each subcommand."""

__all__ = ["COMMANDS"]

# As in `hylora.cli.main`: name -> (module, attribute, one line of help).
COMMANDS = {
    "harness": ("hylora_eval.commands.harness", "harness", "Tasks of the LM Evaluation Harness."),
    "ppl": ("hylora_eval.commands.ppl", "ppl", "Perplexity of long documents, by context length."),
    "report": ("hylora_eval.commands.report", "report", "Tables and charts of several results."),
    "retrieval": (
        "hylora_eval.commands.retrieval",
        "retrieval",
        "Which blocks SE-Attn retrieves, and should.",
    ),
    "ruler": ("hylora_eval.commands.ruler", "ruler", "The RULER benchmark, by context length."),
    "runtime": ("hylora_eval.commands.runtime", "runtime", "Time and memory of attention, by context length."),
}
