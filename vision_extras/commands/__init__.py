# SPDX-License-Identifier: Apache-2.0
"""What this package adds to the `hylora` command, one module for each command; this one imports none of them."""

__all__ = ["COMMANDS", "IMAGES"]

# As in `hylora_cli`: (module, attribute, one line of help).
IMAGES = ("vision_extras.commands", "COMMANDS", "Image classifiers: evaluate one on other images, or two of them.")
COMMANDS = {
    "eval": ("vision_extras.commands.evaluate", "evaluate", "Evaluate a trained classifier on any images."),
    "compare": ("vision_extras.commands.compare", "compare", "Tell how much two classifiers say the same."),
}
