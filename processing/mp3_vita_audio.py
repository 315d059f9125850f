# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
How long an MP3 is: its frames, counted one by one.

An MP3 is frames one after the other, each with a header of its own. The first one may have no sound, but a tag that
says how many follow. Without a tag, libsndfile guesses their number by the size of the first one, and reads no
further; with one it stops where the first of several joined files ends.
"""

import io
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple


# By the number in a frame's header: kbit/s of MPEG 1 and of MPEG 2, and Hz of MPEG 1
BITRATES = (
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
RATES = (44100, 48000, 32000)

# How much that is no frame may come between two frames
MAX_GAP_BYTES = 2**20


class FrameHeader(NamedTuple):
    """
    What the header of a frame says.

    size (`int`): of the frame in bytes.
    num_samples (`int`): of each channel.
    sampling_rate (`int`): in Hz.
    num_channels (`int`): 1 or 2.
    tag_start (`int`): at which byte of the frame there may be a tag.
    """

    size: int
    num_samples: int
    sampling_rate: int
    num_channels: int
    tag_start: int

    @property
    def form(self) -> tuple[int, int]:
        """What has to be the same in all frames of a file."""
        return self.sampling_rate, self.num_channels


def read_header(header: bytes) -> FrameHeader | None:
    """What the first four bytes of a frame say; None if they are no header of a frame of an MP3."""
    # 11 bits that are 1, two for the version of MPEG, and two for the layer
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    # 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5, and 1 is none
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    is_first = version == 3
    sampling_rate = RATES[rate] >> (3 - version if version else 2)
    num_samples = 1152 if is_first else 576
    num_channels = 1 if header[3] >> 6 == 3 else 2
    has_checksum = not header[1] & 1
    return FrameHeader(
        size=num_samples // 8 * 1000 * BITRATES[not is_first][bitrate - 1] // sampling_rate + (header[2] >> 1 & 1),
        num_samples=num_samples,
        sampling_rate=sampling_rate,
        num_channels=num_channels,
        # Behind the header and what it says of the channels
        tag_start=4 + 2 * has_checksum + ((17, 32) if is_first else (9, 17))[num_channels - 1],
    )


def mp3_with_its_length(name: str, stream: BinaryIO, max_seconds: float) -> BinaryIO:
    """
    An MP3 whose tag says how many frames it has: `stream` itself, where it does, or its frames behind a new tag.

    Args:
        name (`str`): the file's name in messages.
        stream (`BinaryIO`): the file's bytes.
        max_seconds (`float`): the longest audio that is wanted. Of a longer one, no more than a second beyond that is
            counted.

    Raises:
        ValueError: frames are of different sampling rates or numbers of channels.
    """
    frames, form, num_told = [], None, None
    for header, frame in _frames(stream):
        if form is None:
            form = header.form
        if header.form != form:
            raise ValueError(f"{name} changes its sampling rate or its channels on the way.")
        tag = frame[header.tag_start : header.tag_start + 12]
        if tag[:4] in (b"Xing", b"Info"):
            if not frames and num_told is None:
                flags, number = struct.unpack(">4xII", tag)
                num_told = number if flags & 1 else 0
            # The tags of joined files, too, have no sound
            continue
        frames.append(frame)
        if len(frames) * header.num_samples > (max_seconds + 1) * header.sampling_rate:
            if num_told is not None and num_told > len(frames):
                return stream
            break
    if not frames or len(frames) == num_told:
        return stream
    # The tag's frame is like the others, without a checksum, at a bitrate with which there is room for the tag
    start = bytes([0xFF, frames[0][1] | 1, 0x80 | frames[0][2] & 0x0C, frames[0][3]])
    header = read_header(start)
    tag = b"Xing" + struct.pack(">II", 1, len(frames))
    return io.BytesIO(b"".join([(start.ljust(header.tag_start, b"\0") + tag).ljust(header.size, b"\0"), *frames]))


def _frames(stream: BinaryIO) -> Iterator[tuple[FrameHeader, bytes]]:
    """The whole frames of an MP3, with their headers. Other things may be between them, such as titles."""
    position, form = 0, None
    while True:
        stream.seek(position)
        start = stream.read(10)
        if start[:3] == b"ID3":
            # Its size is in the last four bytes, seven bits in each
            position += 10 + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(start[:5:-1]))
            continue
        header = read_header(start)
        if header is None or header.form != form:
            if (position := _next_frame(stream, position)) is None:
                return
            stream.seek(position)
            header = read_header(stream.read(4))
        stream.seek(position)
        frame = stream.read(header.size)
        if len(frame) < header.size:
            return
        yield header, frame
        position, form = position + header.size, header.form


def _next_frame(stream: BinaryIO, position: int) -> int | None:
    """
    Where the first frame from `position` on begins that one of its form follows, or the end: bytes that look like a
    header may be anywhere.
    """
    stream.seek(position)
    gap = stream.read(MAX_GAP_BYTES)
    for match in re.finditer(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", gap):
        start = match.start()
        if (header := read_header(gap[start : start + 4])) is None:
            continue
        stream.seek(position + start + header.size)
        following = stream.read(4)
        if not following or ((next_header := read_header(following)) and next_header.form == header.form):
            return position + start
    return None


__all__ = ["FrameHeader", "mp3_with_its_length", "read_header"]
