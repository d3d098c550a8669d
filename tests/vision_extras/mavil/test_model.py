# SPDX-License-Identifier: Apache-2.0
"""Learners against the same computation written out, and what each attention lets through."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForAudioClassification, AutoModelForPreTraining

from vision_extras.mavil import MavilConfig, MavilForAudioClassification, MavilForPreTraining, positions
from vision_extras.mavil.decoder import CrossLayers, LocalLayers, SelfLayers
from vision_extras.mavil.diffusion import noise_for, signal_shares
from vision_extras.mavil.patches import audio_patches, video_patches

SIZES = {
    "bands": 32,
    "audio_patch": 8,
    "video_patch": 4,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "audio_layers": 2,
    "video_layers": 1,
    "fusion_layers": 1,
    "decoder_size": 16,
    "decoder_layers": 2,
    "decoder_heads": 2,
}


def learner(**settings):
    torch.manual_seed(0)
    return MavilForPreTraining(MavilConfig(**{**SIZES, **settings}))


def batch(clips=3, visible=5, views=2, video=True):
    """5 x 4 patches of sound and 2 x 2 x 3 of video, of which 5 are visible; odd on purpose."""
    torch.manual_seed(1)

    def order(patches):
        return torch.stack([torch.stack([torch.randperm(patches) for _ in range(views)]) for _ in range(clips)])

    audio, seen = order(20), {}
    if video:
        watched = order(12)
        seen = {
            "frames": torch.randn(clips, 3, 4, 8, 12),
            "video_visible": watched[..., :visible],
            "video_masked": watched[:, 0, visible:],
        }
    return {
        "input_values": torch.randn(clips, 40, 32),
        "audio_visible": audio[..., :visible],
        "audio_masked": audio[:, 0, visible:],
        "steps": torch.tensor([1, 500, 1000])[:clips],
        "seeds": torch.arange(clips),
        **seen,
    }


@pytest.mark.parametrize(("diffusion", "attention"), [*itertools.product([True, False], ["self", "cross"])])
def test_a_learner_is_the_computation_written_out(diffusion, attention):
    """One clip and one view at a time, its patches projected before they are chosen."""
    model, given = learner(diffusion=diffusion, video_attention=attention).eval(), batch()
    found = model(**given)
    # Two views side by side are two passes; embeddings are compared among all clips.
    embedded = {"audio": [], "video": []}
    for clip in range(3):
        branches = {
            "audio": (
                audio_patches(given["input_values"], 8)[clip],
                positions.grid(5, 4, 24),
                positions.grid(5, 4, 16),
            ),
            "video": (
                video_patches(given["frames"], 2, 4)[clip],
                positions.separable(2, 2, 3, 24),
                positions.separable(2, 2, 3, 16),
            ),
        }
        tokens = {}
        for name, (patches, places, _) in branches.items():
            encoder, views = getattr(model, name), []
            for view in range(2):
                kept = (encoder.patches(patches) + places)[given[f"{name}_visible"][clip, view]][None]
                for layer in encoder.layers:
                    kept = layer(kept)
                views.append(encoder.norm(kept)[0])
            tokens[name] = views[0]
            embedded[name].append(torch.stack([view.mean(0) for view in views]))
        fused = torch.cat([tokens["audio"], tokens["video"]])[None]
        for layer in model.fusion.layers:
            fused = layer(fused)
        fused = model.fusion.norm(fused)[0]
        latents = {"audio": fused[:5], "video": fused[5:]}
        for number, (name, (patches, _, places)) in enumerate(branches.items()):
            decoder = getattr(model, f"{name}_decoder")
            visible, masked = given[f"{name}_visible"][clip, 0], given[f"{name}_masked"][clip]
            shown = decoder.embed(latents[name]) + places[visible]
            if diffusion:
                left = signal_shares(1000, 1e-4, 0.02, 0.8)[given["steps"][clip] - 1]
                noise = noise_for(patches[masked][None], [int(given["seeds"][clip]) + number])[0]
                hidden = decoder.noisy(left.sqrt() * patches[masked] + (1 - left).sqrt() * noise)
            else:
                hidden = decoder.mask_token.expand(len(masked), -1)
            hidden = hidden + places[masked]
            order, grid = torch.cat([visible, masked])[None], (5, 4) if name == "audio" else (2, 2, 3)
            predicted = decoder.layers(shown[None], hidden[None], order, grid)[0]
            predicted = decoder.predict(decoder.norm(predicted))
            torch.testing.assert_close(getattr(found, f"{name}_predicted")[clip], predicted, rtol=1e-4, atol=1e-5)
            error = ((predicted - patches[masked]) ** 2).mean(1).sum() / len(patches)
            torch.testing.assert_close(getattr(found, f"{name}_loss")[clip], error, rtol=1e-4, atol=1e-5)
    audio, video = (F.normalize(torch.stack(embedded[name]), dim=-1) for name in ("audio", "video"))

    def told(one, other, temperature):
        similar = one @ other.T / temperature
        return -(similar.log_softmax(1).diag() + similar.log_softmax(0).diag()) / 2

    inter = told(audio[:, 0], video[:, 0], 0.1)
    intra = (told(audio[:, 0], audio[:, 1], 1.0) + told(video[:, 0], video[:, 1], 1.0)) / 2
    torch.testing.assert_close(found.inter_loss, inter, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.intra_loss, intra, rtol=1e-4, atol=1e-5)
    whole = found.audio_loss + found.video_loss + 0.1 * found.inter_loss + 0.01 * found.intra_loss
    torch.testing.assert_close(found.loss, whole)


def test_every_parameter_learns():
    for diffusion, attention, video in itertools.product([True, False], ["self", "cross"], [True, False]):
        model = learner(diffusion=diffusion, video_attention=attention, video=video)
        model(**batch(video=video, views=1 + video)).loss.sum().backward()
        idle = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()]
        # A bias of keys moves all of a query's scores alike.
        assert all(name.endswith(("k_proj.bias", "key.bias", "k.bias")) for name in idle), idle


def test_checkpointed_activations_change_nothing():
    model, given = learner(), batch()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model.train()(**given).loss.sum().backward()
        gradients.append([each.grad.clone() for each in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("diffusion", "attention"), [(True, "cross"), (False, "self")])
def test_half_precision_is_near(diffusion, attention):
    """Under autocast, as on GPUs that have it."""
    model, given = learner(diffusion=diffusion, video_attention=attention), batch()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**given).loss
    found.sum().backward()
    torch.testing.assert_close(found, model(**given).loss, rtol=0.02, atol=0.02)


def test_a_learner_in_half_precision_takes_clips_in_full():
    for diffusion, attention in ((True, "cross"), (False, "self")):
        model = learner(diffusion=diffusion, video_attention=attention)
        expected = model(**batch()).loss
        torch.testing.assert_close(model.bfloat16()(**batch()).loss, expected, rtol=0.05, atol=0.05)


def test_only_visible_patches_reach_the_encoders():
    """What is masked is seen by decoders alone, and there with its noise."""
    model, given = learner().eval(), batch()
    changed = given["input_values"].clone()
    patches = audio_patches(changed, 8)
    unseen = [place for place in range(20) if place not in given["audio_visible"][0].flatten()]
    row, band = divmod(unseen[0], 4)
    changed[0, 8 * row : 8 * row + 8, 8 * band : 8 * band + 8] += 9
    assert not torch.equal(audio_patches(changed, 8), patches)
    one, other = model(**given), model(**{**given, "input_values": changed})
    assert torch.equal(one.audio_embedding, other.audio_embedding)
    assert torch.equal(one.video_predicted, other.video_predicted)
    assert not torch.equal(one.audio_predicted, other.audio_predicted)


def _sees(layers, grid):
    """Which masked token's output depends on which other masked token."""
    torch.manual_seed(2)
    count = torch.Size(grid).numel()
    visible, masked = torch.randn(1, 4, 16), torch.randn(1, count - 4, 16, requires_grad=True)
    places = torch.randperm(count)[None]
    out = layers(visible, masked, places, grid)
    rows = [torch.autograd.grad(out[0, at].sum(), masked, retain_graph=True)[0][0].any(1) for at in range(count - 4)]
    return torch.stack(rows), places[0, 4:]


def test_cross_attention_never_lets_masked_see_masked():
    sees, _ = _sees(CrossLayers(MavilConfig(**SIZES)), (2, 2, 3))
    assert torch.equal(sees, torch.eye(8, dtype=torch.bool))


def test_self_attention_lets_all_see_all():
    sees, _ = _sees(SelfLayers(MavilConfig(**SIZES)), (2, 2, 3))
    assert bool(sees.all())


def test_local_attention_stays_in_windows():
    """One layer of windows of 4 x 4, in a grid of 8 x 4: a token sees its own half."""
    sees, places = _sees(LocalLayers(MavilConfig(**{**SIZES, "decoder_layers": 1})), (8, 4))
    half = places // 16
    assert torch.equal(sees, half[:, None] == half[None])


def test_a_shifted_window_joins_the_halves():
    sees, places = _sees(LocalLayers(MavilConfig(**SIZES)), (8, 4))
    half = places // 16
    assert bool((sees & (half[:, None] != half[None])).any())


@pytest.mark.parametrize("grid", [(3, 4), (5, 4), (7, 9)])
def test_local_attention_takes_grids_that_windows_do_not_divide(grid):
    """Also one after another: windows keep their size."""
    layers, count = LocalLayers(MavilConfig(**SIZES)), torch.Size(grid).numel()
    tokens = torch.randn(1, count, 16)
    before = layers(tokens[:, :2], tokens[:, 2:], torch.arange(count)[None], grid)
    small = torch.randn(1, 8, 16)
    layers(small[:, :2], small[:, 2:], torch.arange(8)[None], (2, 4))
    assert torch.equal(layers(tokens[:, :2], tokens[:, 2:], torch.arange(count)[None], grid), before)


def test_patches_are_decoded_where_they_were():
    """However visible and masked patches are listed, each masked one gets the same prediction."""
    for attention in ("self", "cross"):
        model, given = learner(diffusion=False, video_attention=attention).eval(), batch(clips=1, views=2)
        shuffle = torch.randperm(7)
        listed = {**given, "video_masked": given["video_masked"][:, shuffle]}
        listed["video_visible"] = given["video_visible"].flip(-1)
        one, other = model(**given).video_predicted, model(**listed).video_predicted
        torch.testing.assert_close(one[:, shuffle], other, rtol=1e-4, atol=1e-5)


def test_a_learner_comes_back_from_disk(tmp_path):
    model, given = learner(diffusion=False, video_attention="self").eval(), batch()
    model.save_pretrained(tmp_path)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(again(**given).loss, model(**given).loss)


def test_its_audio_branch_is_an_ordinary_classifier(tmp_path):
    """Of all patches, also of a spectrogram of another length."""
    model = learner()
    model.save_pretrained(tmp_path)
    classifier = AutoModelForAudioClassification.from_pretrained(tmp_path, num_labels=5, drop_path=0.5).eval()
    assert isinstance(classifier, MavilForAudioClassification)
    for name, value in model.audio.state_dict().items():
        assert torch.equal(classifier.audio.state_dict()[name], value)
    sounds = torch.randn(2, 64, 32)
    tokens = classifier.audio.patches(audio_patches(sounds, 8)) + positions.grid(8, 4, 24)
    for layer in classifier.audio.layers:
        tokens = layer(tokens)
    logits = classifier.classifier(classifier.norm(classifier.audio.norm(tokens).mean(1)))
    labels = torch.tensor([3, 1])
    found = classifier(sounds, labels)
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(found.loss, F.cross_entropy(logits, labels))
    several = torch.tensor([[0.0, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    torch.testing.assert_close(classifier(sounds, several).loss, F.binary_cross_entropy_with_logits(logits, several))


def test_layers_are_skipped_as_often_as_asked():
    """The first never, the last with the given probability, and the mean stays."""
    config = MavilConfig(**{**SIZES, "drop_path": 0.5})
    torch.manual_seed(0)
    encoder = MavilForAudioClassification(config).audio
    patches, places = torch.randn(1, 20, 64).expand(2000, -1, -1), positions.grid(5, 4, 24)
    plain = encoder.patches(patches[:1]) + places
    first = encoder.layers[0](plain)
    added = encoder.layers[1](first) - first
    with torch.no_grad():
        encoder.norm = torch.nn.Identity()
        out = encoder.train()(patches, places)[:, 0]
    skipped = (out - first).abs().amax((1, 2)) < 1e-4
    assert float(skipped.float().mean()) == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(out[~skipped], (first + 2 * added).expand_as(out[~skipped]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"video_attention": "both"}, "video_attention='both' must be 'self' or 'cross'"),
        ({"hidden_size": 26}, "hidden_size=26 must be a multiple of 4"),
        ({"bands": 30}, "bands=30 must be a multiple of audio_patch=8"),
        ({"audio_patch": 0}, "audio_patch=0 must be at least 1"),
        ({"inter_temperature": 0.0}, "inter_temperature=0.0 must be above 0"),
        ({"noise_last": 1.5}, "noise_first=0.0001 and noise_last=1.5 must rise within"),
        ({"drop_path": 1.0}, "drop_path=1.0 must be at least 0 and below 1"),
    ],
)
def test_what_a_shape_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        MavilConfig(**{**SIZES, **settings})


def test_spectrograms_of_other_bands_are_refused():
    with pytest.raises(ValueError, match="input_values has 16 bands, and the model takes 32"):
        learner(video=False)(**{**batch(video=False, views=1), "input_values": torch.zeros(3, 40, 16)})
