# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What is wrong in a session over `/v1/realtime` is said, and nothing else suffers."""

import asyncio
import base64
import json
import socket
import time
from contextlib import aclosing, contextmanager

import numpy as np
import pytest
from realtime_client import ANSWER, LONG, PUSH_TO_TALK, RealtimeClient, question, silence, text_of
from waiting import wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus


MESSAGE = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}


def session(**fields) -> dict:
    return {"type": "session.update", "session": {"type": "realtime", **fields}}


def audio_in(**fields) -> dict:
    return session(audio={"input": fields})


def item(**fields) -> dict:
    return {"type": "conversation.item.create", "item": {**MESSAGE, **fields}}


def content(role: str, *parts: dict) -> dict:
    return item(role=role, content=list(parts))


def response(**fields) -> dict:
    return {"type": "response.create", "response": fields}


def vad(**fields) -> dict:
    return audio_in(turn_detection={"type": "server_vad", **fields})


# An event, the code and the parameter of its error, and a word that its message must have
WRONG = [
    ({"type": "session.delete"}, "invalid_value", "type", "input_audio_buffer.append"),
    ({"type": 5}, "invalid_value", "type", "session.update"),
    ({}, "missing_required_parameter", "type", "session.update"),
    # session.update
    ({"type": "session.update"}, "missing_required_parameter", "session", "session"),
    ({"type": "session.update", "session": {}}, "missing_required_parameter", "session.type", "session.type"),
    ({"type": "session.update", "session": []}, "invalid_value", "session", "object"),
    ({"type": "session.update", "session": {"type": "transcription"}}, "invalid_value", "session", "'realtime'"),
    ({**session(), "extra": 1}, "unknown_parameter", None, "'extra'"),
    (session(voice="alloy"), "unknown_parameter", "session", "'voice'"),
    (session(model="gpt-realtime"), "invalid_value", "session.model", "vita-audio-mini"),
    (session(instructions=5), "invalid_value", "session.instructions", "string"),
    (session(output_modalities=["text", "audio"]), "invalid_value", "session.output_modalities", '["audio"]'),
    (session(output_modalities="audio"), "invalid_value", "session.output_modalities", "list"),
    (session(max_output_tokens=0), "invalid_value", "session.max_output_tokens", "4096"),
    (session(max_output_tokens=True), "invalid_value", "session.max_output_tokens", "4096"),
    (session(tools=[{"type": "function", "name": "f"}]), "invalid_value", "session.tools", "[]"),
    (session(tool_choice="required"), "invalid_value", "session.tool_choice", '"auto"'),
    (session(prompt={"id": "p"}), "invalid_value", "session.prompt", "instructions"),
    (session(truncation={"type": "retention_ratio"}), "invalid_value", "session.truncation", '"disabled"'),
    (session(include=["item.input_audio_transcription.logprobs"]), "invalid_value", "session.include", "[]"),
    (session(audio={"output": {"speed": 1.2}}), "invalid_value", "session.audio.output.speed", "1.0"),
    (session(audio={"output": {"voice": 5}}), "invalid_value", "session.audio.output.voice", "name"),
    (session(vita_audio={"mctp_mode": "fast"}), "invalid_value", "session.vita_audio.mctp_mode", "'turbo'"),
    (session(vita_audio={"mctp_verify": [1]}), "invalid_value", "session.vita_audio.mctp_verify", "two or three"),
    (session(vita_audio={"mctp_verify": "yes"}), "invalid_value", "session.vita_audio.mctp_verify", "from 0 to 1"),
    (audio_in(format={"type": "audio/mp3"}), "invalid_value", "session.audio.input.format", "'audio/pcmu'"),
    (audio_in(format={"type": "audio/pcm", "rate": 16000}), "invalid_value", "session.audio.input.format", "24000"),
    (
        audio_in(noise_reduction={"type": "loud"}),
        "invalid_value",
        "session.audio.input.noise_reduction",
        "'near_field'",
    ),
    (audio_in(transcription={"model": 5}), "invalid_value", "session.audio.input.transcription.model", "string"),
    (audio_in(turn_detection={}), "missing_required_parameter", "session.audio.input.turn_detection.type", "type"),
    (audio_in(turn_detection={"type": "push"}), "invalid_value", "session.audio.input.turn_detection", "'server_vad'"),
    (vad(threshold=1.5), "invalid_value", "session.audio.input.turn_detection.threshold", "1"),
    (vad(prefix_padding_ms=-1), "invalid_value", "session.audio.input.turn_detection.prefix_padding_ms", "0"),
    (vad(silence_duration_ms=1e9), "invalid_value", "session.audio.input.turn_detection.silence_duration_ms", "int"),
    (vad(idle_timeout_ms=100), "invalid_value", "session.audio.input.turn_detection.idle_timeout_ms", "5000"),
    (vad(create_response="yes"), "invalid_value", "session.audio.input.turn_detection.create_response", "boolean"),
    # input_audio_buffer.*, output_audio_buffer.clear
    ({"type": "input_audio_buffer.append"}, "missing_required_parameter", "audio", "audio"),
    ({"type": "input_audio_buffer.append", "audio": [1]}, "invalid_value", "audio", "string"),
    ({"type": "input_audio_buffer.append", "audio": "****"}, "invalid_value", "audio", "base64"),
    ({"type": "input_audio_buffer.append", "audio": "AAA"}, "invalid_value", "audio", "base64"),
    ({"type": "input_audio_buffer.append", "audio": "ä"}, "invalid_value", "audio", "base64"),
    ({"type": "input_audio_buffer.append", "audio": "AAAA"}, "invalid_value", "audio", "3 bytes"),
    ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", None, "100ms"),
    ({"type": "input_audio_buffer.commit", "item_id": "a"}, "unknown_parameter", None, "'item_id'"),
    ({"type": "input_audio_buffer.clear", "all": True}, "unknown_parameter", None, "'all'"),
    ({"type": "output_audio_buffer.clear"}, "invalid_value", "type", "conversation.item.truncate"),
    # conversation.item.create
    ({"type": "conversation.item.create"}, "missing_required_parameter", "item", "item"),
    ({"type": "conversation.item.create", "item": "hello"}, "invalid_value", "item", "object"),
    (item(type="function_call"), "invalid_value", "item", "'message'"),
    (item(role="tool"), "invalid_value", "item.role", "'assistant'"),
    (item(id=""), "invalid_value", "item.id", "1 character"),
    (item(id="taken"), "invalid_value", "item.id", "'taken'"),
    (item(id="root"), "invalid_value", "item.id", "'root'"),
    (item(content=[]), "invalid_value", "item.content", "1"),
    (item(content="Hello."), "invalid_value", "item.content", "list"),
    (item(content=[{"type": "input_text"}]), "invalid_value", "item.content.0", '"text"'),
    (item(content=[{"type": "input_image", "image_url": "x"}]), "invalid_value", "item.content.0", "'input_audio'"),
    ({**item(), "previous_item_id": "none"}, "item_not_found", "previous_item_id", "'none'"),
    (content("assistant", {"type": "input_text", "text": "a"}), "invalid_value", "item", "output_text"),
    (content("assistant", {"type": "output_audio", "audio": ""}), "invalid_value", "item.content.0", "'output_text'"),
    (content("system", {"type": "input_audio", "audio": ""}), "invalid_value", "item", "input_text"),
    (content("user", {"type": "input_audio"}), "invalid_value", "item.content.0", '"audio"'),
    (
        content("user", {"type": "input_text", "text": "<|im_"}, {"type": "input_text", "text": "end|>"}),
        "invalid_value",
        "item.content",
        "control mark",
    ),
    (
        content("user", {"type": "input_text", "text": "a" * 10**6}),
        "string_above_max_length",
        "item.content",
        "characters",
    ),
    (session(instructions="a<|audio_3|>"), "invalid_value", "session.instructions", "control mark"),
    (content("user", {"type": "input_audio", "audio": "?"}), "invalid_value", "item.content.0.audio", "base64"),
    (content("user", {"type": "input_audio", "audio": "AAAA"}), "invalid_value", "item.content.0.audio", "3 bytes"),
    (content("user", {"type": "input_audio", "audio": "AAAAAAAA"}), "invalid_value", "item.content.0.audio", "0.1"),
    # conversation.item.retrieve | delete | truncate
    ({"type": "conversation.item.retrieve"}, "missing_required_parameter", "item_id", "item_id"),
    ({"type": "conversation.item.retrieve", "item_id": "none"}, "item_not_found", "item_id", "'none'"),
    ({"type": "conversation.item.delete", "item_id": "none"}, "item_not_found", "item_id", "'none'"),
    ({"type": "conversation.item.delete", "item_id": 7}, "invalid_value", "item_id", "string"),
    (
        {"type": "conversation.item.truncate", "item_id": "taken"},
        "missing_required_parameter",
        "content_index",
        "index",
    ),
    (
        {"type": "conversation.item.truncate", "item_id": "none", "content_index": 0, "audio_end_ms": 0},
        "item_not_found",
        "item_id",
        "'none'",
    ),
    (
        {"type": "conversation.item.truncate", "item_id": "taken", "content_index": 0, "audio_end_ms": 0},
        "invalid_value",
        "item_id",
        "spoken",
    ),
    (
        {"type": "conversation.item.truncate", "item_id": "taken", "content_index": 0, "audio_end_ms": -1},
        "invalid_value",
        "audio_end_ms",
        "0",
    ),
    # response.create | cancel
    (response(conversation="mine"), "invalid_value", "response.conversation", "'none'"),
    (response(input=[{"type": "item_reference", "id": "none"}]), "item_not_found", "response.input.0.id", "'none'"),
    (response(input=[{"type": "item_reference"}]), "missing_required_parameter", "response.input.0.id", "id"),
    (response(input=[{"type": "mcp_call"}]), "invalid_value", "response.input.0", "'message'"),
    (response(input=[]), "invalid_value", None, "nothing to answer"),
    (response(max_output_tokens=5000), "invalid_value", "response.max_output_tokens", '"inf"'),
    (response(metadata={"a": 1}), "invalid_value", "response.metadata.a", "string"),
    (response(metadata={"a": "x" * 513}), "invalid_value", "response.metadata", "512"),
    (response(output_modalities=[]), "invalid_value", "response.output_modalities", '["text"]'),
    (response(tools=[{}]), "invalid_value", "response.tools", "[]"),
    (
        response(audio={"output": {"format": {"type": "wav"}}}),
        "invalid_value",
        "response.audio.output.format",
        "'audio/pcm'",
    ),
    (response(vita_audio={"mctp_verify": 2}), "invalid_value", "response.vita_audio.mctp_verify", "from 0 to 1"),
    (response(vita_audio={"mode": "boost"}), "unknown_parameter", "response.vita_audio", "mctp_mode"),
    (response(), "invalid_value", None, "nothing to answer"),
    ({"type": "response.cancel"}, "response_cancel_not_active", None, "no active response"),
    (
        {"type": "response.cancel", "response_id": "r"},
        "response_cancel_not_active",
        "response_id",
        "no active response",
    ),
]


@pytest.fixture(scope="module")
def client(http_server):
    """Of one session for all that is wrong, which must stand all of it."""
    with RealtimeClient(http_server) as client:
        client.write("Nothing.", "assistant", id="taken")
        yield client


@pytest.mark.parametrize("event", WRONG, ids=lambda event: f"{event[0].get('type')}-{event[1]}-{event[2]}")
def test_what_is_wrong_is_named(client, event):
    event, code, param, word = event
    client.socket.send(json.dumps({"event_id": "mine", **event}))
    answer = client.receive()
    assert answer["type"] == "error"
    error = answer["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["event_id"], error["code"], error["param"]) == ("mine", code, param), error
    assert word in error["message"], error["message"]


@pytest.mark.parametrize(
    "message",
    [
        "",
        "hello",
        "[]",
        "5",
        "null",
        '{"type": "response.cancel"',
        "[" * 100_000,
        "9" * 5000,
        '{"type": NaN}',
        b"\x00\x01",
    ],
    ids=lambda message: repr(message[:8]),
)
def test_what_is_no_event(client, message):
    client.socket.send(message)
    error = client.receive()["error"]
    assert error["event_id"] is None and error["code"] in ("invalid_json", "invalid_value")


def test_long_names_are_not_said_in_full(client):
    client.socket.send(json.dumps(response(metadata={"k" * 10_000: 5})))
    error = client.receive()["error"]
    assert error["param"].startswith("response.metadata.kkk") and len(error["message"]) < 1000


def test_too_many_values_are_refused(client):
    client.socket.send('{"type": "response.cancel", "a": [' + "{}," * 100_000 + "{}]}")
    error = client.receive()["error"]
    assert error["code"] == "invalid_json" and "commas" in error["message"]


def test_half_a_character_is_refused(client):
    client.socket.send('{"type": "conversation.item.retrieve", "item_id": "\\ud800"}')
    assert client.receive()["error"]["code"] == "invalid_json"


def test_an_id_of_the_wrong_type(client):
    client.send("input_audio_buffer.clear", event_id=5)
    error = client.receive()["error"]
    assert error["event_id"] is None and error["param"] == "event_id"


def test_the_session_still_answers(client):
    assert "thirteen" in text_of(client.ask("What is seven plus six?", output_modalities=["text"]))


def test_what_has_no_effect_is_taken(http_server):
    """What standard clients send unasked must not end in an error."""
    with RealtimeClient(http_server) as client:
        client.send(
            "session.update",
            session={
                "type": "realtime",
                "model": "vita-audio-mini",
                "tools": [],
                "tool_choice": "auto",
                "tracing": "auto",
                "parallel_tool_calls": False,
                "reasoning": {"effort": "low"},
                "prompt": None,
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "noise_reduction": {"type": "near_field"},
                        "turn_detection": {"type": "semantic_vad", "eagerness": "low"},
                        "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en"},
                    },
                    "output": {"voice": "marin", "speed": 1},
                },
            },
        )
        session = client.until("session.updated")["session"]
    assert session["tracing"] is None and session["audio"]["output"]["voice"] == "default"
    assert session["audio"]["input"]["noise_reduction"] is None
    assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 900
    assert session["audio"]["input"]["transcription"] == {"model": "gpt-4o-mini-transcribe", "language": "en"}


def test_events_in_the_wrong_order(http_server):
    with RealtimeClient(http_server, PUSH_TO_TALK) as client:
        client.write(LONG)
        client.send("response.create")
        response_id = client.until("response.created")["response"]["id"]
        client.send("response.create", event_id="second")
        item_id = None
        while (event := client.receive())["type"] != "error":
            item_id = event.get("item_id", item_id)
        assert event["error"]["event_id"] == "second" and response_id in event["error"]["message"]
        assert event["error"]["code"] == "conversation_already_has_active_response"
        item_id = item_id or client.until("response.content_part.added")["item_id"]
        client.send("conversation.item.delete", item_id=item_id, event_id="early")
        while (event := client.receive())["type"] != "error":
            pass
        assert event["error"]["event_id"] == "early" and event["error"]["code"] == "item_in_progress"
        client.send("response.cancel", response_id=response_id)
        assert client.answer()["status"] == "cancelled"
        client.send("conversation.item.delete", item_id=item_id)
        client.until("conversation.item.deleted")


@pytest.fixture
def breaks_after(assistant, monkeypatch):
    """Lets the engine fail in all it writes, after so many times of a few tokens, as long as this is open."""
    write = assistant.engine.generate

    @contextmanager
    def break_after(num_written: int):
        async def generate(request):
            async with aclosing(write(request)) as stream:
                for _ in range(num_written):
                    yield await anext(stream)
            raise RuntimeError("The engine is broken.")

        with monkeypatch.context() as patch:
            patch.setattr(assistant.engine, "generate", generate)
            yield

    return break_after


@pytest.mark.parametrize("num_written", [0, 3])
def test_an_answer_that_fails_leaves_the_next_one_alone(http_server, breaks_after, num_written):
    with RealtimeClient(http_server, PUSH_TO_TALK) as client:
        with breaks_after(num_written):
            failed = client.ask(LONG)
        # what was wrong inside is not the client's to know
        error = {"type": "server_error", "code": "server_error", "message": "The server failed on this request."}
        assert failed["status"] == "failed"
        assert failed["status_details"] == {"type": "failed", "error": error}
        assert [item["status"] for item in failed["output"]] == ["incomplete"] * bool(num_written)
        assert [e["item"] for e in client.events if e["type"] == "response.output_item.done"] == failed["output"]
        answer = client.ask("What is seven plus six?", output_modalities=["text"])
        assert answer["status"] == "completed" and "thirteen" in text_of(answer)


@pytest.mark.parametrize("num_written", [0, 3])
def test_a_transcription_that_fails_leaves_the_next_one_alone(http_server, breaks_after, num_written):
    transcribing = {"audio": {"input": {"turn_detection": None, "transcription": {"model": "whisper-1"}}}}
    with RealtimeClient(http_server, transcribing) as client:

        def transcription(outcome: str) -> dict:
            client.say(question())
            client.send("input_audio_buffer.commit")
            item_id = client.until("conversation.item.done")["item"]["id"]
            event = client.until(f"conversation.item.input_audio_transcription.{outcome}")
            assert event["item_id"] == item_id
            return event

        with breaks_after(num_written):
            failed = transcription("failed")
        assert failed["error"]["type"] == "server_error" and "broken" not in failed["error"]["message"]
        assert client.retrieve(failed["item_id"])["content"][0]["transcript"] is None
        assert transcription("completed")["transcript"] == "Tell me the sum of seven and six."


def test_silence_is_no_turn(http_server):
    with RealtimeClient(http_server, PUSH_TO_TALK) as client:
        client.say(silence(1))
        client.send("input_audio_buffer.commit", event_id="silent")
        error = client.receive()["error"]
        assert error["event_id"] == "silent" and "silent" in error["message"]
        # the buffer is empty again
        client.say(question())
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        assert text_of(client.answer()) == ANSWER


def test_clear_takes_back_what_was_said(http_server):
    with RealtimeClient(http_server, PUSH_TO_TALK) as client:
        client.say(question())
        client.send("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")
        client.send("input_audio_buffer.commit")
        assert client.receive()["error"]["code"] == "input_audio_buffer_commit_empty"


def test_turns_have_a_longest(http_servers):
    server = http_servers.start(max_audio_seconds=3)
    with RealtimeClient(server, PUSH_TO_TALK) as client:
        client.say(silence(2.5))
        client.send("input_audio_buffer.append", audio=base64.b64encode(silence(1)).decode(), event_id="more")
        error = client.receive()["error"]
        assert error["event_id"] == "more" and error["code"] == "input_audio_buffer_full" and "3 s" in error["message"]
    # speech without an end is cut into turns; here it is one that is repeated without a pause
    detection = {"type": "server_vad", "create_response": False}
    with RealtimeClient(server, {"audio": {"input": {"turn_detection": detection}}}) as client:
        client.say(question() * 4)
        start = client.until("input_audio_buffer.speech_started")["audio_start_ms"]
        stop = client.until("input_audio_buffer.speech_stopped")["audio_end_ms"]
        assert stop - start == 3000
        assert client.until("input_audio_buffer.speech_started")["audio_start_ms"] >= stop


@pytest.mark.slow
def test_ten_minutes_of_noise(http_server):
    noise = (np.random.default_rng(0).uniform(-0.3, 0.3, 24000 * 60) * 32767).astype("<i2").tobytes()
    with RealtimeClient(http_server) as client, RealtimeClient(http_server) as beside:
        for _ in range(10):
            client.say(noise, seconds_per_message=10)
        # the other session is answered meanwhile
        assert "thirteen" in text_of(beside.ask("What is seven plus six?", output_modalities=["text"]))
        client.send("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")


def test_sessions_at_once(http_servers):
    server = http_servers.start(max_sessions=1)
    with RealtimeClient(server):
        with pytest.raises(InvalidStatus) as refused, RealtimeClient(server):
            pass
        assert refused.value.response.status_code == 429
        assert "sessions" in json.loads(refused.value.response.body)["error"]["message"]
    wait_until(lambda: sessions_of(server) == 0)
    with RealtimeClient(server):
        pass


@pytest.mark.parametrize(("query", "status"), [("model=gpt-realtime", 404), ("intent=transcription", 400)])
def test_handshakes_that_are_refused(http_server, query, status):
    with pytest.raises(InvalidStatus) as refused, RealtimeClient(http_server, path=f"/v1/realtime?{query}"):
        pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["error"]["param"] in ("model", "intent")


def test_idle_sessions_end(http_servers):
    with RealtimeClient(http_servers.start(idle_seconds=0.3)) as client, pytest.raises(ConnectionClosed) as closed:
        client.receive()
    assert closed.value.rcvd.code == 1000 and "idle" in closed.value.rcvd.reason


@pytest.mark.parametrize("truncation", ["auto", "disabled"])
def test_items_of_a_conversation(http_servers, truncation):
    with RealtimeClient(http_servers.start(max_turns=3), {"truncation": truncation}) as client:
        for name in "abc":
            client.write(name, id=name)
        client.send("conversation.item.create", item={**MESSAGE, "id": "d"})
        if truncation == "disabled":
            error = client.receive()["error"]
            assert error["code"] == "too_many_items" and "3 items" in error["message"]
        else:
            client.until("conversation.item.done")
            assert client.until("conversation.item.deleted")["item_id"] == "a"


def test_the_turns_of_the_system_are_removed_last(http_servers):
    with RealtimeClient(http_servers.start(max_turns=3)) as client:
        for role, name in (("user", "a"), ("system", "b"), ("system", "c"), ("user", "d"), ("system", "e")):
            client.write(name, role, id=name)
        assert [client.until("conversation.item.deleted")["item_id"] for _ in "a"] == ["d"]
        # where there are no others
        client.write("f", "system", id="f")
        assert client.until("conversation.item.deleted")["item_id"] == "b"


def test_a_recording_stays_where_there_is_no_room_for_it(http_servers):
    with RealtimeClient(http_servers.start(max_turns=1), {"truncation": "disabled", **PUSH_TO_TALK}) as client:
        client.write("Hello.", id="hello")
        client.say(question())
        client.send("input_audio_buffer.commit")
        assert client.receive()["error"]["code"] == "too_many_items"
        client.send("conversation.item.delete", item_id="hello")
        client.until("conversation.item.deleted")
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        assert text_of(client.answer()) == ANSWER


def test_speech_for_which_there_is_no_room_is_dropped(http_servers, assistant):
    with RealtimeClient(http_servers.start(max_turns=1), {"truncation": "disabled"}) as client:
        client.write("Hello.", id="hello")
        turn = silence(0.5) + question() + silence(1)
        for _ in range(2):
            client.say(turn)
            client.until("input_audio_buffer.speech_stopped")
            assert client.receive()["error"]["code"] == "too_many_items"
        assert assistant.codec_worker._listening == []
        client.send("conversation.item.delete", item_id="hello")
        client.until("conversation.item.deleted")
        client.say(turn)
        # of this turn alone
        assert text_of(client.answer()) == ANSWER
        start, stop = (
            [e[f"audio_{end}_ms"] for e in client.events if e["type"] == f"input_audio_buffer.speech_{kind}"]
            for kind, end in (("started", "start"), ("stopped", "end"))
        )
        assert len(start) == len(stop) == 3 and stop[2] - start[2] < 3000


def test_slow_readers_are_let_go(http_servers):
    server = http_servers.start(send_seconds=0.5)
    # the client's own buffer holds one message
    with RealtimeClient(server, PUSH_TO_TALK, max_queue=1) as client:
        client.say(question() * 10)
        client.send("input_audio_buffer.commit")
        item_id = client.until("conversation.item.done")["item"]["id"]
        # 1.1 MB each, and nobody reads them
        for _ in range(20):
            client.send("conversation.item.retrieve", item_id=item_id)
        wait_until(lambda: sessions_of(server) == 0)
        # what was in the buffers of both sides is less than what was asked for
        with pytest.raises(ConnectionClosed):
            for _ in range(20):
                client.receive()


def test_a_server_that_ends_sends_its_answers_to_the_end(http_servers):
    server = http_servers.start()
    with RealtimeClient(server, PUSH_TO_TALK, max_queue=1) as client:
        fill_buffers(client, server)
        client.send("response.create", response={"output_modalities": ["text"]})
        finished = server.server.metrics.answers.labels("realtime", "finished")
        wait_until(lambda: finished._value.get() == 1)
        drained = asyncio.run_coroutine_threadsafe(server.server.drain(), http_servers.loop)
        time.sleep(0.3)
        assert not drained.done()
        assert text_of(client.answer()) == ANSWER
        drained.result(5)


def test_what_is_thrown_away_is_not_counted_as_sent(http_servers):
    server = http_servers.start()
    with RealtimeClient(server, PUSH_TO_TALK, max_queue=1) as client:
        outbox = fill_buffers(client, server)

        async def has_audio():
            return any(stream_id is not None for _, stream_id, _ in outbox._events)

        client.send("response.create")
        # behind what is being sent
        wait_until(lambda: http_servers.call(has_audio()))
        client.send("response.cancel")
        assert client.answer()["status"] == "cancelled"
        wait_until(lambda: outbox.is_empty)


def fill_buffers(client: RealtimeClient, server):
    """Lets the server send what nobody reads until the buffers of both sides are full, and returns its outbox."""
    client.say(question())
    client.send("input_audio_buffer.commit")
    item_id = client.until("conversation.item.done")["item"]["id"]
    (outbox,) = server.server._outboxes
    # 0.1 MB each
    while outbox._num_bytes < 2**19:
        client.send("conversation.item.retrieve", item_id=item_id)
        time.sleep(0.02)
    return outbox


def test_a_client_that_vanishes(http_servers):
    server = http_servers.start()
    before = http_servers.call(count_tasks())
    vanishing = RealtimeClient(server, {"audio": {"input": {"transcription": {"model": "whisper-1"}}}})
    vanishing.say(silence(0.5) + question() + silence(1))
    vanishing.until("response.done")
    vanishing.write(LONG)
    vanishing.send("response.create")
    vanishing.until("response.created")
    vanishing.say(silence(0.5) + question())
    # no goodbye
    vanishing.socket.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: sessions_of(server) == 0 and server.server.num_running == 0)
    wait_until(lambda: http_servers.call(count_tasks()) <= before)
    with RealtimeClient(server) as client:
        assert "thirteen" in text_of(client.ask("What is seven plus six?", output_modalities=["text"]))


def test_measures(http_servers):
    server = http_servers.start()
    metrics = server.server.metrics

    def value(name: str, **labels: str) -> float:
        return metrics.registry.get_sample_value(f"vita_audio_{name}", labels)

    with RealtimeClient(server) as client:
        assert value("sessions") == 1
        response = client.ask("What is seven plus six?")
        assert value("answers_total", endpoint="realtime", outcome="finished") == 1
        measured = value("first_audio_seconds_sum", endpoint="realtime")
        assert abs(measured * 1000 - response["vita_audio"]["time_to_first_audio_ms"]) < 50
    with RealtimeClient(server) as client:
        client.write(LONG)
        client.send("response.create")
        client.until("response.output_audio.delta")
        client.send("response.cancel")
        client.answer()
        assert value("answers_total", endpoint="realtime", outcome="cancelled") == 1
        client.send("response.cancel")
        client.receive()
        assert value("refused_total", code="response_cancel_not_active") == 1
    wait_until(lambda: value("sessions") == 0)


def sessions_of(server) -> int:
    return server.server.metrics.registry.get_sample_value("vita_audio_sessions")


async def count_tasks() -> int:
    return len(asyncio.all_tasks())
