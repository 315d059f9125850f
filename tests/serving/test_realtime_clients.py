# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The official client of OpenAI, unmodified, over `/v1/realtime`."""

import asyncio
import base64

import pytest
from openai import AsyncOpenAI, OpenAI
from realtime_client import ANSWER, question, silence
from websockets.exceptions import InvalidStatus


def options(server) -> dict:
    return {"base_url": f"{server.url}/v1", "api_key": "none"}


def test_the_client_speaks(http_server):
    with OpenAI(**options(http_server)).realtime.connect(model="vita-audio-mini") as connection:
        connection.session.update(session={"type": "realtime", "output_modalities": ["audio"]})
        audio = silence(0.5) + question() + silence(1)
        for start in range(0, len(audio), 4800):
            connection.input_audio_buffer.append(audio=base64.b64encode(audio[start : start + 4800]).decode())
        spoken, text = b"", ""
        for event in connection:
            assert event.type != "error", event
            if event.type == "response.output_audio.delta":
                spoken += base64.b64decode(event.delta)
            elif event.type == "response.output_audio_transcript.delta":
                text += event.delta
            elif event.type == "response.done":
                break
        assert text == ANSWER == event.response.output[0].content[0].transcript
        assert event.response.usage.total_tokens > 0
        assert 1.5 < len(spoken) / 48000 < 5


def test_the_asynchronous_client_writes(http_server):
    async def talk() -> list:
        client = AsyncOpenAI(**options(http_server))
        async with client.realtime.connect(model="vita-audio-mini") as connection:
            await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
            content = [{"type": "input_text", "text": "What is seven plus six?"}]
            item = {"type": "message", "role": "user", "content": content}
            await connection.conversation.item.create(item=item)
            await connection.response.create()
            events = []
            async for event in connection:
                events.append(event)
                if event.type in ("response.done", "error"):
                    return events

    events = asyncio.run(talk())
    assert events[-1].type == "response.done"
    assert "thirteen" in "".join(event.delta for event in events if event.type == "response.output_text.delta")


def test_every_call_of_the_client(http_server):
    """All that the client's object can send, once."""
    with OpenAI(**options(http_server)).realtime.connect(model="vita-audio-mini") as connection:
        assert connection.recv().type == "session.created"

        def until(kind: str):
            while (event := connection.recv()).type != kind:
                assert event.type != "error", event
            return event

        session = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
        connection.session.update(session=session)
        until("session.updated")
        connection.input_audio_buffer.append(audio=base64.b64encode(question()).decode())
        connection.input_audio_buffer.clear()
        until("input_audio_buffer.cleared")
        connection.input_audio_buffer.append(audio=base64.b64encode(question()).decode())
        connection.input_audio_buffer.commit()
        item_id = until("input_audio_buffer.committed").item_id
        connection.conversation.item.retrieve(item_id=item_id)
        assert until("conversation.item.retrieved").item.content[0].audio
        connection.response.create(response={"metadata": {"a": "b"}})
        response = until("response.done").response
        assert response.metadata == {"a": "b"}
        answer = response.output[0].id
        connection.conversation.item.truncate(item_id=answer, content_index=0, audio_end_ms=500)
        until("conversation.item.truncated")
        connection.conversation.item.delete(item_id=answer)
        until("conversation.item.deleted")
        for refused in (connection.response.cancel, connection.output_audio_buffer.clear):
            refused()
            assert connection.recv().type == "error"


@pytest.mark.parametrize("model", ["gpt-realtime", ""])
def test_another_model_is_refused(http_server, model):
    with pytest.raises(InvalidStatus) as refused, OpenAI(**options(http_server)).realtime.connect(model=model):
        pass
    assert refused.value.response.status_code == 404
