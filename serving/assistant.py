# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
A model that is talked to: conversations in, text and speech out while they are made. It puts an engine, which writes
tokens, and a codec, which hears and speaks, behind one interface for all protocols.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import ProcessorMixin

from processing.conversation_vita_audio import (
    TTS_PROMPT,
    SpeechCodes,
    audio_parts,
    is_conversation,
    read_conversation,
    recognition_conversation,
    synthesis_conversation,
    task_of,
    with_system_prompt,
)
from processing.pipeline_vita_audio import DEFAULT_MAX_NEW_TOKENS
from processing.streaming_vita_audio import TokenReader

from .codec_worker import CodecWorker
from .engine import Engine, EngineOverloaded, EngineUnavailable, GenerationRequest, PromptTooLong
from .history import answer_message, has_room
from .spoken_text import sentences_of


# Pieces of an answer that may wait for a slow reader. The codec has a bound of its own, in seconds of speech.
MAX_QUEUED_PIECES = 256

# What may be half a word at the end of a text that was cut. Chinese and Japanese have no spaces between words, but
# each of their characters (U+2E80 to U+9FFF) is spoken as a whole.
LAST_WORD = re.compile(r"[^\s\u2e80-\u9fff]*$")

# How many codes of a user's speech are read by the language model at a time, while the user talks: 0.32 s of it.
CODES_PER_PREFILL = 4

# VITA-Audio speaks by 12.5 codes per second, whatever its codec
SECONDS_PER_CODE = 0.08

# Of a guess at codes in a pause, the last ones, which the silence that follows may change. With the shipped codec it
# changed none before them in 63 of 100 held-out recordings. In the others, what follows the first change is read
# again.
UNCERTAIN_CODES = 5

# Nobody speaks faster: while the length of an answer's speech is not known yet, no more of its text counts as heard.
# The shipped model's voice speaks 20 characters a second.
CHARACTERS_PER_SECOND = 20


@dataclass(frozen=True)
class Piece:
    """
    A piece of an answer: `text` (`str`), or `audio` (`np.ndarray`), float32 `(num_samples,)` in [-1, 1] at the
    assistant's `output_sampling_rate`; the other one is None.
    """

    text: str | None = None
    audio: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """
    Options of one answer, as of [`GenerationRequest`]; the model's by default. `max_new_tokens` is of all generations
    of the answer together. Where it is None, each of them has at most `max_tokens_at_once`, which is the pipeline's
    default if that is None, too.
    """

    max_new_tokens: int | None = None
    max_tokens_at_once: int | None = None
    mctp_mode: str | list[int] | None = None
    mctp_verify: bool | float | list[float] | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


class Answer(AsyncIterator[Piece]):
    """
    An answer while it is made. Iterate to its end, or `await answer.cancel()`. Made by [`Assistant`].

    Attributes:
        text (`str`): all text so far.
        audio_codes (`list[int]`): of all speech so far, also of what the codec has not spoken yet.
        is_cut_off (`bool`): whether it ended at the limit of its length.
        num_prompt_tokens (`int`), num_new_tokens (`int`): for reports of usage.
    """

    def __init__(
        self,
        assistant: "Assistant",
        messages: list[dict],
        options: dict,
        with_audio: bool,
        request: GenerationRequest | None,
        token_limit: int | None,
    ):
        self.text, self.is_cut_off = "", False
        self.audio_codes: list[int] = []
        self.num_prompt_tokens = self.num_new_tokens = 0
        self._assistant, self._messages, self._options = assistant, messages, options
        # Of the messages, where it is known already
        self._request = request
        # Of all generations of the answer together, where the client has named one
        self._token_limit = token_limit
        self._task_name = task_of(messages)
        self._queue = asyncio.Queue(MAX_QUEUED_PIECES)
        self._is_written = self._is_over = False
        self._speaking = assistant.codec_worker.speak() if with_audio and self._task_name != "asr" else None
        self._task = asyncio.ensure_future(self._make())

    async def __anext__(self) -> Piece:
        if self._is_over:
            raise StopAsyncIteration
        item = await self._queue.get()
        if isinstance(item, Piece):
            return item
        self._is_over = True
        if item is not None:
            raise item
        raise StopAsyncIteration

    def text_at(self, seconds: float) -> str:
        """The text that had been spoken when so many seconds of the answer's speech had been played."""
        if self._is_written:
            share = seconds / (len(self.audio_codes) * SECONDS_PER_CODE) if self.audio_codes else 1.0
            length = round(share * len(self.text))
        else:
            length = round(seconds * CHARACTERS_PER_SECOND)
        if length >= len(self.text):
            return self.text
        return LAST_WORD.sub("", self.text[: max(length, 0)]).rstrip()

    def message(self, seconds: float | None = None) -> dict | None:
        """
        The answer as a later turn reads it, or what of it had been said when so many seconds of its speech had been
        played; None if that is nothing.
        """
        if seconds is None:
            return answer_message(self.text, self.audio_codes)
        return self.beginning(self.text_at(seconds), seconds)

    def beginning(self, text: str, seconds: float) -> dict | None:
        """
        The turn of no more than `text` and so many seconds of the speech, None if that is nothing. The models never
        learn answers that begin with speech.
        """
        return answer_message(text, self.codes_at(seconds)) if text or not self.text else None

    def codes_at(self, seconds: float) -> list[int]:
        """The codes of the first so many seconds of the answer's speech."""
        # 29 codes are 2.32 s, and 2.32 / 0.08 is a little less than 29
        return self.audio_codes[: int(seconds / SECONDS_PER_CODE + 1e-6)]

    async def cancel(self) -> None:
        """Stops the model and the codec for this answer; nothing more comes."""
        self._task.cancel()
        # Whoever waits for the next piece learns that there is none
        self._is_over = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)
        await asyncio.wait([self._task])
        self._free()

    async def _make(self) -> None:
        """Writes the answer and speaks it, and puts the pieces into the queue."""
        end = None
        try:
            async with asyncio.TaskGroup() as group:
                if self._speaking is not None:
                    group.create_task(self._speak())
                await self._write()
        except* Exception as errors:
            end = errors.exceptions[0]
        self._free()
        await self._queue.put(end)

    def _free(self) -> None:
        """Drops what it was made of. Sessions keep their answers, and the codec's state may have megabytes."""
        if self._speaking is not None:
            # The codec's thread has it as well, where it was not heard to its end
            self._speaking.cancel()
        self._messages, self._request, self._speaking = [], None, None

    async def _write(self) -> None:
        is_aloud = self._speaking is not None
        if self._task_name == "tts" and len(self._messages) == 1:
            text = "".join(part["text"] for part in self._messages[0]["content"])
            # What follows the prompt may be on its line
            await self._read_aloud(text.removeprefix(TTS_PROMPT.strip()), has_text=True)
        else:
            await self._generate(self._messages, self._options, has_text=True, has_speech=is_aloud)
        # An answer to a written question is text, as the models learn it, and is then read aloud
        if self._task_name == "written" and is_aloud and not self.audio_codes:
            await self._read_aloud(self.text, has_text=False)
        self._is_written = True
        if is_aloud:
            self._speaking.end()

    async def _read_aloud(self, text: str, has_text: bool) -> None:
        """Speaks a text sentence by sentence, as the models learn it."""
        options = {**self._options, "conversation_id": None}
        for sentence in sentences_of(text):
            if self._token_limit is not None:
                options["max_new_tokens"] = self._token_limit - self.num_new_tokens
                if options["max_new_tokens"] < 1:
                    self.is_cut_off = True
                    return
            messages = read_conversation(synthesis_conversation(sentence))
            await self._generate(messages, options, has_text, has_speech=self._speaking is not None)

    async def _generate(self, messages: list[dict], options: dict, has_text: bool, has_speech: bool) -> None:
        """One generation, of whose tokens the text or the speech or both are part of the answer."""
        processor = self._assistant.processor
        vocabulary, reader = processor.speech_vocabulary, TokenReader(processor)
        request = self._request if messages is self._messages else None
        request = replace(request or self._assistant.request_of(await self._assistant.encode(messages)), **options)
        self.num_prompt_tokens += len(request.input_ids)
        num_before, token_id = self.num_new_tokens, None
        stream = self._assistant.engine.generate(request)
        try:
            async for tokens in stream:
                self.num_new_tokens += len(tokens)
                token_id, parts = tokens[-1], reader.read(tokens)
                for piece in parts:
                    if isinstance(piece, str) and has_text:
                        await self._put_text(piece)
                codes = [
                    part - vocabulary.speech_token_offset
                    for part in parts
                    if isinstance(part, int) and vocabulary.is_code(part)
                ]
                # Also where nobody wants to hear them: a later turn reads all that the model wrote
                self.audio_codes += codes
                if codes and has_speech:
                    self._speaking.put(codes)
        finally:
            await stream.aclose()
        # an answer that was cut off may end in a part of a character
        if has_text and (rest := reader.rest()):
            await self._put_text(rest)
        num_new = self.num_new_tokens - num_before
        is_full = num_new >= min(request.max_new_tokens, self._assistant.engine.max_length - len(request.input_ids))
        self.is_cut_off |= is_full and token_id != processor.tokenizer.eos_token_id

    async def _put_text(self, piece: str) -> None:
        self.text += piece
        await self._queue.put(Piece(text=piece))

    async def _speak(self) -> None:
        async for samples in self._speaking:
            await self._queue.put(Piece(audio=samples))


class Hearing:
    """
    Speech of a user that is encoded, and read by the language model, while it comes in. Made by [`Assistant.hear`].

    Attributes:
        num_samples (`int`): how many have come, at the assistant's `input_sampling_rate`.
    """

    def __init__(self, assistant: "Assistant", messages: list[dict] | None, conversation_id: str | None):
        self.num_samples = 0
        self._assistant, self._messages, self._conversation_id = assistant, messages, conversation_id
        self._listening = assistant.codec_worker.hear()
        self._num_read_ahead = -CODES_PER_PREFILL
        self._reading_ahead: asyncio.Task | None = None

    def put(self, samples: np.ndarray) -> None:
        """Takes the next samples, float32 `(num_samples,)` in [-1, 1] at the assistant's `input_sampling_rate`."""
        self.num_samples += len(samples)
        self._listening.put(samples)
        if self._conversation_id is None or (self._reading_ahead is not None and not self._reading_ahead.done()):
            return
        settled = self._listening.settled()
        # Features are read as a whole, so there is no more to prepare for than that they come
        if self._reading_ahead is not None and self._assistant.processor.hears_features:
            return
        if len(settled) >= self._num_read_ahead + CODES_PER_PREFILL:
            self._num_read_ahead = len(settled)
            self._reading_ahead = asyncio.ensure_future(
                self._assistant.prepare(self._messages or [], self._conversation_id, settled)
            )

    def pause(self) -> None:
        """Tells that the speech may have ended: it is encoded and read as if it had."""
        # Features are read as a whole, when they have all come
        if self._conversation_id is not None and not self._assistant.processor.hears_features:
            self._stop_reading_ahead()
            self._reading_ahead = asyncio.ensure_future(self._read_guess())

    async def _read_guess(self) -> None:
        guess = (await self._listening.pause())[:-UNCERTAIN_CODES]
        # To read less would throw away what was read of it
        self._num_read_ahead = max(self._num_read_ahead, len(guess))
        await self._assistant.prepare(self._messages or [], self._conversation_id, guess)

    async def finish(self) -> Any:
        """Ends the speech and returns what stands for it in messages: `{"type": "audio", "audio": this}`."""
        self._stop_reading_ahead()
        return await self._listening.finish()

    def cancel(self) -> None:
        """Throws the speech away."""
        self._stop_reading_ahead()
        self._listening.cancel()

    def _stop_reading_ahead(self) -> None:
        # What was read until now is kept
        if self._reading_ahead is not None:
            self._reading_ahead.cancel()


class Assistant:
    """
    Args:
        processor ([`VitaAudioProcessor`]): with a codec.
        engine ([`Engine`]): that runs the model.
        codec_worker ([`CodecWorker`]): that runs the processor's codec.
        model_name (`str`): by which clients know it.

    Attributes:
        input_sampling_rate (`int`): of the audio it hears, in Hz.
        output_sampling_rate (`int`): of the audio it speaks, in Hz.
        max_audio_seconds (`float`): the longest audio it takes.
        max_prompt_tokens (`int`): the longest conversation that the model was trained with.
        max_characters (`int` or `float`): more have no room in the model's positions, whatever the text is.
    """

    def __init__(self, processor: ProcessorMixin, engine: Engine, codec_worker: CodecWorker, model_name: str):
        self.processor, self.engine, self.model_name = processor, engine, model_name
        self.codec_worker = codec_worker
        self.input_sampling_rate = processor.feature_extractor.sampling_rate
        self.output_sampling_rate = processor.output_sampling_rate
        self.max_audio_seconds = processor.max_audio_seconds
        self.max_prompt_tokens = processor.tokenizer.model_max_length
        # No token stands for more than its own
        self.max_characters = engine.max_length * max(map(len, processor.tokenizer.get_vocab()))

    def answer(
        self,
        messages: list[dict],
        options: AnswerOptions = AnswerOptions(),
        *,
        conversation_id: str | None = None,
        with_audio: bool = True,
    ) -> Answer:
        """
        Answers the last turn of a conversation.

        Args:
            messages (`list[dict]`): as the pipeline takes them: `{"role", "content"}`, the content a string or a list
                of parts `{"type": "text", "text": str}` and `{"type": "audio", "audio": ...}`, whose audio is samples
                (float32 `(num_samples,)` at `input_sampling_rate`) or what [`Hearing.finish`] returned. The system's
                turn that the model was trained with is added where there is none. Earlier answers are given as
                [`Answer.message`] makes them, or as text alone.
                The task is found as in the pipeline: a written question is answered in text and then read aloud.
            conversation_id (`str`, *optional*): see [`GenerationRequest`].
            with_audio (`bool`): whether speech is wanted. Without it the codec does not run.

        Returns:
            [`Answer`]: its iteration raises a ValueError if the conversation is longer than the model can read.

        Raises:
            ValueError: the conversation or an option cannot be used; the message says why.
            PromptTooLong: the conversation is too long for the model, or is one of several turns with a
                `conversation_id` and longer than what the model was trained with.
            EngineOverloaded: too many requests are waiting.
        """
        messages = self._check(messages)
        given = {name: value for name, value in vars(options).items() if value is not None}
        max_tokens_at_once = given.pop("max_tokens_at_once", DEFAULT_MAX_NEW_TOKENS)
        given = {"max_new_tokens": max_tokens_at_once, "conversation_id": conversation_id, **given}
        if self.engine.num_waiting >= self.engine.max_queue_length:
            raise EngineOverloaded(f"{self.engine.num_waiting} requests are waiting already. Try again later.")
        if any(is_samples(part["audio"]) for part in audio_parts(messages)):
            # They are encoded later, in the codec's thread, so the prompt is checked then, and only texts now
            self.processor.apply_chat_template(messages)
            self.engine.check(GenerationRequest(input_ids=[self.processor.tokenizer.eos_token_id], **given))
            return Answer(self, messages, given, with_audio, None, options.max_new_tokens)
        request = self.request_of(messages)
        self._check_length(messages, request, conversation_id)
        self.engine.check(replace(request, **given))
        return Answer(self, messages, given, with_audio, request, options.max_new_tokens)

    def speak(self, text: str, options: AnswerOptions = AnswerOptions()) -> Answer:
        """The speech of a text, sentence by sentence. Raises as `answer`."""
        return self.answer(synthesis_conversation(text), options)

    def transcribe(self, audio: Any, options: AnswerOptions = AnswerOptions()) -> Answer:
        """The text of samples, or of what [`Hearing.finish`] returned. Raises as `answer`."""
        return self.answer(recognition_conversation(audio), options, with_audio=False)

    def hear(self, messages: list[dict] | None = None, conversation_id: str | None = None) -> Hearing:
        """
        Begins to listen to one turn of a user.

        Args:
            messages (`list[dict]`, *optional*): the turns before it.
            conversation_id (`str`, *optional*): with it, the language model reads the turn while it comes in.
        """
        return Hearing(self, messages, conversation_id)

    async def prepare(self, messages: list[dict], conversation_id: str, heard: Any = ()) -> None:
        """
        Reads a conversation ahead of its next turn; see [`Engine.prefill`]. A conversation that cannot be read is left
        to `answer`, which says why.

        Args:
            messages (`list[dict]`): the turns so far.
            conversation_id (`str`): see [`GenerationRequest`].
            heard (*optional*): what is heard of the next turn so far, codes or features.
        """
        # An audio needs a code at least, so another one stands for a turn that has not begun
        turn = {"role": "user", "content": [{"type": "audio", "audio": list(heard) or [0]}]}
        try:
            messages = with_system_prompt(read_conversation([*messages, turn]))
            self._check_characters(messages)
            if self.processor.hears_features:
                # Features are heard as a whole, so the place before them is as far as can be read
                messages[-1] = {"role": "user", "content": [{"type": "text", "text": ""}]}
            request = self.request_of(messages)
            # The user's turn ends with the last one of these tokens; what follows begins the answer
            tokenizer, vocabulary = self.processor.tokenizer, self.processor.speech_vocabulary
            end = tokenizer.eos_token_id if self.processor.hears_features else vocabulary.end_audio_token_id
            num_tokens = len(request.input_ids) - 1 - request.input_ids[::-1].index(end)
            num_tokens -= 0 if self.processor.hears_features or len(heard) else 1
            request = replace(request, input_ids=request.input_ids[:num_tokens], conversation_id=conversation_id)
            await self.engine.prefill(request)
        except (ValueError, EngineOverloaded, EngineUnavailable):
            return

    def check_text(self, text: str) -> None:
        """
        Raises:
            PromptTooLong: the text alone is too long for the model.
            ValueError: no conversation can have it; the message says why.
        """
        messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        self._check_characters(messages)
        self.processor.apply_chat_template(messages)

    def has_room(self, messages: list[dict], heard: Any) -> bool:
        """
        Whether another spoken turn and its answer fit behind a conversation into what the model was trained with, one
        as long as `heard`, which [`Hearing.finish`] returned.

        Raises:
            ValueError: see [`VitaAudioProcessor.build_prompt`].
        """
        return has_room(self.processor, [*messages, {"role": "user", "content": [{"type": "audio", "audio": heard}]}])

    async def forget(self, conversation_id: str) -> None:
        """Frees what is kept of a conversation."""
        await self.engine.forget(conversation_id)

    async def close(self) -> None:
        """Stops everything and waits for its end."""
        await self.engine.close()
        await asyncio.to_thread(self.codec_worker.close)

    def _check(self, messages: list[dict]) -> list[dict]:
        """
        The messages with the system's turn.

        Raises:
            ValueError, PromptTooLong: see `answer`.
        """
        if not is_conversation(messages):
            raise ValueError("There is nothing to answer: the conversation has no messages.")
        messages = with_system_prompt(read_conversation(messages))
        for part in audio_parts(messages):
            # A string would be a file or an address, which nobody who is served may open
            if not isinstance(part["audio"], (np.ndarray, list)):
                raise ValueError(f"An audio must be samples, codes or features, got a {type(part['audio']).__name__}.")
        self._check_characters(messages)
        return messages

    def _check_characters(self, messages: list[dict]) -> None:
        """
        Raises PromptTooLong for texts and earlier answers whose tokens need not be counted, which would keep all
        others waiting.
        """
        parts = [part for message in messages for part in message["content"]]
        num_characters = sum(len(part["text"]) for part in parts if part["type"] == "text")
        num_codes = sum(len(part["audio"]) for part in parts if isinstance(part.get("audio"), SpeechCodes))
        if num_codes > self.engine.max_length:
            raise PromptTooLong(
                f"The conversation has {num_codes} codes of earlier answers, and the model has positions for "
                f"{self.engine.max_length}."
            )
        if num_characters > self.max_characters:
            raise PromptTooLong(
                f"The conversation has {num_characters} characters, and the model has no room for more than "
                f"{self.max_characters}, whatever they are."
            )

    def request_of(self, messages: list[dict]) -> GenerationRequest:
        """The prompt of messages without samples; errors as of [`VitaAudioProcessor.build_prompt`]."""
        inputs = self.processor.build_prompt(messages)
        features = zip(inputs.get("input_features", ()), inputs.get("feature_attention_mask", ()))
        return GenerationRequest(
            input_ids=inputs["input_ids"][0].tolist(),
            input_features=[values[mask.bool()].numpy() for values, mask in features],
        )

    def _check_length(self, messages: list[dict], request: GenerationRequest, conversation_id: str | None) -> None:
        """Raises PromptTooLong for a session that is longer than what the model was trained with."""
        num_turns = sum(message["role"] == "user" for message in messages)
        if conversation_id is not None and num_turns > 1 and len(request.input_ids) > self.max_prompt_tokens:
            raise PromptTooLong(
                f"The conversation has {len(request.input_ids)} tokens, more than the {self.max_prompt_tokens} that "
                "the model was trained with."
            )

    async def encode(self, messages: list[dict]) -> list[dict]:
        """The messages with what stands for the samples in them, encoded in the codec's thread."""
        encoded = []
        for message in messages:
            parts = []
            for part in message["content"]:
                if part["type"] == "audio" and is_samples(part["audio"]):
                    listening = self.codec_worker.hear()
                    try:
                        listening.put(part["audio"])
                        part = {"type": "audio", "audio": await listening.finish()}
                    except BaseException:
                        # Nobody waits for the rest of it
                        listening.cancel()
                        raise
                parts.append(part)
            encoded.append({**message, "content": parts})
        return encoded


def is_samples(audio: Any) -> bool:
    """Whether an audio is samples, and not encoded yet."""
    return isinstance(audio, np.ndarray) and audio.ndim == 1


__all__ = ["Answer", "AnswerOptions", "Assistant", "Hearing", "Piece"]
