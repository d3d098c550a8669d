# SPDX-License-Identifier: Apache-2.0
"""Where clips come from, by name."""

from __future__ import annotations

from vision_extras.clips.bunny import read_bunny
from vision_extras.clips.clip import ClipSplit
from vision_extras.clips.dataset import read_clip_dataset
from vision_extras.clips.folders import read_esc50, read_folder, read_speech_commands
from vision_extras.clips.recipe import ClipsRecipe
from vision_extras.clips.segments import read_audioset, read_vggsound
from vision_extras.clips.spoken import read_speech, read_spoken_digits

__all__ = ["load_clips"]

_READ = {
    "spoken_digits": read_spoken_digits,
    "speech": read_speech,
    "bunny": read_bunny,
    "folder": read_folder,
    "esc50": read_esc50,
    "speech_commands": read_speech_commands,
    "audioset": read_audioset,
    "vggsound": read_vggsound,
}

_SOUND_ALONE = ("speech", "esc50", "speech_commands")


def load_clips(recipe: ClipsRecipe, video: bool) -> ClipSplit:
    """The clips of a recipe, of which none is decoded yet.

    Args:
        recipe: of the clips.
        video: whether their frames are wanted too.

    Raises:
        ValueError: naming a field of the recipe that cannot work, and its remedy.
    """
    if video and recipe.name in _SOUND_ALONE:
        raise ValueError(
            f"name={recipe.name!r} has sound alone, and frames are to be learned from; name clips with both"
        )
    try:
        import av  # noqa: F401

        split = read_clip_dataset(recipe, video) if recipe.name == "dataset" else _READ[recipe.name](recipe)
    except ImportError as error:
        raise ValueError(
            f"name={recipe.name!r} needs a package that cannot be imported ({error}); pip install 'hylora[av]'"
        ) from error
    if not len(split.train):
        raise ValueError(f"held_out={recipe.held_out} leaves no clip of name={recipe.name!r} to learn from")
    return split
