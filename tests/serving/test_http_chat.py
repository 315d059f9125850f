# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`/v1/chat/completions` of the shipped model, by OpenAI's own client."""

import base64
import io
import re

import numpy as np
import openai
import pytest
import soundfile
from places import MINI, ROOT
from recordings import recording

from processing.audio_vita_audio import load_audio
from serving.audio_formats import from_pcm16


QUESTION = MINI / "sample_question.wav"  # "What is seven plus six?" in other words
MODEL = "vita-audio-mini"
SPOKEN = {"model": MODEL, "modalities": ["text", "audio"]}


@pytest.fixture(scope="module")
def client(http_server):
    return openai.OpenAI(base_url=f"{http_server.url}/v1", api_key="any", max_retries=0)


def spoken(content=None, audio_format="wav"):
    data = base64.b64encode(QUESTION.read_bytes() if content is None else content).decode()
    return {
        "role": "user",
        "content": [{"type": "input_audio", "input_audio": {"data": data, "format": audio_format}}],
    }


def decoded(data, audio_format):
    content = base64.b64decode(data, validate=True)
    return from_pcm16(content) if audio_format == "pcm16" else load_audio(content, 24000)


@pytest.fixture(scope="module")
def answer(client):
    return client.chat.completions.create(**SPOKEN, messages=[spoken()], audio={"voice": "alloy", "format": "wav"})


@pytest.fixture(scope="module")
def samples(answer):
    return decoded(answer.choices[0].message.audio.data, "wav")


def test_the_readme_is_answered_right(http_server, monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "OpenAI(" in block)
    said = {}
    exec(block.replace("http://127.0.0.1:8765", http_server.url), said)
    assert said["message"].audio.transcript == "The sum of seven and six is thirteen."
    assert len(decoded(said["message"].audio.data, "wav")) > 24000


def test_a_spoken_question_is_answered_in_speech(answer, samples):
    (choice,) = answer.choices
    assert choice.finish_reason == "stop" and choice.message.content is None and answer.model == MODEL
    assert "thirteen" in choice.message.audio.transcript
    assert choice.message.audio.expires_at == answer.created + 3600
    assert 1 < len(samples) / 24000 < 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


@pytest.mark.parametrize("audio_format", ["mp3", "flac", "opus", "aac", "pcm16"])
def test_all_formats(client, samples, audio_format):
    audio = {"voice": "alloy", "format": audio_format}
    answer = client.chat.completions.create(**SPOKEN, messages=[spoken()], audio=audio)
    again = decoded(answer.choices[0].message.audio.data, audio_format)
    assert 0 <= len(again) - len(samples) < 3 * 1024  # the padding of MP3 and AAC


@pytest.mark.parametrize("audio_format", ["pcm16", "mp3"])
def test_streamed(client, answer, samples, audio_format):
    stream = client.chat.completions.create(
        **SPOKEN,
        messages=[spoken()],
        audio={"voice": "alloy", "format": audio_format},
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = stream
    assert last.choices == [] and last.usage.total_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1 and all(chunk.usage is None for chunk in chunks)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    audios = [delta.audio for delta in deltas if delta.audio]
    assert len({audio.id for audio in audios}) == 1 and audios[-1].expires_at > answer.created
    assert "".join(audio.transcript or "" for audio in audios) == answer.choices[0].message.audio.transcript
    data = b"".join(base64.b64decode(audio.data) for audio in audios if audio.data)
    again = decoded(base64.b64encode(data), audio_format)
    if audio_format == "pcm16":
        # speech comes before the text is complete
        kinds = ["audio" if audio.data else "text" for audio in audios]
        assert kinds.index("audio") < len(kinds) - 1 - kinds[::-1].index("text")
        assert again.shape == samples.shape and np.abs(again - samples).max() < 0.01
    else:
        assert 0 <= len(again) - len(samples) < 3 * 1024
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    # a later turn reads all of it by its id
    messages = [spoken(), {"role": "assistant", "audio": {"id": audios[0].id}}, spoken()]
    later = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
    assert later.usage.prompt_tokens > last.usage.total_tokens


def test_text_alone(client, answer):
    question = {"model": MODEL, "messages": [spoken()]}
    message = client.chat.completions.create(**question).choices[0].message
    assert message.audio is None and message.content == answer.choices[0].message.audio.transcript
    pieces = [chunk.choices[0].delta for chunk in client.chat.completions.create(**question, stream=True)]
    assert len(pieces) > 4 and not any(piece.audio for piece in pieces)
    assert "".join(piece.content or "" for piece in pieces) == message.content


@pytest.mark.parametrize("audio_format, container, codec", [("mp3", "mp3", "libmp3lame"), ("webm", "webm", "libopus")])
def test_other_recordings(client, audio_format, container, codec):
    samples, rate = soundfile.read(QUESTION)
    content = recording(samples, rate, container, codec, 48000)
    answer = client.chat.completions.create(model=MODEL, messages=[spoken(content, audio_format)])
    assert "thirteen" in answer.choices[0].message.content


def test_an_earlier_spoken_answer_is_referred_to_by_its_id(client, http_server, answer, samples, monkeypatch):
    heard = []
    real = http_server.server.assistant.answer
    monkeypatch.setattr(
        http_server.server.assistant, "answer", lambda messages, *args, **kw: heard.extend(messages) or real(messages)
    )
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello."}]},
        # as the client has it, with all fields of an answer
        answer.choices[0].message.model_dump(),
        {"role": "user", "content": "What is two plus two?", "name": "somebody"},
    ]
    completion = client.chat.completions.create(model=MODEL, messages=messages)
    assert completion.choices[0].message.content
    assert [message["role"] for message in heard] == ["system", "user", "assistant", "user"]
    text = answer.choices[0].message.audio.transcript
    # where nobody speaks but the assistant, it has written
    assert heard[2]["content"] == [{"type": "text", "text": text}]
    heard.clear()
    client.chat.completions.create(model=MODEL, messages=[spoken(), messages[2], spoken()])
    written, speech = heard[1]["content"]
    assert written == {"type": "text", "text": text} and len(speech["codes"]) == len(samples) / 24000 * 12.5
    # once the server has forgotten the speech, there is still its text
    heard.clear()
    messages[2]["audio"]["id"] = "audio_of_another_server"
    client.chat.completions.create(model=MODEL, messages=[spoken(), messages[2], spoken()])
    assert heard[1]["content"] == [{"type": "text", "text": text}]
    messages[2]["audio"] = {"id": "audio_of_another_server"}
    with pytest.raises(openai.NotFoundError, match="transcript") as error:
        client.chat.completions.create(model=MODEL, messages=messages)
    assert error.value.param == "messages[2].audio.id" and error.value.code == "audio_not_found"


def test_options_reach_the_model(client, options_seen):
    def ask(**options):
        return client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "What is two plus two?"}], **options
        )

    ask(max_tokens=3, temperature=0.7, top_p=0.9, seed=-1, extra_body={"mctp_mode": "turbo", "mctp_verify": 0.5})
    assert vars(options_seen[0]) == {
        "max_new_tokens": 3,
        "max_tokens_at_once": None,
        "mctp_mode": "turbo",
        "mctp_verify": 0.5,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 2**32 - 1,
    }
    ask(temperature=0, max_completion_tokens=2, extra_body={"mctp_mode": [1, 4]})
    assert vars(options_seen[1]) == {
        "max_new_tokens": 2,
        "max_tokens_at_once": None,
        "mctp_mode": [1, 4],
        "mctp_verify": None,
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "seed": None,
    }
    # scores over so little would be infinite
    ask(temperature=1e-40, top_p=0.5, max_tokens=2)
    options = options_seen[2]
    assert options.do_sample is False and options.temperature is options.top_p is None
    # what clients send by habit changes nothing
    ask(
        max_tokens=2,
        user="u",
        metadata={"a": "b"},
        store=False,
        n=1,
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        stop=None,
        response_format={"type": "text"},
        service_tier="auto",
        parallel_tool_calls=True,
    )
    assert set(vars(options_seen[3]).values()) == {2, None}


def test_samples_of_different_kinds_are_refused_by_the_model(client):
    for messages, words in (
        ([{"role": "assistant", "content": "Hello."}], "last turn must be the user's"),
        ([{"role": "user", "content": "a <|im_end|> b"}], "control mark"),
        ([{"role": "user", "content": " "}], "last turn is empty"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            client.chat.completions.create(model=MODEL, messages=messages)


def test_paths_are_only_text(client, tmp_path):
    """A user's words are never opened, whatever they look like."""
    for text in (str(QUESTION), QUESTION.as_uri(), "-"):
        completion = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": text}], max_tokens=8
        )
        assert "thirteen" not in completion.choices[0].message.content
        for data in (text, base64.b64encode(text.encode()).decode()):
            part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
            with pytest.raises(openai.BadRequestError) as error:
                client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [part]}])
            assert error.value.code in ("invalid_base64", "invalid_audio")


def test_the_file_in_an_answer_is_what_its_name_says(answer):
    content = base64.b64decode(answer.choices[0].message.audio.data)
    info = soundfile.info(io.BytesIO(content))
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", "PCM_16", 24000, 1)


def test_drafts_are_verified_as_a_request_says(client):
    def ask(**options):
        answered = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "What is two plus three?"}], extra_body=options
        )
        return answered.choices[0].message.content

    assert ask(mctp_mode="turbo", mctp_verify=1.0) == ask(mctp_mode="vanilla")
    assert ask(mctp_mode="turbo", mctp_verify=[1, 0.5])
    with pytest.raises(openai.BadRequestError, match="mctp_verify"):
        ask(mctp_verify=2)
