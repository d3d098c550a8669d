# SPDX-License-Identifier: Apache-2.0
"""The shape of a masked audio-video learner."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, SwinConfig, ViTConfig

__all__ = ["MavilConfig"]

_COUNTS = (
    *("bands", "audio_patch", "channels", "video_patch", "tubelet", "window", "noise_steps"),
    *("hidden_size", "num_attention_heads", "intermediate_size", "decoder_size", "decoder_heads"),
    *("audio_layers", "video_layers", "fusion_layers", "decoder_layers"),
)


class MavilConfig(PretrainedConfig):
    """The shape of a masked audio-video learner; the defaults are the thesis's (section 5.5.1).

    Args:
        video: whether there is a video branch; without it, this is AudioMAE, which has no fusion encoder and no
            contrastive losses either.
        diffusion: what decoders get in place of masked patches: patches with noise (DiffMAViL), or a learned token.
        video_attention: in the video decoder, `self` attention over all patches, or `cross` attention from masked ones
            to visible ones (section 5.2.1).
        bands: mel bands of a spectrogram.
        audio_patch: height and width of a spectrogram's patch.
        channels: of a frame.
        video_patch: height and width of a video's patch, in pixels.
        tubelet: frames in a video's patch.
        hidden_size: width of the encoders.
        num_attention_heads: of the encoders.
        intermediate_size: of the encoders' feed-forward layers.
        audio_layers: of the audio encoder.
        video_layers: of the video encoder.
        fusion_layers: of the fusion encoder.
        decoder_size: width of the decoders, whose feed-forward layers are four times as wide.
        decoder_layers: of each decoder.
        decoder_heads: attention heads of each decoder.
        window: of the audio decoder's local attention, in patches. Where it does not divide the grid, tokens also
            attend to padding, as in Swin.
        noise_steps: T, of the diffusion.
        noise_first: beta of the first step.
        noise_last: beta of the last step; those between lie on a line.
        noise_exponent: phi, the power of each beta.
        inter_weight: of the contrastive loss between modalities; the thesis gives no weights or temperatures.
        intra_weight: of the contrastive losses within each modality.
        inter_temperature: of the loss between modalities.
        intra_temperature: of those within each.
        drop_path: how probably a layer of the last audio block is skipped for a clip in training (stochastic depth);
            those before are skipped less, in equal steps from 0.
        layer_norm_eps: of all norms.
        initializer_range: deviation of a learned token's first values; layers are drawn as Glorot and Bengio (2010).

    Raises:
        ValueError: naming the field that cannot work.
    """

    model_type = "mavil"

    def __init__(
        self,
        video: bool = True,
        diffusion: bool = True,
        video_attention: str = "cross",
        bands: int = 128,
        audio_patch: int = 16,
        channels: int = 3,
        video_patch: int = 16,
        tubelet: int = 2,
        hidden_size: int = 768,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        audio_layers: int = 12,
        video_layers: int = 12,
        fusion_layers: int = 2,
        decoder_size: int = 512,
        decoder_layers: int = 8,
        decoder_heads: int = 16,
        window: int = 4,
        noise_steps: int = 1000,
        noise_first: float = 1e-4,
        noise_last: float = 0.02,
        noise_exponent: float = 0.8,
        inter_weight: float = 0.1,
        intra_weight: float = 0.01,
        inter_temperature: float = 0.1,
        intra_temperature: float = 1.0,
        drop_path: float = 0.0,
        layer_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        **options: Any,
    ) -> None:
        self.video = video
        self.diffusion = diffusion
        self.video_attention = video_attention
        self.bands = bands
        self.audio_patch = audio_patch
        self.channels = channels
        self.video_patch = video_patch
        self.tubelet = tubelet
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.audio_layers = audio_layers
        self.video_layers = video_layers
        self.fusion_layers = fusion_layers
        self.decoder_size = decoder_size
        self.decoder_layers = decoder_layers
        self.decoder_heads = decoder_heads
        self.window = window
        self.noise_steps = noise_steps
        self.noise_first = noise_first
        self.noise_last = noise_last
        self.noise_exponent = noise_exponent
        self.inter_weight = inter_weight
        self.intra_weight = intra_weight
        self.inter_temperature = inter_temperature
        self.intra_temperature = intra_temperature
        self.drop_path = drop_path
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self._check()
        super().__init__(**options)

    def _check(self) -> None:
        if self.video_attention not in ("self", "cross"):
            raise ValueError(f"video_attention={self.video_attention!r} must be 'self' or 'cross'")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1")
        for name in ("noise_exponent", "inter_temperature", "intra_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be above 0")
        if not 0 < self.noise_first <= self.noise_last < 1:
            raise ValueError(
                f"noise_first={self.noise_first!r} and noise_last={self.noise_last!r} must rise within (0, 1)"
            )
        for size, heads in (("hidden_size", "num_attention_heads"), ("decoder_size", "decoder_heads")):
            width, count = getattr(self, size), getattr(self, heads)
            if width % 4 or width % count:
                raise ValueError(f"{size}={width} must be a multiple of 4, for positions, and of {heads}={count}")
        if self.bands % self.audio_patch:
            raise ValueError(f"bands={self.bands} must be a multiple of audio_patch={self.audio_patch}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} must be at least 0 and below 1")

    @property
    def audio_values(self) -> int:
        """Numbers in a spectrogram's patch."""
        return self.audio_patch**2

    @property
    def video_values(self) -> int:
        """Numbers in a video's patch."""
        return self.tubelet * self.video_patch**2 * self.channels

    def encoder(self) -> ViTConfig:
        """What layers of the encoders follow from."""
        return self._as_vit(self.hidden_size, self.num_attention_heads, self.intermediate_size)

    def decoder(self) -> ViTConfig:
        """What layers of a decoder with self-attention over all patches follow from."""
        return self._as_vit(self.decoder_size, self.decoder_heads, 4 * self.decoder_size)

    def local(self) -> SwinConfig:
        """What layers of a decoder with local attention follow from."""
        return SwinConfig(
            window_size=self.window,
            hidden_size=self.decoder_size,
            mlp_ratio=4.0,
            layer_norm_eps=self.layer_norm_eps,
            attn_implementation=self._attn_implementation,
        )

    def _as_vit(self, size: int, heads: int, intermediate: int) -> ViTConfig:
        return ViTConfig(
            hidden_size=size,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            layer_norm_eps=self.layer_norm_eps,
            attn_implementation=self._attn_implementation,
        )
