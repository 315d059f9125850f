# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine on vLLM in this process: its front end is here, and the model in a process that it starts."""

import gc
import os
import signal
from collections.abc import AsyncIterator
from multiprocessing import resource_tracker
from typing import Any

from vllm import AsyncEngineArgs, SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from .engine import EngineOverloaded, GenerationRequest
from .vllm import engine_arguments
from .vllm_requests import VLLMRequests


class VLLMEngine(VLLMRequests):
    """
    An [`Engine`] on `AsyncLLM`.

    Args:
        folder (`str`): the folder or Hub id of the model.
        revision (`str`, *optional*): of a Hub id.
        max_queue_length (`int`, *optional*, defaults to 64): requests that may wait for others.
        options: further arguments of vLLM's engine, such as `tensor_parallel_size`.
    """

    def __init__(self, folder: str, revision: str | None = None, max_queue_length: int = 64, **options: Any):
        # The codec's library has threads already, which a copy of this process would wait for
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        # ids come in and go out
        options = {"skip_tokenizer_init": True, "revision": revision, **options}
        arguments = AsyncEngineArgs(**engine_arguments(folder, **options))
        # Processes that are started here inherit what is blocked. Ctrl-C in a terminal is a signal for all of them,
        # and the answers that run are still to be written then. Python's own helper would unblock it at its start
        resource_tracker.ensure_running()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._engine = AsyncLLM.from_engine_args(arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        vllm_config = self._engine.vllm_config
        super().__init__(folder, revision, vllm_config.scheduler_config.max_num_seqs, max_queue_length)
        self.max_length = min(self.max_length, vllm_config.model_config.max_model_len)
        self._open: set[str] = set()

    async def _stream(self, request: GenerationRequest, sampling: dict[str, Any]) -> AsyncIterator[list[int]]:
        sampling = dict(sampling)
        params = SamplingParams(
            extra_args={name: sampling.pop(name) for name in ("mctp_mode", "mctp_verify") if name in sampling},
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            **sampling,
        )
        prompt, name = {"prompt_token_ids": request.input_ids}, str(next(self._numbers))
        outputs = self._engine.generate(prompt, params, request_id=name)
        self._open.add(name)
        try:
            async for output in outputs:
                yield list(output.outputs[0].token_ids)
        except VLLMClientError as error:
            raise ValueError(str(error)) from error
        finally:
            self._open.discard(name)
            # which stops the generation
            await outputs.aclose()
        if self._is_closing:
            raise EngineOverloaded("The server has ended.")

    async def close(self) -> None:
        """See [`Engine.close`]."""
        if self._is_closing:
            return
        self._is_closing = True
        # vLLM alone would let them wait for ever
        await self._engine.abort(self._open)
        # not in a thread, because vLLM would log the end of its processes as a fault meanwhile
        self._engine.shutdown()
        # At the end of the interpreter its destructor would fail
        del self._engine
        gc.collect()


__all__ = ["VLLMEngine"]
