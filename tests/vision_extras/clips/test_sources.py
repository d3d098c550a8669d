# SPDX-License-Identifier: Apache-2.0
"""Where clips come from: what each source gives, what is held out, and how what cannot work is refused."""

from __future__ import annotations

import io
import os

import pytest
import soundfile
import torch
from datasets import Audio, ClassLabel, Dataset, Features, List, Value, Video

from tests.processes import launch
from tests.vision_extras.clips.files import RATE, tone, write_sound, write_video
from vision_extras.clips import ClipsRecipe, SoundAndFrames, Sounds, UnreadableClip, load_clips
from vision_extras.clips import encoded as encoding
from vision_extras.images.data import chosen


def load(name, path=None, video=False, **changes):
    return load_clips(ClipsRecipe(name=name, path=None if path is None else str(path), **changes), video)


def names(rows):
    return [rows[index].name for index in range(len(rows))]


# Big Buck Bunny


def test_a_film_is_cut_into_windows_one_after_another():
    split = load("bunny", video=True, video_seconds=1.0, held_out=0.4, resample=True, unreadable="trust")
    assert (len(split.train), len(split.held_out), split.classes) == (3, 2, ())
    whole = load("bunny", video=False, video_seconds=5.0, held_out=0.0, resample=True).train[0]
    sound = whole.sound(RATE)
    for index, clip in enumerate([*(split.train[index] for index in range(3)), split.held_out[0]]):
        assert (clip.seconds, clip.labels) == (1.0, ())
        assert torch.equal(clip.sound(RATE), sound[index * RATE : (index + 1) * RATE])
    assert torch.equal(split.train[2].frames(0.2, 0.4, 2), whole.frames(2.2, 0.4, 2))
    assert sound.std() > 1e-3 and split.train.fingerprint() != split.held_out.fingerprint()
    recipe = ClipsRecipe(name="bunny", seconds=1.0, video_seconds=1.0, side=32, resample=True)
    batch = SoundAndFrames(recipe)([split.train[0]], [None])
    assert batch["frames"].shape == (1, 3, 16, 32, 32) and batch["labels"].tolist() == [-100]


def test_a_film_has_its_own_rate_and_length():
    with pytest.raises(UnreadableClip, match=r"^bigbuckbunny\.mp4 has 48000 samples"):
        load("bunny", video_seconds=1.0, unreadable="trust").train[0].sound(RATE)
    with pytest.raises(ValueError, match="video_seconds=6 is longer than the film of name='bunny', of 5.28 seconds"):
        load("bunny", video_seconds=6.0)
    with pytest.raises(ValueError, match="held_out=0.8 leaves no clip of name='bunny' to learn from"):
        load("bunny", held_out=0.8, resample=True)


# Folders of classes


def test_a_folder_has_a_class_for_each_folder(tmp_path):
    for number in range(10):
        write_sound(tmp_path / "dog" / f"{number}.wav", tone(300 + 50 * number))
        write_sound(tmp_path / "cat" / "more" / f"{number}.flac", tone(300))
    (tmp_path / "dog" / "notes.txt").write_text("no clip")
    split = load("folder", tmp_path, held_out=0.3)
    assert split.classes == ("cat", "dog")
    everything = [*(f"cat/more/{number}.flac" for number in range(10)), *(f"dog/{number}.wav" for number in range(10))]
    side = chosen(everything, 0.3).tolist()
    assert names(split.train) == [name for name, held_out in zip(everything, side, strict=True) if not held_out]
    assert names(split.held_out) == [name for name, held_out in zip(everything, side, strict=True) if held_out]
    for index, name in enumerate(names(split.train)):
        assert split.train.labels[index] == split.train[index].labels == (int(name.startswith("dog")),)
    dog = split.train[len(split.train) - 1]
    assert dog.seconds == pytest.approx(0.5) and len(dog.sound(RATE)) == 8000


def test_a_folder_may_have_videos_and_splits(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            write_video(tmp_path / split / name / "1.mp4", [10, 60, 110, 160, 210], fps=5, sound=tone(440, 1.0))
    split = load("folder", tmp_path, video=True, train_split="train", held_out_split="val", frames=5)
    assert names(split.train) == names(split.held_out) == ["a/1.mp4", "b/1.mp4"]
    recipe = ClipsRecipe(name="folder", path=str(tmp_path), seconds=1.0, frames=5, video_seconds=1.0, side=16)
    batch = SoundAndFrames(recipe)([split.train[1]], [None])
    grey = (255 * (0.225 * batch["frames"] + 0.45)).mean((0, 1, 3, 4))
    assert grey.tolist() == pytest.approx([10, 60, 110, 160, 210], abs=4) and batch["labels"].tolist() == [1]
    one, other = (load("folder", tmp_path / name, held_out=0.0).train.fingerprint() for name in ("train", "val"))
    assert one != other
    (tmp_path / "val" / "c").mkdir()
    with pytest.raises(ValueError, match="val' has class 'c', which there is not to learn from"):
        load("folder", tmp_path, train_split="train", held_out_split="val")


def test_a_folder_without_clips_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        load("folder", tmp_path / "none")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="a' has no file whose ending is one of sound or video"):
        load("folder", tmp_path)


def test_a_clip_that_cannot_be_read_is_named(tmp_path):
    write_sound(tmp_path / "a" / "1.wav", tone(440, rate=8000), 8000)
    write_video(tmp_path / "b" / "2.mp4", range(0, 200, 10))
    (tmp_path / "b" / "3.mp4").write_bytes(b"no video")
    split = load("folder", tmp_path, video=True, held_out=0.0, unreadable="trust")
    recipe = ClipsRecipe(name="folder", path=str(tmp_path), seconds=0.5, frames=200, video_seconds=2.0)
    for index, error in enumerate(
        [r"^a/1\.wav has 8000 samples of sound per second", r"^b/2\.mp4 has no audio", r"^b/3\.mp4 cannot be decoded"]
    ):
        with pytest.raises(UnreadableClip, match=error):
            Sounds(recipe)([split.train[index]], [None])
    with pytest.raises(UnreadableClip, match=r"^b/2\.mp4 has 16 frames in the 2 seconds from 0.25 on, and frames=200"):
        SoundAndFrames(recipe)([split.train[1]], [None])


def test_before_training_every_clip_is_tried(tmp_path):
    for split in ("train", "val"):
        write_sound(tmp_path / split / "a" / "1.wav", tone(440, rate=8000), 8000)
        write_sound(tmp_path / split / "a" / "2.wav", tone(440))
        write_video(tmp_path / split / "b" / "3.mp4", range(0, 200, 10), sound=tone(440))
        (tmp_path / split / "b" / "4.mp4").write_bytes(b"no video")
    splits = {"train_split": "train", "held_out_split": "val", "video_seconds": 2.0, "side": 8}
    with pytest.raises(ValueError, match=r"found 4 of 8 .*: a/1\.wav has 8000 .*; b/4\.mp4 .*clips\.unreadable=skip"):
        load("folder", tmp_path, **splits)
    heard = load("folder", tmp_path, unreadable="skip", **splits)
    assert names(heard.train) == names(heard.held_out) == ["a/2.wav", "b/3.mp4"]
    assert [problem.split()[0] for problem in heard.left_out] == ["a/1.wav", "b/4.mp4"] * 2
    seen = load("folder", tmp_path, video=True, unreadable="skip", **splits)
    assert names(seen.train) == ["b/3.mp4"] and seen.left_out[1] == "a/2.wav has no video"
    assert len(load("folder", tmp_path, unreadable="trust", **splits).train) == 4


@pytest.mark.parametrize("broken", [0.0, 1.0, 2.0])
def test_before_training_the_first_middle_and_last_window_are_tried(tmp_path, monkeypatch, broken):
    write_video(tmp_path / "a" / "1.mp4", range(0, 240, 10), sound=tone(440))
    write_video(tmp_path / "b" / "2.mp4", range(0, 160, 10), sound=tone(440))
    read_frames = encoding.read_frames

    def read(file, name, start, *window):
        if (name, start) == ("a/1.mp4", broken):
            raise UnreadableClip(f"{name} has a gap")
        return read_frames(file, name, start, *window)

    monkeypatch.setattr(encoding, "read_frames", read)
    of = {"held_out": 0.0, "frames": 8, "video_seconds": 1.0, "side": 8}
    with pytest.raises(ValueError, match=r"found 1 of 2 .*: a/1\.mp4 has a gap"):
        load("folder", tmp_path, video=True, **of)
    assert len(load("folder", tmp_path, **of).train) == 2


# Its second process can read nothing.
PROGRAM = """
import os, sys
from pathlib import Path
from vision_extras.clips import ClipsRecipe, UnreadableClip, encoded, load_clips

def read(file, name, *how):
    raise UnreadableClip(name)

rank = os.environ["RANK"]
if rank == "1":
    encoded.read_sound = read
rows = load_clips(ClipsRecipe(name="folder", path=sys.argv[1], held_out=0.0, unreadable="skip"), False).train
Path(f"{sys.argv[2]}.{rank}").write_text(" ".join(rows[index].name for index in range(len(rows))))
"""


@pytest.mark.slow
def test_of_several_processes_the_main_one_decides(tmp_path):
    write_sound(tmp_path / "clips" / "a" / "1.wav", tone(440))
    write_sound(tmp_path / "clips" / "a" / "2.wav", tone(440, rate=8000), 8000)
    write_sound(tmp_path / "clips" / "b" / "3.wav", tone(440))
    (tmp_path / "program.py").write_text(PROGRAM)
    launch(2, tmp_path / "program.py", tmp_path / "clips", tmp_path / "found")
    assert [(tmp_path / f"found.{rank}").read_text() for rank in (0, 1)] == ["a/1.wav b/3.wav"] * 2


# ESC-50


def esc50(folder, folds=5):
    rows = [
        (f"{fold}-{target}-A.wav", fold, target, category)
        for fold in range(1, folds + 1)
        for target, category in ((36, "vacuum_cleaner"), (0, "dog"))
    ]
    for name, _, target, _ in rows:
        write_sound(folder / "audio" / name, tone(300 + target))
    lines = [f"{name},{fold},{target},{category},True,1,A" for name, fold, target, category in rows]
    (folder / "meta").mkdir()
    header = "filename,fold,target,category,esc10,src_file,take"
    (folder / "meta" / "esc50.csv").write_text("\n".join([header, *lines]) + "\n")


def test_of_esc50_a_fold_is_held_out(tmp_path):
    esc50(tmp_path)
    folds = [load("esc50", tmp_path, fold=fold) for fold in range(1, 6)]
    for fold, split in enumerate(folds, start=1):
        assert names(split.held_out) == [f"{fold}-36-A.wav", f"{fold}-0-A.wav"]
        assert split.held_out.labels == [(1,), (0,)] and split.classes == ("dog", "vacuum_cleaner")
        assert len(split.train) == 8 and not set(names(split.train)) & set(names(split.held_out))
    assert len({split.train.fingerprint() for split in folds}) == 5
    with pytest.raises(ValueError, match="name='esc50' has sound alone"):
        load("esc50", tmp_path, video=True)


def test_of_esc50_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"esc50\.csv cannot be read as ESC-50's table"):
        load("esc50", tmp_path)
    esc50(tmp_path, folds=4)
    with pytest.raises(ValueError, match="fold=5 has no clip"):
        load("esc50", tmp_path, fold=5)
    (tmp_path / "audio" / "2-0-A.wav").unlink()
    with pytest.raises(ValueError, match=r"lacks a file that is listed.*2-0-A\.wav"):
        load("esc50", tmp_path)


# Speech Commands


def test_of_speech_commands_the_lists_are_held_out(tmp_path):
    for word in ("yes", "no", "_background_noise_"):
        for speaker in "abc":
            write_sound(tmp_path / word / f"{speaker}.wav", tone(300, 0.1))
    (tmp_path / "validation_list.txt").write_text("yes/a.wav\n")
    (tmp_path / "testing_list.txt").write_text("no/b.wav\nyes/b.wav\n")
    split = load("speech_commands", tmp_path)
    assert split.classes == ("no", "yes")
    assert names(split.train) == ["no/a.wav", "no/c.wav", "yes/c.wav"] and split.train.labels == [(0,), (0,), (1,)]
    assert names(split.held_out) == ["no/b.wav", "yes/b.wav"]
    assert names(load("speech_commands", tmp_path, held_out_split="validation").held_out) == ["yes/a.wav"]
    with pytest.raises(ValueError, match="held_out_split='test' must be validation or testing"):
        load("speech_commands", tmp_path, held_out_split="test")
    (tmp_path / "testing_list.txt").write_text("maybe/b.wav\n")
    with pytest.raises(ValueError, match=r"has no file 'maybe/b\.wav', which a list"):
        load("speech_commands", tmp_path)
    (tmp_path / "testing_list.txt").unlink()
    with pytest.raises(ValueError, match="has no list of its split 'testing'"):
        load("speech_commands", tmp_path)


# AudioSet and VGGSound

IDS = ["--4gqARaEJE", "-0049aaaaaa", "ab_c1234567", "zz-zzzzzzzz", "99999999999"]


def audioset(folder):
    (folder / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n2,/t/dd00,"Dog"\n'
    )
    head = "# Segments csv created Sun Mar  5\n# num_ytids=2\n# YTID, start_seconds, end_seconds, labels\n"
    for split, rows in {
        "balanced_train": [(IDS[0], "/t/dd00,/m/09x0r"), (IDS[1], "/m/05zppz")],
        "unbalanced_train": [(IDS[2], "/m/09x0r")],
        "eval": [(IDS[3], "/m/05zppz,/m/09x0r"), (IDS[4], "/m/09x0r")],
    }.items():
        lines = [f'{video}, 30.000, 40.000, "{labels}"\n' for video, labels in rows]
        (folder / f"{split}_segments.csv").write_text(head + "".join(lines))


def test_audioset_has_several_labels_and_leaves_out_what_is_gone(tmp_path):
    audioset(tmp_path)
    for name in ("eval/zz-zzzzzzzz_30.000.wav", "train/--4gqARaEJE.wav", "train/ab_c1234567.flac", "train/other.wav"):
        write_sound(tmp_path / name, tone(440))
    split = load("audioset", tmp_path, train_split="balanced_train+unbalanced_train")
    assert split.multilabel and split.classes == ("Speech", "Male speech, man speaking", "Dog")
    assert names(split.train) == ["train/--4gqARaEJE.wav", "train/ab_c1234567.flac"]
    assert split.train.labels == [(0, 2), (0,)] and split.held_out.labels == [(0, 1)]
    assert split.left_out == (
        f"1 of 3 clips of balanced_train+unbalanced_train have no file below {tmp_path}",
        f"1 of 2 clips of eval have no file below {tmp_path}",
    )
    recipe = ClipsRecipe(name="audioset", path=str(tmp_path), seconds=0.5)
    batch = Sounds(recipe, several=3)([split.train[0], split.train[1]], [None] * 2)
    assert batch["labels"].tolist() == [[1, 0, 1], [1, 0, 0]]
    same = load("audioset", tmp_path, held_out_split="balanced_train")
    assert names(same.train) == names(same.held_out) == ["train/--4gqARaEJE.wav"]


def test_learners_with_video_get_the_video_of_a_clip_that_has_both(tmp_path):
    audioset(tmp_path)
    for number, video in enumerate(IDS[:4]):
        write_sound(tmp_path / "audio" / f"{video}.flac", tone(440))
        if number != 1:
            write_video(tmp_path / "video" / f"{video}.mp4", [0, 100, 200], fps=3, sound=tone(440, 1.0))
    split = load("audioset", tmp_path, video=True, frames=3)
    assert names(split.train) == [f"video/{IDS[0]}.mp4"] and names(split.held_out) == [f"video/{IDS[3]}.mp4"]
    assert split.left_out[0] == f"1 of 2 clips of balanced_train have no video below {tmp_path}"
    (tmp_path / "other_segments.csv").write_text(f'{IDS[1]}, 0.0, 10.0, "/t/dd00"\n')
    with pytest.raises(ValueError, match="has a video for none of 1 clips of the split 'other'"):
        load("audioset", tmp_path, video=True, frames=3, held_out_split="other")


def test_of_listed_clips_size_and_time_of_change_count(tmp_path):
    (tmp_path / "vggsound.csv").write_text(f"{IDS[0]},1,dog,train\n{IDS[1]},1,cat,test\n")
    file = write_sound(tmp_path / f"{IDS[0]}.wav", tone(440))
    write_sound(tmp_path / f"{IDS[1]}.wav", tone(440))

    def fingerprints():
        split = load("vggsound", tmp_path)
        return split.train.fingerprint(), split.held_out.fingerprint()

    found = [fingerprints(), fingerprints()]
    changed = file.stat().st_mtime_ns
    write_sound(file, tone(440, 0.6))
    os.utime(file, ns=(changed, changed))
    found.append(fingerprints())
    os.utime(file, ns=(changed, changed + 10**9))
    found.append(fingerprints())
    assert found[0] == found[1] and len({train for train, _ in found}) == 3 and len({other for _, other in found}) == 1


def test_of_audioset_what_is_wrong_is_named(tmp_path):
    audioset(tmp_path)
    with pytest.raises(ValueError, match="has a file for none of 2 clips of the split 'balanced_train'"):
        load("audioset", tmp_path)
    with pytest.raises(ValueError, match=r"other_segments\.csv cannot be read"):
        load("audioset", tmp_path, held_out_split="other")
    table = tmp_path / "eval_segments.csv"
    table.write_text(f'{IDS[3]}, 0.0, 10.0, "/m/none"\n')
    with pytest.raises(ValueError, match=r"eval_segments\.csv has '/m/none', which .*indices\.csv lacks"):
        load("audioset", tmp_path)
    table.write_text(f"{IDS[3]}, 0.0, 10.0\n")
    with pytest.raises(ValueError, match=r"eval_segments\.csv must have 4 columns, and has a row"):
        load("audioset", tmp_path)


def test_vggsound_has_its_splits_in_one_table(tmp_path):
    (tmp_path / "vggsound.csv").write_text(
        f'{IDS[0]},1,"people marching",test\n{IDS[1]},20,"dog barking",train\n{IDS[2]},9,people marching,train\n'
        f'{IDS[3]},9,"dog barking, far",test\n'
    )
    for video in IDS[:3]:
        write_video(tmp_path / "video" / f"{video}_000001.mp4", [0, 100, 200], fps=3, sound=tone(440, 1.0))
    split = load("vggsound", tmp_path, video=True, frames=3)
    assert not split.multilabel and split.classes == ("dog barking", "dog barking, far", "people marching")
    assert split.train.labels == [(0,), (2,)] and split.held_out.labels == [(2,)]
    assert split.left_out == (f"1 of 2 clips of test have no video below {tmp_path}",)
    assert split.train[0].frames(0.0, 1.0, 3).float().mean((1, 2, 3)).tolist() == pytest.approx([0, 100, 200], abs=4)


# The library datasets


def encoded(sound, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="wav")
    return file.getvalue()


def saved(folder, columns, features):
    # Encoded sound is taken as it is only after it has been stored.
    stored = {
        name: {"bytes": Value("binary"), "path": Value("string")} if isinstance(feature, Audio) else feature
        for name, feature in features.items()
    }
    Dataset.from_dict(columns, Features(stored)).cast(Features(features)).save_to_disk(folder)
    return folder


def test_a_dataset_gives_sound_as_it_is_stored(tmp_path):
    sounds = [{"bytes": encoded(tone(300 + 10 * number)), "path": None} for number in range(12)]
    columns = {"audio": sounds, "label": [number % 2 for number in range(12)]}
    features = {"audio": Audio(sampling_rate=48000), "label": ClassLabel(names=["high", "low"])}
    split = load("dataset", saved(tmp_path / "a", columns, features), held_out=0.3)
    assert len(split.train) + len(split.held_out) == 12 and split.classes == ("high", "low")
    side = chosen([f"row {number}" for number in range(12)], 0.3)
    first = int((~side).nonzero()[0])
    clip = split.train[0]
    assert clip.name.startswith(f"row {first} of train") and clip.labels == (first % 2,)
    assert clip.sound(RATE).numpy() == pytest.approx(tone(300 + 10 * first), abs=2**-14)
    assert clip.seconds == pytest.approx(0.5)


def test_a_dataset_may_have_videos_and_lists_of_labels(tmp_path):
    file = write_video(tmp_path / "a.mp4", [0, 80, 160], fps=3, sound=tone(440, 1.0))
    videos = [{"bytes": file.read_bytes(), "path": None}, {"bytes": None, "path": str(file)}]
    columns = {"video": videos, "tags": [["dog", "bark"], ["cat"]]}
    path = saved(tmp_path / "b", columns, {"video": Video(), "tags": List(Value("string"))})
    split = load("dataset", path, video=True, sound_column="video", label_column="tags", held_out=0.0, frames=3)
    assert split.multilabel and split.classes == ("bark", "cat", "dog") and split.train.labels == [(0, 2), (1,)]
    for index in range(2):
        clip = split.train[index]
        assert clip.frames(0.0, 1.0, 3).float().mean((1, 2, 3)).tolist() == pytest.approx([0, 80, 160], abs=4)
        assert len(clip.sound(RATE)) == pytest.approx(RATE, abs=2100)
    unlabelled = load("dataset", path, sound_column="video", label_column=None, held_out=0.0)
    assert unlabelled.classes == () and unlabelled.train.labels == [(), ()]
    with pytest.raises(UnreadableClip, match="^row 0 of train of .* has sound alone, and no frames"):
        unlabelled.train[0].frames(0.0, 1.0, 2)


@pytest.mark.parametrize(("sound_column", "rows"), [("video", [["video"]]), ("audio", [["audio"], ["video"]])])
def test_of_a_clip_its_row_and_its_length_are_read_once(tmp_path, monkeypatch, sound_column, rows):
    file = write_video(tmp_path / "a.mp4", [0, 80, 160], fps=3, sound=tone(440, 1.0)).read_bytes()
    columns = {"video": [{"bytes": file, "path": None}], "audio": [{"bytes": encoded(tone(440)), "path": None}]}
    path = saved(tmp_path / "b", columns, {"video": Video(), "audio": Audio()})
    of = {"sound_column": sound_column, "label_column": None, "held_out": 0.0, "frames": 3, "side": 8}
    split = load("dataset", path, video=True, unreadable="trust", **of)
    opened, measured = [], []
    get, read_seconds = Dataset.__getitem__, encoding.read_seconds
    monkeypatch.setattr(Dataset, "__getitem__", lambda self, key: opened.append(self.column_names) or get(self, key))
    monkeypatch.setattr(encoding, "read_seconds", lambda *file: measured.append(file) or read_seconds(*file))
    collate = SoundAndFrames(ClipsRecipe(name="dataset", path=str(path), **of))
    assert collate([split.train[0]], [None])["frames"].shape == (1, 3, 3, 8, 8)
    assert sorted(opened) == rows and len(measured) == 1


def test_of_a_dataset_what_is_wrong_is_named(tmp_path):
    columns = {"audio": [{"bytes": encoded(tone(300)), "path": None}] * 2, "label": [0, 1]}
    path = saved(tmp_path / "a", columns, {"audio": Audio(), "label": Value("int64")})
    with pytest.raises(ValueError, match="sound_column='sound' is no column of train of .*the nearest is"):
        load("dataset", path, sound_column="sound")
    with pytest.raises(ValueError, match="video_column='video' is no column"):
        load("dataset", path, video=True)
    with pytest.raises(ValueError, match="sound_column='label' of .* must be of type Audio or Video, not Value"):
        load("dataset", path, sound_column="label")
    with pytest.raises(ValueError, match="label_column='labels' is no column"):
        load("dataset", path, label_column="labels")


# Recipes


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"name": "foldr"}, "name='foldr' must be .*the nearest is folder"),
        ({"name": "folder"}, "path=None must name the folder or dataset of name='folder'"),
        ({"name": "speech", "path": "x"}, "path='x' must be left out; name='speech' does not read it"),
        ({"name": "esc50", "path": "x", "fold": 6}, "fold=6 must be at least 1 and at most 5"),
        ({"name": "esc50", "path": "x", "held_out": 0.5}, "held_out=0.5 must be left out"),
        ({"name": "speech", "seconds": 0.01}, "seconds=0.01 must be at least 0.025"),
        ({"name": "speech", "held_out": 1.0}, "held_out=1.0 must be"),
        ({"name": "speech", "std": 0.0}, "std=0.0 must be above 0"),
    ],
)
def test_recipes_that_cannot_work_are_refused(fields, error):
    with pytest.raises(ValueError, match=error):
        ClipsRecipe(**fields)


def test_recipes_know_whether_clips_are_held_out(tmp_path):
    assert not ClipsRecipe(name="speech", held_out=0.0).holds_out and ClipsRecipe(name="speech").holds_out
    assert ClipsRecipe(name="esc50", path="x").holds_out and ClipsRecipe(name="audioset", path="x").holds_out
    assert not ClipsRecipe(name="folder", path="x", held_out=0.0).holds_out
    assert ClipsRecipe(name="folder", path="x", held_out=0.0, held_out_split="val").holds_out
