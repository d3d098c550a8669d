# SPDX-License-Identifier: Apache-2.0
"""Masked audio-video learners, with masked patches diffused or left away (chapter 5)."""

from transformers import AutoConfig, AutoModelForAudioClassification, AutoModelForPreTraining

from vision_extras.mavil.classifier import MavilForAudioClassification
from vision_extras.mavil.completion import completed
from vision_extras.mavil.config import MavilConfig
from vision_extras.mavil.model import MavilForPreTraining, MavilOutput

__all__ = ["MavilConfig", "MavilForAudioClassification", "MavilForPreTraining", "MavilOutput", "completed"]

AutoConfig.register(MavilConfig.model_type, MavilConfig, exist_ok=True)
AutoModelForPreTraining.register(MavilConfig, MavilForPreTraining, exist_ok=True)
AutoModelForAudioClassification.register(MavilConfig, MavilForAudioClassification, exist_ok=True)
