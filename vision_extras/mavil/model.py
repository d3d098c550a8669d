# SPDX-License-Identifier: Apache-2.0
"""Masked audio-video learners: MAViL, and DiffMAViL where patches are diffused (chapter 5); AudioMAE without video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.models.swin.modeling_swin import SwinRelativePositionBias
from transformers.utils import ModelOutput

from vision_extras.mavil import positions
from vision_extras.mavil.config import MavilConfig
from vision_extras.mavil.decoder import CrossLayers, Decoder, LocalLayers, SelfLayers
from vision_extras.mavil.diffusion import diffused, noise_for, signal_shares
from vision_extras.mavil.encoder import Encoder, Fusion
from vision_extras.mavil.gathering import everyones
from vision_extras.mavil.losses import info_nce, reconstruction
from vision_extras.mavil.patches import Grid, audio_grid, audio_patches, taken, video_grid, video_patches

__all__ = ["MavilForPreTraining", "MavilOutput", "MavilPreTrainedModel"]


@dataclass
class MavilOutput(ModelOutput):
    """What a masked audio-video learner makes of clips; without video, all that needs it is None.

    Args:
        loss: of each clip, [B]: the sum of those below, the contrastive ones by their weights.
        audio_loss: of the reconstruction of masked patches, [B].
        video_loss: likewise.
        inter_loss: of telling a clip's video from other clips' by its sound, and the other way around, [B].
        intra_loss: of telling a clip's second view from other clips', the mean over modalities, [B].
        audio_predicted: the masked patches, [B, m, P].
        video_predicted: likewise.
        audio_noisy: what the decoder was given for them, or None.
        video_noisy: likewise.
        audio_embedding: the mean of the first view's tokens, [B, D].
        video_embedding: likewise.
    """

    loss: Tensor | None = None
    audio_loss: Tensor | None = None
    video_loss: Tensor | None = None
    inter_loss: Tensor | None = None
    intra_loss: Tensor | None = None
    audio_predicted: Tensor | None = None
    video_predicted: Tensor | None = None
    audio_noisy: Tensor | None = None
    video_noisy: Tensor | None = None
    audio_embedding: Tensor | None = None
    video_embedding: Tensor | None = None


class MavilPreTrainedModel(PreTrainedModel):
    """What models of this shape share."""

    config_class = MavilConfig
    base_model_prefix = ""
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("ViTLayer", "SwinLayer", "_CrossLayer")

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            # As masked autoencoders have it: in small encoders a fixed deviation would leave patches far weaker than
            # their positions.
            init.xavier_uniform_(module.weight)
        elif isinstance(module, Decoder) and module.mask_token is not None:
            init.normal_(module.mask_token, std=self.config.initializer_range)
        elif isinstance(module, SwinRelativePositionBias):
            # No file has it: it follows from the window.
            init.copy_(module.relative_position_index, module._create_relative_position_index().view(-1))

    def audio_grid(self, spectrograms: Tensor) -> Grid:
        """How many patches there are in spectrograms [B, T, bands].

        Raises:
            ValueError: if they have other bands than the model, or do not divide into patches.
        """
        frames, bands = spectrograms.shape[1:]
        if bands != self.config.bands:
            raise ValueError(f"input_values has {bands} bands, and the model takes {self.config.bands}")
        return audio_grid(frames, bands, self.config.audio_patch)


class MavilForPreTraining(MavilPreTrainedModel):
    """A masked audio-video learner with its losses.

    Args:
        config: of its shape.
    """

    def __init__(self, config: MavilConfig) -> None:
        super().__init__(config)
        self.audio = Encoder(config, config.audio_values, config.audio_layers)
        self.audio_decoder = Decoder(config, config.audio_values, LocalLayers(config))
        if config.video:
            self.video = Encoder(config, config.video_values, config.video_layers)
            self.fusion = Fusion(config)
            layers = CrossLayers(config) if config.video_attention == "cross" else SelfLayers(config)
            self.video_decoder = Decoder(config, config.video_values, layers)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        audio_visible: Tensor,
        audio_masked: Tensor,
        frames: Tensor | None = None,
        video_visible: Tensor | None = None,
        video_masked: Tensor | None = None,
        steps: Tensor | None = None,
        seeds: Tensor | None = None,
    ) -> MavilOutput:
        """Reconstruct what is masked, and compare modalities and views.

        Args:
            input_values: normalised log-mel spectrograms, [B, T, bands].
            audio_visible: the numbers of the patches that are seen, [B, V, v] in int64, of two views, or one without
                video. The first view is reconstructed from.
            audio_masked: the numbers of the others, of the first view, [B, m].
            frames: normalised videos, [B, C, F, H, W].
            video_visible: as for sound.
            video_masked: as for sound.
            steps: with diffusion, t of each clip, [B] in int64, from 1.
            seeds: with diffusion, of each clip's noise, [B] in int64; None draws from torch's global generator.
        """
        config, grid = self.config, self.audio_grid(input_values)
        audio = audio_patches(input_values, config.audio_patch)
        seen = self.audio(audio, positions.grid(*grid, config.hidden_size, audio.device), audio_visible)
        found = MavilOutput(audio_embedding=seen[:, 0].mean(1))
        latents = seen[:, 0]
        if config.video:
            video_at = video_grid(*frames.shape[2:], config.tubelet, config.video_patch)
            video = video_patches(frames, config.tubelet, config.video_patch)
            watched = self.video(
                video, positions.separable(*video_at, config.hidden_size, video.device), video_visible
            )
            self._compare(found, seen.mean(2), watched.mean(2))
            latents, video_latents = self.fusion(latents, watched[:, 0])
        share = None
        if config.diffusion:
            ends = config.noise_first, config.noise_last
            share = signal_shares(config.noise_steps, *ends, config.noise_exponent, audio.device)[steps - 1]
        drawn = None if seeds is None else seeds.tolist()
        masked, found.audio_noisy = self._hidden(audio, audio_masked, share, drawn)
        at = positions.grid(*grid, config.decoder_size, audio.device)
        places = audio_visible[:, 0], audio_masked
        found.audio_predicted = self.audio_decoder(latents, found.audio_noisy, at, *places, grid)
        found.audio_loss = reconstruction(found.audio_predicted, masked, audio.shape[1])
        found.loss = found.audio_loss
        if config.video:
            # Another seed than the sound's, whose noise would be the same.
            drawn = drawn and [seed + 1 for seed in drawn]
            masked, found.video_noisy = self._hidden(video, video_masked, share, drawn)
            at = positions.separable(*video_at, config.decoder_size, video.device)
            places = video_visible[:, 0], video_masked
            found.video_predicted = self.video_decoder(video_latents, found.video_noisy, at, *places, video_at)
            found.video_loss = reconstruction(found.video_predicted, masked, video.shape[1])
            contrast = config.inter_weight * found.inter_loss + config.intra_weight * found.intra_loss
            found.loss = found.audio_loss + found.video_loss + contrast
        return found

    def _compare(self, found: MavilOutput, audio: Tensor, video: Tensor) -> None:
        """The contrastive losses of embeddings, [B, 2, D] of both views each."""
        found.video_embedding = video[:, 0]
        both = torch.stack([audio, video], dim=1)
        # Clips are told from those of all processes, which in evaluation may have none.
        everyone, first = everyones(both) if self.training else (both, 0)

        def told(one: tuple[int, int], other: tuple[int, int], temperature: float) -> Tensor:
            among = everyone[:, *one], everyone[:, *other], first
            return info_nce(both[:, *one], both[:, *other], temperature, among)

        config, (sound, sight) = self.config, (0, 1)
        found.inter_loss = told((sound, 0), (sight, 0), config.inter_temperature)
        intra = (told((modality, 0), (modality, 1), config.intra_temperature) for modality in (sound, sight))
        found.intra_loss = sum(intra) / 2

    def _hidden(
        self, patches: Tensor, masked: Tensor, share: Tensor | None, seeds: Sequence[int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Masked patches, and what the decoder is given for them."""
        hidden = taken(patches, masked)
        return hidden, None if share is None else diffused(hidden, noise_for(hidden, seeds), share)
