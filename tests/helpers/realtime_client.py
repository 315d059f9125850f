# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""A client of the Realtime protocol that keeps everything, for tests; and what it says."""

import base64
import json
from functools import cache

import soundfile
import soxr
from openai.types.realtime import RealtimeServerEvent
from places import MINI
from pydantic import TypeAdapter
from websockets.sync.client import connect

from processing.conversation_vita_audio import TTS_PROMPT
from serving.audio_formats import to_pcm16


# Every event must be one of the official client's types
EVENTS = TypeAdapter(RealtimeServerEvent)

# How long a test waits for an event, in seconds
PATIENCE = 30

PUSH_TO_TALK = {"audio": {"input": {"turn_detection": None}}}
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
ANSWER = "The sum of seven and six is thirteen."

# What the shipped model takes long to answer: it reads the text aloud
LONG = TTS_PROMPT + " ".join(
    f"The sum of {a} and {b} is {c}." for a, b, c in zip(NUMBERS, NUMBERS[1:], NUMBERS[::2], strict=False)
)


@cache
def question(sampling_rate: int = 24000) -> bytes:
    """The recording that the shipped model answers with `ANSWER`, 16-bit PCM."""
    samples, rate = soundfile.read(MINI / "sample_question.wav", dtype="float32")
    return to_pcm16(soxr.resample(samples, rate, sampling_rate))


def silence(seconds: float) -> bytes:
    """16-bit PCM at 24 kHz."""
    return bytes(int(24000 * seconds) * 2)


class RealtimeClient:
    """
    A connection, to be used in a `with`.

    Args:
        server (`Address`): of `http_servers`.
        session (`dict`, *optional*): sent as `session.update` at once.
        path (`str`, *optional*): with another query.

    Attributes:
        events (`list[dict]`): all that came, in order.
    """

    def __init__(self, server, session: dict | None = None, path: str = "/v1/realtime", **options):
        self._connection = connect(server.url.replace("http", "ws") + path, max_size=None, **options)
        self.socket = self._connection.__enter__()
        self.events = []
        self.until("session.created")
        if session is not None:
            self.send("session.update", session={"type": "realtime", **session})
            self.until("session.updated")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._connection.__exit__(*error)

    def send(self, kind: str, **fields) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def say(self, audio: bytes, seconds_per_message: float = 0.1) -> None:
        """Appends audio at 24 kHz in messages of this length, as fast as they are taken."""
        step = int(24000 * seconds_per_message) * 2
        for start in range(0, len(audio), step):
            self.send("input_audio_buffer.append", audio=base64.b64encode(audio[start : start + step]).decode())

    def receive(self) -> dict:
        event = json.loads(self.socket.recv(PATIENCE))
        EVENTS.validate_python(event)
        self.events.append(event)
        return event

    def until(self, kind: str) -> dict:
        """The next event of a type. An error that nobody expects is one of the test."""
        while (event := self.receive())["type"] != kind:
            assert event["type"] != "error", event
        return event

    def answer(self) -> dict:
        """The response of the next `response.done`."""
        return self.until("response.done")["response"]

    def ask(self, text: str, **response) -> dict:
        """Asks in writing, and returns the response."""
        self.write(text)
        self.send("response.create", response=response)
        return self.answer()

    def write(self, text: str, role: str = "user", **fields) -> dict:
        """Adds an item of text, and returns it."""
        kind = "output_text" if role == "assistant" else "input_text"
        item = {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **fields}
        self.send("conversation.item.create", item=item)
        return self.until("conversation.item.done")["item"]

    def types(self, start: int = 0) -> list[str]:
        """The types of all events from the one of this number on, one for each run of deltas."""
        kinds = [event["type"] for event in self.events[start:]]
        return [kind for i, kind in enumerate(kinds) if not (i and kind.endswith("delta") and kind == kinds[i - 1])]

    def audio(self, response_id: str) -> bytes:
        """The audio of a response."""
        deltas = [e for e in self.events if e["type"] == "response.output_audio.delta"]
        return b"".join(base64.b64decode(e["delta"]) for e in deltas if e["response_id"] == response_id)

    def retrieve(self, item_id: str) -> dict:
        self.send("conversation.item.retrieve", item_id=item_id)
        return self.until("conversation.item.retrieved")["item"]


def text_of(response: dict) -> str:
    """What a response says or writes."""
    (part,) = response["output"][0]["content"]
    return part["transcript"] if part["type"] == "output_audio" else part["text"]
