# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a server takes and makes at once, clients that vanish or do not read, and what it counts of all that."""

import asyncio
import base64
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import openai
import pytest
from made_up_assistants import MadeUpAssistant
from prometheus_client.parser import text_string_to_metric_families
from waiting import wait_until

from serving.audio_formats import encode_whole
from serving.engine import EngineOverloaded, EngineUnavailable


CHAT, SPEECH, TRANSCRIPTIONS = "/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"
HELLO = {"model": "made-up", "messages": [{"role": "user", "content": "Hello"}]}
SAY = {"model": "made-up", "input": "Hello", "voice": "alloy", "response_format": "pcm"}
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)


def values(address):
    """All samples of `/metrics`, by name and the values of their labels."""
    text = httpx.get(f"{address.url}/metrics").text
    return {
        (sample.name.removeprefix("vita_audio_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def close_gate(http_servers, assistant, is_closed=True):
    async def change():
        assistant.gate.clear() if is_closed else assistant.gate.set()

    http_servers.call(change())


@contextmanager
def raw_request(address, path, body, **options):
    """A socket on which a request was sent, and nothing is read."""
    content = json.dumps(body).encode()
    with socket.socket() as connection:
        for option, value in options.items():
            connection.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
        connection.connect(("127.0.0.1", address.port))
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        yield connection


def test_a_full_queue(http_servers):
    assistant = MadeUpAssistant()
    address = http_servers.start(assistant, max_answers=2, max_queue=3)
    close_gate(http_servers, assistant)
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(httpx.post, address.url + CHAT, json=HELLO, timeout=30) for _ in range(5)]
        wait_until(lambda: (values(address)[("answers_running",)], values(address)[("queue",)]) == (2, 3))
        client = openai.OpenAI(base_url=f"{address.url}/v1", api_key="any", max_retries=0, timeout=10)
        with pytest.raises(openai.RateLimitError, match="2 answers at once, and 3 more requests are waiting") as error:
            client.chat.completions.create(**HELLO)
        assert error.value.code == "rate_limit_exceeded" and int(error.value.response.headers["retry-after"]) > 0
        assert len(assistant.answers) == 2
        # others than answers do not wait
        assert httpx.get(f"{address.url}/health").json() == {"status": "ok", "model": "owner/made-up"}
        close_gate(http_servers, assistant, is_closed=False)
        assert [answer.result().status_code for answer in answers] == [200] * 5
    assert httpx.post(address.url + CHAT, json=HELLO).status_code == 200
    after = values(address)
    assert after[("answers_running",)] == after[("queue",)] == 0
    assert after[("answers_total", "chat", "finished")] == 6
    assert after[("refused_total", "rate_limit_exceeded")] == 1


def test_an_engine_that_is_full(http_servers):
    assistant = MadeUpAssistant(num_pieces=0, error=EngineOverloaded())
    address = http_servers.start(assistant)
    response = httpx.post(address.url + CHAT, json=HELLO)
    assert response.status_code == 429 and "retry-after" in response.headers
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    assistant.error = EngineOverloaded()
    assert httpx.post(address.url + CHAT, json=HELLO | {"stream": True}).status_code == 429
    assert values(address)[("answers_total", "chat", "refused")] == 2


def test_an_engine_that_does_not_answer(http_servers, caplog):
    assistant = MadeUpAssistant(num_pieces=0, error=EngineUnavailable("The server of vLLM does not answer."))
    address = http_servers.start(assistant)
    for body in (HELLO, HELLO | {"stream": True}):
        response = httpx.post(address.url + CHAT, json=body)
        assert response.status_code == 503 and "retry-after" in response.headers
        assert response.json()["error"]["code"] == "engine_unavailable"
        assert response.json()["error"]["message"] == "The server of vLLM does not answer."
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_an_engine_that_is_full_when_a_text_is_to_be_spoken(http_servers, caplog):
    assistant = MadeUpAssistant(num_pieces=1, error=EngineOverloaded())
    address = http_servers.start(assistant)
    assert httpx.post(address.url + CHAT, json=HELLO).status_code == 429
    assistant.error = EngineOverloaded()
    response = httpx.post(address.url + CHAT, json=HELLO | {"stream": True})
    assert response.status_code == 200 and '"rate_limit_exceeded"' in response.text
    assert not caplog.records


@pytest.mark.parametrize("path, body", [(CHAT, HELLO), (CHAT, HELLO | {"stream": True}), (SPEECH, SAY)])
def test_a_client_that_vanishes_cancels_its_answer(http_servers, path, body):
    assistant = MadeUpAssistant(num_pieces=10**6, seconds=0.01)
    address = http_servers.start(assistant)
    with raw_request(address, path, body):
        wait_until(lambda: assistant.answers and assistant.answers[0].num_pieces > 4)
    wait_until(lambda: assistant.answers[0].is_cancelled)
    num_pieces = assistant.answers[0].num_pieces
    time.sleep(0.05)
    assert assistant.answers[0].num_pieces == num_pieces
    endpoint = "chat" if path == CHAT else "speech"
    assert values(address)[("answers_total", endpoint, "cancelled")] == 1
    assert values(address)[("answers_running",)] == 0


def test_a_client_that_vanishes_from_the_queue_is_forgotten(http_servers):
    assistant = MadeUpAssistant()
    address = http_servers.start(assistant, max_answers=1)
    close_gate(http_servers, assistant)
    with raw_request(address, CHAT, HELLO):
        wait_until(lambda: len(assistant.answers) == 1)
        with raw_request(address, CHAT, HELLO):
            wait_until(lambda: values(address)[("queue",)] == 1)
        wait_until(lambda: values(address)[("queue",)] == 0)
    wait_until(lambda: values(address)[("answers_running",)] == 0)
    close_gate(http_servers, assistant, is_closed=False)
    assert httpx.post(address.url + CHAT, json=HELLO).status_code == 200
    assert len(assistant.answers) == 2


def test_an_answer_of_the_model_that_nobody_reads_is_cancelled(http_servers):
    """As above, of the shipped model: all that is left of it is the count."""
    address = http_servers.start()
    text = "One and one is two. " * 20
    with raw_request(address, SPEECH, {"model": "vita-audio-mini", "input": text, "response_format": "pcm"}) as reader:
        assert b"200 OK" in reader.recv(100)
    wait_until(lambda: values(address).get(("answers_total", "speech", "cancelled")) == 1)


@pytest.mark.parametrize("by_system", [True, False])
def test_a_reader_that_does_not_read_is_let_go(http_servers, monkeypatch, by_system):
    if not by_system:
        monkeypatch.delattr(socket, "TCP_USER_TIMEOUT", raising=False)
    assistant = MadeUpAssistant(num_pieces=10**6)
    address = http_servers.start(assistant, send_seconds=0.5)
    with raw_request(address, SPEECH, SAY, SO_RCVBUF=4096) as connection:
        wait_until(lambda: assistant.answers and assistant.answers[0].is_cancelled)
        # what was made for it before lies in buffers of the system, a few MB
        assert assistant.answers[0].num_pieces < 2000
        assert values(address)[("answers_running",)] == 0
        if by_system and hasattr(socket, "TCP_USER_TIMEOUT"):
            # what is left of the connection on the server's side is thrown away as well
            time.sleep(1)
            with pytest.raises(ConnectionResetError):
                while connection.recv(2**20):
                    pass


def test_a_slow_reader_gets_all(http_servers):
    assistant = MadeUpAssistant(num_pieces=100)
    address = http_servers.start(assistant, send_seconds=2)
    with httpx.stream("POST", address.url + SPEECH, json=SAY) as response:
        num_bytes = 0
        for block in response.iter_bytes(200_000):
            num_bytes += len(block)
            time.sleep(0.05)
    assert num_bytes == 50 * 10240 * 2 * 3 // 2


def test_bodies_that_are_too_large(http_servers):
    address = http_servers.start(MadeUpAssistant(), max_body_bytes=100_000)
    large = HELLO | {"messages": [{"role": "user", "content": "a" * 150_000}]}

    def blocks():
        for start in range(0, 150_000, 1000):
            yield json.dumps(large).encode()[start : start + 1000]

    wav = encode_whole(np.tile(NOISE, 10), "wav", 16000)
    for response in (
        httpx.post(address.url + CHAT, json=large),
        httpx.post(address.url + CHAT, content=blocks(), headers={"content-type": "application/json"}),
        httpx.post(address.url + SPEECH, json=large),
        httpx.post(address.url + TRANSCRIPTIONS, data={"model": "made-up"}, files={"file": wav}),
    ):
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large" and "100000" in response.text
    small = HELLO | {"messages": [{"role": "user", "content": "a" * 99_000}]}
    assert httpx.post(address.url + CHAT, json=small).status_code == 200


def test_large_recordings_are_no_burden_to_the_disk(http_servers, monkeypatch):
    address = http_servers.start(MadeUpAssistant())

    def rolled(self):
        raise AssertionError("a form was written to the disk")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", rolled)
    # bytes after the samples belong to no chunk, and are not read
    wav = encode_whole(NOISE, "wav", 16000) + bytes(20 * 2**20)
    response = httpx.post(
        address.url + TRANSCRIPTIONS, data={"model": "made-up"}, files={"file": ("a.wav", wav)}, timeout=30
    )
    assert response.status_code == 200


def test_bodies_that_do_not_come(http_servers):
    address = http_servers.start(MadeUpAssistant(), receive_seconds=0.2)
    with socket.create_connection(("127.0.0.1", address.port)) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        assert b"408" in connection.recv(100)
    assert values(address)[("queue",)] == 0


def test_all_recordings_together_are_bounded(http_servers):
    address = http_servers.start(MadeUpAssistant(), max_audio_seconds=2.5)
    data = base64.b64encode(encode_whole(NOISE, "wav", 16000)).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    for number, status in ((2, 200), (3, 400)):
        messages = [{"role": "user", "content": [part] * number}]
        response = httpx.post(address.url + CHAT, json=HELLO | {"messages": messages})
        assert response.status_code == status
    assert response.json()["error"]["param"] == "messages[0].content[2].input_audio.data"


def test_an_answer_with_nothing_in_it_is_left_out_of_later_turns(http_servers):
    assistant = MadeUpAssistant(num_pieces=0)
    address = http_servers.start(assistant)
    ask = HELLO | {"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "pcm16"}}
    answer = httpx.post(address.url + CHAT, json=ask).json()["choices"][0]["message"]
    messages = [*HELLO["messages"], {"role": "assistant", "audio": {"id": answer["audio"]["id"]}}, *HELLO["messages"]]
    response = httpx.post(address.url + CHAT, json=HELLO | {"messages": messages})
    assert response.status_code == 200 and [m["role"] for m in assistant.asked[-1]] == ["user", "user"]


def test_spoken_answers_are_kept_for_a_while(http_servers):
    address = http_servers.start(MadeUpAssistant(), max_kept_answers=2, keep_answers_seconds=1)
    ask = HELLO | {"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "pcm16"}}

    def ask_about(audio_id):
        messages = [{"role": "assistant", "audio": {"id": audio_id}}, *HELLO["messages"]]
        return httpx.post(address.url + CHAT, json=HELLO | {"messages": messages}).status_code

    start = time.monotonic()
    ids = [httpx.post(address.url + CHAT, json=ask).json()["choices"][0]["message"]["audio"]["id"] for _ in range(3)]
    assert [ask_about(audio_id) for audio_id in ids] == [404, 200, 200]
    time.sleep(max(0, start + 1.5 - time.monotonic()))
    assert [ask_about(audio_id) for audio_id in ids] == [404, 404, 404]


def test_measures(http_servers):
    assistant = MadeUpAssistant(num_pieces=4, seconds=0.1)
    address = http_servers.start(assistant)
    httpx.post(address.url + SPEECH, json=SAY)
    httpx.post(
        address.url + TRANSCRIPTIONS, data={"model": "made-up"}, files={"file": encode_whole(NOISE, "wav", 16000)}
    )
    after = values(address)
    assert after[("first_audio_seconds_count", "speech")] == 1
    assert 0.1 <= after[("first_audio_seconds_sum", "speech")] < 0.3
    # two pieces of 0.64 s, each made in 0.1 s
    assert after[("real_time_factor_sum", "speech")] == pytest.approx(0.2 / 1.28, rel=0.5)
    assert after[("answers_total", "transcriptions", "finished")] == 1
    assert after[("sessions",)] == 0


def test_a_server_that_ends_finishes_its_answers(http_servers):
    assistant = MadeUpAssistant()
    address = http_servers.start(assistant, drain_seconds=20)
    close_gate(http_servers, assistant)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, address.url + CHAT, json=HELLO, timeout=30)
        wait_until(lambda: values(address)[("answers_running",)] == 1)
        drained = asyncio.run_coroutine_threadsafe(address.server.drain(), http_servers.loop)
        wait_until(lambda: address.server.is_draining)
        assert httpx.get(f"{address.url}/health").status_code == 503
        response = httpx.post(address.url + CHAT, json=HELLO)
        assert response.status_code == 503 and response.json()["error"]["code"] == "shutting_down"
        assert not drained.done()
        close_gate(http_servers, assistant, is_closed=False)
        assert answer.result().status_code == 200
    drained.result(5)


def test_a_server_that_ends_does_not_wait_for_ever(http_servers):
    assistant = MadeUpAssistant()
    address = http_servers.start(assistant, drain_seconds=0.2)
    close_gate(http_servers, assistant)
    with raw_request(address, CHAT, HELLO):
        wait_until(lambda: len(assistant.answers) == 1)
        http_servers.call(address.server.drain())
    wait_until(lambda: assistant.answers[0].is_cancelled)
