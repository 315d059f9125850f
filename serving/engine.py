# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What writes tokens for all who are served: prompts in, an asynchronous stream of tokens out. An engine knows nothing of
audio, of sessions or of the network.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


class EngineOverloaded(Exception):
    """An engine raises it when its queue is full."""


class EngineUnavailable(Exception):
    """An engine in another process raises it when that does not answer."""


class PromptTooLong(ValueError):
    """An engine raises it where a prompt has no room in the model's positions."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    r"""
    What one generation is to be.

    Args:
        input_ids (`list[int]`):
            The prompt.
        input_features (`list[np.ndarray]`, *optional*):
            For a model that hears by features: those of each audio of the prompt, float32 `(num_rows, 560)`, in the
            order of the runs of `<|context_of_audio|>` in `input_ids`.
        max_new_tokens (`int`):
            The most tokens to write.
        mctp_mode (`str` or `list[int]`, *optional*):
            As of `generate`; the model's by default.
        mctp_verify (`bool`, `float`, or two or three of these, *optional*):
            As of `generate`; the model's by default. Engines on vLLM take no tolerance between 0 and 1.
        do_sample (`bool`, *optional*), temperature (`float`, *optional*), top_p (`float`, *optional*):
            As of `generate`; the model's by default.
        seed (`int`, *optional*):
            Of sampling; a new one each time by default.
        conversation_id (`str`, *optional*):
            What the engine has read for the last request of this name is kept, and what the prompt has in common with
            it is not read again. There is at most one request of a name at a time.
    """

    input_ids: list[int]
    input_features: list[np.ndarray] = field(default_factory=list)
    max_new_tokens: int = 1024
    mctp_mode: str | list[int] | None = None
    mctp_verify: bool | float | list[float] | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    conversation_id: str | None = None


def check_lengths(request: GenerationRequest, max_length: int | float) -> None:
    """
    What every engine checks of a request, see [`Engine.check`].

    Args:
        max_length (`int` or `float`): the engine's.

    Raises:
        PromptTooLong: the prompt leaves no room for an answer.
        ValueError: the prompt has no tokens, or no new ones are asked for.
    """
    if not request.input_ids:
        raise ValueError("The prompt has no tokens.")
    if request.max_new_tokens < 1:
        raise ValueError(f"`max_new_tokens` must be at least 1, got {request.max_new_tokens}.")
    if len(request.input_ids) >= max_length:
        raise PromptTooLong(
            f"The conversation has {len(request.input_ids)} tokens, but the model has positions for {max_length}, its "
            "answer included."
        )


class Engine(Protocol):
    """
    Writes tokens for many requests at once. All methods belong to one event loop.

    Attributes:
        max_length (`int` or `float`): the most tokens of a prompt and its answer together; infinite if all are fine.
        max_queue_length (`int`): requests that may wait.
        num_running (`int`): requests that tokens are written for.
        num_waiting (`int`): requests in the queue.
    """

    max_length: int | float
    max_queue_length: int
    num_running: int
    num_waiting: int

    def check(self, request: GenerationRequest) -> None:
        """
        Raises:
            PromptTooLong: the prompt is longer than the model's positions.
            ValueError: the request can never be run otherwise: a prompt without tokens, or an option that is none.
        """

    def generate(self, request: GenerationRequest) -> AsyncIterator[list[int]]:
        """
        The new tokens, a few at a time as they are written, with the one that ends the sequence. Closing the iterator
        (`aclose`) or cancelling its task stops the generation.

        Raises:
            ValueError: see `check`.
            EngineOverloaded: too many requests are waiting.
        """

    async def prefill(self, request: GenerationRequest) -> None:
        """
        Reads the prompt of a request with a `conversation_id` ahead, so that a later one that begins like it has less
        to read. Returns when it is read, or at once where there is no time for it.
        """

    async def forget(self, conversation_id: str) -> None:
        """Frees what is kept for the requests of this name. It is fine if there is nothing."""

    async def close(self) -> None:
        """Stops all generations and waits for the engine's end."""


__all__ = ["Engine", "EngineOverloaded", "EngineUnavailable", "GenerationRequest", "PromptTooLong", "check_lengths"]
