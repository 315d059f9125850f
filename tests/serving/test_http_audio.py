# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`/v1/audio/*` and `/v1/models` of the shipped model, by OpenAI's own client."""

import base64
import json

import httpx
import openai
import pytest
from places import MINI

from processing.audio_vita_audio import load_audio
from serving.assistant import AnswerOptions
from serving.audio_formats import from_pcm16


QUESTION = MINI / "sample_question.wav"
MODEL = "vita-audio-mini"
TEXT = "The sum of seven and six is thirteen."


@pytest.fixture(scope="module")
def client(http_server):
    return openai.OpenAI(base_url=f"{http_server.url}/v1", api_key="any", max_retries=0)


def say(client, **options):
    """The blocks of a response, and its headers."""
    options = {"model": MODEL, "voice": "alloy", "input": TEXT} | options
    with client.audio.speech.with_streaming_response.create(**options) as response:
        return list(response.iter_bytes()), response.headers


@pytest.fixture(scope="module")
def num_samples(client):
    blocks, headers = say(client, response_format="wav")
    samples = load_audio(b"".join(blocks), 24000)
    assert headers["content-type"] == "audio/wav" and 1 < len(samples) / 24000 < 6
    return len(samples)


@pytest.mark.parametrize("response_format", ["mp3", "opus", "aac", "flac", "pcm", None])
def test_speech_in_all_formats(client, num_samples, response_format):
    blocks, headers = say(client, **({"response_format": response_format} if response_format else {}))
    content = b"".join(blocks)
    samples = from_pcm16(content) if response_format == "pcm" else load_audio(content, 24000)
    assert 0 <= len(samples) - num_samples < 3 * 1024
    assert headers["content-type"].startswith("audio/") and "content-length" not in headers
    if response_format is None:
        assert headers["content-type"] == "audio/mpeg"
    # flac is one frame of 0.2 s more, and the others come as they are made
    assert len(blocks) > 1


def test_speech_as_events(client, http_server, num_samples):
    body = {"model": MODEL, "voice": "alloy", "input": TEXT, "response_format": "pcm", "stream_format": "sse"}
    response = httpx.post(f"{http_server.url}/v1/audio/speech", json=body, timeout=60)
    events = [json.loads(line[6:]) for line in response.text.split("\n\n") if line]
    assert [event["type"] for event in events[-2:]] == ["speech.audio.delta", "speech.audio.done"]
    content = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert len(content) == 2 * num_samples
    usage = events[-1]["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


def transcribe(client, **options):
    with QUESTION.open("rb") as file:
        return client.audio.transcriptions.create(model=MODEL, file=file, **options)


def test_transcriptions(client):
    transcription = transcribe(client)
    assert transcription.text == "Tell me the sum of seven and six."
    assert transcription.usage.type == "tokens" and transcription.usage.total_tokens > 0
    assert transcribe(client, response_format="text") == f"{transcription.text}\n"
    verbose = transcribe(client, response_format="verbose_json", language="en", temperature=0, prompt="")
    assert (verbose.text, verbose.language) == (transcription.text, "en")
    assert verbose.duration == pytest.approx(1.6) == verbose.usage.seconds
    *deltas, done = transcribe(client, stream=True)
    assert {event.type for event in deltas} == {"transcript.text.delta"} and done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas).strip() == done.text == transcription.text
    assert len(deltas) > 3


@pytest.mark.parametrize(
    "options, param, status",
    [
        ({"response_format": "srt"}, "response_format", 400),
        ({"prompt": "Kubernetes"}, "prompt", 400),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities", 400),
        ({"include": ["logprobs"]}, "include", 400),
        ({"temperature": 2}, "temperature", 400),
        ({"extra_body": {"mctp_mode": "warp"}}, None, 400),
        ({"model": "whisper-1"}, "model", 404),
        ({"file": b"RIFF is not enough"}, "file", 400),
        ({"file": b""}, "file", 400),
    ],
)
def test_bad_transcriptions(client, options, param, status):
    options = {"model": MODEL, "file": QUESTION.read_bytes()} | options
    with pytest.raises(openai.APIStatusError) as error:
        client.audio.transcriptions.create(**options)
    assert (error.value.status_code, error.value.param) == (status, param)
    assert len(error.value.body["message"]) > 10


def test_options_reach_the_model(client, options_seen):
    say(client, input="One.", extra_body={"mctp_mode": "turbo", "mctp_verify": 1.0})
    transcribe(client, temperature=0.2, extra_body={"mctp_mode": "vanilla"})
    transcribe(client, temperature=0)
    assert options_seen == [
        AnswerOptions(mctp_mode="turbo", mctp_verify=1.0),
        AnswerOptions(mctp_mode="vanilla", do_sample=True, temperature=0.2),
        AnswerOptions(do_sample=False),
    ]


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"
    with pytest.raises(openai.NotFoundError, match="this server has 'vita-audio-mini'") as error:
        client.models.retrieve("gpt-4o")
    assert error.value.code == "model_not_found"
