# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""500 mutated HTTP bodies: each is answered, or refused in OpenAI's form, and nothing else is disturbed."""

import base64
import json
import logging
import random
from copy import deepcopy

import httpx
import numpy as np
import pytest
from places import MINI

from serving.audio_formats import encode_whole


NUM_BODIES = 500
QUESTION = base64.b64encode((MINI / "sample_question.wav").read_bytes()).decode()
TONE = encode_whole((0.3 * np.sin(np.arange(4000) / 5)).astype(np.float32), "mp3", 16000)
MODEL = "vita-audio-mini"

# few tokens, because all but the requests is tested elsewhere
CHAT = {
    "model": MODEL,
    "max_tokens": 3,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": QUESTION, "format": "wav"}}]},
        {"role": "assistant", "content": "Thirteen."},
        {"role": "user", "content": [{"type": "text", "text": "And two more?"}]},
    ],
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "pcm16"},
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 5,
    "mctp_mode": "boost",
    "user": "somebody",
}
BODIES = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/audio/speech", {"model": MODEL, "input": "One.", "voice": "alloy", "response_format": "mp3", "speed": 1}),
]
VALUES = [None, True, False, 0, -1, 1, 2**31, -(2**63), 10**30, 0.5, 1e308, "", " ", "text", "audio", "/etc/passwd"]
VALUES += ["http://127.0.0.1:1/", "<|audio|>", "<|im_end|>", "\x00", "é\u202e🙂", "a" * 5000, QUESTION[:1001], [], {}]
VALUES += [
    [None],
    [[]],
    {"": ""},
    {"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}},
    ["boost"],
    [1, 4],
]


def places(value):
    """All containers with a key of theirs."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from places(inner)


def mutated(body, rng):
    """A body with one to three places changed, and sometimes its bytes."""
    body = deepcopy(body)
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(list(places(body)))
        change = rng.randrange(4)
        if change == 0:
            del container[key]
        elif change == 1 and isinstance(container, dict):
            container[rng.choice(["url", "path", "tools", "n", "audio", "stream", "x" * 300, ""])] = container[key]
        elif change == 2 and isinstance(container, list):
            container.insert(key, deepcopy(rng.choice([container[key], rng.choice(VALUES)])))
        else:
            container[key] = deepcopy(rng.choice(VALUES))
        if not list(places(body)):
            break
    content = bytearray(json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass"))
    if rng.random() < 0.2:
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content[: rng.randrange(len(content))] if rng.random() < 0.05 else content)


def mutated_form(rng):
    """A form with a file, some of its bytes changed."""
    fields = {"model": MODEL, "temperature": "0", "language": "en", "response_format": "json", "stream": "false"}
    fields = {
        name: rng.choice([str(rng.choice(VALUES)), value]) if rng.random() < 0.3 else value
        for name, value in fields.items()
        if rng.random() < 0.9
    }
    file = bytearray(TONE if rng.random() < 0.5 else base64.b64decode(QUESTION)[: rng.choice([44, 100, 9000, 10**6])])
    for _ in range(rng.randint(0, 5)):
        file[rng.randrange(len(file))] = rng.randrange(256)
    form = httpx.Request("POST", "http://a", data=fields, files={rng.choice(["file", "file", "x"]): bytes(file)})
    content = bytearray(form.read())
    if rng.random() < 0.3:
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content), form.headers["content-type"]


@pytest.mark.slow
def test_mutated_bodies(http_server, caplog):
    rng = random.Random(0)
    statuses = {}
    # twenty seconds for any of them would be a hang
    with httpx.Client(base_url=http_server.url, timeout=20) as client:
        for number in range(NUM_BODIES):
            if rng.random() < 0.25:
                path, (content, kind) = "/v1/audio/transcriptions", mutated_form(rng)
            else:
                path, body = rng.choice(BODIES)
                content, kind = mutated(body, rng), "application/json"
            response = client.post(path, content=content, headers={"content-type": kind})
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            assert response.status_code in (200, 400, 404, 413, 415), (number, content[:2000], response.text)
            if response.status_code != 200:
                assert list(response.json()["error"]) == ["message", "type", "param", "code"]
            else:
                assert "server_error" not in response.text, (number, content[:2000], response.text)
        # both happen often, or the bodies are of no use
        assert min(statuses.get(200, 0), statuses.get(400, 0)) > NUM_BODIES / 20, statuses
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert http_server.server.num_running == 0
