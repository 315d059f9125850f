# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Samples to bytes in the formats that clients ask for, at once or as the samples come; and the way back for G.711."""

import io
import struct
from typing import Protocol

import numpy as np

from processing.media_vita_audio import import_package


# All speech goes out at this rate in Hz. Clients of OpenAI's interfaces play pcm16 at it without asking.
WIRE_SAMPLING_RATE = 24000

# FFmpeg's container and codec of each format that PyAV encodes, and the options of the container. `write_xing` and
# `id3v2_version` would be headers of a stream's length, which nobody knows yet. Ogg packs up to a second into a page,
# and a client hears nothing before its end; the option is in microseconds.
MEDIA_FORMATS = {
    "mp3": ("mp3", "libmp3lame", {"write_xing": "0", "id3v2_version": "0"}),
    "opus": ("ogg", "libopus", {"page_duration": "80000"}),
    "aac": ("adts", "aac", {}),
    "flac": ("flac", "flac", {}),
}
# In bits/s; speech at 24 kHz has no audible loss at it.
BIT_RATE = 64000

CONTENT_TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm16": "audio/pcm",
}

# what programs write as the length of a WAV file that goes into a pipe
UNKNOWN_BYTES = 2**32 - 1

# G.711 u-law: its largest sample of 14 bits, and what is added so that all segments of the logarithm have one form
ULAW_CLIP, ULAW_BIAS = 8158, 33


class Encoder(Protocol):
    """Turns mono float32 samples `(num_samples,)` in [-1, 1] into the bytes of a file, piece by piece."""

    def encode(self, samples: np.ndarray) -> bytes:
        """The bytes that are ready after these samples."""

    def finish(self) -> bytes:
        """The bytes up to the end of the file."""


class PcmEncoder:
    """16-bit samples, little-endian, after a `header`."""

    def __init__(self, header: bytes = b""):
        self.header = header

    def encode(self, samples: np.ndarray) -> bytes:
        content, self.header = self.header + to_pcm16(samples), b""
        return content

    def finish(self) -> bytes:
        return self.encode(np.zeros(0, dtype=np.float32))


class MediaEncoder:
    """
    What FFmpeg encodes.

    Args:
        format (`str`): one of `MEDIA_FORMATS`.
        sampling_rate (`int`): of the samples, in Hz.

    Raises:
        ImportError: PyAV is not installed.
    """

    def __init__(self, format: str, sampling_rate: int):
        try:
            self.av = import_package("av")
        except ImportError as error:
            raise ImportError(f"The format {format} needs PyAV on the server: pip install av") from error
        container, codec, options = MEDIA_FORMATS[format]
        self.sampling_rate = sampling_rate
        self.output = PipeOfBytes()
        # without `flush_packets` FFmpeg would keep 32 KiB back, some seconds of speech
        self.container = self.av.open(self.output, "w", format=container, options={"flush_packets": "1", **options})
        self.stream = self.container.add_stream(codec, rate=sampling_rate, layout="mono", bit_rate=BIT_RATE)
        self.stream.codec_context.open()
        # brings samples into the codec's type and into frames of its size; the rate stays
        self.framer = self.av.AudioResampler(
            self.stream.format, "mono", sampling_rate, self.stream.codec_context.frame_size or None
        )
        self.num_samples = 0

    def encode(self, samples: np.ndarray) -> bytes:
        if len(samples):
            samples = np.ascontiguousarray(samples, dtype=np.float32)
            frame = self.av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts = self.sampling_rate, self.num_samples
            self.num_samples += len(samples)
            for piece in self.framer.resample(frame):
                self.container.mux(self.stream.encode(piece))
        return self.output.take()

    def finish(self) -> bytes:
        if not self.num_samples:
            # FFmpeg's encoders fail at their end if nothing came before: 20 ms of silence
            self.encode(np.zeros(self.sampling_rate // 50, dtype=np.float32))
        for piece in self.framer.resample(None):
            self.container.mux(self.stream.encode(piece))
        self.container.mux(self.stream.encode(None))
        self.container.close()
        return self.output.take()


class PipeOfBytes:
    """A file that can only be written to, so that FFmpeg goes back to no header."""

    def __init__(self):
        self.content = bytearray()

    def write(self, content: bytes) -> int:
        self.content += content
        return len(content)

    def take(self) -> bytes:
        content, self.content = bytes(self.content), bytearray()
        return content


def make_encoder(format: str, sampling_rate: int = WIRE_SAMPLING_RATE) -> Encoder:
    """
    The encoder of a format for samples that are still to come.

    Args:
        format (`str`): one of `CONTENT_TYPES`; `opus` is in an Ogg container, `pcm16` has no header.
        sampling_rate (`int`): of the samples, in Hz.

    Raises:
        ImportError: the format needs PyAV, which is not installed.
    """
    if format in MEDIA_FORMATS:
        return MediaEncoder(format, sampling_rate)
    return PcmEncoder(wav_header(sampling_rate, UNKNOWN_BYTES) if format == "wav" else b"")


def encode_whole(samples: np.ndarray, format: str, sampling_rate: int = WIRE_SAMPLING_RATE) -> bytes:
    """A file of all `samples`; see [`make_encoder`]. Where a format's header has the length, it is right."""
    if format == "wav":
        return wav_header(sampling_rate, 2 * len(samples)) + to_pcm16(samples)
    # libsndfile writes nothing where there are no samples
    if format == "flac" and len(samples):
        file = io.BytesIO()
        import_package("soundfile").write(file, samples, sampling_rate, format="FLAC", subtype="PCM_16")
        return file.getvalue()
    encoder = make_encoder(format, sampling_rate)
    return encoder.encode(samples) + encoder.finish()


def wav_header(sampling_rate: int, num_bytes: int) -> bytes:
    """The header of a WAV file of mono 16-bit samples that have `num_bytes`."""
    # the first length counts the header's 36 bytes that follow it
    whole = min(num_bytes + 36, UNKNOWN_BYTES)
    sizes = struct.pack("<HHIIHH", 1, 1, sampling_rate, 2 * sampling_rate, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", whole)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + sizes
        + (b"data" + struct.pack("<I", num_bytes))
    )


class Resampler:
    """
    Brings samples to another rate as they come. Where the rate stays, so do the samples.

    Args:
        from_rate (`int`), to_rate (`int`): in Hz.
    """

    def __init__(self, from_rate: int, to_rate: int):
        self.stream = None
        if from_rate != to_rate:
            self.stream = import_package("soxr").ResampleStream(from_rate, to_rate, 1, dtype="float32")

    def __call__(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """The samples that are ready, float32 `(num_samples,)`; all of them with the `last` ones."""
        if self.stream is None:
            return samples
        return self.stream.resample_chunk(np.ascontiguousarray(samples, dtype=np.float32), last=last).clip(-1, 1)


class SpeechEncoder:
    """
    Turns the samples of an answer into the bytes of a file at `WIRE_SAMPLING_RATE`, as they come.

    Args:
        format (`str`): see [`make_encoder`], which also says what is raised.
        sampling_rate (`int`): of the samples, in Hz.
    """

    def __init__(self, format: str, sampling_rate: int):
        self.resampler = Resampler(sampling_rate, WIRE_SAMPLING_RATE)
        self.encoder = make_encoder(format)

    def put(self, samples: np.ndarray) -> bytes:
        """The bytes that are ready after these samples."""
        return self.encoder.encode(self.resampler(samples))

    def finish(self) -> bytes:
        """The bytes up to the end of the file."""
        return self.encoder.encode(self.resampler(np.zeros(0, dtype=np.float32), last=True)) + self.encoder.finish()


def encode_speech(pieces: list[np.ndarray], format: str, sampling_rate: int) -> bytes:
    """The whole file of an answer, as [`SpeechEncoder`] makes it piece by piece."""
    samples = np.concatenate([np.zeros(0, dtype=np.float32), *pieces])
    return encode_whole(Resampler(sampling_rate, WIRE_SAMPLING_RATE)(samples, last=True), format)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Float32 samples in [-1, 1], `(num_samples,)`, as int16."""
    return np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def to_pcm16(samples: np.ndarray) -> bytes:
    """16-bit little-endian bytes of float32 samples in [-1, 1]."""
    return to_int16(samples).astype("<i2").tobytes()


def from_pcm16(content: bytes) -> np.ndarray:
    """
    Float32 samples `(num_samples,)` in [-1, 1] of 16-bit little-endian bytes.

    Raises:
        ValueError: the number of bytes is odd.
    """
    if len(content) % 2:
        raise ValueError(f"16-bit samples have two bytes each, but there are {len(content)} bytes.")
    return np.frombuffer(content, dtype="<i2").astype(np.float32) / 32768


def to_ulaw(samples: np.ndarray) -> bytes:
    """G.711 u-law of float32 samples in [-1, 1] at 8 kHz, a byte each."""
    # 14 bits with the sign
    values = to_int16(samples).astype(np.int32) >> 2
    biased = np.minimum(np.abs(values), ULAW_CLIP) + ULAW_BIAS
    # the segment is the place of the highest bit, from bit 5 on; four bits below it are kept
    segment = np.floor(np.log2(biased)).astype(np.int32) - 5
    code = (segment << 4) | ((biased >> (segment + 1)) & 0x0F) | np.where(values < 0, 0x80, 0)
    return (~code & 0xFF).astype(np.uint8).tobytes()


def from_ulaw(content: bytes) -> np.ndarray:
    """Float32 samples `(num_samples,)` in [-1, 1] of G.711 u-law."""
    code = ~np.frombuffer(content, dtype=np.uint8).astype(np.int32) & 0xFF
    values = ((((code & 0x0F) << 1) + ULAW_BIAS) << ((code >> 4) & 7)) - ULAW_BIAS
    return (np.where(code & 0x80, -values, values) / 8192).astype(np.float32)


def to_alaw(samples: np.ndarray) -> bytes:
    """G.711 A-law of float32 samples in [-1, 1] at 8 kHz, a byte each."""
    # 13 bits with the sign; a negative value's magnitude is that of its complement
    values = to_int16(samples).astype(np.int32) >> 3
    magnitude = np.where(values < 0, ~values, values)
    segment = np.maximum(np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int32) - 4, 0)
    # the lowest two segments have steps of one size
    code = (segment << 4) | ((magnitude >> np.maximum(segment, 1)) & 0x0F)
    # even bits are inverted, and the sign's bit is set for positive values
    return (code ^ np.where(values < 0, 0x55, 0xD5)).astype(np.uint8).tobytes()


def from_alaw(content: bytes) -> np.ndarray:
    """Float32 samples `(num_samples,)` in [-1, 1] of G.711 A-law."""
    code = np.frombuffer(content, dtype=np.uint8).astype(np.int32) ^ 0x55
    segment = (code >> 4) & 7
    # each value is the middle of its step
    values = np.where(segment > 0, ((code & 0x0F) << 4) + 0x108, ((code & 0x0F) << 4) + 8)
    values = values << np.maximum(segment - 1, 0)
    return (np.where(code & 0x80, values, -values) / 32768).astype(np.float32)


__all__ = [
    "CONTENT_TYPES",
    "WIRE_SAMPLING_RATE",
    "Encoder",
    "Resampler",
    "SpeechEncoder",
    "encode_speech",
    "encode_whole",
    "from_alaw",
    "from_pcm16",
    "from_ulaw",
    "make_encoder",
    "to_alaw",
    "to_int16",
    "to_pcm16",
    "to_ulaw",
    "wav_header",
]
