# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Streaming: text and audio of a generation while it runs."""

import atexit
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial

from transformers.generation.streamers import BaseStreamer

from .codec_vita_audio import StreamingSpeechCodec


# 0.64 s of speech: a whole chunk of the pattern [1, 10, 4, 10], and enough that a chunk is worth a run of the decoder.
DEFAULT_CODES_PER_CHUNK = 8


class StreamClosed(Exception):
    """Raised inside `generate` by a streamer that nobody reads any more, which ends the generation."""


def empty(items: queue.Queue):
    """Throws away what is queued, so that who waits for room goes on."""
    try:
        while True:
            items.get_nowait()
    except queue.Empty:
        pass


def pass_on_end(items: queue.Queue):
    """Puts the mark of the end where readers may wait for it. Where there is no room, they have something to read."""
    try:
        items.put_nowait(None)
    except queue.Full:
        pass


class VitaAudioStreamer(BaseStreamer):
    r"""
    A `streamer` for `generate` that is iterated over from another thread, as [`TextIteratorStreamer`], for one prompt.

    Iterating yields `{"text": str}` and `{"audio": np.ndarray, "sampling_rate": int}` as soon as they exist: speech is decoded
    when its end delimiter or `codes_per_chunk` codes have come. Pieces of text add up to the text of the whole answer, chunks
    of audio to its waveform, sample for sample where the codec's streaming is exact ([`VitaAudioCodec`]) and in the same length
    where it goes by blocks ([`Glm4VoiceCodec`]). Tokens are only queued in `generate`'s thread; decoding happens in the
    reader's ([`VitaAudioSpeechStream`] gives it one of its own). A codec whose decoder has no streaming state gives all audio in one chunk at the end.

    Args:
        processor ([`VitaAudioProcessor`]):
            To decode with.
        codes_per_chunk (`int`, *optional*, defaults to 8):
            Codes after which audio is decoded though the run of speech goes on.
        timeout (`float`, *optional*):
            Seconds to wait for tokens before `queue.Empty` is raised; forever by default.
        max_queued_tokens (`int`, *optional*, defaults to 0):
            Tokens that `generate` may be ahead of the reader before it waits; 0 for no bound.

    Example:

        streamer = VitaAudioStreamer(processor)
        Thread(target=model.generate, kwargs={**inputs, "streamer": streamer}).start()
        for chunk in streamer:
            ...
    """

    def __init__(
        self,
        processor,
        codes_per_chunk: int = DEFAULT_CODES_PER_CHUNK,
        timeout: float | None = None,
        max_queued_tokens: int = 0,
    ):
        if codes_per_chunk < 1:
            raise ValueError(f"codes_per_chunk must be at least 1, got {codes_per_chunk}.")
        self.processor = processor
        self.codes_per_chunk = codes_per_chunk
        self.timeout = timeout
        self.is_closed = False
        # room for the marks of the end, too, which must get in when nobody reads any more
        self._queue = queue.Queue(max_queued_tokens + 2 if max_queued_tokens else 0)
        self._has_prompt = False

    def put(self, value):
        """Takes the prompt, of shape `(1, prompt_length)`, then new tokens of any shape, from `generate`."""
        if not self._has_prompt:
            self._has_prompt = True
            if value.ndim > 1 and value.shape[0] > 1:
                raise ValueError(f"VitaAudioStreamer takes one prompt at a time, got a batch of {value.shape[0]}.")
        elif not self.is_closed:
            self._queue.put(value.flatten().tolist())
        # it may have been closed while this waited for room
        if self.is_closed:
            raise StreamClosed()

    def end(self):
        """Ends the stream; called by `generate`."""
        self._queue.put(None)

    def fail(self, error: BaseException):
        """Ends the stream with an error that the reader gets; for a thread whose `generate` raised it."""
        self._queue.put(error)

    def close(self):
        """Nobody wants more: the next `put` raises [`StreamClosed`], and a reader's iteration ends."""
        self.is_closed = True
        empty(self._queue)
        pass_on_end(self._queue)

    def _token_ids(self) -> Iterator[int]:
        while (item := self._queue.get(timeout=self.timeout)) is not None and not self.is_closed:
            if isinstance(item, BaseException):
                pass_on_end(self._queue)
                raise item
            yield from item
        pass_on_end(self._queue)

    def __iter__(self) -> Iterator[dict]:
        vocabulary, codec = self.processor.speech_vocabulary, self.processor.audio_tokenizer
        can_stream = isinstance(codec, StreamingSpeechCodec)
        state = codec.init_decoder_state(batch_size=1) if can_stream else None
        text_ids, text, codes = [], "", []
        for token_id in self._token_ids():
            if vocabulary.is_code(token_id):
                codes.append(token_id - vocabulary.speech_token_offset)
            elif not vocabulary.is_delimiter(token_id):
                text_ids.append(token_id)
                extended = self.processor.decode_text(text_ids)
                # a character that is not whole yet decodes to this mark
                if len(extended) > len(text) and not extended.endswith("\ufffd"):
                    yield {"text": extended[len(text) :]}
                    text = extended
            is_run_over = token_id == vocabulary.end_audio_token_id
            if can_stream and codes and (is_run_over or len(codes) == self.codes_per_chunk):
                samples, state = self.processor.decode_audio_chunk(codes, state, is_final=False)
                yield from self._audio(samples)
                codes = []
        if self.is_closed:
            return
        if len(rest := self.processor.decode_text(text_ids)) > len(text):
            yield {"text": rest[len(text) :]}
        samples, _ = self.processor.decode_audio_chunk(codes, state, is_final=True)
        yield from self._audio(samples)

    def _audio(self, samples) -> Iterator[dict]:
        if len(samples):
            yield {"audio": samples, "sampling_rate": self.processor.output_sampling_rate}


class VitaAudioSpeechStream(Iterator[dict]):
    r"""
    An answer while it is made: the language model writes in one thread, the codec speaks in another, and whoever iterates
    gets the chunks of [`VitaAudioStreamer`]. Both threads wait when they are too far ahead. Made by
    [`VitaAudioPipeline.stream`].

    Args:
        generate (`Callable`):
            Runs the generation with the `streamer` that it is called with.
        streamer ([`VitaAudioStreamer`]):
            New, with a bound on its tokens.
        max_queued_chunks (`int`, *optional*, defaults to 16):
            Chunks that the codec may be ahead of the reader; 16 chunks of 8 codes are 10 s of speech.

    Example:

        with pipe.stream("question.wav") as stream:
            for chunk in stream:
                ...  # another thread may call `stream.cancel()`, as when the user starts to talk
    """

    def __init__(
        self, generate: Callable[[VitaAudioStreamer], None], streamer: VitaAudioStreamer, max_queued_chunks: int = 16
    ):
        if max_queued_chunks < 1:
            raise ValueError(f"max_queued_chunks must be at least 1, got {max_queued_chunks}.")
        self._streamer = streamer
        # room for the marks of the end, as in the streamer
        self._chunks = queue.Queue(max_queued_chunks + 2)
        self._is_over = False
        cancel = partial(_cancel, streamer, self._chunks)
        self._threads = [
            _StreamThread(cancel, target=_write, args=(generate, streamer)),
            _StreamThread(cancel, target=_speak, args=(streamer, self._chunks)),
        ]
        for thread in self._threads:
            thread.start()
        # a stream that is dropped half-way must not leave its threads waiting
        self._cancel = weakref.finalize(self, cancel)

    def cancel(self):
        """
        Ends the answer from any thread, without waiting: the reader gets nothing more, the language model stops at its next
        token and the codec after the chunk it is at.
        """
        self._cancel()

    def close(self):
        """[`cancel`], and waits until both threads have ended."""
        self.cancel()
        for thread in self._threads:
            thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __next__(self) -> dict:
        item = None if self._is_over or self._streamer.is_closed else self._chunks.get()
        if isinstance(item, dict) and not self._streamer.is_closed:
            return item
        self._is_over = True
        self.close()
        pass_on_end(self._chunks)
        if isinstance(item, BaseException):
            raise item
        raise StopIteration


def _write(generate: Callable[[VitaAudioStreamer], None], streamer: VitaAudioStreamer):
    try:
        generate(streamer)
    except StreamClosed:
        pass
    except BaseException as error:  # the reader waits, whatever happened
        streamer.fail(error)


def _speak(streamer: VitaAudioStreamer, chunks: queue.Queue):
    try:
        for chunk in streamer:
            chunks.put(chunk)
        chunks.put(None)
    except BaseException as error:
        chunks.put(error)


def _cancel(streamer: VitaAudioStreamer, chunks: queue.Queue):
    streamer.close()
    empty(chunks)
    pass_on_end(chunks)


class _StreamThread(threading.Thread):
    def __init__(self, cancel: Callable[[], None], **kwargs):
        super().__init__(daemon=True, **kwargs)
        self.cancel = cancel


@atexit.register
def _end_streams():
    """Python would abort where it ends while a thread is inside of torch."""
    for thread in threading.enumerate():
        if isinstance(thread, _StreamThread):
            thread.cancel()
            thread.join()


__all__ = ["StreamClosed", "VitaAudioSpeechStream", "VitaAudioStreamer"]
