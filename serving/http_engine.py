# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The engine that is a server of vLLM elsewhere: ids go to its `/v1/completions`, and ids come back while they are
written. So many processes with a codec can stand before as many engines as one likes.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from .engine import EngineOverloaded, EngineUnavailable, GenerationRequest
from .vllm_requests import VLLMRequests


# Requests that one process has with its server at once; vLLM has a queue of its own behind it
MAX_OPEN_REQUESTS = 256

# For the connection alone, in seconds
CONNECT_SECONDS = 10

# How long a server may say nothing, in seconds, before it counts as gone. It says nothing to a request in its queue.
SILENT_SECONDS = 300


class HTTPEngine(VLLMRequests):
    """
    An [`Engine`] over HTTP.

    Args:
        url (`str`): of the server, such as `http://127.0.0.1:8000`.
        folder (`str`): a folder or Hub id with the model's configuration; its weights are not read.
        revision (`str`, *optional*): of a Hub id.
        api_key (`str`, *optional*): that the server asks for.
        max_queue_length (`int`, *optional*, defaults to 64): requests that may wait for others.

    Raises:
        ValueError: there is no server of vLLM at this address.
    """

    def __init__(
        self,
        url: str,
        folder: str,
        revision: str | None = None,
        api_key: str | None = None,
        max_queue_length: int = 64,
    ):
        super().__init__(folder, revision, MAX_OPEN_REQUESTS, max_queue_length)
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        try:
            answer = httpx2.get(f"{self.url}/v1/models", headers=self._headers, timeout=CONNECT_SECONDS)
            answer.raise_for_status()
            served = answer.json()["data"][0]
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"No server of vLLM answers at {url}: {type(error).__name__} {error!s:.200}") from error
        self._model_name = served["id"]
        self.max_length = min(self.max_length, served.get("max_model_len") or self.max_length)
        # it belongs to the first event loop that asks
        self._client: httpx2.AsyncClient | None = None

    async def _stream(self, request: GenerationRequest, sampling: dict[str, Any]) -> AsyncIterator[list[int]]:
        if self._client is None:
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=MAX_OPEN_REQUESTS)
            timeout = httpx2.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
            self._client = httpx2.AsyncClient(headers=self._headers, limits=limits, timeout=timeout)
        sampling = dict(sampling)
        body = {
            "model": self._model_name,
            "prompt": request.input_ids,
            "stream": True,
            "return_token_ids": True,
            "skip_special_tokens": False,
            "vllm_xargs": {name: sampling.pop(name) for name in ("mctp_mode", "mctp_verify") if name in sampling},
            **sampling,
        }
        try:
            # leaving the block closes the connection, and vLLM stops the generation
            async with self._client.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
                if answer.status_code != 200:
                    raise error_of(answer.status_code, (await answer.aread()).decode(errors="replace"))
                async for line in answer.aiter_lines():
                    data = line.removeprefix("data: ")
                    if data == line or data == "[DONE]":
                        continue
                    event = json.loads(data)
                    if "error" in event:
                        raise error_of(event["error"].get("code", 500), json.dumps(event))
                    for choice in event["choices"]:
                        yield choice.get("token_ids") or []
        except httpx2.TransportError as error:
            raise EngineUnavailable(f"The server of vLLM does not answer ({type(error).__name__}).") from error

    async def close(self) -> None:
        """See [`Engine.close`]. The server goes on."""
        self._is_closing = True
        if self._client is not None:
            await self._client.aclose()


def error_of(status: int, body: str) -> Exception:
    """What a refusal of the server is for whoever asked."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        message = body
    message = f"The server of vLLM says: {message:.500}"
    if status in (429, 503):
        return EngineOverloaded(message)
    return ValueError(message) if status in (400, 404, 422) else RuntimeError(message)


__all__ = ["HTTPEngine"]
