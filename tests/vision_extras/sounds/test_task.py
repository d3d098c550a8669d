# SPDX-License-Identifier: Apache-2.0
"""Classifying sounds on the loop: its arithmetic, what it starts from and writes, interruptions and processes."""

from __future__ import annotations

import json
import math
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from sklearn.metrics import average_precision_score
from transformers import ASTFeatureExtractor, AutoFeatureExtractor, ViTConfig, pipeline

from hylora.training.recipe import RecipeError
from tests.outcomes import assert_same, records_of
from tests.processes import launch
from tests.vision_extras import small
from tests.vision_extras.clips.files import tone, write_sound
from vision_extras.clips import Sounds, load_clips
from vision_extras.mavil import MavilConfig, MavilForAudioClassification, MavilForPreTraining
from vision_extras.sounds import SoundFeatureExtractor
from vision_extras.sounds.recipe import SoundsRecipe
from vision_extras.sounds.run import make_task
from vision_extras.sounds.task import losses

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "audio_layers": 2}
TREE = {
    "task": "sounds",
    "clips": {"name": "folder", "seconds": 0.5, "bands": 64, "held_out": 0.4},
    "model": SIZES,
    "optimizer": {"lr": 3e-3, "layer_decay": 0.9, "schedule": {"warmup_epochs": 1, "final": 0.01}},
    "training": {"epochs": 3, "global_batch_size": 8, "batch_size": 4, "mixed_precision": "float32"},
    "evaluation": {"batch_size": 5},
    "tracking": {"progress": False},
}
EVERYTHING = {
    "augment": {"time_mask": 16, "frequency_mask": 16, "noise": 0.1, "mixup": 0.5, "cutmix": 1.0},
    "model.drop_path": 0.1,
    "loss": "bce",
}


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """A folder with twelve files each of low, middle and high tones."""
    folder = tmp_path_factory.mktemp("tones")
    for name, hertz in (("low", 200), ("middle", 800), ("high", 3200)):
        for number in range(12):
            write_sound(folder / name / f"{number}.wav", tone(hertz * 1.02**number, seconds=0.4 + 0.02 * number))
    return folder


def recipe(path, folder, **settings):
    return small.made(SoundsRecipe, TREE, path, **{"clips.path": str(folder), **settings})


def train(path, folder, prepare=lambda task: None, **settings):
    return small.trained(recipe(path, folder, **settings), make_task, prepare)


def logits_of(folder, several=None):
    """What a finished classifier says of the held-out clips, and their labels."""
    settings = SoundsRecipe.from_tree(json.loads((folder / "results.json").read_text())["recipe"])
    held_out = load_clips(settings.clips, video=False).held_out
    batch = Sounds(settings.clips, several)([*held_out], [None] * len(held_out))
    with torch.no_grad():
        logits = MavilForAudioClassification.from_pretrained(folder)(batch["input_values"]).logits
    return held_out, logits, batch["labels"]


def test_losses_by_hand():
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
    shares = torch.tensor([[0.25, 0.75, 0.0], [0.0, 1.0, 1.0]])
    found = losses(logits, shares, "ce").tolist(), losses(logits, shares, "bce").tolist()
    for number, (row, share) in enumerate(zip(logits.tolist(), shares.tolist(), strict=True)):
        total = math.log(sum(math.exp(value) for value in row))
        assert found[0][number] == pytest.approx(
            sum(s * (total - v) for v, s in zip(row, share, strict=True)), rel=1e-5
        )
        chances = [1 / (1 + math.exp(-value)) for value in row]
        terms = [s * math.log(c) + (1 - s) * math.log(1 - c) for c, s in zip(chances, share, strict=True)]
        assert found[1][number] == pytest.approx(-sum(terms) / 3, rel=1e-5)
    for kind in ("ce", "bce"):
        numbers, shares = torch.tensor([2, 0]), torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
        torch.testing.assert_close(losses(logits, numbers, kind), losses(logits, shares, kind))


def test_it_learns_and_what_it_came_to_is_what_the_file_says(tones, tmp_path):
    result, _ = train(tmp_path, tones, **{"training.epochs": 30, "optimizer.lr": 1e-2})
    held_out, logits, labels = logits_of(tmp_path)
    found = result.evaluation
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean())) and len(held_out) > 8
    assert found["accuracy"] > 0.8
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-4)
    precision = average_precision_score(F.one_hot(labels, 3).numpy(), logits.softmax(1).numpy(), average="macro")
    assert found["map"] == pytest.approx(precision, abs=1e-6)
    described = json.loads((tmp_path / "data.json").read_text())
    assert described["classes"] == ["high", "low", "middle"] and described["held_out"] == len(held_out)
    assert json.loads((tmp_path / "results.json").read_text())["clips_seen"] == 30 * described["train"]


def test_the_rate_warms_up_in_epochs_and_falls_to_its_least(tones, tmp_path):
    train(tmp_path, tones, **{"evaluation.at_end": False})
    records = records_of(tmp_path)
    steps, first = len(records), sum(record["epoch"] == 0 for record in records)
    for step, record in enumerate(records):
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))
        assert record["lr"] == pytest.approx(3e-3 * cosine * min(1, (step + 1) / first), rel=1e-6)


def test_a_pipeline_says_what_evaluation_says(tones, tmp_path):
    train(tmp_path, tones, **{"training.epochs": 1})
    held_out, logits, _ = logits_of(tmp_path)
    tell = pipeline("audio-classification", str(tmp_path))
    assert isinstance(tell.feature_extractor, SoundFeatureExtractor)
    for clip, row in zip(held_out, logits.softmax(1), strict=True):
        said = {entry["label"]: entry["score"] for entry in tell(clip.sound(16000).numpy())}
        for name, share in zip(("high", "low", "middle"), row.tolist(), strict=True):
            assert said[name] == pytest.approx(share, abs=1e-5)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_spectrograms_of_finished_classifiers_are_the_customary_ones(tmp_path):
    """But for what fills them up, which is silence."""
    SoundFeatureExtractor(seconds=0.5, mean=-5.0, std=4.0).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mavil"}))
    made = AutoFeatureExtractor.from_pretrained(tmp_path)
    sound = tone(500, 0.5) + 0.01 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    found = made(sound, sampling_rate=16000, return_tensors="pt")["input_values"]
    customary = ASTFeatureExtractor(max_length=48, mean=-5.0, std=4.0)(sound, 16000, return_tensors="pt")
    torch.testing.assert_close(found[:, :48], customary["input_values"], rtol=1e-3, atol=1e-3)
    silence = (math.log(torch.finfo(torch.float32).eps) + 5) / 8
    assert found.shape == (1, 64, 128) and found[:, 48:].unique().item() == pytest.approx(silence, abs=1e-5)
    several = made([sound, sound[:4000].tolist()], return_tensors="np")["input_values"]
    assert several.shape == (2, 64, 128) and np.array_equal(several[0], found[0].numpy())
    with pytest.raises(ValueError, match="sampling_rate=44100 must be 16000"):
        made(sound, sampling_rate=44100)


@pytest.mark.parametrize(("sounds", "number"), [([], 0), (np.zeros(0), 0), ([np.ones(800), np.zeros(0)], 1)])
def test_an_empty_sound_is_not_told(sounds, number):
    with pytest.raises(ValueError, match=f"raw_speech has no samples in sound {number}, .*; leave it out"):
        SoundFeatureExtractor(seconds=0.5)(sounds)


# What it starts from


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    """A learner of sound and video, as one that was pre-trained."""
    folder = tmp_path_factory.mktemp("learner")
    torch.manual_seed(0)
    decoder = {"decoder_size": 16, "decoder_layers": 1, "decoder_heads": 2, "video_layers": 1, "fusion_layers": 1}
    MavilForPreTraining(MavilConfig(bands=64, intermediate_size=64, **SIZES, **decoder)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("part", ["all", "head"])
def test_the_encoder_of_a_learner_is_finetuned(learner, tones, tmp_path, part):
    model = {"path": str(learner), "drop_path": 0.5, "train": part}
    starts = []

    def note(task):
        starts.append({name: value.clone() for name, value in task.model.network.state_dict().items()})
        task.model.register_forward_hook(lambda module, *_: starts.append(module.network.audio.training))

    train(tmp_path, tones, note, model=model, **{"training.epochs": 1})
    learned, found = load_file(learner / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    encoder = [name for name in found if name.startswith("audio.")]
    assert encoder and len(encoder) == len(found) - 4
    assert_same({name: starts[0][name] for name in encoder}, {name: learned[name] for name in encoder})
    moved = {name for name in found if not torch.equal(found[name], starts[0][name])}
    assert moved == ({"classifier.weight", "classifier.bias"} if part == "head" else {*found})
    # An encoder that stays as it is skips no layers.
    assert any(starts[1:]) == (part == "all")
    assert MavilForAudioClassification.from_pretrained(tmp_path).config.id2label == {0: "high", 1: "low", 2: "middle"}


def test_a_classifier_of_other_sounds_gets_a_new_head(tones, tmp_path):
    config = MavilConfig(video=False, bands=64, intermediate_size=64, num_labels=7, **SIZES)
    MavilForAudioClassification(config).save_pretrained(tmp_path / "other")
    task = make_task(recipe(tmp_path, tones, model={"path": str(tmp_path / "other")}), Accelerator(cpu=True))
    assert task.model.network.classifier.weight.shape == (3, 16)
    again = make_task(recipe(tmp_path, tones, model={"path": str(tmp_path / "other")}), Accelerator(cpu=True))
    assert_same(again.model.state_dict(), task.model.state_dict())


def test_clips_of_several_labels_are_told_by_average_precision(tmp_path):
    folder = tmp_path / "audioset"
    names = {"/m/a": 300, "/m/b": 1000, "/m/c": 3000}
    for split, count in (("balanced_train", 16), ("eval", 8)):
        lines = []
        for number in range(count):
            chosen = [name for place, name in enumerate(names) if (number % 7 + 1) >> place & 1]
            video = f"{split[:4]}-{number:06d}"
            write_sound(folder / split / f"{video}.wav", sum(tone(names[name]) for name in chosen) / 3)
            lines.append(f'{video}, 0.000, 10.000, "{",".join(chosen)}"\n')
        (folder / f"{split}_segments.csv").write_text("".join(lines))
    rows = "".join(f'{place},{name},"{name[-1]}"\n' for place, name in enumerate(names))
    (folder / "class_labels_indices.csv").write_text(f"index,mid,display_name\n{rows}")
    clips = {"name": "audioset", "path": str(folder), "seconds": 0.5, "bands": 64}
    with pytest.raises(RecipeError, match="loss='ce' is for one label of each clip"):
        train(tmp_path / "run", folder, clips=clips)
    result, _ = train(tmp_path / "run", folder, clips=clips, **EVERYTHING)
    held_out, logits, labels = logits_of(tmp_path / "run", several=3)
    assert labels.sum() > len(labels) == 8
    expected = average_precision_score(labels.numpy(), logits.numpy(), average="macro")
    assert result.evaluation["map"] == pytest.approx(expected, abs=1e-6)
    assert result.evaluation["loss"] == pytest.approx(
        float(F.binary_cross_entropy_with_logits(logits, labels)), rel=1e-4
    )
    tell = pipeline("audio-classification", str(tmp_path / "run"))
    assert tell.model.config.problem_type == "multi_label_classification"
    # Said again, since not every pipeline asks the config.
    said = tell(held_out[0].sound(16000).numpy(), function_to_apply="sigmoid")
    assert sorted(entry["score"] for entry in said) == pytest.approx(sorted(logits[0].sigmoid().tolist()), abs=1e-5)


# Interruptions and processes


def test_stopped_and_resumed_it_is_the_same_run(tones, tmp_path):
    settings = {**EVERYTHING, "evaluation.every": 1, "output.checkpoint_every": 2}
    _, whole = train(tmp_path / "whole", tones, **settings)
    for number in (2, 7, 12):
        folder = tmp_path / str(number)
        stop = small.before_pass(number, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert train(folder, tones, stop, **settings)[0].stopped_by == "SIGTERM"
        _, resumed = train(folder, tones, **settings, **{"training.resume": True})
        assert_same(resumed, whole)
        assert records_of(folder) == records_of(tmp_path / "whole")


def test_workers_make_the_same_batches(tones, tmp_path):
    _, alone = train(tmp_path / "alone", tones, **EVERYTHING)
    _, helped = train(tmp_path / "helped", tones, **EVERYTHING, **{"training.workers": 2})
    assert_same(helped, alone)


# What each process runs; the entry point may not be that of this source tree.
COMMAND = """
import sys
from vision_extras.sounds.recipe import SoundsRecipe
from vision_extras.sounds.run import train

train(SoundsRecipe.load(sys.argv[1], sys.argv[2:]))
"""


@pytest.mark.slow
def test_two_processes_are_one(tones, tmp_path):
    (tmp_path / "command.py").write_text(COMMAND)
    path, runs = tmp_path / "recipe.yaml", {}
    settings = {"augment": {"time_mask": 16, "noise": 0.1}, "optimizer.name": "sgd", "optimizer.lr": 0.03}
    recipe("unused", tones, **settings, **{"evaluation.every": 1}).save(path)
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        launch(processes, tmp_path / "command.py", path, f"output.path={folder}")
        runs[processes] = load_file(folder / "model.safetensors"), records_of(folder)
    (one, expected), (two, found) = runs[1], runs[2]
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)
    for record, reference in zip(found, expected, strict=True):
        assert record == pytest.approx(reference, rel=1e-3, abs=1e-5)


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": {"time_mask": 65}}, "augment.time_mask=65 must be at most 64, the steps of a spectrogram"),
        ({"augment": {"frequency_mask": 65}}, "augment.frequency_mask=65 must be at most 64, the bands"),
        ({"augment": {"noise": -0.1}}, "augment.noise=-0.1 must be at least 0"),
        ({"model": {"train": "head"}}, "model.train='head' needs an encoder that has learned; set path"),
        ({"model": {"path": "x", **SIZES}}, "model.hidden_size=16 must be left out"),
        ({"optimizer.layer_decay": 0.0}, "optimizer.layer_decay=0.0 must be above 0"),
        ({"optimizer.schedule": {"warmup_epochs": 4}}, "warmup_epochs=4 must be at most training.epochs=3"),
        ({"clips.held_out": 0.0, "evaluation.every": 1}, "evaluation.every=1 has nothing to evaluate on"),
    ],
)
def test_what_a_recipe_refuses(settings, message):
    with pytest.raises(RecipeError, match=message):
        recipe("unused", "unread", **settings)


def test_models_that_cannot_be_had_are_refused_before_clips_are_read(learner, tmp_path):
    def refuse(message, **settings):
        with pytest.raises(RecipeError, match=message):
            make_task(recipe(tmp_path / "run", tmp_path / "nowhere", **settings), Accelerator(cpu=True))

    refuse("model.path='.*/nothing' gives no audio encoder", model={"path": str(tmp_path / "nothing")})
    refuse("clips.bands=128 must be the 64 that the encoder", model={"path": str(learner)}, **{"clips.bands": 128})
    refuse("model: hidden_size=18 must be a multiple of 4", **{"model.hidden_size": 18})
    MavilConfig(audio_patch=24, bands=72, window=3).save_pretrained(tmp_path / "coarse")
    coarse = {"model": {"path": str(tmp_path / "coarse")}, "clips.bands": 72}
    refuse("clips.seconds=0.5: a spectrogram of 64 frames and 72 bands must divide into patches of 24", **coarse)
    ViTConfig().save_pretrained(tmp_path / "vit")
    refuse("is a network of type 'vit', and must be of type 'mavil'", model={"path": str(tmp_path / "vit")})
    refuse("clips.path='.*nowhere'")


def test_a_folder_without_an_audio_encoder_is_refused(learner, tones, tmp_path):
    weights = load_file(learner / "model.safetensors")
    (tmp_path / "config.json").write_bytes((learner / "config.json").read_bytes())
    save_file({name: value for name, value in weights.items() if not name.startswith("audio.layers.1.")},
              tmp_path / "model.safetensors", {"format": "pt"})  # fmt: skip
    with pytest.raises(RecipeError, match=r"gives no audio encoder: audio\.layers\.1\..* is not there"):
        make_task(recipe(tmp_path / "run", tones, model={"path": str(tmp_path)}), Accelerator(cpu=True))
