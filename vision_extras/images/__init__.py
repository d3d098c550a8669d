# SPDX-License-Identifier: Apache-2.0
"""Images to learn from, and how batches are made of them. torchvision is not needed."""

from vision_extras.images.collate import Augmented, Resized
from vision_extras.images.data import IGNORED, Images, LazyImages, Rows, UnreadableImage
from vision_extras.images.dealing import dealt
from vision_extras.images.recipe import AugmentRecipe, ImagesRecipe
from vision_extras.images.sources import SOURCES, Source, Split, load_split, plain_batches

__all__ = [
    "IGNORED",
    "SOURCES",
    "AugmentRecipe",
    "Augmented",
    "Images",
    "ImagesRecipe",
    "LazyImages",
    "Resized",
    "Rows",
    "Source",
    "Split",
    "UnreadableImage",
    "dealt",
    "load_split",
    "plain_batches",
]
