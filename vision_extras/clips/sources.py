# SPDX-License-Identifier: Apache-2.0
"""Where clips come from, by name."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

from hylora.training.parallelism import process_state
from hylora.training.processes import on_main
from vision_extras.clips.bunny import read_bunny
from vision_extras.clips.clip import Clip, ClipSplit, UnreadableClip
from vision_extras.clips.collate import windows
from vision_extras.clips.dataset import read_clip_dataset
from vision_extras.clips.encoded import EncodedClips
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
}

# What these give depends on whether frames are wanted too.
_READ_FOR = {"audioset": read_audioset, "vggsound": read_vggsound, "dataset": read_clip_dataset}

_SOUND_ALONE = ("speech", "esc50", "speech_commands")


def load_clips(recipe: ClipsRecipe, video: bool) -> ClipSplit:
    """The clips of a recipe. Each is decoded when it is asked for; and once now, unless the recipe trusts all of them.

    What is tried is all sound, and the first, middle and last window of frames; gaps between these end training.
    Of several processes the main one tries them, and all must call this: they get the same clips.

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
        import soundfile  # noqa: F401

        split = _READ[recipe.name](recipe) if recipe.name in _READ else _READ_FOR[recipe.name](recipe, video)
    except ImportError as error:
        raise ValueError(
            f"name={recipe.name!r} needs a package that cannot be imported ({error}); pip install 'hylora[av]'"
        ) from error
    if isinstance(split.train, EncodedClips) and recipe.unreadable != "trust":
        split = _readable(recipe, split, video)
    if not len(split.train):
        raise ValueError(f"held_out={recipe.held_out} leaves no clip of name={recipe.name!r} to learn from")
    return split


def _readable(recipe: ClipsRecipe, split: ClipSplit, video: bool) -> ClipSplit:
    """Those clips that give what is asked for, with what is wrong with the others in words."""

    def problem(clip: Clip) -> str | None:
        try:
            clip.sound(recipe.rate)
            if video:
                windows(recipe, clip, 0.0, 0.5, 1.0)
        except UnreadableClip as error:
            return str(error)
        return None

    found: list[str] = []
    sides, state = {}, process_state()
    with ThreadPoolExecutor() as pool:
        for side in ("train", "held_out"):
            rows = getattr(split, side)
            clips = map(rows.__getitem__, range(len(rows)))
            problems = on_main(state, lambda clips=clips: list(pool.map(problem, clips)))
            sides[side] = rows.select([wrong is None for wrong in problems])
            found += filter(None, problems)
    if found and recipe.unreadable == "refuse":
        raise ValueError(
            f"unreadable='refuse' found {len(found)} of {len(split.train) + len(split.held_out)} clips that cannot be "
            f"learned from: {'; '.join(found[:5])}{' ...' if len(found) > 5 else ''}. Mend or remove them, or leave "
            "them out with clips.unreadable=skip"
        )
    return dataclasses.replace(split, **sides, left_out=(*split.left_out, *found))
