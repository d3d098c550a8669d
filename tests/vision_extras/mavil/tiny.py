# SPDX-License-Identifier: Apache-2.0
"""A learner that is quick to train."""

from __future__ import annotations

# As a recipe's section `model`; its patches are for frames of 16 pixels.
LEARNER = {
    "video_patch": 8,
    "hidden_size": 24,
    "num_attention_heads": 2,
    "audio_layers": 1,
    "video_layers": 1,
    "fusion_layers": 1,
    "decoder_size": 16,
    "decoder_layers": 1,
    "decoder_heads": 2,
}
