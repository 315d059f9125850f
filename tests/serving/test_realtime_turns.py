# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Conversations over `/v1/realtime`: spoken turns, answers, histories and interruptions."""

import base64
import time

import numpy as np
import pytest
import soxr
from realtime_client import ANSWER, LONG, PUSH_TO_TALK, RealtimeClient, question, silence, text_of

from serving.audio_formats import from_alaw, from_pcm16, from_ulaw, to_alaw, to_ulaw


TEXT = {"output_modalities": ["text"]}


@pytest.fixture
def client(http_server):
    with RealtimeClient(http_server) as client:
        yield client


@pytest.fixture
def pusher(http_server):
    """A client without turn detection."""
    with RealtimeClient(http_server, PUSH_TO_TALK) as client:
        yield client


def spoken_turn(client: RealtimeClient) -> dict:
    client.say(question())
    client.send("input_audio_buffer.commit")
    client.send("response.create")
    return client.answer()


def test_speech_is_found_and_answered(client):
    client.say(silence(0.5) + question() + silence(1))
    response = client.answer()
    assert text_of(response) == ANSWER
    assert response["status"] == "completed" and response["status_details"]["type"] == "completed"
    assert response["usage"]["output_tokens"] > 0
    assert 0 < response["vita_audio"]["time_to_first_audio_ms"] < 20_000

    # in the order of the reference; text and audio alternate
    kinds = [kind for kind in client.types() if not kind.endswith("delta")]
    assert kinds == [
        "session.created",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    by_type = {event["type"]: event for event in client.events}
    # the recording has 76 ms before the first sound, and 300 ms before the speech belong to the turn
    assert 200 < by_type["input_audio_buffer.speech_started"]["audio_start_ms"] < 400
    assert 2300 < by_type["input_audio_buffer.speech_stopped"]["audio_end_ms"] < 3000
    user, assistant = (event for event in client.events if event["type"] == "conversation.item.added")
    assert by_type["input_audio_buffer.speech_started"]["item_id"] == user["item"]["id"]
    assert assistant["previous_item_id"] == user["item"]["id"] and user["previous_item_id"] is None
    deltas = [e["delta"] for e in client.events if e["type"] == "response.output_audio_transcript.delta"]
    assert "".join(deltas) == ANSWER
    seconds = len(client.audio(response["id"])) / 48000
    assert 1.5 < seconds < 5


def test_push_to_talk_for_three_turns(pusher):
    answers = [spoken_turn(pusher) for _ in range(3)]
    # also with a history the model speaks
    assert [text_of(answer) for answer in answers] == [ANSWER] * 3
    assert all(len(pusher.audio(answer["id"])) / 48000 > 1.5 for answer in answers)
    added = [event for event in pusher.events if event["type"] == "conversation.item.added"]
    ids = [event["item"]["id"] for event in added]
    assert len(set(ids)) == 6
    assert [event["previous_item_id"] for event in added] == [None, *ids[:-1]]
    assert [event["item"]["role"] for event in added] == ["user", "assistant"] * 3
    # all that was said before is in the prompt
    tokens = [answer["usage"]["input_tokens"] for answer in answers]
    assert tokens[1] > tokens[0] + 30 and tokens[2] > tokens[1] + 30


def test_what_is_retrieved_is_what_was_said(pusher):
    response = spoken_turn(pusher)
    user_id = next(e["item"]["id"] for e in pusher.events if e["type"] == "conversation.item.added")
    heard = from_pcm16(base64.b64decode(pusher.retrieve(user_id)["content"][0]["audio"]))
    said = from_pcm16(question())
    assert len(heard) == len(said)
    assert np.abs(heard - said).max() < 0.02
    answer = pusher.retrieve(response["output"][0]["id"])["content"][0]
    assert answer["transcript"] == ANSWER
    audio = base64.b64decode(answer["audio"])
    assert len(audio) == len(pusher.audio(response["id"]))
    assert np.abs(from_pcm16(audio) - from_pcm16(pusher.audio(response["id"]))).max() < 0.001


def test_text_answers(client):
    response = client.ask("What is seven plus six?", **TEXT)
    assert "thirteen" in text_of(response)
    assert response["output_modalities"] == ["text"] and response["vita_audio"]["time_to_first_audio_ms"] is None
    deltas = [event["delta"] for event in client.events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == text_of(response)
    assert not any("audio" in kind for kind in client.types())


def test_limit_of_tokens(client):
    response = client.ask("What is seven plus six?", max_output_tokens=2, **TEXT)
    assert response["status"] == "incomplete" and response["status_details"]["reason"] == "max_output_tokens"
    assert response["max_output_tokens"] == 2


def test_no_limit_of_tokens_is_that_of_the_server(http_servers):
    with RealtimeClient(http_servers.start(max_new_tokens=3)) as client:
        # each of the eight sentences that are read aloud has so many
        assert client.ask(LONG)["usage"]["output_tokens"] == 8 * 3
        response = client.ask("What is seven plus six?", max_output_tokens="inf", **TEXT)
        assert response["status"] == "incomplete" and response["usage"]["output_tokens"] == 3
        assert client.ask("What is seven plus six?", max_output_tokens=2, **TEXT)["usage"]["output_tokens"] == 2


def test_out_of_band(client):
    client.write("What is one plus one?", id="item_mine")
    response = {
        "conversation": "none",
        "input": [
            {"type": "item_reference", "id": "item_mine"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two."}]},
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "What is seven plus six?"}],
            },
        ],
        "metadata": {"topic": "sums"},
        **TEXT,
    }
    start = len(client.events)
    client.send("response.create", response=response)
    done = client.answer()
    assert done["metadata"] == {"topic": "sums"} and done["conversation_id"] is None
    assert "thirteen" in text_of(done)
    # nothing of it is in the conversation
    assert not any(kind.startswith("conversation") for kind in client.types(start))
    client.send("conversation.item.retrieve", item_id=done["output"][0]["id"])
    assert client.receive()["error"]["code"] == "item_not_found"


def test_several_out_of_band_at_once(client):
    entry = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is seven plus six?"}]}
    for i in range(5):
        response = {"conversation": "none", "input": [entry], "metadata": {"number": str(i)}, **TEXT}
        client.send("response.create", response=response, event_id=f"event_{i}")
    events = [client.receive()]
    while sum(event["type"] == "response.done" for event in events) < 4:
        events.append(client.receive())
    (error,) = [event["error"] for event in events if event["type"] == "error"]
    assert error["event_id"] == "event_4" and error["code"] == "rate_limit_exceeded"
    numbers = {e["response"]["metadata"]["number"] for e in events if e["type"] == "response.done"}
    assert numbers == {"0", "1", "2", "3"}


def test_items_are_put_where_the_client_says(client):
    client.write("b", id="b")
    client.write("c", id="c")
    client.write("a", "assistant", id="z")
    item = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "a"}], "id": "a"}
    client.send("conversation.item.create", item=item, previous_item_id="root")
    assert client.until("conversation.item.added")["previous_item_id"] is None
    client.send("conversation.item.create", item={**item, "id": "bc"}, previous_item_id="b")
    assert client.until("conversation.item.added")["previous_item_id"] == "b"
    client.until("conversation.item.done")
    client.send("conversation.item.delete", item_id="b")
    assert client.until("conversation.item.deleted")["item_id"] == "b"
    client.write("end", id="end")
    assert client.events[-1]["previous_item_id"] == "z"


def test_audio_of_items(client):
    audio = base64.b64encode(question()).decode()
    item = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": audio}]}
    client.send("conversation.item.create", item=item)
    client.send("response.create")
    assert text_of(client.answer()) == ANSWER


@pytest.mark.parametrize(("kind", "encode", "decode"), [("pcmu", to_ulaw, from_ulaw), ("pcma", to_alaw, from_alaw)])
def test_telephone(http_server, kind, encode, decode):
    audio_format = {"type": f"audio/{kind}"}
    sides = {"input": {"format": audio_format, "turn_detection": None}, "output": {"format": audio_format}}
    with RealtimeClient(http_server, {"audio": sides}) as client:
        audio = base64.b64encode(encode(from_pcm16(question(8000)))).decode()
        client.send("input_audio_buffer.append", audio=audio)
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        response = client.answer()
        assert "thirteen" in text_of(response)
        spoken = decode(client.audio(response["id"]))
        assert 1.5 < len(spoken) / 8000 < 5 and np.abs(spoken).max() > 0.05
        # the same as in another format
        retrieved = client.retrieve(response["output"][0]["id"])["content"][0]["audio"]
        client.send(
            "session.update", session={"type": "realtime", "audio": {"output": {"format": {"type": "audio/pcm"}}}}
        )
        client.until("session.updated")
        pcm = from_pcm16(base64.b64decode(client.retrieve(response["output"][0]["id"])["content"][0]["audio"]))
        again = soxr.resample(pcm, 24000, 8000)[: len(spoken)]
        spoken = decode(base64.b64decode(retrieved))[: len(again)]
        assert np.corrcoef(again, spoken)[0, 1] > 0.98


def test_transcripts_come_after_the_answer(http_server):
    transcription = {"audio": {"input": {"turn_detection": None, "transcription": {"model": "whisper-1"}}}}
    with RealtimeClient(http_server, transcription) as client:
        spoken_turn(client)
        done = client.until("conversation.item.input_audio_transcription.completed")
        assert done["transcript"] == "Tell me the sum of seven and six."
        kinds = client.types()
        first = kinds.index("conversation.item.input_audio_transcription.delta")
        assert first > kinds.index("response.done")
        item = client.retrieve(done["item_id"])
        assert item["content"][0]["transcript"] == done["transcript"]


def test_only_the_latest_audio_is_kept(pusher, monkeypatch):
    # of the two recordings of 1.6 s
    monkeypatch.setattr("serving.realtime_conversation.MAX_KEPT_AUDIO_SECONDS", 2.0)
    items = []
    for _ in range(2):
        pusher.say(question())
        pusher.send("input_audio_buffer.commit")
        items.append(pusher.until("conversation.item.done")["item"]["id"])
    older, latest = (pusher.retrieve(item_id)["content"][0] for item_id in items)
    assert "audio" not in older and latest["audio"]


def test_speech_interrupts_the_answer(client):
    client.write(LONG)
    client.send("response.create")
    first = client.until("response.output_audio.delta")
    client.say(silence(0.5) + question())
    client.until("input_audio_buffer.speech_started")
    start = len(client.events) - 1
    response = client.answer()
    assert response["status"] == "cancelled"
    assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert response["id"] == first["response_id"] and response["output"][0]["status"] == "incomplete"
    kinds = [kind for kind in client.types(start) if not kind.endswith("delta")]
    assert kinds[0] == "input_audio_buffer.speech_started" and kinds[-1] == "response.done"
    # nothing more of it comes, and the client says how much was heard
    client.send("conversation.item.truncate", item_id=first["item_id"], content_index=0, audio_end_ms=60)
    truncated = client.until("conversation.item.truncated")
    assert truncated["audio_end_ms"] == 60
    client.say(silence(1))
    second = client.answer()
    assert second["id"] != first["response_id"] and second["status"] == "completed"
    late = [e for e in client.events[start:] if e["type"].startswith("response.") and "response_id" in e]
    place = next(i for i, e in enumerate(late) if e["response_id"] == second["id"])
    assert all(event["response_id"] == second["id"] for event in late[place:])


def test_speech_that_must_not_interrupt(http_server):
    detection = {"type": "server_vad", "interrupt_response": False}
    with RealtimeClient(http_server, {"audio": {"input": {"turn_detection": detection}}}) as client:
        client.write(LONG)
        client.send("response.create")
        client.until("response.output_audio.delta")
        client.say(silence(0.5) + question() + silence(1))
        client.until("input_audio_buffer.speech_started")
        # nor is the turn answered while another answer is made
        while (error := client.receive())["type"] != "error":
            assert error["type"] != "response.done"
        assert error["error"]["code"] == "conversation_already_has_active_response"
        assert client.answer()["status"] == "completed"


def test_turns_are_not_answered_unless_the_session_says_so(http_server):
    detection = {"type": "server_vad", "create_response": False, "silence_duration_ms": 200, "prefix_padding_ms": 0}
    with RealtimeClient(http_server, {"audio": {"input": {"turn_detection": detection}}}) as client:
        client.say(silence(0.5) + question() + silence(1))
        start = client.until("input_audio_buffer.speech_started")["audio_start_ms"]
        stop = client.until("input_audio_buffer.speech_stopped")["audio_end_ms"]
        assert 500 <= start < 700 and stop < 2600
        client.until("conversation.item.done")
        client.write("Stop.")
        assert "response.created" not in client.types()


def test_cancel_and_truncate(pusher):
    pusher.write(LONG)
    pusher.send("response.create")
    first = pusher.until("response.output_audio.delta")
    pusher.send("response.cancel")
    response = pusher.answer()
    assert response["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    pusher.send("response.cancel", event_id="late")
    error = pusher.receive()["error"]
    assert error["event_id"] == "late" and error["code"] == "response_cancel_not_active"
    pusher.send("conversation.item.truncate", item_id=first["item_id"], content_index=0, audio_end_ms=0)
    pusher.until("conversation.item.truncated")
    content = pusher.retrieve(first["item_id"])["content"][0]
    assert content["transcript"] == "" and content["audio"] == ""


def test_truncation_leaves_what_was_heard(pusher):
    response = spoken_turn(pusher)
    item_id = response["output"][0]["id"]
    length = round(len(pusher.audio(response["id"])) / 48)
    place = {"item_id": item_id, "content_index": 0}
    pusher.send("conversation.item.truncate", **place, audio_end_ms=length + 100, event_id="long")
    error = pusher.receive()["error"]
    assert error["event_id"] == "long" and error["param"] == "audio_end_ms" and f"{length + 100}ms" in error["message"]
    pusher.send("conversation.item.truncate", **place, audio_end_ms=length // 2)
    assert pusher.until("conversation.item.truncated") | place == pusher.events[-1]
    content = pusher.retrieve(item_id)["content"][0]
    assert ANSWER.startswith(content["transcript"]) and len(content["transcript"]) < len(ANSWER)
    assert abs(len(base64.b64decode(content["audio"])) / 48 - length // 2) < 2
    # what is gone does not come back
    pusher.send("conversation.item.truncate", **place, audio_end_ms=length)
    assert pusher.receive()["type"] == "error"


def test_silence_is_answered_if_the_session_says_so(http_server):
    detection = {"type": "server_vad", "idle_timeout_ms": 5000, "create_response": False}
    with RealtimeClient(http_server, {"audio": {"input": {"turn_detection": detection}}}) as client:
        client.ask("What is seven plus six?")
        # the timeout counts from when the answer can have been played
        length = len(client.audio(client.events[-1]["response"]["id"])) / 48000
        client.say(silence(1))
        time.sleep(length)
        noise = 0.001 * np.random.default_rng(0).standard_normal(24000 * 6)
        client.say((noise * 32767).astype("<i2").tobytes())
        event = client.until("input_audio_buffer.timeout_triggered")
        assert 5000 <= event["audio_end_ms"] - event["audio_start_ms"] < 5200
        assert client.until("input_audio_buffer.committed")["item_id"] == event["item_id"]
        client.answer()


def test_silence_counts_from_the_end_of_the_last_answer(http_server):
    detection = {"type": "server_vad", "idle_timeout_ms": 5000, "create_response": False}
    noise = (32.767 * np.random.default_rng(0).standard_normal(24000)).astype("<i2").tobytes()
    with RealtimeClient(http_server, {"audio": {"input": {"turn_detection": detection}}}) as client:
        client.ask("What is seven plus six?")
        time.sleep(len(client.audio(client.events[-1]["response"]["id"])) / 48000)
        client.say(4 * noise)
        # Somebody writes before it has been silent for long enough, and is being answered
        client.ask("What is two plus five?")
        client.say(noise + noise)
        client.send("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")
        assert "input_audio_buffer.timeout_triggered" not in client.types()


def test_mode_and_instructions(http_server):
    with RealtimeClient(http_server, {"vita_audio": {"mctp_mode": "boost"}, "instructions": "Be brief."}) as client:
        session = client.events[-1]["session"]
        assert session["vita_audio"] == {"mctp_mode": "boost", "mctp_verify": None}
        assert session["instructions"] == "Be brief."
        response = client.ask("What is seven plus six?", vita_audio={"mctp_mode": "vanilla"}, instructions="", **TEXT)
        assert "thirteen" in text_of(response)
        # what an update leaves out stays; null is the default
        client.send("session.update", session={"type": "realtime", "vita_audio": None})
        session = client.until("session.updated")["session"]
        assert session["vita_audio"] == {"mctp_mode": None, "mctp_verify": None}
        assert session["instructions"] == "Be brief."


def test_tolerance(http_server, monkeypatch):
    asked, engine = [], http_server.server.assistant.engine
    generate = engine.generate
    monkeypatch.setattr(engine, "generate", lambda request: asked.append(request) or generate(request))
    with RealtimeClient(http_server, {"vita_audio": {"mctp_mode": "turbo", "mctp_verify": [1, 0.5]}}) as client:
        # what an update leaves out stays
        client.send("session.update", session={"type": "realtime", "vita_audio": {"mctp_mode": "boost"}})
        session = client.until("session.updated")["session"]
        assert session["vita_audio"] == {"mctp_mode": "boost", "mctp_verify": [1, 0.5]}
        for options in ({}, {"vita_audio": {"mctp_verify": False}}, {"vita_audio": {"mctp_verify": True}}):
            client.ask("What is seven plus six?", **options, **TEXT)
        client.send("session.update", session={"type": "realtime", "vita_audio": {"mctp_verify": None}})
        session = client.until("session.updated")["session"]
        assert session["vita_audio"] == {"mctp_mode": "boost", "mctp_verify": None}
    assert [request.mctp_verify for request in asked] == [[1, 0.5], False, True]
    assert {request.mctp_mode for request in asked} == {"boost"}
