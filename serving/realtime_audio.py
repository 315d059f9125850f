# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio of the Realtime protocol: from a client's base64 to the samples that a model hears, and back, as it comes."""

import base64
import binascii

import numpy as np

from .api_errors import ApiError
from .audio_formats import Resampler, from_alaw, from_pcm16, from_ulaw, to_alaw, to_pcm16, to_ulaw
from .realtime_events import AudioFormat


DECODERS = {"audio/pcm": from_pcm16, "audio/pcmu": from_ulaw, "audio/pcma": from_alaw}
ENCODERS = {"audio/pcm": to_pcm16, "audio/pcmu": to_ulaw, "audio/pcma": to_alaw}
EMPTY = np.zeros(0, np.float32)


def decode_base64(audio: str, audio_format: AudioFormat, param: str) -> bytes:
    """
    The bytes of a client's audio.

    Raises:
        ApiError: it is not base64, or an odd number of bytes in a format of two a sample.
    """
    try:
        content = base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(
            f"Invalid '{param}': The audio is not base64: {error}.", param=param, code="invalid_value"
        ) from error
    if audio_format.type == "audio/pcm" and len(content) % 2:
        raise ApiError(
            f"Invalid '{param}': audio/pcm has two bytes a sample, but there are {len(content)} bytes.",
            param=param,
            code="invalid_value",
        )
    return content


def seconds_of(content: bytes, audio_format: AudioFormat) -> float:
    return len(content) / bytes_per_second(audio_format)


def bytes_per_second(audio_format: AudioFormat) -> int:
    return audio_format.sampling_rate * (2 if audio_format.type == "audio/pcm" else 1)


class AudioReader:
    """
    Turns the bytes of a stream into samples.

    Args:
        audio_format ([`AudioFormat`]): of the bytes.
        sampling_rate (`int`): of the samples, in Hz.
    """

    def __init__(self, audio_format: AudioFormat, sampling_rate: int):
        self.audio_format = audio_format
        self._resample = Resampler(audio_format.sampling_rate, sampling_rate)

    def __call__(self, content: bytes) -> np.ndarray:
        """The samples that are ready after these bytes, float32 `(num_samples,)`."""
        return self._resample(DECODERS[self.audio_format.type](content))

    def finish(self) -> np.ndarray:
        """The rest of the stream's samples."""
        return self._resample(EMPTY, last=True)


class AudioWriter:
    """The way back of [`AudioReader`], with the same arguments."""

    def __init__(self, audio_format: AudioFormat, sampling_rate: int):
        self.audio_format = audio_format
        self._resample = Resampler(sampling_rate, audio_format.sampling_rate)

    def __call__(self, samples: np.ndarray) -> bytes:
        """The bytes that are ready after these samples."""
        return ENCODERS[self.audio_format.type](self._resample(samples))

    def finish(self) -> bytes:
        """The rest of the stream's bytes."""
        return ENCODERS[self.audio_format.type](self._resample(EMPTY, last=True))


def to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def encode_audio(samples: np.ndarray, sampling_rate: int, audio_format: AudioFormat) -> str:
    """Base64 of int16 samples `(num_samples,)`."""
    writer = AudioWriter(audio_format, sampling_rate)
    return to_base64(writer(samples.astype(np.float32) / 32768) + writer.finish())


__all__ = [
    "AudioReader",
    "AudioWriter",
    "bytes_per_second",
    "decode_base64",
    "encode_audio",
    "seconds_of",
    "to_base64",
]
