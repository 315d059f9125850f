# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Random and mutated messages to `/v1/realtime`: no traceback, no hang, and no other session suffers."""

import asyncio
import base64
import json
import logging
import random
import time
from argparse import Namespace

import pytest
from http_servers import HttpServers
from places import MINI
from realtime_client import EVENTS, RealtimeClient, question, text_of
from waiting import wait_until
from websockets.exceptions import ConnectionClosed


NUM_MESSAGES = 2_000
# of one session, before the next one begins
MESSAGES_OF_A_SESSION = 100
# Far more than it takes, a minute on two cores
MAX_SECONDS = 600

AUDIO = base64.b64encode(question()[:9600]).decode()
WRITTEN = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is one plus one?"}]}
SPOKEN = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": AUDIO}]}
DETECTION = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 100}
SESSION = {
    "type": "realtime",
    "instructions": "Be brief.",
    "output_modalities": ["audio"],
    "max_output_tokens": 20,
    "truncation": "auto",
    "audio": {
        "input": {
            "format": {"type": "audio/pcmu"},
            "turn_detection": DETECTION,
            "transcription": {"model": "whisper-1"},
            "noise_reduction": {"type": "near_field"},
        },
        "output": {"format": {"type": "audio/pcma"}, "voice": "marin", "speed": 1.0},
    },
    "vita_audio": {"mctp_mode": "turbo"},
}
# What the mutations begin with; most of these are right where they stand
GOOD = [
    {"type": "session.update", "session": SESSION},
    {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection": None}}}},
    {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcm"}}}}},
    {"type": "input_audio_buffer.append", "audio": AUDIO},
    {"type": "input_audio_buffer.append", "audio": base64.b64encode(question()).decode()},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {"type": "output_audio_buffer.clear"},
    {"type": "conversation.item.create", "item": WRITTEN, "previous_item_id": "root"},
    {"type": "conversation.item.create", "item": SPOKEN},
    {"type": "conversation.item.create", "item": {**WRITTEN, "id": "a"}},
    {"type": "conversation.item.retrieve", "item_id": "a"},
    {"type": "conversation.item.delete", "item_id": "a"},
    {"type": "conversation.item.truncate", "item_id": "a", "content_index": 0, "audio_end_ms": 100},
    {"type": "response.create"},
    {"type": "response.create", "response": {"conversation": "none", "input": [WRITTEN], "max_output_tokens": 5}},
    {
        "type": "response.create",
        "response": {"input": [{"type": "item_reference", "id": "a"}], "metadata": {"a": "b"}},
    },
    {"type": "response.cancel"},
]
ODD = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**70,
    1e308,
    float("nan"),
    "",
    "a",
    "\x00",
    "ä" * 50,
    "🎙",
    "AAAA",
    [],
    {},
    [[]],
    "A" * 9999,
]


def values_of(node, path=()):
    """The places of all values in a message."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from values_of(value, (*path, key))


def mutated(random: random.Random, known_ids: list[str]) -> str | bytes:
    """A message with up to three faults, or one that is none."""
    message = json.loads(json.dumps(random.choice(GOOD)))
    # what the server has named itself
    if "item_id" in message and known_ids and random.random() < 0.7:
        message["item_id"] = random.choice(known_ids)
    for _ in range(random.choice([0, 0, 0, 1, 1, 2, 3])):
        path = random.choice(list(values_of(message))[1:] or [()])
        if not path:
            break
        parent = message
        for key in path[:-1]:
            parent = parent[key]
        fault = random.randrange(4)
        if fault == 0:
            del parent[path[-1]]
        elif fault == 1:
            parent[path[-1]] = random.choice(ODD)
        elif fault == 2 and isinstance(parent, dict):
            parent[random.choice(["x", "type", "id", "audio", "role", "event_id"])] = random.choice(ODD)
        else:
            others = json.loads(json.dumps(random.choice(GOOD)))
            parent[path[-1]] = random.choice(list(others.values()))
    text = json.dumps(message)
    if random.random() < 0.05:
        place = random.randrange(len(text))
        text = (
            text[:place] + random.choice(["", '"', "}", "\x00", "\\ud800", "💥"]) + text[place + random.randrange(9) :]
        )
    return text.encode() if random.random() < 0.02 else text


@pytest.fixture(scope="module")
def server():
    from serving.loading import load_assistant

    options = {"model": str(MINI), "revision": None, "device": "cpu", "dtype": None, "threads": 1}
    assistant = load_assistant(Namespace(**options))
    servers = HttpServers(assistant)
    yield servers.start(max_turns=20, max_audio_seconds=20)
    servers.stop()
    asyncio.run(assistant.close())


def test_random_messages(server, caplog):
    caplog.set_level(logging.WARNING)
    generator, end = random.Random(0), time.monotonic() + MAX_SECONDS
    errors = answers = 0
    with RealtimeClient(server) as beside:
        for _ in range(NUM_MESSAGES // MESSAGES_OF_A_SESSION):
            client = RealtimeClient(server)
            for _ in range(MESSAGES_OF_A_SESSION):
                ids = [event["item"]["id"] for event in client.events if event["type"] == "conversation.item.added"]
                client.socket.send(mutated(generator, ids))
                read(client, 0)
                assert time.monotonic() < end
            # all has been answered when this has
            client.send("conversation.item.retrieve", item_id="the end", event_id="the end")
            while not any(e["type"] == "error" and e["error"]["event_id"] == "the end" for e in client.events):
                assert read(client, 30), client.events[-3:]
            errors += sum(event["type"] == "error" for event in client.events)
            answers += sum(event["type"] == "response.done" for event in client.events)
            failed = [e for e in client.events if e["type"] == "error" and e["error"]["code"] == "server_error"]
            assert not failed, failed
            if generator.random() < 0.5:
                client.socket.close()
            else:
                client.socket.socket.close()
        # the faults were in the messages, not in the fuzzer
        assert errors > NUM_MESSAGES // 3 and answers > NUM_MESSAGES // 400
        assert "thirteen" in text_of(beside.ask("What is seven plus six?", output_modalities=["text"]))
    wait_until(lambda: server.server.num_running == 0)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text


def read(client: RealtimeClient, timeout: float) -> bool:
    """Keeps what has come; returns whether anything has."""
    has_come = False
    try:
        while True:
            event = json.loads(client.socket.recv(0 if has_come else timeout))
            EVENTS.validate_python(event)
            client.events.append(event)
            has_come = True
    except (TimeoutError, ConnectionClosed):
        return has_come
