# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`/v1/realtime`: OpenAI's Realtime protocol over a WebSocket."""

import asyncio
import logging
import time
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from .api_errors import ApiError
from .realtime_outbox import EVENTS_BYTES, Outbox, SlowReader
from .realtime_session import RealtimeSession
from .server import Server


logger = logging.getLogger(__name__)

# What OpenAI's clients in browsers offer, besides the key
SUBPROTOCOL = "realtime"

# How long the goodbye to a client may take, in seconds; it may be gone
CLOSING_SECONDS = 1.0

# Of the WebSocket protocol (RFC 6455): an end as it should be, and one because of what the client did
NORMAL, POLICY_VIOLATION, SERVER_FAILED = 1000, 1008, 1011


async def realtime(websocket: WebSocket, server: Server) -> None:
    """
    Serves one session, from its handshake to its end. A handshake that is refused gets an HTTP response with the
    reason: 404 for a model that is not there, 429 if there are too many sessions.

    Args:
        websocket (`WebSocket`): before its handshake.
        server ([`Server`]): which it is a session of.
    """
    try:
        if (model := websocket.query_params.get("model")) is not None:
            server.check_model(model)
        if websocket.query_params.get("intent", "conversation") != "conversation":
            raise ApiError("There are no sessions of transcription alone here.", param="intent", code="invalid_value")
        outbox = Outbox(websocket, server.settings.send_seconds)
        with server.session(outbox):
            await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None)
            await _serve(websocket, server, outbox)
    except ApiError as error:
        server.metrics.refused.labels(error.code).inc()
        await websocket.send_denial_response(error.response())


async def _serve(websocket: WebSocket, server: Server, outbox: Outbox) -> None:
    session = RealtimeSession(server, outbox)
    session.start()
    reading = asyncio.create_task(_read(websocket, session, outbox, server.settings.idle_seconds))
    writing = asyncio.create_task(outbox.run())
    try:
        await asyncio.wait([reading, writing], return_when=asyncio.FIRST_COMPLETED)
    finally:
        # read here, because both are cancelled next
        code, reason = _reason(reading, writing)
        for task in (reading, writing):
            task.cancel()
        await asyncio.gather(reading, writing, return_exceptions=True)
        await session.close()
        with suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
            async with asyncio.timeout(CLOSING_SECONDS):
                await websocket.close(code, reason)


async def _read(websocket: WebSocket, session: RealtimeSession, outbox: Outbox, idle_seconds: float) -> str:
    """Does what a client's messages ask. Returns why it ended, if the client is still there."""
    last_time = time.monotonic()
    while True:
        try:
            async with asyncio.timeout(last_time + idle_seconds - time.monotonic()):
                message = await websocket.receive()
        except TimeoutError:
            if not session.is_answering:
                return f"The session was idle for {idle_seconds:g} s."
        else:
            if message["type"] == "websocket.disconnect":
                return ""
            if message.get("text") is None:
                session.refuse(ApiError("Messages are JSON in text frames, not binary.", code="invalid_json"))
            else:
                await session.handle(message["text"])
            # a client that asks for more than it reads is not read either
            await outbox.room(EVENTS_BYTES)
        last_time = time.monotonic()


def _reason(reading: asyncio.Task, writing: asyncio.Task) -> tuple[int, str]:
    """The code and the reason with which a session ends."""
    for task in (reading, writing):
        if task.done() and not task.cancelled():
            error = task.exception()
            if isinstance(error, SlowReader):
                return POLICY_VIOLATION, f"The client reads too slowly. {error}"
            if error is None:
                return NORMAL, task.result()
            if not isinstance(error, (WebSocketDisconnect, RuntimeError)):
                logger.error("A realtime session failed", exc_info=error)
    return SERVER_FAILED, "The session failed."


__all__ = ["realtime"]
