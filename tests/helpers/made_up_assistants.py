# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Assistants whose answers take as long as a test wants, which no model does."""

import asyncio

import numpy as np

from serving.assistant import Answer, Assistant, Piece


class MadeUpAnswer(Answer):
    def __init__(self, assistant):
        self.assistant = assistant
        self.text, self.is_cut_off, self.num_prompt_tokens, self.num_new_tokens = "", assistant.is_cut_off, 1, 0
        self.audio_codes = []
        self.number = len(assistant.answers)
        self.num_pieces, self.is_cancelled = 0, False
        assistant.answers.append(self)

    async def __anext__(self):
        await self.assistant.gate.wait()
        if self.num_pieces == self.assistant.num_pieces:
            if self.assistant.error is not None:
                raise self.assistant.error
            raise StopAsyncIteration
        self.num_pieces += 1
        # half the pieces are text
        if self.num_pieces % 2:
            self.text += "word "
            return Piece(text="word ")
        await asyncio.sleep(self.assistant.seconds)
        self.audio_codes += [1] * 8
        return Piece(audio=self.assistant.chunk)

    async def cancel(self):
        self.is_cancelled = True


class MadeUpAssistant(Assistant):
    """
    Args:
        num_pieces (`int`): of each answer.
        seconds (`float`): each piece of audio takes so long.
        error (`Exception`, *optional*): that the answers end with.
        is_cut_off (`bool`): whether they end at the limit of their length.

    Attributes:
        gate (`asyncio.Event`): answers go on where it is set, as it is at first.
        answers (`list[MadeUpAnswer]`): all that were begun.
        asked (`list[list[dict]]`): the conversations that were to be answered.
    """

    model_name, input_sampling_rate, output_sampling_rate, max_audio_seconds = "owner/made-up", 16000, 16000, 30.0

    def __init__(self, num_pieces=10, seconds=0.0, error=None, is_cut_off=False):
        self.num_pieces, self.seconds, self.error, self.is_cut_off = num_pieces, seconds, error, is_cut_off
        self.gate, self.answers, self.asked = asyncio.Event(), [], []
        self.gate.set()
        # 0.64 s of noise, which no codec makes smaller
        self.chunk = np.random.default_rng(0).uniform(-0.5, 0.5, 10240).astype(np.float32)

    def answer(self, messages, options=None, *, conversation_id=None, with_audio=True):
        self.asked.append(messages)
        return MadeUpAnswer(self)

    def speak(self, text, options=None):
        return MadeUpAnswer(self)

    def transcribe(self, audio, options=None):
        return MadeUpAnswer(self)

    async def close(self): ...
