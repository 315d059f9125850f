# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the server of an assistant until Ctrl-C: binding, warnings, and an end that cuts off nobody."""

import asyncio
import logging
import socket
import sys
from types import FrameType

import uvicorn

from .app import create_app
from .assistant import Assistant
from .server import Server
from .settings import ServerSettings


# How long responses that are complete may take to leave, in seconds, after the answers have ended
CLOSING_SECONDS = 2


class DrainingServer(uvicorn.Server):
    """uvicorn, which ends at the first signal when the running answers have ended, and at the second one at once."""

    def __init__(self, config: uvicorn.Config, server: Server):
        super().__init__(config)
        self.shared = server
        self.draining: asyncio.Task | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.draining is None:
            print("vita-audio: ending; running answers are finished (Ctrl-C again ends at once)", file=sys.stderr)
            self.draining = asyncio.get_running_loop().create_task(self.drain())
        else:
            self.should_exit = self.force_exit = True

    async def drain(self) -> None:
        await self.shared.drain()
        self.should_exit = True


def serve(assistant: Assistant, settings: ServerSettings, listener: socket.socket) -> None:
    """Serves at a socket of [`listen`] until SIGINT or SIGTERM, and closes the assistant."""
    # no access log, because addresses may have in them what is nobody's business; the metrics have the numbers
    logging.basicConfig(level=logging.WARNING)
    # it warns of each byte of a broken form, and clients could fill the log
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    port = listener.getsockname()[1]
    if settings.api_key is None and not settings.is_local:
        print(
            f"vita-audio: warning: everyone who reaches {settings.host}:{port} can use this server; --api_key or "
            "VITA_AUDIO_API_KEY asks them for a key",
            file=sys.stderr,
        )
    # a wildcard address is none to call
    host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host
    host = f"[{host}]" if ":" in host else host
    print(f"Talk: http://{host}:{port}/  For clients of OpenAI's interfaces: http://{host}:{port}/v1", flush=True)
    asyncio.run(run(assistant, settings, listener))


async def run(assistant: Assistant, settings: ServerSettings, listener: socket.socket) -> None:
    app = create_app(assistant, settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        # it has nothing to do here, and at the second signal uvicorn would cut it off with a traceback
        lifespan="off",
        ws_max_size=settings.max_message_bytes,
        # messages of a session that wait to be read, in releases of uvicorn that read more than one ahead
        ws_max_queue=4,
        # While an event is handled, which may take long, nothing is read, and no answer to a ping is seen
        ws_ping_timeout=settings.idle_seconds,
        # base64 of samples gets hardly shorter, and the time for it would be the model's
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    try:
        await DrainingServer(config, app.state.server).serve(sockets=[listener])
    finally:
        await assistant.close()


def listen(settings: ServerSettings) -> socket.socket:
    """
    A socket at the settings' host and port.

    Raises:
        OSError: there is none to be had.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        listener = socket.create_server(address, family=family, backlog=socket.SOMAXCONN)
    except OSError as error:
        raise OSError(f"Cannot listen at {settings.host}:{settings.port}: {error.strerror}.") from error
    # Linux closes connections whose client reads nothing for so many milliseconds; others wait for the client
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.send_seconds * 1000))
    return listener


__all__ = ["listen", "serve"]
