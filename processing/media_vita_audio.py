# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Decoding audio files within bounds: soundfile reads what it knows, PyAV the other formats, where it is installed."""

import importlib
import io
import os
import re
import struct
from contextlib import suppress
from numbers import Real
from types import ModuleType
from typing import BinaryIO

import numpy as np

from .mp3_vita_audio import mp3_with_its_length


# Shorter than this there is no word in it; 0.1 s is a little more than one speech code (0.08 s).
MIN_AUDIO_SECONDS = 0.1

# In Hz. Words cannot be understood at a lower rate, and studios use no higher one. The header of a broken file may
# claim any rate, and the cost of resampling grows with the ratio of the rates.
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 1000, 768000

# The most that is read into memory whole. An hour of 16-bit audio at 16 kHz has 115 MB.
MAX_BYTES = 256 * 2**20

# libsndfile's number of frames of a file whose header does not say how many there are
UNKNOWN_FRAMES = 2**63 - 1

# Files that PyAV may read where soundfile cannot: how they begin, what they are, and FFmpeg's name of the format.
# FFmpeg must not guess the format, because some formats are lists of other files and addresses, which it would open.
MEDIA_FILES = (
    (rb"\x1a\x45\xdf\xa3", "webm or Matroska", "matroska"),
    (rb"....ftyp", "mp4, m4a, mov or 3gp", "mov"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "aac", "aac"),
    (rb"#!AMR", "amr", "amr"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wma", "asf"),
    (rb"caff", "caf", "caf"),
    (rb"RIFF....WAVE", "wav", "wav"),
    (rb"fLaC", "flac", "flac"),
    (rb"OggS", "ogg", "ogg"),
)

# the number of GSM 6.10 in the header of a WAV file
GSM_FORMAT = 0x31
# Chunks of a WAV file that are looked at for its samples: pictures and notes may come before them.
MAX_WAV_CHUNKS = 1000


class ForgivingStream:
    """
    A stream that ignores a seek to before its start, as libsndfile does in broken files and would print an error, and
    that has no name: soundfile takes one that ends in `.raw` for samples without a header.
    """

    def __init__(self, stream: BinaryIO):
        self.stream = stream

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with suppress(ValueError, OSError):
            self.stream.seek(offset, whence)
        return self.stream.tell()

    def __getattr__(self, name: str):
        if name == "name":
            raise AttributeError(name)
        return getattr(self.stream, name)


def import_package(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"Reading audio needs {package}: pip install {package}") from error


def decode_file(name: str, stream: BinaryIO, max_seconds: float) -> tuple[np.ndarray, int]:
    """
    Samples of a file with the channels averaged, and their rate in Hz.

    Args:
        name (`str`): the file's name in messages.
        stream (`BinaryIO`): the file's bytes, seekable.
        max_seconds (`float`): the longest audio accepted.

    Raises:
        ValueError: the file is empty, corrupt or of an unknown kind, needs PyAV, which is missing, or its rate or
            length is out of bounds.
    """
    soundfile = import_package("soundfile")
    if not stream.seek(0, os.SEEK_END):
        raise ValueError(f"{name} is empty (0 bytes).")
    if _is_chained(stream):
        return _decode_media(name, stream, max_seconds, "it is several files, one behind the other")
    stream = _with_its_length(name, stream)
    stream.seek(0)
    try:
        file = soundfile.SoundFile(ForgivingStream(stream))
        if file.format == "MP3":
            file.close()
            stream = mp3_with_its_length(name, stream, max_seconds)
            stream.seek(0)
            file = soundfile.SoundFile(ForgivingStream(stream))
    except soundfile.LibsndfileError as error:
        return _decode_media(name, stream, max_seconds, error.error_string)
    with file:
        check_rate(name, file.samplerate)
        # a FLAC file that was written to a pipe
        if file.frames == UNKNOWN_FRAMES:
            return _decode_media(name, stream, max_seconds, "its header tells no length")
        check_length(name, file.frames, file.samplerate, max_seconds)
        try:
            return _decode(name, file, max_seconds), file.samplerate
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{name} is corrupt ({error.error_string}).") from error


def _decode(name: str, file, max_seconds: float) -> np.ndarray:
    """
    Mono samples of a `soundfile.SoundFile`, read second by second: a header may lie about the length, and channels
    cost memory.
    """
    blocks, num_frames = [], 0
    while len(block := file.read(file.samplerate, dtype="float32", always_2d=True)):
        num_frames += len(block)
        check_not_longer(name, num_frames / file.samplerate, max_seconds)
        blocks.append(block.mean(axis=1))
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def _with_its_length(name: str, stream: BinaryIO) -> BinaryIO:
    """
    Repairs the length in the header of a WAV file, so that libsndfile reads all of it and no more. Other files stay as
    they are.

    A program that writes to a pipe cannot go back to the header to enter the length, and some leave 0 there. (Others
    leave a number that is too large, which does no harm.) And where GSM has an odd number of bytes, libsndfile would
    read a block more than there is, as noise.
    """
    stream.seek(0)
    if not re.match(rb"RIFF....WAVE", stream.read(12), re.DOTALL):
        return stream
    codec = block_bytes = None
    for _ in range(MAX_WAV_CHUNKS):
        header = stream.read(8)
        if len(header) < 8:
            return stream
        chunk, size = struct.unpack("<4sI", header)
        start = stream.tell()
        if chunk == b"data":
            break
        if chunk == b"fmt " and len(content := stream.read(14)) == 14:
            # The first number is the codec, the one at byte 12 the size of a block
            codec, block_bytes = struct.unpack("<H10xH", content)
        # Chunks begin at even bytes
        stream.seek(start + size + size % 2)
    else:
        return stream
    rest = stream.seek(0, os.SEEK_END) - start
    num_bytes = size or rest
    if codec == GSM_FORMAT and block_bytes:
        num_bytes = min(num_bytes, rest) // block_bytes * block_bytes
    elif size:
        return stream
    stream.seek(start)
    if not size and stream.read(8)[4:] == struct.pack("<I", max(rest - 8, 0)):
        return stream  # 0 is right: there are no samples, and the rest is another chunk
    if start + num_bytes > MAX_BYTES:
        raise ValueError(
            f"{name} is too large: it has no length in its header, or is GSM, and more than {MAX_BYTES} bytes."
        )
    stream.seek(0)
    content = bytearray(stream.read(start + num_bytes))
    # an odd length of GSM is entered as the even one below, with which libsndfile still reads the last block
    content[start - 4 : start] = struct.pack("<I", num_bytes - num_bytes % 2 if codec == GSM_FORMAT else num_bytes)
    return io.BytesIO(content)


def _is_chained(stream: BinaryIO) -> bool:
    """
    Whether a file is several Ogg files, of which libsndfile reads the first: a stream begins behind pages of another.
    """
    position, has_begun = 0, False
    while True:
        stream.seek(position)
        header = stream.read(27)
        if len(header) < 27 or header[:4] != b"OggS":
            return False
        begins = header[5] & 2
        if begins and has_begun:
            return True
        has_begun = not begins
        # The last byte says how many follow, which add up to the size of the page
        position += 27 + header[26] + sum(stream.read(header[26]))


def _decode_media(name: str, stream: BinaryIO, max_seconds: float, problem: str) -> tuple[np.ndarray, int]:
    """Reads a file by PyAV that soundfile cannot read because of `problem`."""
    stream.seek(0)
    beginning = stream.read(16)
    stream.seek(0)
    kinds = (kind for kind in MEDIA_FILES if re.match(kind[0], beginning, re.DOTALL))
    _, kind, demuxer = next(kinds, (None, None, None))
    if kind is None:
        raise ValueError(f"{name} is corrupt or not a wav, flac, ogg or mp3 file ({problem}).")
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise ValueError(
            f"{name} is a {kind} file that soundfile cannot read ({problem}). PyAV may read it: pip install av"
        ) from error
    try:
        # A title in an unknown encoding does no harm to the audio
        with av.open(stream, format=demuxer, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise ValueError(f"{name} has no audio in it.")
            # fltp is float32 in one plane a channel, so `to_ndarray` gives an axis of channels
            to_float, form, blocks, num_samples = av.AudioResampler(format="fltp"), None, [], 0
            for frame in container.decode(container.streams.audio[0]):
                if form != (form := (frame.sample_rate, frame.layout.name)):
                    check_rate(name, frame.sample_rate)
                    if blocks:
                        raise ValueError(f"{name} changes its sampling rate or its channels on the way.")
                num_samples += frame.samples
                check_not_longer(name, num_samples / frame.sample_rate, max_seconds)
                blocks += [block.to_ndarray().mean(axis=0) for block in to_float.resample(frame)]
    except av.FFmpegError as error:
        raise ValueError(f"{name} is corrupt, or not a {kind} file with audio ({error.strerror}).") from error
    if not blocks:
        raise ValueError(f"{name} is empty (no samples).")
    return np.concatenate(blocks), form[0]


def check_rate(name: str, sampling_rate: float) -> None:
    is_number = isinstance(sampling_rate, Real) and not isinstance(sampling_rate, bool)
    if not is_number or not MIN_SAMPLING_RATE <= sampling_rate <= MAX_SAMPLING_RATE:
        raise ValueError(
            f"The sampling rate of {name} must be a number of Hz from {MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE}, got "
            f"{sampling_rate!r:.100}."
        )


def check_length(name: str, num_samples: int, sampling_rate: float, max_seconds: float) -> None:
    if num_samples == 0:
        raise ValueError(f"{name} is empty (no samples).")
    seconds = num_samples / sampling_rate
    if seconds < MIN_AUDIO_SECONDS:
        raise ValueError(f"{name} lasts {seconds:.3f} s, shorter than the {MIN_AUDIO_SECONDS} s that are needed.")
    check_not_longer(name, seconds, max_seconds)


def check_not_longer(name: str, seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise ValueError(
            f"{name} lasts {seconds:.1f} s, longer than the limit of max_audio_seconds = {max_seconds:g}."
        )


__all__ = ["MAX_BYTES", "MIN_AUDIO_SECONDS", "check_length", "check_rate", "decode_file", "import_package"]
