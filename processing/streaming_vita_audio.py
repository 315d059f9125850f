# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Streaming: text and audio of a generation while it runs."""

import atexit
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import takewhile

import torch
from tokenizers.decoders import DecodeStream
from transformers import ProcessorMixin
from transformers.generation.streamers import BaseStreamer

from .codec_vita_audio import StreamingSpeechCodec


# 0.64 s of speech: all of a chunk of the pattern [1, 10, 4, 10], and enough to be worth a run of the codec's decoder.
DEFAULT_CODES_PER_CHUNK = 8


class StreamClosed(Exception):
    """A streamer raises this inside `generate` when nobody reads it any more, which ends the generation."""


def empty(items: queue.Queue):
    """Throws away what is queued, so that a thread that waits for room goes on."""
    try:
        while True:
            items.get_nowait()
    except queue.Empty:
        pass


def pass_on_end(items: queue.Queue):
    """
    Puts the mark of the end, for readers that may wait. Where there is no room for it, they have something to read.
    """
    try:
        items.put_nowait(None)
    except queue.Full:
        pass


class TokenReader:
    """
    Reads the tokens of an answer as they come.

    Args:
        processor ([`VitaAudioProcessor`]): with the tokenizer, and the vocabulary of speech.

    Attributes:
        text (`str`): all text so far but for a character that is not whole yet.
    """

    def __init__(self, processor: ProcessorMixin):
        self.processor = processor
        self.text = ""
        self._text_ids = []
        # Text comes piece by piece, and no token is decoded twice
        self._text_stream = DecodeStream(skip_special_tokens=True)

    def read(self, token_ids: Iterable[int]) -> list[int | str]:
        """What the next tokens are: the ids of those of speech, and the text that the others complete, in order."""
        vocabulary, parts = self.processor.speech_vocabulary, []
        for token_id in token_ids:
            if vocabulary.is_code(token_id) or vocabulary.is_delimiter(token_id):
                parts.append(token_id)
                continue
            self._text_ids.append(token_id)
            if piece := self._text_stream.step(self.processor.tokenizer.backend_tokenizer, token_id):
                self.text += piece
                parts.append(piece)
        return parts

    def rest(self) -> str:
        """What an answer that was cut off has besides: a part of a character."""
        rest = self.processor.decode_text(self._text_ids)[len(self.text) :]
        self.text += rest
        return rest


class VitaAudioStreamer(BaseStreamer):
    r"""
    A `streamer` for `generate` that is iterated over from another thread, as [`TextIteratorStreamer`], for one prompt.

    Iterating yields `{"text": str}` and `{"audio": np.ndarray, "sampling_rate": int, "audio_codes": list[int]}` as
    soon as they exist. Speech is decoded when its end delimiter or `codes_per_chunk` codes have come. The pieces of
    text add up to the text of the whole answer, and the codes to those of all its speech. The chunks of audio add up
    to its waveform, sample for sample where the codec's streaming is exact ([`VitaAudioCodec`]) and in the same length
    where it goes by blocks ([`Glm4VoiceCodec`]). A codec that is no [`StreamingSpeechCodec`] gives all audio in one
    chunk at the end.

    Tokens become text in `generate`'s thread and audio in the reader's, because `generate` must not wait for the
    codec. [`VitaAudioSpeechStream`] gives the codec a thread of its own.

    Args:
        processor ([`VitaAudioProcessor`]):
            Decodes text and audio.
        codes_per_chunk (`int`, *optional*, defaults to 8):
            Codes after which audio is decoded though the run of speech goes on.
        timeout (`float`, *optional*):
            Seconds to wait for tokens before `queue.Empty` is raised. By default the reader waits forever.
        max_queued_tokens (`int`, *optional*, defaults to 0):
            Tokens that `generate` may be ahead of the reader before it waits; 0 for no bound.
        decoder_options (`dict`, *optional*):
            Keywords of the codec's `init_decoder_state`, such as those of a [`VoicePrompt`].

    Raises:
        ValueError: `codes_per_chunk` is less than 1.

    Example:

        streamer = VitaAudioStreamer(processor)
        Thread(target=model.generate, kwargs={**inputs, "streamer": streamer}).start()
        for chunk in streamer:
            ...
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        codes_per_chunk: int = DEFAULT_CODES_PER_CHUNK,
        timeout: float | None = None,
        max_queued_tokens: int = 0,
        decoder_options: dict | None = None,
    ):
        if codes_per_chunk < 1:
            raise ValueError(f"codes_per_chunk must be at least 1, got {codes_per_chunk}.")
        self.processor = processor
        self.codes_per_chunk = codes_per_chunk
        self.timeout = timeout
        self.decoder_options = decoder_options or {}
        self.is_closed = False
        # where text goes if it shall not wait for the audio before it
        self.text_chunks: queue.Queue | None = None
        self._tokens = TokenReader(processor)
        # Of the speech so far: they outlive an iteration that `timeout` has ended
        self._codes, self._unsaid_codes, self._decoder_state = [], [], None
        # two more for the marks of the end, which must find room when nobody reads any more
        self._queue = queue.Queue(max_queued_tokens + 2 if max_queued_tokens else 0)
        self._has_prompt = False

    @property
    def text(self) -> str:
        """All text so far but for a character that is not whole yet."""
        return self._tokens.text

    def put(self, value: torch.LongTensor):
        """Takes the prompt, of shape `(1, prompt_length)`, then new tokens of any shape, from `generate`."""
        if not self._has_prompt:
            self._has_prompt = True
            if value.ndim > 1 and value.shape[0] > 1:
                raise ValueError(f"VitaAudioStreamer takes one prompt at a time, got a batch of {value.shape[0]}.")
        elif not self.is_closed and (parts := self._read(value.flatten().tolist())):
            # Waits while the queue is full, which holds `generate` up
            self._queue.put(parts)
        # `close` may have been called while this waited for room
        if self.is_closed:
            raise StreamClosed()

    def _read(self, token_ids: list[int]) -> list[int | str]:
        """What tokens leave for the reader of this streamer; text does not go there if it shall not wait."""
        parts = self._tokens.read(token_ids)
        if self.text_chunks is None:
            return parts
        for part in parts:
            if isinstance(part, str):
                self.text_chunks.put({"text": part})
        return [part for part in parts if not isinstance(part, str)]

    def end(self):
        """Ends the stream; called by `generate`."""
        self._queue.put(None)

    def fail(self, error: BaseException):
        """Ends the stream with an error that the reader gets; for a thread whose `generate` raised it."""
        self._queue.put(error)

    def close(self):
        """For a reader that wants no more: the next `put` raises [`StreamClosed`], and every iteration ends."""
        self.is_closed = True
        empty(self._queue)
        # `close` must not wait for room
        pass_on_end(self._queue)

    def _parts(self) -> Iterator[int | str]:
        while (item := self._queue.get(timeout=self.timeout)) is not None and not self.is_closed:
            if isinstance(item, BaseException):
                # Others may read this streamer, too, and must not wait for ever
                pass_on_end(self._queue)
                raise item
            # `close` may be called between two parts
            yield from takewhile(lambda part: not self.is_closed, item)
        pass_on_end(self._queue)

    def __iter__(self) -> Iterator[dict]:
        vocabulary, codec = self.processor.speech_vocabulary, self.processor.audio_tokenizer
        can_stream = isinstance(codec, StreamingSpeechCodec)
        # Other codecs decode whole utterances alone, so all codes are kept until the end
        if can_stream and self._decoder_state is None:
            self._decoder_state = codec.init_decoder_state(batch_size=1, **self.decoder_options)
        for part in self._parts():
            if isinstance(part, str):
                yield {"text": part}
            elif vocabulary.is_code(part):
                self._codes.append(part - vocabulary.speech_token_offset)
            is_run_over = part == vocabulary.end_audio_token_id
            if can_stream and self._codes and (is_run_over or len(self._codes) == self.codes_per_chunk):
                yield from self._audio(is_final=False)
        if self.is_closed:
            return
        # an answer that was cut off may end in a part of a character
        if rest := self._tokens.rest():
            yield {"text": rest}
        yield from self._audio(is_final=True)

    def _audio(self, is_final: bool) -> Iterator[dict]:
        codes, self._codes = self._codes, []
        samples, state = self.processor.decode_audio_chunk(codes, self._decoder_state, is_final=is_final)
        self._decoder_state = None if is_final else state
        # A codec that looks ahead says later what it has got
        self._unsaid_codes += codes
        if len(samples):
            rate, codes = self.processor.output_sampling_rate, self._unsaid_codes
            self._unsaid_codes = []
            yield {"audio": samples, "sampling_rate": rate, "audio_codes": codes}


class VitaAudioSpeechStream(Iterator[dict]):
    r"""
    An answer while it is made: the language model writes in one thread, the codec speaks in another, and whoever
    iterates gets the chunks of [`VitaAudioStreamer`]. Text is there as soon as it is written, also before the speech
    that was written before it. Both threads wait when they are too far ahead. Made by [`VitaAudioPipeline.stream`].

    Args:
        generate (`Callable`):
            Runs the generation with the `streamer` that it is called with.
        streamer ([`VitaAudioStreamer`]):
            New, with a bound on its tokens.
        max_queued_chunks (`int`, *optional*, defaults to 16):
            Chunks of audio that the codec may be ahead of the reader; 16 chunks of 8 codes are 10 s of speech.

    Raises:
        ValueError: `max_queued_chunks` is less than 1.

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
        # only audio needs room: all text of an answer is small
        self._chunks, self._room = queue.Queue(), threading.Semaphore(max_queued_chunks)
        streamer.text_chunks = self._chunks
        self._is_over = False
        # Bound to the parts and not to the stream, which would otherwise be kept alive and never be dropped
        cancel = partial(_cancel, streamer, self._chunks, self._room)
        self._threads = [
            _StreamThread(cancel, target=_write, args=(generate, streamer)),
            _StreamThread(cancel, target=_speak, args=(streamer, self._chunks, self._room)),
        ]
        for thread in self._threads:
            thread.start()
        # a stream that is dropped half-way must not leave its threads waiting
        self._cancel = weakref.finalize(self, cancel)

    def cancel(self):
        """
        Ends the answer from any thread, without waiting: the reader gets nothing more, the language model stops at its
        next token and the codec after the chunk it is at.
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
            if "audio" in item:
                # The reader has taken a chunk, so the codec may make another
                self._room.release()
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


def _speak(streamer: VitaAudioStreamer, chunks: queue.Queue, room: threading.Semaphore):
    try:
        for chunk in streamer:
            if "audio" in chunk:
                room.acquire()
            chunks.put(chunk)
        chunks.put(None)
    except BaseException as error:  # the reader waits here, too
        chunks.put(error)


def _cancel(streamer: VitaAudioStreamer, chunks: queue.Queue, room: threading.Semaphore):
    # First the mark that nobody reads: a thread that goes on after the next lines must see it
    streamer.close()
    empty(chunks)
    # for the chunk that the codec is at, which is its last
    room.release()
    pass_on_end(chunks)


class _StreamThread(threading.Thread):
    def __init__(self, cancel: Callable[[], None], **kwargs):
        # Python waits for threads that are no daemons before it runs `_end_streams`, which must end these
        super().__init__(daemon=True, **kwargs)
        self.cancel = cancel


@atexit.register
def _end_streams():
    """Ends all threads before Python does: a thread that is inside of torch then would abort the process."""
    for thread in threading.enumerate():
        if isinstance(thread, _StreamThread):
            thread.cancel()
            thread.join()


__all__ = ["StreamClosed", "TokenReader", "VitaAudioSpeechStream", "VitaAudioStreamer"]
