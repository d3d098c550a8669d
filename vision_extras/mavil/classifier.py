# SPDX-License-Identifier: Apache-2.0
"""The audio branch of a masked audio-video learner as an ordinary classifier of sounds (section 5.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from vision_extras.mavil import positions
from vision_extras.mavil.config import MavilConfig
from vision_extras.mavil.encoder import Encoder
from vision_extras.mavil.model import MavilPreTrainedModel
from vision_extras.mavil.patches import audio_patches

__all__ = ["MavilForAudioClassification"]


class MavilForAudioClassification(MavilPreTrainedModel):
    """The audio encoder over all patches, and a linear classifier of their mean.

    `from_pretrained` of a learner takes its audio encoder; spectrograms may be of another length than it has learned
    from.

    Args:
        config: of its shape; `num_labels` is the number of classes.
    """

    # What a learner has beside its audio encoder.
    _keys_to_ignore_on_load_unexpected = (r"^audio_decoder\.", r"^video\.", r"^video_decoder\.", r"^fusion\.")

    def __init__(self, config: MavilConfig) -> None:
        super().__init__(config)
        self.audio = Encoder(config, config.audio_values, config.audio_layers, config.drop_path)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_values: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        """Classify sounds.

        Args:
            input_values: normalised log-mel spectrograms, [B, T, bands].
            labels: [B], int64, for a cross entropy; [B, classes] in floating point, which of several are there, for
                the binary one.

        Raises:
            ValueError: if spectrograms have other bands than the model, or do not divide into patches.
        """
        grid = self.audio_grid(input_values)
        patches = audio_patches(input_values, self.config.audio_patch)
        tokens = self.audio(patches, positions.grid(*grid, self.config.hidden_size, patches.device))[:, 0]
        logits = self.classifier(self.norm(tokens.mean(1)))
        if labels is None:
            return SequenceClassifierOutput(logits=logits)
        several = labels.is_floating_point()
        loss = F.binary_cross_entropy_with_logits(logits, labels) if several else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
