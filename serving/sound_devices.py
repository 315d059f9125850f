# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What `vita-audio talk` hears and speaks with: a microphone, and a loudspeaker or a file in its place."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol

from .speech import write_audio


# Of the Realtime protocol, in Hz; samples are 16-bit, little-endian and mono everywhere in this file
SAMPLING_RATE = 24000
BYTES_PER_MS = 2 * SAMPLING_RATE // 1000
# Of what is sent at once: half a chunk of the codec, so that little waits for the rest of a block
BLOCK_MS = 40


class Output(Protocol):
    """Plays answers, one after the other."""

    def begin(self) -> None:
        """The next answer begins: `played_ms` counts from here."""

    def put(self, audio: bytes) -> None:
        """More speech of the answer."""

    def stop(self) -> None:
        """Falls silent at once. What was not played yet is thrown away."""

    @property
    def played_ms(self) -> int:
        """How much of the answer has been played, in milliseconds."""

    @property
    def is_playing(self) -> bool:
        """Whether something waits to be played."""

    def close(self) -> None: ...


def import_sounddevice() -> ModuleType:
    """
    Raises:
        ImportError, OSError: sounddevice or PortAudio, the library under it, is not installed.
    """
    files = "--input and --output take files in the place of a microphone and a loudspeaker"
    try:
        import sounddevice
    except ImportError as error:
        raise ImportError(f"Talking needs the package sounddevice: `pip install sounddevice`; or {files}.") from error
    except OSError as error:
        raise OSError(
            f"Talking needs the library PortAudio (on Debian: `apt-get install libportaudio2`); or {files}."
        ) from error
    return sounddevice


@contextmanager
def explained(device: str, option: str):
    """PortAudio's errors as one line that names the device."""
    sounddevice = import_sounddevice()
    try:
        yield
    # sounddevice raises a ValueError where there is no device of a kind at all
    except (sounddevice.PortAudioError, ValueError) as error:
        raise OSError(
            f"The {device} cannot be used: {' '.join(str(error).split())}. {option} takes a file in its place."
        ) from error


class Microphone:
    """Blocks of what is heard, from `open` on, as an asynchronous iterator that has no end."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self._blocks: asyncio.Queue[bytes] = asyncio.Queue()
        with explained("microphone", "--input"):
            self._stream = import_sounddevice().RawInputStream(
                SAMPLING_RATE, BLOCK_MS * SAMPLING_RATE // 1000, channels=1, dtype="int16", callback=self._take
            )
            self._stream.start()

    # runs in a thread of PortAudio
    def _take(self, data, *_):
        self._loop.call_soon_threadsafe(self._blocks.put_nowait, bytes(data))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._blocks.get()

    def close(self) -> None:
        self._stream.close()


class Loudspeaker:
    """See [`Output`]."""

    def __init__(self):
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._num_played = 0  # bytes of the answer
        with explained("loudspeaker", "--output"):
            self._stream = import_sounddevice().RawOutputStream(
                SAMPLING_RATE, channels=1, dtype="int16", latency="low", callback=self._fill
            )
            self._stream.start()

    # runs in a thread of PortAudio
    def _fill(self, data, *_):
        filled = 0
        with self._lock:
            while filled < len(data) and self._waiting:
                block = self._waiting.popleft()
                part = block[: len(data) - filled]
                data[filled : filled + len(part)] = part
                filled += len(part)
                if len(part) < len(block):
                    self._waiting.appendleft(block[len(part) :])
            self._num_played += filled
        data[filled:] = bytes(len(data) - filled)

    def begin(self) -> None:
        with self._lock:
            self._num_played = 0

    def put(self, audio: bytes) -> None:
        with self._lock:
            self._waiting.append(audio)

    def stop(self) -> None:
        with self._lock:
            self._waiting.clear()

    @property
    def played_ms(self) -> int:
        # what PortAudio has got is heard only after its latency
        return max(0, self._num_played // BYTES_PER_MS - round(1000 * self._stream.latency))

    @property
    def is_playing(self) -> bool:
        return bool(self._waiting)

    def close(self) -> None:
        self._stream.close()


class AnswerFile:
    """
    What a loudspeaker would have played, in a file. See [`Output`].

    Args:
        path (`Path`): with the ending of one of `speech.FORMATS`. It is written by `close`.
        is_fast (`bool`): whether speech counts as played when it comes. Otherwise it takes its time, as with a
            loudspeaker, and what is stopped is cut off there.
    """

    def __init__(self, path: Path, is_fast: bool = False):
        self._path, self._is_fast = path, is_fast
        self._earlier, self._answer = bytearray(), bytearray()
        self._start = None

    def begin(self) -> None:
        self._earlier += self._answer
        self._answer.clear()
        self._start = None

    def put(self, audio: bytes) -> None:
        self._start = self._start or time.monotonic()
        self._answer += audio

    def stop(self) -> None:
        del self._answer[self.played_ms * BYTES_PER_MS :]

    @property
    def played_ms(self) -> int:
        there = len(self._answer) // BYTES_PER_MS
        if self._is_fast or self._start is None:
            return there
        return min(there, round(1000 * (time.monotonic() - self._start)))

    @property
    def is_playing(self) -> bool:
        return self.played_ms < len(self._answer) // BYTES_PER_MS

    def close(self) -> None:
        """
        Raises:
            OSError: the file cannot be written.
        """
        self.begin()
        if self._earlier:
            # imported here, because it takes seconds and devices do without
            from .audio_formats import from_pcm16

            write_audio(self._path, from_pcm16(bytes(self._earlier)), SAMPLING_RATE)


__all__ = ["AnswerFile", "BLOCK_MS", "BYTES_PER_MS", "Loudspeaker", "Microphone", "Output", "SAMPLING_RATE"]
