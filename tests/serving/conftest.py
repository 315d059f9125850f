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
