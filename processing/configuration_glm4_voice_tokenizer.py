# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Configuration of GLM-4-Voice's speech tokenizer."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .bounds_vita_audio import CODEBOOK_SIZES, DEPTHS, SAMPLING_RATES, check_bounds


# As in `bounds_vita_audio`
SIZES, RATIOS, BLOCKS = (1, 2**16), (0.0, 1.0), (1, 2**12)
TOKENIZER_BOUNDS = {
    "sampling_rate": SAMPLING_RATES,
    "num_mel_bins": BLOCKS,
    "d_model": SIZES,
    "encoder_layers": DEPTHS,
    "encoder_attention_heads": BLOCKS,
    "encoder_ffn_dim": SIZES,
    "dropout": RATIOS,
    "attention_dropout": RATIOS,
    "activation_dropout": RATIOS,
    "max_source_positions": SIZES,
    "attention_block_size": SIZES,
    "pooling_kernel_size": BLOCKS,
    "codebook_size": CODEBOOK_SIZES,
    "latent_dim": (0, 2**12),
}


@strict
class Glm4VoiceTokenizerConfig(PreTrainedConfig):
    r"""
    Configuration of [`Glm4VoiceSpeechEncoder`]: an encoder like Whisper's (by default the first half of that of
    Whisper large v3), and a codebook after it.

    Args:
        sampling_rate (`int`, defaults to 16000):
            Rate in Hz of the audio.
        num_mel_bins (`int`, defaults to 128):
            Mel bins that the encoder reads, at 100 frames per second.
        d_model (`int`, defaults to 1280), encoder_layers (`int`, defaults to 16),
        encoder_attention_heads (`int`, defaults to 20), encoder_ffn_dim (`int`, defaults to 5120),
        activation_function (`str`, defaults to `"gelu"`), dropout (`float`, defaults to 0.0),
        attention_dropout (`float`, defaults to 0.0), activation_dropout (`float`, defaults to 0.0):
            See `WhisperConfig`.
        max_source_positions (`int`, defaults to 1500):
            Frames of 20 ms in the longest audio that is encoded in one piece, 30 s by default. Longer audio is cut
            into segments of this length.
        attention_block_size (`int`, defaults to 200):
            Frames of 20 ms in a block of the attention: a frame attends to all frames of its block and of earlier
            blocks.
        pooling_kernel_size (`int`, defaults to 4):
            Frames of 20 ms that are averaged into one code.
        codebook_size (`int`, defaults to 16384):
            Number of codes.
        latent_dim (`int`, defaults to 0):
            Dimensions of what is quantised, to which the encoder's output is then projected and bounded to `[-1, 1]`,
            as for a codebook that is a grid (finite scalar quantisation, arXiv 2309.15505). 0 quantises the encoder's
            output as it is, as GLM-4-Voice does.

    Raises:
        ValueError: if sizes do not agree, or make no sense.
    """

    model_type = "glm4_voice_tokenizer"
    base_config_key = "tokenizer_config"
    # As `WhisperConfig`, because Whisper's layers read this configuration
    attribute_map = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}

    sampling_rate: int = 16000
    num_mel_bins: int = 128
    d_model: int = 1280
    encoder_layers: int = 16
    encoder_attention_heads: int = 20
    encoder_ffn_dim: int = 5120
    activation_function: str = "gelu"
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    max_source_positions: int = 1500
    attention_block_size: int = 200
    pooling_kernel_size: int = 4
    codebook_size: int = 16384
    latent_dim: int = 0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_bounds(self, TOKENIZER_BOUNDS)
        if self.d_model % self.encoder_attention_heads:
            raise ValueError(
                f"`encoder_attention_heads` must divide `d_model`, got {self.encoder_attention_heads} and "
                f"{self.d_model}."
            )
        # Mel frames are of 10 ms
        if self.sampling_rate % 100:
            raise ValueError(f"`sampling_rate` must be a multiple of 100 Hz, got {self.sampling_rate}.")
        # A segment of the longest length must be whole codes, and so must what is encoded while somebody speaks
        for name in ("max_source_positions", "attention_block_size"):
            if (size := getattr(self, name)) % self.pooling_kernel_size:
                raise ValueError(
                    f"`pooling_kernel_size` must divide `{name}`, got {self.pooling_kernel_size} and {size}."
                )

    @property
    def frame_length(self) -> int:
        """Samples in a frame of the encoder: two mel frames of 10 ms."""
        return self.sampling_rate // 50

    @property
    def hop_length(self) -> int:
        """Samples that one code stands for."""
        return self.pooling_kernel_size * self.frame_length

    @property
    def segment_length(self) -> int:
        """Samples in the longest audio that is encoded in one piece (30 s)."""
        return self.max_source_positions * self.frame_length


__all__ = ["BLOCKS", "Glm4VoiceTokenizerConfig", "RATIOS", "SIZES"]
