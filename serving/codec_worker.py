# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The codec's thread: it encodes what users say while they say it, and decodes the speech of all answers together, which
costs less than one after the other.
"""

import asyncio
import atexit
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from processing import VitaAudioProcessor
from processing.codec_vita_audio import JoinableDecoderState, StreamingSpeechCodec


logger = logging.getLogger(__name__)

# Of one answer in one call: 0.64 s of speech, so that no answer waits long for another
MAX_CODES_PER_CALL = 8

# Of one user in one call. A recording that was sent as a whole is encoded in parts, between which others are served;
# who speaks live is never so far ahead of the codec. The compact codec takes 30 ms for so much on one core.
MAX_SECONDS_HEARD_PER_CALL = 10.24


class Speaking(AsyncIterator[np.ndarray]):
    """
    The speech of one answer, whose codes come while it is heard. Made by [`CodecWorker.speak`]; it belongs to the
    event loop that this was called in. Iterate to its end, or `cancel` it.

    Iterating gives samples, float32 `(num_samples,)` in [-1, 1] at the processor's `output_sampling_rate`. It raises
    the error that decoding has ended with: a ValueError where a code is not one of the codec's.
    """

    def __init__(self, worker: "CodecWorker", state: Any):
        self._worker, self._loop = worker, asyncio.get_running_loop()
        # Samples, then None or an error
        self._items = asyncio.Queue()
        self._is_read = False
        # The worker's, under its lock
        self.codes, self.has_ended, self.error = [], False, None
        self.state, self.num_unread, self.last_call = state, 0, 0
        self.has_spoken = False

    @property
    def is_awaited(self) -> bool:
        """Whether the next call of a fast codec is the one that gives the answer's first audio."""
        is_fast = isinstance(self.state, JoinableDecoderState)
        return not self.has_spoken and is_fast and len(self.codes) > self.state.codes_to_skip

    def put(self, codes: list[int]) -> None:
        """Takes the next codes."""
        with self._worker.lock:
            self.codes += codes
            if self.is_awaited:
                self._worker.is_calm.clear()
            self._worker.lock.notify()

    def end(self) -> None:
        """No more codes follow."""
        with self._worker.lock:
            self.has_ended = True
            self._worker.lock.notify()

    def cancel(self) -> None:
        """Throws away what is not heard yet; the iteration ends."""
        self._worker.forget(self)
        self._is_read = True
        # For a reader that waits
        self._items.put_nowait(None)

    async def __anext__(self) -> np.ndarray:
        item = None if self._is_read else await self._items.get()
        if self._is_read or not isinstance(item, np.ndarray):
            self._is_read = True
            if isinstance(item, Exception):
                raise item
            raise StopAsyncIteration
        with self._worker.lock:
            self.num_unread -= len(item)
            self._worker.lock.notify()
        return item

    def post(self, item: np.ndarray | Exception | None) -> None:
        """
        Hands something to the reader, from the worker's thread.

        Raises:
            RuntimeError: the event loop is closed.
        """
        self._loop.call_soon_threadsafe(self._items.put_nowait, item)


class Listening:
    """
    One audio of a user, encoded while it comes in. Made by [`CodecWorker.hear`]; it belongs to the event loop that
    this was called in. `finish` or `cancel` it.
    """

    def __init__(self, worker: "CodecWorker"):
        self._worker, self._loop = worker, asyncio.get_running_loop()
        self._result = self._loop.create_future()
        # The worker's, under its lock
        self.stream = worker.processor.encoding_stream()
        self.samples, self.has_ended, self.error = [], False, None
        self.guess: asyncio.Future | None = None

    def put(self, samples: np.ndarray) -> None:
        """
        Takes the next samples, float32 `(num_samples,)` in [-1, 1] at the rate of the processor's feature extractor.

        Raises:
            ValueError: samples before these were bad, or too many, see [`VitaAudioEncodingStream`].
        """
        with self._worker.lock:
            if self.error is not None:
                raise self.error
            self.samples += self._worker.parts(samples)
            self._worker.lock.notify()

    def settled(self) -> list[int] | np.ndarray:
        """What stands for the audio as far as it is encoded, see [`VitaAudioEncodingStream`]; cheap."""
        return self.stream.settled

    async def pause(self) -> list[int] | np.ndarray:
        """
        What would stand for the audio if it ended here, or as much as is settled; once at a time, and not after
        `finish`. Cancel it where the audio fails or ends before.
        """
        self.guess = self._loop.create_future()
        with self._worker.lock:
            # Encoded with what has come
            self.samples.append(np.zeros(0, np.float32))
            self._worker.lock.notify()
        return await self.guess

    async def finish(self) -> list[int] | np.ndarray:
        """
        Ends the audio and returns its codes, `list[int]`, or its features, float32 `(num_rows, 560)`.

        Raises:
            ValueError: the audio is empty, too short, too long or silent, or has bad samples.
        """
        with self._worker.lock:
            if self.error is not None:
                raise self.error
            self.has_ended = True
            self._worker.lock.notify()
        return await self._result

    def cancel(self) -> None:
        """Throws the audio away; `finish` and `pause` are cancelled."""
        self._worker.forget(self)
        self._result.cancel()
        if self.guess is not None:
            self.guess.cancel()

    def post(self, item: list[int] | np.ndarray | Exception) -> None:
        """Hands over what `finish` returns or raises, as [`Speaking.post`]."""
        # Before `finish` nobody waits for an error, which is kept
        if self.has_ended:
            self._loop.call_soon_threadsafe(set_result, self._result, item)

    def post_guess(self, item: list[int] | np.ndarray) -> None:
        """Hands over what `pause` returns, as [`Speaking.post`]."""
        self._loop.call_soon_threadsafe(set_result, self.guess, item)


def set_result(future: asyncio.Future, item: list[int] | np.ndarray | Exception) -> None:
    if future.done():
        return
    if isinstance(item, Exception):
        future.set_exception(item)
    else:
        future.set_result(item)


class CodecWorker:
    r"""
    Owns the codec of a processor, in a thread of its own, and serves one or more event loops.

    What users say comes before what is said to them, because it is on the way to the first audio; recordings that are
    sent as a whole take turns with it. Answers that can be decoded in one call are, and none waits for others: a call
    takes the codes that are there. The answer whose last call is longest ago, or that had none, is in the next.

    Args:
        processor ([`VitaAudioProcessor`]): with a codec. Only this worker may run it.
        max_unread_seconds (`float`, *optional*, defaults to 20.0):
            Speech of an answer that its reader has not taken, from which on it is not decoded further.

    Attributes:
        seconds_spoken, seconds_heard (`float`): speech made of codes, and encoded.
        seconds_speaking, seconds_hearing (`float`): time that this took.
        is_calm (`threading.Event`): set unless somebody waits for the first audio of an answer that has its codes. Who
            else works in this process does well to wait for it: of two threads that call PyTorch, each takes twice as
            long, because they take the interpreter from one another at every operation.
    """

    def __init__(self, processor: VitaAudioProcessor, max_unread_seconds: float = 20.0):
        self.processor = processor
        self.max_unread_seconds = max_unread_seconds
        self.seconds_spoken = self.seconds_heard = self.seconds_speaking = self.seconds_hearing = 0.0
        # Of all that follows, and of the handles' codes and samples
        self.lock = threading.Condition()
        self.is_calm = threading.Event()
        self.is_calm.set()
        self._is_closed = False
        # Whether the last call has encoded a part of what was there
        self._is_behind = False
        self._num_calls = 0
        self._speaking: list[Speaking] = []
        self._listening: list[Listening] = []
        # A daemon, because Python waits for other threads before it calls `close`
        self._thread = threading.Thread(target=self._run, name="codec", daemon=True)
        self._thread.start()
        # A thread that is inside of torch when Python ends would abort the process
        atexit.register(self.close)

    def speak(self) -> Speaking:
        """
        Begins the speech of an answer. Call it in an event loop.

        Raises:
            RuntimeError: the worker is closed.
        """
        codec = self.processor.audio_tokenizer
        state = codec.init_decoder_state(batch_size=1) if isinstance(codec, StreamingSpeechCodec) else None
        return self._add(Speaking(self, state), self._speaking)

    def hear(self) -> Listening:
        """
        Begins to encode one audio of a user. Call it in an event loop.

        Raises:
            RuntimeError: the worker is closed.
        """
        return self._add(Listening(self), self._listening)

    def _add(self, handle: Speaking | Listening, handles: list) -> Speaking | Listening:
        with self.lock:
            if self._is_closed:
                raise RuntimeError("The codec's worker is closed.")
            handles.append(handle)
        return handle

    @property
    def _most_samples_heard(self) -> int:
        return int(MAX_SECONDS_HEARD_PER_CALL * self.processor.feature_extractor.sampling_rate)

    def parts(self, samples: np.ndarray) -> list[np.ndarray]:
        """Samples of a user in parts that are each encoded in one call."""
        size = self._most_samples_heard
        # what is no audio at all is left as it is; the stream says what is wrong with it
        if not isinstance(samples, np.ndarray) or samples.ndim != 1 or len(samples) <= size:
            return [samples]
        return [samples[start : start + size] for start in range(0, len(samples), size)]

    def forget(self, handle: Speaking | Listening) -> None:
        """Nothing more is done for a handle. It is fine if it is forgotten already."""
        with self.lock:
            for handles in (self._speaking, self._listening):
                if handle in handles:
                    handles.remove(handle)
            self._calm_down()

    def _calm_down(self) -> None:
        """Under the lock, when an answer has begun or ended."""
        if not any(row.is_awaited for row in self._speaking):
            self.is_calm.set()

    def close(self) -> None:
        """Ends the thread after the call that it is in, and what it has not done with an error. Can be repeated."""
        atexit.unregister(self.close)
        with self.lock:
            self._is_closed = True
            self.lock.notify()
        self._thread.join()
        for handle in [*self._speaking, *self._listening]:
            self._fail(handle, RuntimeError("The codec's worker was closed."))

    # In the thread

    def _run(self) -> None:
        while (call := self._next_call()) is not None:
            call()
            # It would keep its handles in memory while this waits for the next
            del call

    def _next_call(self) -> Callable[[], None] | None:
        """What the codec is to do next, waiting for something; None at the end."""
        with self.lock:
            while not self._is_closed:
                kinds = [self._next_encoding, self._next_decoding]
                if self._is_behind:
                    kinds.reverse()
                    self._is_behind = False
                for next_call in kinds:
                    if call := next_call():
                        return call
                self.lock.wait()
        return None

    def _next_encoding(self) -> Callable[[], None] | None:
        for listening in self._listening:
            if listening.samples or listening.has_ended:
                # To the end of the line
                self._listening.remove(listening)
                self._listening.append(listening)
                samples, listening.samples = self._first_part(listening.samples)
                self._is_behind = len(listening.samples) > 0
                return partial(self._encode, listening, samples, listening.has_ended and not self._is_behind)
        return None

    def _first_part(self, samples: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What one call encodes of a user's samples, and the rest."""
        lengths = np.cumsum([part.size if isinstance(part, np.ndarray) else 0 for part in samples])
        num_parts = 1 + int(np.searchsorted(lengths, self._most_samples_heard, side="left"))
        return samples[:num_parts], samples[num_parts:]

    def _encode(self, listening: Listening, samples: list[np.ndarray], is_final: bool) -> None:
        start, result = time.perf_counter(), None
        try:
            if samples:
                listening.stream.put(np.concatenate(samples))
            if is_final:
                result = listening.stream.finish()
            elif listening.guess is not None and not listening.guess.done():
                self._guess(listening)
        except Exception as error:
            self._fail(listening, error)
        self.seconds_hearing += time.perf_counter() - start
        self.seconds_heard += sum(map(len, samples)) / self.processor.feature_extractor.sampling_rate
        if result is not None:
            self.forget(listening)
            self._post(listening, result)

    def _guess(self, listening: Listening) -> None:
        try:
            guess = listening.stream.guess()
        except Exception:  # a turn goes on without a guess
            logger.exception("The end of a turn could not be guessed")
            guess = listening.stream.settled
        with suppress(RuntimeError):  # its event loop is closed
            listening.post_guess(guess)

    def _next_decoding(self) -> Callable[[], None] | None:
        most = self.max_unread_seconds * self.processor.output_sampling_rate
        rows = [
            row
            for row in self._speaking
            # A codec that decodes whole answers alone has no state
            if row.num_unread < most and (row.has_ended or (row.codes and row.state is not None))
        ]
        if not rows:
            return None
        first = min(rows, key=lambda row: row.last_call)
        group, is_final, num_codes = [first], not first.codes, MAX_CODES_PER_CALL
        if first.state is None:
            is_final, num_codes = True, len(first.codes)
        elif isinstance(first.state, JoinableDecoderState):
            num_to_skip = first.state.codes_to_skip
            group = [row for row in rows if row.state.codes_to_skip == num_to_skip and (not row.codes) == is_final]
            # As many as all have, because a call takes as many codes of each
            num_codes = min(num_codes, *(len(row.codes) for row in group))
            if num_to_skip:
                # The first audio is not to wait for a second code
                num_codes = min(num_codes, num_to_skip + 1)
        self._num_calls += 1
        chunks = []
        for row in group:
            row.last_call = self._num_calls
            chunks.append(row.codes[:num_codes])
            del row.codes[:num_codes]
        return partial(self._decode, group, chunks, is_final)

    def _decode(self, rows: list[Speaking], chunks: list[list[int]], is_final: bool) -> None:
        start = time.perf_counter()
        try:
            results = self.processor.decode_audio_chunks(chunks, [row.state for row in rows], is_final)
        except Exception as error:
            if len(rows) == 1:
                self._fail(rows[0], error)
            else:
                # The states are as they were, so each is tried alone, and only those that fail end
                for row, codes in zip(rows, chunks):
                    self._decode([row], [codes], is_final)
            return
        self.seconds_speaking += time.perf_counter() - start
        for row, (samples, row.state) in zip(rows, results):
            self.seconds_spoken += len(samples) / self.processor.output_sampling_rate
            if len(samples):
                with self.lock:
                    row.num_unread += len(samples)
                    row.has_spoken = True
                self._post(row, samples)
            if is_final:
                self.forget(row)
                self._post(row, None)
        with self.lock:
            self._calm_down()

    def _fail(self, handle: Speaking | Listening, error: Exception) -> None:
        with self.lock:
            self.forget(handle)
            handle.error = error
        self._post(handle, error)

    def _post(self, handle: Speaking | Listening, item: list[int] | np.ndarray | Exception | None) -> None:
        try:
            handle.post(item)
        except RuntimeError:
            # Its event loop is closed
            self.forget(handle)


__all__ = ["CodecWorker", "Listening", "Speaking"]
