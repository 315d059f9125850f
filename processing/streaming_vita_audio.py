# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Streaming: text and audio of a generation while it runs."""

import queue
from collections.abc import Iterator

from transformers.generation.streamers import BaseStreamer


# 0.64 s of speech: a whole chunk of the pattern [1, 10, 4, 10], and enough that a chunk is worth a run of the decoder.
DEFAULT_CODES_PER_CHUNK = 8


class StreamClosed(Exception):
    """Raised inside `generate` by a streamer that nobody reads any more, which ends the generation."""


class VitaAudioStreamer(BaseStreamer):
    r"""
    A `streamer` for `generate` that is iterated over from another thread, as [`TextIteratorStreamer`], for one prompt.

    Iterating yields `{"text": str}` and `{"audio": np.ndarray, "sampling_rate": int}` as soon as they exist: speech is decoded
    when its end delimiter or `codes_per_chunk` codes have come. Pieces of text add up to the text of the whole answer, chunks
    of audio to its waveform, sample for sample where the codec's streaming is exact ([`VitaAudioCodec`]) and in the same length
    where it goes by blocks ([`Glm4VoiceCodec`]). Tokens are only queued in `generate`'s thread; decoding happens in the
    reader's. A codec whose decoder has no streaming state gives all audio in one chunk at the end.

    Args:
        processor ([`VitaAudioProcessor`]):
            To decode with.
        codes_per_chunk (`int`, *optional*, defaults to 8):
            Codes after which audio is decoded though the run of speech goes on.
        timeout (`float`, *optional*):
            Seconds to wait for tokens before `queue.Empty` is raised; forever by default.

    Example:

        streamer = VitaAudioStreamer(processor)
        Thread(target=model.generate, kwargs={**inputs, "streamer": streamer}).start()
        for chunk in streamer:
            ...
    """

    def __init__(self, processor, codes_per_chunk: int = DEFAULT_CODES_PER_CHUNK, timeout: float | None = None):
        if codes_per_chunk < 1:
            raise ValueError(f"codes_per_chunk must be at least 1, got {codes_per_chunk}.")
        self.processor = processor
        self.codes_per_chunk = codes_per_chunk
        self.timeout = timeout
        self._queue = queue.Queue()
        self._has_prompt = False
        self._is_closed = False

    def put(self, value):
        """Takes the prompt, of shape `(1, prompt_length)`, then new tokens of any shape, from `generate`."""
        if self._is_closed:
            raise StreamClosed()
        if not self._has_prompt:
            self._has_prompt = True
            if value.ndim > 1 and value.shape[0] > 1:
                raise ValueError(f"VitaAudioStreamer takes one prompt at a time, got a batch of {value.shape[0]}.")
        else:
            self._queue.put(value.flatten().tolist())

    def end(self):
        """Ends the stream; called by `generate`."""
        self._queue.put(None)

    def fail(self, error: BaseException):
        """Ends the stream with an error that the reader gets; for a thread whose `generate` raised it."""
        self._queue.put(error)

    def close(self):
        """Nobody reads any more: the next `put` raises [`StreamClosed`]."""
        self._is_closed = True

    def _token_ids(self) -> Iterator[int]:
        while (item := self._queue.get(timeout=self.timeout)) is not None:
            if isinstance(item, BaseException):
                raise item
            yield from item

    def __iter__(self) -> Iterator[dict]:
        vocabulary, codec = self.processor.speech_vocabulary, self.processor.audio_tokenizer
        can_stream = hasattr(codec, "init_decoder_state")
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
        if len(rest := self.processor.decode_text(text_ids)) > len(text):
            yield {"text": rest[len(text) :]}
        samples, _ = self.processor.decode_audio_chunk(codes, state, is_final=True)
        yield from self._audio(samples)

    def _audio(self, samples) -> Iterator[dict]:
        if len(samples):
            yield {"audio": samples, "sampling_rate": self.processor.output_sampling_rate}


__all__ = ["StreamClosed", "VitaAudioStreamer"]
