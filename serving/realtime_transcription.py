# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a user has said, in words, written when no answer is."""

import asyncio
import logging
import time

from .api_errors import ApiError, server_error
from .realtime_conversation import Item
from .realtime_events import server_event
from .realtime_outbox import Outbox
from .server import Server, raise_refusal


logger = logging.getLogger(__name__)

# A client that ends turns by itself asks for the answer in its next message, and the answer goes first.
PATIENCE_SECONDS = 0.25


class Transcriber:
    """
    Transcribes items, one after the other.

    Args:
        server ([`Server`]): whose assistant does it.
        outbox ([`Outbox`]): where the events go.
        is_quiet (`asyncio.Event`): set while the session makes no answer.
    """

    def __init__(self, server: Server, outbox: Outbox, is_quiet: asyncio.Event):
        self._server, self._outbox, self._is_quiet = server, outbox, is_quiet
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._task: asyncio.Task | None = None

    def add(self, item: Item) -> None:
        """Transcribes the speech of an item, which has one part."""
        self._items.put_nowait(item)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            item = await self._items.get()
            await asyncio.sleep(PATIENCE_SECONDS)
            await self._is_quiet.wait()
            try:
                await self._transcribe(item)
            except Exception as error:
                if not isinstance(error, ApiError):
                    logger.exception("A transcription failed")
                    error = server_error()
                problem = {"type": error.type, "code": error.code, "message": str(error), "param": None}
                self._put(item, "failed", error=problem)

    async def _transcribe(self, item: Item) -> None:
        (part,) = item.content
        try:
            answer = self._server.assistant.transcribe(part.encoded)
        except Exception as error:
            raise_refusal(error)
            raise
        text = ""
        async with self._server.running(answer, "realtime_transcription", time.perf_counter()) as pieces:
            async for piece in pieces:
                if piece.text is not None:
                    text += piece.text
                    self._put(item, "delta", delta=piece.text)
        part.text = text
        usage = {"type": "tokens", "input_tokens": answer.num_prompt_tokens, "output_tokens": answer.num_new_tokens}
        usage["total_tokens"] = answer.num_prompt_tokens + answer.num_new_tokens
        self._put(item, "completed", transcript=text, usage=usage)

    def _put(self, item: Item, kind: str, **fields: object) -> None:
        event = f"conversation.item.input_audio_transcription.{kind}"
        self._outbox.put(server_event(event, item_id=item.id, content_index=0, **fields))


__all__ = ["Transcriber"]
