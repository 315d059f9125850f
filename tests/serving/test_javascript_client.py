# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""A JavaScript client from npm, unmodified, talks to the server over its WebSocket."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from places import MINI

from processing.audio_vita_audio import load_audio
from serving.audio_formats import from_pcm16, to_pcm16
from training.evaluation.recognition import load_recognizer
from training.evaluation.scoring import answer_is_right, word_error_rate


JS = Path(__file__).with_name("js")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "CI" not in os.environ and shutil.which("npm") is None, reason="node and npm are not installed (Debian: npm)"
    ),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """The folder of the client's program, with the packages that it needs."""
    folder = shutil.copytree(JS, tmp_path_factory.mktemp("client") / "js")
    installed = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, timeout=300
    )
    if installed.returncode and "CI" not in os.environ:
        pytest.skip(f"npm cannot install the client here: {installed.stderr[-300:]}")
    assert installed.returncode == 0, installed.stderr
    return folder


def test_a_javascript_client_writes_and_speaks(client, http_servers, tmp_path):
    server = http_servers.start(api_key="a-key")
    question = tmp_path / "question.pcm"
    question.write_bytes(to_pcm16(load_audio(str(MINI / "sample_question.wav"), 24000)))
    url = f"ws://127.0.0.1:{server.port}/v1/realtime"
    done = subprocess.run(
        ["node", "converse.mjs", url, "a-key", str(question)], cwd=client, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [turn["role"] for turn in said["history"]] == ["user", "assistant"] * 2
    written, first, spoken, second = (turn["text"] for turn in said["history"])
    assert written == "What is two plus five?"
    assert answer_is_right(spoken, "seven and six")
    recognize = load_recognizer()
    for text, gold, answer in zip((first, second), ("seven", "thirteen"), said["answers"], strict=True):
        assert answer["status"] == "completed"
        assert answer_is_right(text, gold)
        heard = recognize(from_pcm16(base64.b64decode(answer["audio"])).astype(np.float32), 24000)
        # the recogniser is a small one, and mishears a word now and then
        assert word_error_rate([text], [heard]) <= 0.25, heard


def test_a_javascript_client_without_the_key_is_refused(client, http_servers, tmp_path):
    server = http_servers.start(api_key="a-key")
    (tmp_path / "empty.pcm").touch()
    url = f"ws://127.0.0.1:{server.port}/v1/realtime"
    done = subprocess.run(
        ["node", "converse.mjs", url, "wrong", str(tmp_path / "empty.pcm")],
        cwd=client,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode != 0 and not done.stdout
