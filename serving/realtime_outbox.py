# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a session has to send, in its order, while the client takes its time to read."""

import asyncio
import json
from collections import deque

from starlette.websockets import WebSocket


# Answers are made faster than they are played. What a client has not read of them waits here up to this, 12 s of
# audio, and the rest of the answer is not made before there is room.
ANSWER_BYTES = 2**20
# What a client's events are answered with may be more. Beyond this, its next event is not read before there is room.
EVENTS_BYTES = 2**22


class SlowReader(Exception):
    """The client does not read what is sent."""


class Outbox:
    """
    Events on their way to a client.

    Args:
        websocket (`WebSocket`): accepted.
        send_seconds (`float`): how long the client may read nothing.
    """

    def __init__(self, websocket: WebSocket, send_seconds: float):
        self._websocket = websocket
        self._send_seconds = send_seconds
        # the text of each event, what it is part of, and what waits for it
        self._events: deque[tuple[str, str | None, asyncio.Future | None]] = deque()
        self._num_bytes = 0
        self._wake = asyncio.Event()
        self._has_shrunk = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        """Whether all was handed to the socket."""
        return self._num_bytes == 0

    def put(self, event: dict, stream_id: str | None = None, sent: asyncio.Future | None = None) -> None:
        """
        Sends an event after those before it.

        Args:
            event (`dict`): of the server.
            stream_id (`str`, *optional*): what `discard` throws it away with.
            sent (`asyncio.Future`, *optional*): gets its result when the event was handed to the socket.
        """
        text = json.dumps(event)
        self._events.append((text, stream_id, sent))
        self._count(len(text))
        self._wake.set()

    async def room(self, max_bytes: int = ANSWER_BYTES) -> None:
        """Waits until less than this is on its way."""
        while self._num_bytes >= max_bytes:
            self._has_shrunk.clear()
            await self._has_shrunk.wait()

    def discard(self, stream_id: str) -> None:
        """Throws away what has not been sent of a stream."""
        # what is being sent is none of the events, and still counts
        self._count(-sum(len(text) for text, stream, _ in self._events if stream == stream_id))
        self._events = deque(event for event in self._events if event[1] != stream_id)

    async def run(self) -> None:
        """
        Sends until it is cancelled.

        Raises:
            SlowReader: the client reads nothing.
        """
        while True:
            while not self._events:
                self._wake.clear()
                await self._wake.wait()
            text, _, sent = self._events.popleft()
            try:
                async with asyncio.timeout(self._send_seconds):
                    await self._websocket.send_text(text)
            except TimeoutError:
                raise SlowReader(f"Nothing was read for {self._send_seconds:g} s.") from None
            self._count(-len(text))
            if sent is not None and not sent.done():
                sent.set_result(None)

    def _count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        self._has_shrunk.set()


__all__ = ["EVENTS_BYTES", "Outbox", "SlowReader"]
