# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a speech codec has to have for the processor, the pipeline and training to work with it, and the one way to its
codes.

A codec needs no base class of ours: any `PreTrainedModel` with the members of [`SpeechCodec`] is one. To add one,
write it into a file with its configuration, register both with `AutoConfig` and `AutoModel`, and pass it to
[`VitaAudioProcessor.from_codec`]; `tests/test_one_file.py` has an example.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from transformers import PreTrainedModel


class SpeechCodecConfig(Protocol):
    r"""
    The configuration of a [`SpeechCodec`]: a `PreTrainedConfig` with a `model_type` of its own.

    sampling_rate (`int`): of the audio that `encode` takes, in Hz.
    codebook_size (`int`): how many codes there are; they are numbers in `[0, codebook_size)`.
    output_sampling_rate (`int`, *optional*): of the audio that `decode` makes, in Hz; `sampling_rate` where there is
        none.
    """

    model_type: str
    sampling_rate: int
    codebook_size: int


class SpeechCodec(Protocol):
    r"""
    A speech codec of one codebook.

    config ([`SpeechCodecConfig`]): rates and the number of codes.
    device (`torch.device`), dtype (`torch.dtype`): of the weights; every `PreTrainedModel` has both.
    input_dtype (`torch.dtype`, *optional*): of the samples that `encode` takes; `dtype` where there is none, as in the
        codecs of transformers.
    """

    config: Any
    device: torch.device
    dtype: torch.dtype

    def encode(self, input_values: torch.FloatTensor) -> Any:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(1, 1, num_samples)`):
                Mono audio in `[-1, 1]` at `config.sampling_rate` Hz, of any length from 0.1 s on.

        Returns:
            `ModelOutput` with `audio_codes`, a `torch.LongTensor` of shape `(1, 1, num_codes)`.
        """

    def decode(self, audio_codes: torch.LongTensor) -> Any:
        r"""
        Args:
            audio_codes (`torch.LongTensor` of shape `(1, 1, num_codes)`):
                The codes of a whole utterance. A [`StreamingSpeechCodec`] also takes the next chunk of one.

        Returns:
            `ModelOutput` with `audio_values`, a `torch.FloatTensor` of shape `(1, 1, num_samples)` or `(1,
            num_samples)`.
        """


@runtime_checkable
class StreamingSpeechCodec(SpeechCodec, Protocol):
    """
    A [`SpeechCodec`] that speaks chunk by chunk. Its `decode` also takes `decoder_state` and `is_final` (`bool`):
    whether these are the last codes. Its output then has a `decoder_state` for the next chunk, and `audio_values` may
    be without samples.
    """

    def init_decoder_state(self, batch_size: int) -> Any:
        """The `decoder_state` of an utterance's first chunk. It belongs to this utterance alone."""


def check_codec(codec: Any, name: str) -> None:
    """
    Args:
        codec: what should be a [`SpeechCodec`].
        name: of it, for the message.

    Raises:
        TypeError: `codec` lacks something that a speech codec has.
    """
    # By hand and not by `isinstance`, which would not say what is missing, nor look into the configuration
    missing = [name for name in ("encode", "decode") if not hasattr(codec, name)]
    missing += [
        f"config.{name}"
        for name in ("sampling_rate", "codebook_size")
        if not hasattr(getattr(codec, "config", None), name)
    ]
    if missing or not isinstance(codec, PreTrainedModel):
        lack = f"without {', '.join(missing)}" if missing else "which is no PreTrainedModel"
        raise TypeError(f"{name} must be a speech codec, got a {type(codec).__name__} {lack}.")


def output_sampling_rate(codec: SpeechCodec) -> int:
    """Rate of the audio that a codec makes, in Hz."""
    # most codecs speak at the rate that they hear at, and transformers' name only one
    return getattr(codec.config, "output_sampling_rate", codec.config.sampling_rate)


@torch.no_grad()
def encode(codec: SpeechCodec, waveform: np.ndarray) -> list[int]:
    r"""
    The codes of one audio, for inference and training alike. Audios are never encoded side by side: codes must not
    depend on what else is in a batch.

    Args:
        codec ([`SpeechCodec`]): the codec.
        waveform (`np.ndarray` of shape `(num_samples,)`): float32 samples in [-1, 1] at `codec.config.sampling_rate`
            Hz.

    Returns:
        `list[int]`: codes in `[0, codebook_size)`.

    Raises:
        ValueError: the codec has more than one codebook.
    """
    dtype = getattr(codec, "input_dtype", codec.dtype)
    # `(1, 1, num_samples)`
    codes = codec.encode(torch.from_numpy(waveform)[None, None].to(codec.device, dtype)).audio_codes
    if codes.ndim != 3 or codes.shape[:2] != (1, 1):
        raise ValueError(
            f"The codec must have one codebook, and codes of shape (1, 1, num_codes); those of {type(codec).__name__} "
            f"are {tuple(codes.shape)}."
        )
    return codes[0, 0].tolist()


__all__ = ["SpeechCodec", "SpeechCodecConfig", "StreamingSpeechCodec", "check_codec", "encode", "output_sampling_rate"]
