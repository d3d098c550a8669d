# SPDX-License-Identifier: Apache-2.0
"""Clips to learn from: their sound as spectrograms, and their frames (chapter 5, section 5.5.1)."""

from vision_extras.clips.clip import Clip, ClipRows, ClipSplit, UnreadableClip
from vision_extras.clips.collate import SoundAndFrames, Sounds
from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.clips.sources import load_clips

__all__ = ["Clip", "ClipRows", "ClipSplit", "ClipsRecipe", "SoundAndFrames", "Sounds", "UnreadableClip", "load_clips"]
