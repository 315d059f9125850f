# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""A recording whose voice an answer is to be spoken in: what the language model reads of it, and what the codec."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import ProcessorMixin

from .audio_vita_audio import load_audio
from .codec_vita_audio import VoiceCloningCodec, encode
from .compatibility_vita_audio import attach_to_package


@dataclass
class VoicePrompt:
    """
    A voice that has been read, by [`read_voice`].

    Args:
        audio (`list[int]` or `np.ndarray`): what the language model reads in the system's turn: the codes of the
            recording, or, where users are heard by features, its features `(num_rows, 560)`, float32.
        decoder_options (`dict`, *optional*): keywords of the codec's `init_decoder_state`, with which it speaks in
            this voice; none of a codec with one voice.
    """

    audio: list[int] | np.ndarray
    decoder_options: dict = field(default_factory=dict)


def read_voice(processor: ProcessorMixin, source: Any, sampling_rate: int | None = None) -> VoicePrompt:
    r"""
    Reads a recording of a voice.

    Args:
        processor ([`VitaAudioProcessor`]): with the codec.
        source: an audio of any kind that [`load_audio`] takes; a [`VoicePrompt`] is given back as it is.
        sampling_rate (`int`, *optional*, defaults to the codec's): of an array, in Hz.

    Returns:
        [`VoicePrompt`]: it can be used for any number of answers.

    Raises:
        ValueError, OSError, TypeError: the recording is bad, see [`load_audio`].
    """
    if isinstance(source, VoicePrompt):
        return source
    try:
        waveform = processor.load_audio(source, sampling_rate)
    except (ValueError, OSError, TypeError) as error:
        # An answer may have other audios, so the message says whose this is
        raise type(error)(f"`voice` must be a recording of the voice to speak in: {error}") from error
    codec, options = processor.audio_tokenizer, {}
    codes = encode(codec, waveform)
    if isinstance(codec, VoiceCloningCodec):
        # The codec compares the recording with its own speech, which is at another rate than what it hears
        spoken = load_audio((processor.feature_extractor.sampling_rate, waveform), processor.output_sampling_rate)
        options = codec.voice_options(torch.from_numpy(spoken)[None, None], torch.tensor(codes)[None, None])
    if processor.hears_features:
        return VoicePrompt(processor.feature_extractor(waveform)["input_features"][0], options)
    return VoicePrompt(codes, options)


attach_to_package(__name__)

__all__ = ["VoicePrompt", "read_voice"]
