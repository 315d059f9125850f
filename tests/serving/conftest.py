# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import asyncio
import os
from argparse import Namespace

import numpy as np
import pytest
import soundfile
from places import MINI
from tiny_models import tiny_model, tiny_processor

from processing.pipeline_vita_audio import VitaAudioPipeline


@pytest.fixture(scope="module")
def pipe():
    """The pipeline of a tiny random model."""
    processor = tiny_processor()
    return VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu")


@pytest.fixture
def question(tmp_path, monkeypatch):
    """A file with a tone, in the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("question.wav", 0.3 * np.sin(np.arange(24000) / 20), 32000)
    return "question.wav"


@pytest.fixture(scope="session")
def assistant():
    """The shipped model, to be talked to."""
    from serving.loading import load_assistant

    options = {"model": str(MINI), "revision": None, "device": "cpu", "dtype": None, "threads": 1}
    # `.ci/vllm` runs the server's tests with its engines
    options["engine"] = os.environ.get("VITA_AUDIO_TEST_ENGINE", "transformers")
    if options["engine"] == "vllm":
        options["engine_options"] = {"enforce_eager": True, "max_num_seqs": 16}
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


@pytest.fixture
def options_seen(http_server, monkeypatch):
    """The options of the answers that `http_server` makes in a test."""
    seen, assistant = [], http_server.server.assistant
    answer = assistant.answer

    def answer_and_keep(messages, options, **kwargs):
        seen.append(options)
        return answer(messages, options, **kwargs)

    monkeypatch.setattr(assistant, "answer", answer_and_keep)
    return seen
