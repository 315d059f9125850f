# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Configuration of GLM-4-Voice's speech codec: tokenizer, flow-matching decoder and vocoder."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .bounds_vita_audio import CODEBOOK_SIZES, DEPTHS, INITIALIZER_RANGES, SAMPLING_RATES, check_bounds
from .compatibility_vita_audio import attach_to_package
from .configuration_glm4_voice_tokenizer import BLOCKS, RATIOS, SIZES, Glm4VoiceTokenizerConfig


# Smallest and largest values that make sense, with room to spare, as in `bounds_vita_audio`
FLOW_BOUNDS = {
    "vocab_size": CODEBOOK_SIZES,
    "num_mel_bins": BLOCKS,
    "speaker_embedding_size": SIZES,
    "hidden_size": SIZES,
    "num_hidden_layers": DEPTHS,
    "num_attention_heads": BLOCKS,
    "intermediate_size": SIZES,
    "attention_block_size": SIZES,
    "unet_hidden_sizes": SIZES,
    "unet_blocks_per_level": DEPTHS,
    "unet_num_mid_levels": DEPTHS,
    "unet_num_attention_heads": BLOCKS,
    "unet_head_dim": BLOCKS,
    "num_inference_steps": (1, 1000),
    "guidance_scale": (0.0, 100.0),
}
VOCODER_BOUNDS = {
    "sampling_rate": SAMPLING_RATES,
    "num_mel_bins": BLOCKS,
    "base_channels": SIZES,
    "f0_channels": SIZES,
    "num_harmonics": (0, 256),
    "source_amplitude": RATIOS,
    "source_noise_std": RATIOS,
    "voiced_threshold": (0.0, 1000.0),
    "upsample_rates": (1, 256),
    "upsample_kernel_sizes": BLOCKS,
    "istft_n_fft": BLOCKS,
    "istft_hop_length": BLOCKS,
    "resblock_kernel_sizes": BLOCKS,
    "resblock_dilation_sizes": BLOCKS,
    "source_resblock_kernel_sizes": BLOCKS,
    "source_resblock_dilation_sizes": BLOCKS,
    "lrelu_slope": RATIOS,
    "audio_limit": RATIOS,
}
CODEC_BOUNDS = {
    "streaming_block_size": BLOCKS,
    "streaming_overlap": (0, 2**12),
    "streaming_context": (0, 2**16),
    "initializer_range": INITIALIZER_RANGES,
}


@strict
class Glm4VoiceFlowConfig(PreTrainedConfig):
    r"""
    Configuration of [`Glm4VoiceFlow`], which turns codes into mel frames by conditional flow matching. The defaults
    are the sizes of CosyVoice-300M (arXiv 2407.05407).

    Args:
        vocab_size (`int`, defaults to 16384):
            Number of codes.
        num_mel_bins (`int`, defaults to 80):
            Mel bins of the frames.
        speaker_embedding_size (`int`, defaults to 192):
            Dimensions of a speaker embedding.
        hidden_size (`int`, defaults to 512), num_hidden_layers (`int`, defaults to 6),
        num_attention_heads (`int`, defaults to 8), intermediate_size (`int`, defaults to 2048):
            Sizes of the transformer that encodes the codes.
        attention_block_size (`int`, defaults to 10):
            Codes in a block of its attention: a code attends to all codes of its block and of earlier blocks.
        unet_hidden_sizes (`list[int]`, defaults to `[256, 256]`):
            Widths of the levels of the U-Net, each of which has half the frame rate of the level before.
        unet_blocks_per_level (`int`, defaults to 4):
            Transformer blocks after each residual block.
        unet_num_mid_levels (`int`, defaults to 8):
            Residual blocks, each with its transformer blocks, at the lowest frame rate.
        unet_num_attention_heads (`int`, defaults to 8), unet_head_dim (`int`, defaults to 64):
            Attention heads in the transformer blocks, and dimensions of a head.
        num_inference_steps (`int`, defaults to 10):
            Euler steps of `decode`, at times spaced by a cosine.
        guidance_scale (`float`, defaults to 0.7):
            Weight `w` of classifier-free guidance: `(1 + w) * conditional - w * unconditional`.

    Raises:
        ValueError: if sizes do not agree, or make no sense.
    """

    model_type = "glm4_voice_flow"
    base_config_key = "flow_config"

    vocab_size: int = 16384
    num_mel_bins: int = 80
    speaker_embedding_size: int = 192
    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    attention_block_size: int = 10
    unet_hidden_sizes: list[int] | tuple[int, ...] = (256, 256)
    unet_blocks_per_level: int = 4
    unet_num_mid_levels: int = 8
    unet_num_attention_heads: int = 8
    unet_head_dim: int = 64
    num_inference_steps: int = 10
    # `@strict` refuses an int where only a float is allowed, and a JSON file may say 1 for 1.0
    guidance_scale: float | int = 0.7

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_bounds(self, FLOW_BOUNDS)
        # An even number, because every position has as many sines as cosines
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"`hidden_size` must be an even multiple of `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        # The U-Net normalises its channels in 8 groups
        if not self.unet_hidden_sizes or any(size % 8 for size in self.unet_hidden_sizes):
            raise ValueError(f"`unet_hidden_sizes` must be multiples of 8, got {list(self.unet_hidden_sizes)!s:.200}.")


@strict
class Glm4VoiceVocoderConfig(PreTrainedConfig):
    r"""
    Configuration of [`Glm4VoiceVocoder`], a HiFT generator (arXiv 2309.09493). The defaults are the sizes of
    CosyVoice-300M.

    Args:
        sampling_rate (`int`, defaults to 22050):
            Rate in Hz of the audio.
        num_mel_bins (`int`, defaults to 80):
            Mel bins of the frames that it reads.
        base_channels (`int`, defaults to 512):
            Channels before the first upsampling. Every upsampling halves them.
        f0_channels (`int`, defaults to 512):
            Channels of the pitch predictor.
        num_harmonics (`int`, defaults to 8):
            Harmonics of the source signal besides its fundamental.
        source_amplitude (`float`, defaults to 0.1), source_noise_std (`float`, defaults to 0.003):
            Amplitude of the source's sines, and standard deviation of the noise that is added to them.
        voiced_threshold (`float`, defaults to 10.0):
            Pitch in Hz below which the source is noise alone.
        upsample_rates (`list[int]`, defaults to `[8, 8]`), upsample_kernel_sizes (`list[int]`, defaults to `[16,
        16]`):
            Strides and kernel sizes of the transposed convolutions that upsample.
        istft_n_fft (`int`, defaults to 16), istft_hop_length (`int`, defaults to 4):
            Window and hop, in samples, of the inverse Fourier transform after the upsamplings.
        resblock_kernel_sizes (`list[int]`, defaults to `[3, 7, 11]`),
        resblock_dilation_sizes (`list[list[int]]`, defaults to `[[1, 3, 5], [1, 3, 5], [1, 3, 5]]`):
            Kernel sizes and dilations of the residual blocks after each upsampling, whose outputs are averaged.
        source_resblock_kernel_sizes (`list[int]`, defaults to `[7, 11]`),
        source_resblock_dilation_sizes (`list[list[int]]`, defaults to `[[1, 3, 5], [1, 3, 5]]`):
            Kernel sizes and dilations of the residual blocks that the source passes, one block for each upsampling.
        lrelu_slope (`float`, defaults to 0.1):
            Slope of the leaky rectifiers before each upsampling.
        audio_limit (`float`, defaults to 0.99):
            Amplitude at which samples are clipped.

    Raises:
        ValueError: if sizes do not agree, or make no sense.
    """

    model_type = "glm4_voice_vocoder"
    base_config_key = "vocoder_config"

    sampling_rate: int = 22050
    num_mel_bins: int = 80
    base_channels: int = 512
    f0_channels: int = 512
    num_harmonics: int = 8
    source_amplitude: float | int = 0.1
    source_noise_std: float | int = 0.003
    voiced_threshold: float | int = 10.0
    upsample_rates: list[int] | tuple[int, ...] = (8, 8)
    upsample_kernel_sizes: list[int] | tuple[int, ...] = (16, 16)
    istft_n_fft: int = 16
    istft_hop_length: int = 4
    resblock_kernel_sizes: list[int] | tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: list[list[int]] | tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    source_resblock_kernel_sizes: list[int] | tuple[int, ...] = (7, 11)
    source_resblock_dilation_sizes: list[list[int]] | tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5))
    lrelu_slope: float | int = 0.1
    audio_limit: float | int = 0.99

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_bounds(self, VOCODER_BOUNDS)
        upsamplings = len(self.upsample_rates)
        for name in ("upsample_kernel_sizes", "source_resblock_kernel_sizes", "source_resblock_dilation_sizes"):
            if len(getattr(self, name)) != upsamplings:
                raise ValueError(
                    f"`{name}` needs one entry for each of the {upsamplings} `upsample_rates`, got "
                    f"{getattr(self, name)!r:.200}."
                )
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilation_sizes):
            raise ValueError(
                "`resblock_kernel_sizes` and `resblock_dilation_sizes` must be as many, got "
                f"{self.resblock_kernel_sizes!s:.100} and {self.resblock_dilation_sizes!s:.100}."
            )
        for rate, kernel_size in zip(self.upsample_rates, self.upsample_kernel_sizes):
            # Only then can padding on both sides make each step exactly `rate` steps
            if kernel_size < rate or (kernel_size - rate) % 2:
                raise ValueError(
                    f"an upsampling's kernel must be an even number of samples wider than its rate {rate}, got "
                    f"{kernel_size}."
                )
        # Every upsampling halves the channels
        if self.base_channels % 2**upsamplings:
            raise ValueError(
                f"`base_channels` must be a multiple of {2**upsamplings} for {upsamplings} upsamplings, got "
                f"{self.base_channels}."
            )

    @property
    def hop_length(self) -> int:
        """Samples in a mel frame."""
        return math.prod(self.upsample_rates) * self.istft_hop_length


@strict
class Glm4VoiceCodecConfig(PreTrainedConfig):
    r"""
    Configuration of [`Glm4VoiceCodec`], a speech codec with one codebook, at 12.5 codes per second. It reads audio at
    16 kHz and speaks at 22.05 kHz.

    Args:
        tokenizer_config ([`Glm4VoiceTokenizerConfig`] or `dict`, *optional*):
            Configuration of the part that turns audio into codes.
        flow_config ([`Glm4VoiceFlowConfig`] or `dict`, *optional*):
            Configuration of the part that turns codes into mel frames.
        vocoder_config ([`Glm4VoiceVocoderConfig`] or `dict`, *optional*):
            Configuration of the part that turns mel frames into audio.
        streaming_block_size (`int`, defaults to 8):
            Codes that streaming waits for before it speaks all that have come.
        streaming_overlap (`int`, defaults to 3):
            Codes at the end of a block whose mel frames are made a second time with the next block. The first
            ones are faded over to the second.
        streaming_context (`int`, defaults to 50):
            Codes before a block that are decoded again with it, with the mel frames that they have got; up to an
            attention block more. This bounds the work for a block.

    Raises:
        ValueError: if sizes of the parts do not agree, or make no sense.
    """

    model_type = "glm4_voice_codec"
    sub_configs = {
        "tokenizer_config": Glm4VoiceTokenizerConfig,
        "flow_config": Glm4VoiceFlowConfig,
        "vocoder_config": Glm4VoiceVocoderConfig,
    }

    tokenizer_config: dict | PreTrainedConfig | None = None
    flow_config: dict | PreTrainedConfig | None = None
    vocoder_config: dict | PreTrainedConfig | None = None
    streaming_block_size: int = 8
    streaming_overlap: int = 3
    streaming_context: int = 50
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        for name, config_class in self.sub_configs.items():
            if not isinstance(getattr(self, name), PreTrainedConfig):
                setattr(self, name, config_class(**(getattr(self, name) or {})))
        super().__post_init__(**kwargs)
        check_bounds(self, CODEC_BOUNDS)
        if self.flow_config.vocab_size < self.codebook_size:
            raise ValueError(
                f"The tokenizer has {self.codebook_size} codes, but the flow decoder only "
                f"{self.flow_config.vocab_size}."
            )
        if self.flow_config.num_mel_bins != self.vocoder_config.num_mel_bins:
            raise ValueError(
                f"The flow decoder writes {self.flow_config.num_mel_bins} mel bins, but the vocoder reads "
                f"{self.vocoder_config.num_mel_bins}."
            )
        # Frames that overlap the next block must not be dropped
        if self.streaming_context < self.streaming_overlap:
            raise ValueError(
                f"`streaming_context` must be `streaming_overlap` ({self.streaming_overlap}) or more, got "
                f"{self.streaming_context}."
            )

    @property
    def sampling_rate(self) -> int:
        """Rate in Hz of the audio that `encode` takes."""
        return self.tokenizer_config.sampling_rate

    @property
    def output_sampling_rate(self) -> int:
        """Rate in Hz of the audio that `decode` returns."""
        return self.vocoder_config.sampling_rate

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.tokenizer_config.codebook_size

    @property
    def hop_length(self) -> int:
        """Samples at `sampling_rate` that one code stands for."""
        return self.tokenizer_config.hop_length

    @property
    def frame_rate(self) -> float:
        """Codes per second (12.5)."""
        return self.sampling_rate / self.hop_length

    def num_mel_frames(self, num_codes: int) -> int:
        """Number of whole mel frames in the time of `num_codes` codes: 441 for 64 codes by default."""
        # In whole numbers, because a quotient of floats may come out one frame too low
        mel_rate = self.vocoder_config.sampling_rate * self.hop_length
        return num_codes * mel_rate // (self.sampling_rate * self.vocoder_config.hop_length)


attach_to_package(__name__)

__all__ = ["Glm4VoiceCodecConfig", "Glm4VoiceFlowConfig", "Glm4VoiceTokenizerConfig", "Glm4VoiceVocoderConfig"]
