# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine on vLLM in this process: its front end is here, and the model in a process that it starts."""

import os
from collections.abc import AsyncIterator
from typing import Any

from vllm import AsyncEngineArgs, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from .engine import GenerationRequest
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
        self._engine = AsyncLLM.from_engine_args(arguments)
        vllm_config = self._engine.vllm_config
        super().__init__(folder, revision, vllm_config.scheduler_config.max_num_seqs, max_queue_length)
        self.max_length = min(self.max_length, vllm_config.model_config.max_model_len)

    async def _stream(self, request: GenerationRequest, sampling: dict[str, Any]) -> AsyncIterator[list[int]]:
        sampling = dict(sampling)
        params = SamplingParams(
            extra_args={"mctp_mode": sampling.pop("mctp_mode")},
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            **sampling,
        )
        prompt = {"prompt_token_ids": request.input_ids}
        outputs = self._engine.generate(prompt, params, request_id=str(next(self._numbers)))
        try:
            async for output in outputs:
                yield list(output.outputs[0].token_ids)
        except VLLMValidationError as error:
            raise ValueError(str(error)) from error
        finally:
            # which stops the generation
            await outputs.aclose()

    async def close(self) -> None:
        """See [`Engine.close`]."""
        self._is_closing = True
        self._engine.shutdown()


__all__ = ["VLLMEngine"]
