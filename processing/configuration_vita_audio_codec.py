# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Configuration of the compact speech codec."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .bounds_vita_audio import CODEBOOK_SIZES, DEPTHS, INITIALIZER_RANGES, SAMPLING_RATES, check_bounds
from .compatibility_vita_audio import attach_to_package
from .configuration_glm4_voice_tokenizer import Glm4VoiceTokenizerConfig
from .saving_vita_audio import check_storage_dtype


# As in `bounds_vita_audio`
SIZES = (1, 2**14)
BOUNDS = {
    "sampling_rate": SAMPLING_RATES,
    "codebook_size": CODEBOOK_SIZES,
    "codebook_dim": SIZES,
    "decoder_hidden_sizes": SIZES,
    "decoder_depths": DEPTHS,
    "decoder_lookahead": (0, 256),
    "kernel_size": (1, 255),
    "num_voices": (1, 2**16),
    "synthesis_window": (4, 2**16),
    "initializer_range": INITIALIZER_RANGES,
}

# Sizes of Whisper tiny.en's encoder, and a codebook of 3**7 codes
TOKENIZER = {
    "num_mel_bins": 80,
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "codebook_size": 2187,
    "latent_dim": 7,
}


@strict
class VitaAudioCodecConfig(PreTrainedConfig):
    r"""
    Configuration of [`VitaAudioCodec`], a speech codec with one codebook, at `frame_rate` codes per second.

    The defaults are those of the codec in `pretrained/vita-audio-mini`.

    Args:
        sampling_rate (`int`, defaults to 16000):
            Rate in Hz of the mono audio that `encode` takes and that `decode` returns.
        codebook_size (`int`, defaults to 2187):
            Number of codes.
        codebook_dim (`int`, defaults to 64):
            Dimensions of the unit vectors that the decoder reads for the codes.
        decoder_hidden_sizes (`list[int]`, defaults to `[320, 224]`):
            Widths of the decoder's two stages, at 12.5 and 100 frames per second.
        decoder_depths (`list[int]`, defaults to `[4, 7]`):
            Blocks in each stage of the decoder.
        decoder_lookahead (`int`, defaults to 2):
            Later codes that the decoder reads before it speaks a code; streaming is late by their time.
        kernel_size (`int`, defaults to 7):
            Width in frames of every depthwise convolution.
        num_voices (`int`, defaults to 1):
            Number of voices that `decode` can speak with. Voice 0 is the default one.
        voice_names (`list[str]`, *optional*):
            Names of the voices, in order.
        synthesis_window (`int`, defaults to 320):
            Samples in the window of the source-filter synthesis, whose hop is a quarter of the window.
        tokenizer_config ([`Glm4VoiceTokenizerConfig`] or `dict`, *optional*):
            Configuration of the encoder, which makes the codes, with the same `sampling_rate` and `codebook_size`. By
            default it has the sizes of Whisper tiny.en's, and its codes are a grid of three levels in each of seven
            dimensions.
        synthesis_phase (`bool`, defaults to `True`):
            Whether the decoder also predicts by which phase the vocoder shifts each bin of the harmonic source, whose
            pulses have all harmonics in phase.
        storage_dtype (`str`, *optional*):
            Type that weights are saved in where that loses nothing, as in [`VitaAudioConfig`].

    Raises:
        ValueError: if sizes do not agree, or make no sense.
    """

    model_type = "vita_audio_codec"
    sub_configs = {"tokenizer_config": Glm4VoiceTokenizerConfig}

    sampling_rate: int = 16000
    codebook_size: int = 2187
    codebook_dim: int = 64
    decoder_hidden_sizes: list[int] | tuple[int, ...] = (320, 224)
    decoder_depths: list[int] | tuple[int, ...] = (4, 7)
    decoder_lookahead: int = 2
    kernel_size: int = 7
    num_voices: int = 1
    voice_names: list[str] | None = None
    synthesis_window: int = 320
    tokenizer_config: dict | PreTrainedConfig | None = None
    synthesis_phase: bool = True
    storage_dtype: str | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        # Older versions saved these also of codecs that hear by a tokenizer
        of_encoder = [kwargs.pop(name, None) for name in ("encoder_hidden_sizes", "encoder_depths", "num_mel_bins")]
        if any(of_encoder) and self.tokenizer_config is None:
            raise ValueError(
                "This codec hears by a convolutional encoder, which is gone: its folder is of an older version of "
                "vita-audio, and brings the code to run it (`trust_remote_code=True`)."
            )
        if self.tokenizer_config is None:
            self.tokenizer_config = TOKENIZER
        if isinstance(self.tokenizer_config, dict):
            self.tokenizer_config = Glm4VoiceTokenizerConfig(**self.tokenizer_config)
        super().__post_init__(**kwargs)
        check_bounds(self, BOUNDS)
        # A mel frame of 10 ms must have a whole number of samples
        if self.sampling_rate % 100:
            raise ValueError(f"`sampling_rate` must be a multiple of 100 Hz, got {self.sampling_rate}.")
        check_storage_dtype(self)
        for name in ("sampling_rate", "codebook_size", "hop_length"):
            if getattr(self, name) != getattr(self.tokenizer_config, name):
                raise ValueError(
                    f"`{name}` must be that of `tokenizer_config`, {getattr(self.tokenizer_config, name)}, got "
                    f"{getattr(self, name)}."
                )
        if len(self.decoder_hidden_sizes) != 2 or len(self.decoder_depths) != 2:
            raise ValueError(
                "`decoder_hidden_sizes` and `decoder_depths` need one entry for each of the 2 decoder stages, got "
                f"{self.decoder_hidden_sizes!s:.100} and {self.decoder_depths!s:.100}."
            )
        if self.synthesis_window % 4 or self.mel_hop_length % self.synthesis_hop_length:
            raise ValueError(
                f"a quarter of `synthesis_window` must divide the {self.mel_hop_length} samples of a decoder frame, "
                f"got {self.synthesis_window}."
            )
        if self.voice_names is not None and len(self.voice_names) != self.num_voices:
            raise ValueError(
                f"`voice_names` must name each of the {self.num_voices} voices once, got {len(self.voice_names)} "
                "names."
            )
        # An even kernel has no middle frame, so a block could not reach equally far to both sides
        if self.kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd, got {self.kernel_size}.")

    @property
    def mel_hop_length(self) -> int:
        """Samples in a 10 ms frame, the decoder's finest step."""
        return self.sampling_rate // 100

    @property
    def hop_length(self) -> int:
        """Samples that one code stands for: 8 decoder frames of 10 ms."""
        return 8 * self.mel_hop_length

    @property
    def synthesis_hop_length(self) -> int:
        """Samples from one window of the synthesis to the next."""
        return self.synthesis_window // 4

    @property
    def frame_rate(self) -> float:
        """Codes per second (12.5)."""
        return self.sampling_rate / self.hop_length

    @property
    def output_sampling_rate(self) -> int:
        """Rate in Hz of the audio that `decode` returns."""
        return self.sampling_rate


attach_to_package(__name__)

__all__ = ["VitaAudioCodecConfig"]
