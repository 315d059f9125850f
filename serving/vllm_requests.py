# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What both engines on vLLM share, the one in this process and the one that is a server elsewhere."""

import asyncio
import itertools
import math
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from transformers import AutoConfig, GenerationConfig

from modeling_vita_audio.generation_vita_audio import resolve_mctp_mode

from .engine import EngineOverloaded, GenerationRequest, check_lengths
from .vllm.arguments import is_lossless


# vLLM takes none above it
HIGHEST_TEMPERATURE = 2

# What `generate` samples with where neither the model nor the request says it
DEFAULT_TOP_K = 50


class VLLMRequests:
    """
    Checks requests, counts them, and says what vLLM is to do for them. The engines derive from it.

    Args:
        folder (`str`): the folder or Hub id of the model, of which no weights are read here.
        revision (`str`, *optional*): of a Hub id.
        max_batch_size (`int`): requests that tokens are written for at once.
        max_queue_length (`int`): requests that may wait for others.
    """

    def __init__(self, folder: str, revision: str | None, max_batch_size: int, max_queue_length: int):
        config = AutoConfig.from_pretrained(folder, revision=revision)
        try:
            self.defaults = GenerationConfig.from_pretrained(folder, revision=revision)
        except OSError:  # a folder need not have one
            self.defaults = GenerationConfig.from_model_config(config.text_config)
        self.num_modules = config.num_mctp_modules
        self.max_length = getattr(config.text_config, "max_position_embeddings", None) or math.inf
        self.max_batch_size, self.max_queue_length = max_batch_size, max_queue_length
        self._numbers = itertools.count()
        self._num_open = 0
        # What is read ahead, by the names of conversations
        self._reading_ahead: dict[str, asyncio.Task] = {}
        self._is_closing = False

    @property
    def num_running(self) -> int:
        return min(self._num_open, self.max_batch_size)

    @property
    def num_waiting(self) -> int:
        return self._num_open - self.num_running

    def check(self, request: GenerationRequest) -> None:
        """See [`Engine.check`]."""
        self.sampling_of(request)

    def sampling_of(self, request: GenerationRequest) -> dict[str, Any]:
        """
        The options of a request by vLLM's names, and its mode by ours.

        Raises:
            ValueError, PromptTooLong: as [`Engine.check`].
        """
        check_lengths(request, self.max_length)
        if request.input_features:
            raise ValueError("The engine on vLLM hears codes, and this request has continuous features.")

        def option(name: str, default: Any) -> Any:
            values = (getattr(request, name, None), getattr(self.defaults, name, None), default)
            return next(value for value in values if value is not None)

        temperature, top_p = option("temperature", 1.0), option("top_p", 1.0)
        if not (isinstance(temperature, int | float) and 0 < temperature <= HIGHEST_TEMPERATURE):
            raise ValueError(
                f"`temperature` must be a number above 0 and at most {HIGHEST_TEMPERATURE}, got {temperature}."
            )
        if not 0 < top_p <= 1:
            raise ValueError(f"`top_p` must be above 0 and at most 1, got {top_p}.")
        sampling = {"temperature": 0.0}
        if option("do_sample", False):
            sampling = {"temperature": temperature, "top_p": top_p, "top_k": option("top_k", DEFAULT_TOP_K)}
            if request.seed is not None:
                sampling["seed"] = request.seed
        if (tolerance := request.mctp_verify) is not None:
            sampling["mctp_verify"] = float(is_lossless(tolerance))
        eos_token_ids = np.atleast_1d([] if self.defaults.eos_token_id is None else self.defaults.eos_token_id)
        return {
            **sampling,
            "repetition_penalty": option("repetition_penalty", 1.0),
            "max_tokens": min(request.max_new_tokens, self.max_length - len(request.input_ids)),
            "stop_token_ids": eos_token_ids.tolist(),
            "mctp_mode": resolve_mctp_mode(option("mctp_mode", "vanilla"), self.num_modules),
        }

    def generate(self, request: GenerationRequest) -> AsyncIterator[list[int]]:
        """See [`Engine.generate`]."""
        return self._submit(request, self.sampling_of(request))

    async def prefill(self, request: GenerationRequest) -> None:
        """
        See [`Engine.prefill`]. vLLM keeps what it reads by itself, whole blocks of it, so one token is written and
        thrown away.
        """
        sampling = {**self.sampling_of(request), "max_tokens": 1}

        async def read() -> None:
            async for _ in self._submit(request, sampling):
                pass

        name = request.conversation_id
        task = self._reading_ahead[name] = asyncio.ensure_future(read())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            # the request itself may have come, which is no reason for whoever asked for this to end
            if asyncio.current_task().cancelling():
                raise
        finally:
            if self._reading_ahead.get(name) is task:
                del self._reading_ahead[name]

    async def forget(self, conversation_id: str) -> None:
        """See [`Engine.forget`]. vLLM gives up by itself what was not used for longest."""

    def _submit(self, request: GenerationRequest, sampling: dict[str, Any]) -> AsyncIterator[list[int]]:
        if self._is_closing:
            raise EngineOverloaded("The server is about to end and takes no more requests.")
        if self.num_waiting >= self.max_queue_length:
            raise EngineOverloaded(
                f"{self.num_waiting} requests are waiting already, and no more may wait. Try again later."
            )
        return self._counted(request, sampling)

    async def _counted(self, request: GenerationRequest, sampling: dict[str, Any]) -> AsyncIterator[list[int]]:
        # what only reads ahead makes room at once
        ahead = self._reading_ahead.get(request.conversation_id)
        if ahead is not None and ahead is not asyncio.current_task():
            ahead.cancel()
        self._num_open += 1
        stream = self._stream(request, sampling)
        try:
            async for tokens in stream:
                if tokens:
                    yield tokens
        finally:
            self._num_open -= 1
            await stream.aclose()


__all__ = ["VLLMRequests"]
