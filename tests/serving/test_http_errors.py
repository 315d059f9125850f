# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Bad requests: each gets an error in OpenAI's form, which names what is wrong."""

import base64
import logging

import httpx
import numpy as np
import pytest
from made_up_assistants import MadeUpAssistant
from places import MINI
from waiting import wait_until

from serving.audio_formats import encode_whole


CHAT, SPEECH, TRANSCRIPTIONS = "/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"
HELLO = [{"role": "user", "content": "Hello"}]
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)


def base64_of(samples):
    return base64.b64encode(encode_whole(np.float32(samples), "wav", 16000)).decode()


def chat(**fields):
    return {"model": "made-up", "messages": HELLO} | fields


def audio(data, audio_format="wav", **fields):
    part = {"type": "input_audio", "input_audio": {"data": data, "format": audio_format, **fields}}
    return chat(messages=[{"role": "user", "content": [part]}])


def content(*parts):
    return chat(messages=[{"role": "user", "content": list(parts)}])


def speech(**fields):
    return {"model": "made-up", "input": "Hello", "voice": "alloy"} | fields


DATA = "messages[0].content[0].input_audio.data"
PART = "messages[0].content[0].type"

BAD = [
    # body, part that is named, code
    (CHAT, {"messages": HELLO}, "model", "missing_required_parameter"),
    (CHAT, {"model": "made-up"}, "messages", "missing_required_parameter"),
    (CHAT, chat(messages=[]), "messages", "invalid_value"),
    (CHAT, chat(messages=None), "messages", "missing_required_parameter"),
    (CHAT, chat(messages="Hello"), "messages", "invalid_value"),
    (CHAT, chat(messages=["Hello"]), "messages[0]", "invalid_value"),
    (CHAT, chat(messages=[{}]), "messages[0].role", "missing_required_parameter"),
    (CHAT, chat(messages=[{"role": "user"}]), "messages[0].content", "missing_required_parameter"),
    (CHAT, chat(messages=[{"role": "user", "content": []}]), "messages[0].content", "missing_required_parameter"),
    (CHAT, chat(messages=[{"role": "user", "content": 5}]), "messages[0].content", "invalid_value"),
    (CHAT, chat(messages=[{"role": "tool", "content": "x"}]), "messages[0].role", "invalid_value"),
    (CHAT, chat(messages=[{"role": "user", "content": "x", "path": "/"}]), "messages[0].path", "unknown_parameter"),
    (CHAT, chat(messages=HELLO * 300), "messages", "invalid_value"),
    (CHAT, content({"type": "text"}), "messages[0].content[0].text", "missing_required_parameter"),
    (CHAT, content({"type": "image_url", "image_url": {"url": "http://127.0.0.1"}}), PART, "invalid_value"),
    (CHAT, content({"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}}), PART, "invalid_value"),
    (CHAT, content({"type": "audio", "path": "/etc/passwd"}), PART, "invalid_value"),
    (CHAT, content({"type": "text", "text": "x", "url": "y"}), "messages[0].content[0].url", "unknown_parameter"),
    (CHAT, audio("####"), DATA, "invalid_base64"),
    (CHAT, audio("AAA"), DATA, "invalid_base64"),
    (CHAT, audio("AAAA\nAAAA"), DATA, "invalid_base64"),
    (CHAT, audio("é" * 4), DATA, "invalid_base64"),
    (CHAT, audio("AA==" * 2), DATA, "invalid_base64"),
    (CHAT, audio("data:audio/wav;base64," + base64_of(NOISE)), DATA, "invalid_base64"),
    (CHAT, audio(""), DATA, "invalid_audio"),
    (CHAT, audio(base64.b64encode(b"no audio at all" * 100).decode()), DATA, "invalid_audio"),
    (CHAT, audio(base64_of(np.zeros(16000))), DATA, "invalid_audio"),
    (CHAT, audio(base64_of(NOISE[:100])), DATA, "invalid_audio"),
    (CHAT, audio(base64_of(np.tile(NOISE, 31))), DATA, "invalid_audio"),  # the limit is 30 s
    (CHAT, audio(base64_of(NOISE), "exe"), "messages[0].content[0].input_audio.format", "invalid_value"),
    (CHAT, audio(base64_of(NOISE), path="/"), "messages[0].content[0].input_audio.path", "unknown_parameter"),
    (CHAT, audio(5), DATA, "invalid_value"),
    (
        CHAT,
        chat(messages=[audio(base64_of(NOISE))["messages"][0] | {"role": "system"}]),
        "messages[0].content[0]",
        "invalid_value",
    ),
    (CHAT, chat(messages=[HELLO[0] | {"audio": {"id": "a"}}]), "messages[0].audio.id", "invalid_value"),
    (CHAT, chat(n=2), "n", "invalid_value"),
    (CHAT, chat(temperature=3), "temperature", "invalid_value"),
    (CHAT, chat(temperature="warm"), "temperature", "invalid_value"),
    (CHAT, chat(top_p=0), "top_p", "invalid_value"),
    (CHAT, chat(seed=10**30), "seed", "invalid_value"),
    (CHAT, chat(max_tokens=0), "max_tokens", "invalid_value"),
    (CHAT, chat(max_completion_tokens=10**9), "max_completion_tokens", "invalid_value"),
    (CHAT, chat(modalities=["audio", "text"]), "audio", "missing_required_parameter"),
    (CHAT, chat(modalities=["video"]), "modalities[0]", "invalid_value"),
    (CHAT, chat(modalities=[]), "modalities", "invalid_value"),
    (CHAT, chat(audio={"voice": "alloy", "format": "wav"}), "audio", "unsupported_parameter"),
    (CHAT, chat(modalities=["audio"], audio={"voice": "a", "format": "ape"}), "audio.format", "invalid_value"),
    (CHAT, chat(modalities=["audio"], audio={"format": "wav"}), "audio.voice", "missing_required_parameter"),
    (CHAT, chat(stream_options={"include_usage": True}), "stream_options", "invalid_value"),
    (CHAT, chat(stream="yes"), "stream", "invalid_value"),
    (CHAT, chat(tools=[{"type": "function", "function": {"name": "f"}}]), "tools", "unsupported_parameter"),
    (CHAT, chat(tool_choice="required"), "tool_choice", "unsupported_parameter"),
    (CHAT, chat(stop=["."]), "stop", "unsupported_parameter"),
    (CHAT, chat(logprobs=True), "logprobs", "unsupported_parameter"),
    (CHAT, chat(presence_penalty=1), "presence_penalty", "unsupported_parameter"),
    (CHAT, chat(response_format={"type": "json_object"}), "response_format", "unsupported_parameter"),
    (CHAT, chat(temprature=0.5), "temprature", "unknown_parameter"),
    (CHAT, chat(mctp_mode=7), "mctp_mode", "invalid_value"),
    (CHAT, chat(mctp_mode=["a"]), "mctp_mode", "invalid_value"),
    (CHAT, chat(mctp_mode=[10**30, 1]), "mctp_mode", "invalid_value"),
    (CHAT, chat(mctp_mode=[1, 10] * 100), "mctp_mode", "invalid_value"),
    (SPEECH, {"model": "made-up", "voice": "alloy"}, "input", "missing_required_parameter"),
    (SPEECH, speech(input=""), "input", "invalid_value"),
    (SPEECH, speech(input=" ?! "), "input", "invalid_value"),
    (SPEECH, speech(input="a" * 4097), "input", "string_above_max_length"),
    (SPEECH, speech(input=["Hello"]), "input", "invalid_value"),
    (SPEECH, speech(speed=1.5), "speed", "unsupported_parameter"),
    (SPEECH, speech(instructions="Whisper."), "instructions", "unsupported_parameter"),
    (SPEECH, speech(response_format="ape"), "response_format", "invalid_value"),
    (SPEECH, speech(stream_format="tape"), "stream_format", "invalid_value"),
    (SPEECH, speech(voice=5), "voice", "invalid_value"),
]


@pytest.fixture(scope="module")
def made_up(http_servers):
    return http_servers.start(MadeUpAssistant())


@pytest.fixture(autouse=True)
def no_traceback(caplog):
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def error_of(response, status):
    """The error of a response, which has OpenAI's form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (error,) = response.json().values()
    assert list(error) == ["message", "type", "param", "code"]
    assert isinstance(error["message"], str) and 10 < len(error["message"]) < 700
    return error


@pytest.mark.parametrize("path, body, param, code", BAD)
def test_bad_parameters(made_up, path, body, param, code):
    error = error_of(httpx.post(made_up.url + path, json=body), 400)
    assert (error["param"].removesuffix(".str"), error["code"]) == (param, code), error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", [CHAT, SPEECH])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b'{"model": "\\ud800"}']
    + [b'{"model": 1' + b"0" * 5000 + b"}"],
)
def test_bodies_that_are_none(made_up, path, body):
    error = error_of(httpx.post(made_up.url + path, content=body, headers={"content-type": "application/json"}), 400)
    assert error["code"] in ("invalid_json", "invalid_value")


def test_bodies_of_too_many_values(made_up):
    for body in (b'{"messages": [' + b"{}," * 100_000 + b"{}]}", b"{" + b'"a": 1,' * 100_000 + b'"b": 1}'):
        response = httpx.post(made_up.url + CHAT, content=body, headers={"content-type": "application/json"})
        error = error_of(response, 400)
        assert error["code"] == "invalid_json" and "commas" in error["message"]


@pytest.mark.parametrize("path, field", [(CHAT, "messages"), (SPEECH, "input")])
def test_an_unknown_model(made_up, path, field):
    body = {"model": "gpt-4o", "messages": HELLO} if field == "messages" else speech(model="tts-1")
    error = error_of(httpx.post(made_up.url + path, json=body), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "this server has 'owner/made-up' or 'made-up'" in error["message"]


def test_both_names_of_a_model(made_up):
    for name in ("owner/made-up", "made-up"):
        assert httpx.post(made_up.url + CHAT, json=chat(model=name)).json()["model"] == name
        assert httpx.get(f"{made_up.url}/v1/models/{name}").json()["id"] == name


def test_other_kinds_of_bodies(made_up):
    for path, kind in ((CHAT, "text/plain"), (SPEECH, ""), (TRANSCRIPTIONS, "application/json")):
        error = error_of(httpx.post(made_up.url + path, content=b"{}", headers={"content-type": kind}), 415)
        assert error["code"] == "unsupported_content_type"


@pytest.mark.parametrize(
    "kind, body",
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--y\r\n\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\na'),
    ],
)
def test_broken_forms(made_up, kind, body):
    error = error_of(httpx.post(made_up.url + TRANSCRIPTIONS, content=body, headers={"content-type": kind}), 400)
    assert error["code"] in ("invalid_form", "missing_required_parameter")


def test_fields_of_forms(made_up):
    def post(files, **fields):
        return httpx.post(made_up.url + TRANSCRIPTIONS, data=fields, files=files)

    wav = encode_whole(NOISE, "wav", 16000)
    assert post({"file": wav}, model="made-up").json()["text"]
    file = ("file", ("a.wav", wav))
    for files, fields, code in (
        ([file, file], {"model": "made-up"}, "invalid_form"),
        ([file], {"model": ["made-up", "b"]}, "invalid_form"),
        ([file], {}, "missing_required_parameter"),
        ([file], {"model": "made-up", "x": "1"}, "unknown_parameter"),
        ([file], {f"x{i}": "1" for i in range(100)}, "invalid_form"),
        ([("audio", ("a.wav", wav))], {"model": "made-up"}, "missing_required_parameter"),
        # a file is sent, and never named
        ([("file", (None, str(MINI / "sample_question.wav")))], {"model": "made-up"}, "invalid_value"),
        ([file], {"model": "made-up", "temperature": "nan"}, "invalid_value"),
    ):
        assert error_of(post(files, **fields), 400)["code"] == code, (fields, files)


def test_routes_that_are_none(made_up):
    for method, path, status in (
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/audio/speech", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/responses", 404),
        ("GET", "/v1/files/../../etc/passwd", 404),
        ("GET", "/..%2f..%2fsetup.py", 404),
        ("GET", "/%2e%2e/app.py", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/docs", 404),
        ("POST", "/", 405),
    ):
        assert error_of(httpx.request(method, made_up.url + path), status)["type"] == "invalid_request_error"


def test_the_methods_of_a_route_are_named(made_up):
    for method, path, allowed in (
        ("GET", CHAT, "POST"),
        ("HEAD", CHAT, "POST"),
        ("PUT", "/v1/models", "GET, HEAD"),
        ("PATCH", "/v1/models/owner/made-up", "GET, HEAD"),
    ):
        response = httpx.request(method, made_up.url + path)
        assert (response.status_code, response.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models", "/v1/models/owner/made-up"])
def test_the_head_of_what_is_read(made_up, path):
    head, whole = (httpx.request(method, made_up.url + path) for method in ("HEAD", "GET"))
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


def test_a_failure_of_ours_says_nothing_of_the_inside(http_servers, caplog):
    address = http_servers.start(MadeUpAssistant(num_pieces=0, error=RuntimeError("secret")))
    error = error_of(httpx.post(address.url + CHAT, json=chat()), 500)
    assert error["code"] == "server_error" and "secret" not in error["message"]
    # but the log does, so that it can be mended
    wait_until(lambda: "RuntimeError: secret" in caplog.text)
    caplog.clear()


def test_a_failure_in_the_middle_of_a_stream(http_servers, caplog):
    address = http_servers.start(MadeUpAssistant(num_pieces=4, error=RuntimeError("secret")))
    lines = httpx.post(address.url + CHAT, json=chat(stream=True)).text.strip().split("\n\n")
    assert '"code": "server_error"' in lines[-1] and "[DONE]" not in lines[-1]
    # bytes of audio can say nothing, so they break off
    address.server.assistant.error = RuntimeError("secret")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(address.url + SPEECH, json=speech(response_format="wav"))
    wait_until(lambda: caplog.text.count("RuntimeError: secret") == 2)
    caplog.clear()


def test_half_a_text_is_not_taken_for_the_whole(http_servers, caplog):
    address = http_servers.start(MadeUpAssistant(is_cut_off=True))
    assert httpx.post(address.url + CHAT, json=chat()).json()["choices"][0]["finish_reason"] == "length"
    events = httpx.post(address.url + SPEECH, json=speech(stream_format="sse", response_format="pcm")).text
    assert "string_above_max_length" in events.strip().split("\n\n")[-1]
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(address.url + SPEECH, json=speech(response_format="pcm"))
    caplog.clear()
