# SPDX-License-Identifier: Apache-2.0
"""Telling sounds apart: the audio branch of a masked audio-video learner, finetuned or from scratch (chapter 5)."""

from transformers import AutoFeatureExtractor

from vision_extras.mavil import MavilConfig
from vision_extras.sounds.feature_extractor import SoundFeatureExtractor

__all__ = ["SoundFeatureExtractor"]

AutoFeatureExtractor.register(MavilConfig, SoundFeatureExtractor, exist_ok=True)
