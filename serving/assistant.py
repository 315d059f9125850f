# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
A model that is talked to: conversations in, text and speech out while they are made. It puts an engine, which writes
tokens, and a codec, which hears and speaks, behind one interface for all protocols.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np


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
    """Options of one answer, as of [`GenerationRequest`]; the model's by default."""

    max_new_tokens: int | None = None
    mctp_mode: str | list[int] | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


class Answer(AsyncIterator[Piece]):
    """
    An answer while it is made. Iterate to its end, or `await answer.cancel()`.

    Attributes:
        text (`str`): all text so far.
        is_cut_off (`bool`): whether it ended at the limit of its length.
        num_prompt_tokens (`int`), num_new_tokens (`int`): for reports of usage.
    """

    text: str
    is_cut_off: bool
    num_prompt_tokens: int
    num_new_tokens: int

    def text_at(self, seconds: float) -> str:
        """The text that had been spoken when so many seconds of the answer's speech had been played."""

    async def cancel(self) -> None:
        """Stops the model and the codec for this answer; nothing more comes."""


class Hearing:
    """
    Speech of a user that is encoded while it comes in.

    Attributes:
        num_samples (`int`): how many have come, at the assistant's `input_sampling_rate`.
    """

    num_samples: int

    def put(self, samples: np.ndarray) -> None:
        """Takes the next samples, float32 `(num_samples,)` in [-1, 1] at the assistant's `input_sampling_rate`."""

    async def finish(self) -> Any:
        """Ends the speech and returns what stands for it in messages: `{"type": "audio", "audio": this}`."""

    def cancel(self) -> None:
        """Throws the speech away."""


class Assistant:
    """
    Attributes:
        model_name (`str`): by which clients know it.
        input_sampling_rate (`int`): of the audio it hears, in Hz.
        output_sampling_rate (`int`): of the audio it speaks, in Hz.
        max_audio_seconds (`float`): the longest audio it takes.
    """

    model_name: str
    input_sampling_rate: int
    output_sampling_rate: int
    max_audio_seconds: float

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
                turn that the model was trained with is added where there is none. Earlier answers are given as text.
                The task is found as in the pipeline: a written question is answered in text and then read aloud.
            conversation_id (`str`, *optional*): see [`GenerationRequest`].
            with_audio (`bool`): whether speech is wanted. Without it the codec does not run.

        Raises:
            ValueError: the conversation or an option cannot be used; the message says why.
            EngineOverloaded: too many requests are waiting.
        """

    def speak(self, text: str, options: AnswerOptions = AnswerOptions()) -> Answer:
        """The speech of a text. Raises as `answer`."""

    def transcribe(self, audio: Any, options: AnswerOptions = AnswerOptions()) -> Answer:
        """The text of samples, or of what [`Hearing.finish`] returned. Raises as `answer`."""

    def hear(self) -> Hearing:
        """Begins to listen to one turn of a user."""

    async def prepare(self, messages: list[dict], conversation_id: str) -> None:
        """Reads a conversation ahead of its next turn; see [`Engine.prefill`]."""

    async def forget(self, conversation_id: str) -> None:
        """Frees what is kept of a conversation."""

    async def close(self) -> None:
        """Stops everything and waits for its end."""


__all__ = ["Answer", "AnswerOptions", "Assistant", "Hearing", "Piece"]
