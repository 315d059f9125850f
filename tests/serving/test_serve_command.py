# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`vita-audio serve` as users run it: a process of its own, with signals."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec

import httpx
import pytest
from places import MINI, ROOT
from waiting import wait_until

from serving.cli import main


KEY = "a-key-in-the-environment"
ENGINES = {"transformers": []}
# in the environment of `.ci/vllm`
if find_spec("vllm"):
    ENGINES["vllm"] = ["--engine", "vllm", "--engine_options", '{"enforce_eager": true, "max_num_seqs": 8}']


@contextmanager
def served(*options, **environment):
    """The process of a server and its URL, when it answers."""
    command = [sys.executable, "-m", "serving.cli", "serve", "--model", str(MINI), "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a session of its own, so that signals for all processes of a terminal can be sent
    with subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, **pipes) as process:
        try:
            line = process.stdout.readline()
            yield process, re.search(r"Talk: (http://\S+)/ ", line)[1]
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_it_serves_and_ends_when_its_answers_have(engine):
    with served("--host", "0.0.0.0", *ENGINES[engine], VITA_AUDIO_API_KEY=KEY) as (process, url):
        assert url.startswith("http://localhost:")
        client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60)
        assert client.get("/health").json() == {"status": "ok", "model": "vita-audio-mini"}
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(url).headers["content-type"].startswith("text/html")
        body = {"model": "vita-audio-mini", "input": "The sum of seven and six is thirteen.", "response_format": "pcm"}
        with client.stream("POST", "/v1/audio/speech", json=body) as response:
            blocks = response.iter_bytes()
            first = next(blocks)
            # Ctrl-C reaches all processes
            os.killpg(process.pid, signal.SIGINT)
            # the answer that runs is whole
            num_bytes = len(first) + sum(map(len, blocks))
        assert 24000 * 2 < num_bytes < 24000 * 2 * 6
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    # the key is neither there nor among the arguments
    assert KEY not in output + errors and "Traceback" not in errors and "can use this server" not in errors


@pytest.mark.slow
def test_a_server_for_everyone_warns_and_the_second_signal_ends_it():
    with served("--host", "0.0.0.0") as (process, url):
        wait_until(lambda: is_healthy(url))
        body = {"model": "vita-audio-mini", "input": "One and two and three and four. " * 30}
        with httpx.stream("POST", f"{url}/v1/audio/speech", json=body, timeout=60) as response:
            next(response.iter_bytes())
            process.send_signal(signal.SIGINT)
            wait_until(lambda: not is_healthy(url))
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and "Traceback" not in errors
    assert "warning: everyone who reaches 0.0.0.0:" in errors and "--api_key" in errors


def is_healthy(url):
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    "options, words",
    [
        (["--port", "99999"], "The port must be between 0 and 65535, got 99999."),
        (["--api-key", ""], "The API key must be of letters"),
        (["--allow-origin", "example.org"], "An origin is such as https://example.org"),
        (["--host", "no.such.host.invalid"], "Cannot listen at no.such.host.invalid:8765"),
        (["--port", "0", "--model", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_wrong_options(capsys, options, words):
    assert main(["serve", *options]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("vita-audio: error: ") and words in line


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), "--model", "/never/loaded"]) == 1
    assert f"Cannot listen at 127.0.0.1:{port}: " in capsys.readouterr().err


def test_a_missing_package_is_named(capsys, monkeypatch):
    for module in ("fastapi", "serving.app", "serving.run"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve"]) == 1
    assert '`pip install -e ".[serve]"` installs all that it needs' in capsys.readouterr().err
