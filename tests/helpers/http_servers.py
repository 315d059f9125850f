# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Real servers on 127.0.0.1 for tests, on one event loop in a thread."""

import asyncio
import threading
from dataclasses import dataclass

import uvicorn

from serving.app import create_app
from serving.run import listen
from serving.server import Server
from serving.settings import ServerSettings


@dataclass
class Address:
    """Where a server is: `url` (`str`), without a path, its `port` (`int`), and the `server` ([`Server`]) itself."""

    url: str
    port: int
    server: Server


class HttpServers:
    """Starts servers of one assistant. Its loop is one for all, because an assistant belongs to one."""

    def __init__(self, assistant):
        self.assistant = assistant
        self.loop = asyncio.new_event_loop()
        self.running = []
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def start(self, assistant=None, **settings) -> Address:
        """A server with these settings at a free port, of another assistant if one is given."""
        settings = ServerSettings(port=0, **settings)
        listener = listen(settings)
        port = listener.getsockname()[1]
        app = create_app(assistant or self.assistant, settings)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
        future = asyncio.run_coroutine_threadsafe(server.serve(sockets=[listener]), self.loop)
        self.running.append((server, future))
        return Address(f"http://127.0.0.1:{port}", port, app.state.server)

    def call(self, coroutine):
        """The result of a coroutine on the servers' loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def stop(self) -> None:
        for server, _ in self.running:
            server.should_exit = True
        for _, future in self.running:
            future.result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
