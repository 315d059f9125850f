# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import asyncio
from argparse import Namespace

import pytest
from places import MINI


@pytest.fixture(scope="session")
def assistant():
    """The shipped model, to be talked to."""
    from serving.loading import load_assistant

    options = {"model": str(MINI), "revision": None, "device": "cpu", "dtype": None, "threads": 1}
    assistant = load_assistant(Namespace(**options))
    yield assistant
    asyncio.run(assistant.close())


@pytest.fixture(scope="session")
def http_servers(assistant):
    """Starts servers of the shipped model on 127.0.0.1, see `HttpServers`."""
    from http_servers import HttpServers

    servers = HttpServers(assistant)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def http_server(http_servers):
    """A server of the shipped model with the default settings."""
    return http_servers.start()
