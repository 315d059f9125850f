# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What the model gets of a conversation over `/v1/realtime`, and when."""

import time

import numpy as np
import pytest
from realtime_client import ANSWER, LONG, PUSH_TO_TALK, RealtimeClient, question, silence, text_of
from waiting import wait_until

from processing.conversation_vita_audio import SPOKEN_CHAT_SYSTEM_PROMPT
from serving.assistant import AnswerOptions
from serving.engine import PromptTooLong


TEXT = {"output_modalities": ["text"]}


class WatchedAssistant:
    """
    The shipped model, which notes what it is asked.

    Attributes:
        answered (`list[list[dict]]`), prepared (`list[list[dict]]`), heard (`list[list[dict]]`): the messages of each
            call.
        options (`list[AnswerOptions]`): of each answer.
        forgotten (`list[str]`): conversations.
        max_messages (`int`): beyond it a prompt is too long.
    """

    def __init__(self, assistant):
        self._assistant = assistant
        self.answered, self.prepared, self.heard, self.forgotten, self.ids = [], [], [], [], set()
        self.options = []
        self.max_messages = 1000

    def __getattr__(self, name):
        return getattr(self._assistant, name)

    def answer(self, messages, options, *, conversation_id=None, with_audio=True):
        if len(messages) > self.max_messages:
            raise PromptTooLong(f"The conversation has {len(messages)} messages, and there is room for fewer.")
        self.answered.append(messages)
        self.options.append(options)
        self.ids.add(conversation_id)
        return self._assistant.answer(messages, options, conversation_id=conversation_id, with_audio=with_audio)

    def hear(self, messages=None, conversation_id=None):
        self.heard.append(messages)
        return self._assistant.hear(messages, conversation_id)

    async def prepare(self, messages, conversation_id):
        self.prepared.append(messages)
        await self._assistant.prepare(messages, conversation_id)

    async def forget(self, conversation_id):
        self.forgotten.append(conversation_id)
        await self._assistant.forget(conversation_id)


@pytest.fixture
def watched(assistant):
    return WatchedAssistant(assistant)


@pytest.fixture
def server(http_servers, watched):
    return http_servers.start(watched)


def said(messages: list[dict]) -> list[str]:
    """Who said what; `*` stands for speech. The default instructions, which must come first, are left out."""
    turns = [m["role"][0] + ":" + "".join(part.get("text", "*") for part in m["content"]) for m in messages]
    return turns[turns[:1] == [f"s:{SPOKEN_CHAT_SYSTEM_PROMPT}"] :]


def test_history(server, watched):
    with RealtimeClient(server, {"instructions": "Be brief.", **PUSH_TO_TALK}) as client:
        client.say(question())
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        assert client.answer()["status"] == "completed"
        history = ["s:Be brief.", "u:*"]
        assert said(watched.answered[-1]) == history
        # read ahead as soon as the answer is there
        spoken = "*" if any(event["type"] == "response.output_audio.delta" for event in client.events) else ""
        history += [f"a:{text_of(client.events[-1]['response'])}{spoken}"]
        wait_until(lambda: [said(messages) for messages in watched.prepared] == [history])
        client.write("One.", "system")
        client.ask("Two?", **TEXT)
        assert said(watched.answered[-1]) == history + ["s:One.", "u:Two?"]
        client.ask("Three?", instructions="Be long.", conversation="none", **TEXT)
        assert said(watched.answered[-1])[0] == "s:Be long." and said(watched.answered[-1])[-1] == "u:Three?"
        # the engine's cache belongs to the conversation alone
        (conversation_id,) = watched.ids - {None}
        assert len(watched.ids) == 2
    wait_until(lambda: watched.forgotten == [conversation_id])


def test_options_reach_the_model(server, watched):
    session = {"max_output_tokens": 3, "vita_audio": {"mctp_mode": "turbo", "mctp_verify": 1.0}}
    with RealtimeClient(server, session) as client:
        for options in (
            {},
            {"vita_audio": {"mctp_mode": "vanilla"}},
            # false is no value that was left out
            {"vita_audio": {"mctp_verify": False}, "max_output_tokens": 2},
        ):
            client.ask("One?", **TEXT, **options)
    at_once = server.server.settings.max_new_tokens
    assert watched.options == [
        AnswerOptions(max_new_tokens=length, max_tokens_at_once=at_once, mctp_mode=mode, mctp_verify=tolerance)
        for length, mode, tolerance in ((3, "turbo", 1.0), (3, "vanilla", 1.0), (2, "turbo", False))
    ]


def test_default_instructions_stand_before_all_that_is_spoken(server, watched):
    with RealtimeClient(server, {"instructions": "", **PUSH_TO_TALK}) as client:
        assert client.events[-1]["session"]["instructions"] == SPOKEN_CHAT_SYSTEM_PROMPT
        client.ask("What is one plus one?", **TEXT)
        # the model was trained without them where nobody speaks
        assert len(watched.answered[-1]) == 1
        client.say(question())
        client.send("input_audio_buffer.commit")
        wait_until(lambda: watched.heard)
        client.send("response.create")
        client.answer()
        assert watched.heard[-1] == watched.answered[-1][:-1]
        assert watched.answered[-1][0]["content"][0]["text"] == SPOKEN_CHAT_SYSTEM_PROMPT


def test_typed_conversations_are_not_read_ahead(server, watched):
    with RealtimeClient(server, PUSH_TO_TALK) as client:
        client.ask("What is one plus one?", **TEXT)
        client.ask("What is two plus two?", **TEXT)
        assert watched.prepared == []
        client.say(question())
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        client.answer()
        wait_until(lambda: watched.prepared)


def test_what_was_not_heard_is_not_in_the_history(server, watched):
    """The clock says what was heard of an answer that is still playing, until the client does."""
    with RealtimeClient(server) as client:
        client.say(silence(0.5) + question() + silence(1))
        first = client.until("response.output_audio.delta")
        begun = time.monotonic()
        response = client.answer()
        assert response["status"] == "completed" and text_of(response) == ANSWER
        wait_until(lambda: watched.prepared)
        assert said(watched.prepared[-1]) == ["u:*", f"a:{ANSWER}*"]
        # the answer lasts two seconds, and the model took less to make it
        client.say(silence(0.5) + question())
        client.until("input_audio_buffer.speech_started")
        elapsed = time.monotonic() - begun
        # what the model reads while the user speaks
        wait_until(lambda: len(watched.heard) == 2)
        heard = "".join(said(watched.heard[1])[1:]).removeprefix("a:").removesuffix("*")
        assert ANSWER.startswith(heard) and heard != ANSWER
        # nobody speaks 30 characters in a second, and text is a piece ahead of its speech
        assert len(heard) < 30 * elapsed + 20
        client.send("conversation.item.truncate", item_id=first["item_id"], content_index=0, audio_end_ms=800)
        client.until("conversation.item.truncated")
        assert len(watched.heard) == 3
        client.say(silence(1))
        client.until("response.created")
        asked = said(watched.answered[-1])
        heard = asked[1].removeprefix("a:").removesuffix("*")
        assert asked == [*said(watched.heard[2]), "u:*"] == ["u:*", f"a:{heard}*", "u:*"]
        assert ANSWER.startswith(heard) and 0 < len(heard) < len(ANSWER)
        client.answer()


def test_an_answer_that_was_interrupted_is_not_heard_on(server, watched):
    detection = {"type": "server_vad", "create_response": False, "idle_timeout_ms": 5000}
    with RealtimeClient(server, {"audio": {"input": {"turn_detection": detection}}}) as client:
        client.write(LONG)
        client.send("response.create")
        response_id = client.until("response.created")["response"]["id"]
        # a client that plays it is not there yet
        while len(client.audio(response_id)) < 8 * 48000:
            client.until("response.output_audio.delta")
        for _ in range(2):
            client.say(silence(0.5) + question() + silence(1))
            client.until("input_audio_buffer.committed")
            time.sleep(0.3)
        first, second = watched.heard
        assert len(first) == 3 and first == second[:3]
        # silence counts as if it had been played to its end
        noise = 0.001 * np.random.default_rng(0).standard_normal(24000 * 6)
        client.say((noise * 32767).astype("<i2").tobytes())
        client.until("input_audio_buffer.timeout_triggered")


def test_a_truncated_answer_is_read_ahead(server, watched):
    with RealtimeClient(server, PUSH_TO_TALK) as client:
        client.say(question())
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        response = client.answer()
        item_id = response["output"][0]["id"]
        client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=1000)
        client.until("conversation.item.truncated")
        wait_until(lambda: len(watched.prepared) == 2)
        _, answer = said(watched.prepared[-1])
        heard = answer.removeprefix("a:").removesuffix("*")
        assert ANSWER.startswith(heard) and heard != ANSWER
        client.send("conversation.item.delete", item_id=item_id)
        client.until("conversation.item.deleted")
        wait_until(lambda: len(watched.prepared) == 3)
        assert said(watched.prepared[-1]) == ["u:*"]


def test_long_conversations_lose_their_oldest_turns(server, watched):
    with RealtimeClient(server) as client:
        client.write("Be kind.", "system")
        for text in ("One?", "Two?", "Three?"):
            client.write(text)
            client.write(text[:-1] + "!", "assistant")
        watched.max_messages = 4
        client.ask("Four?", **TEXT)
        assert said(watched.answered[-1]) == ["s:Be kind.", "u:Three?", "a:Three!", "u:Four?"]
        # for ever, so that what was read of the rest can be used
        watched.max_messages = 1000
        client.ask("Five?", **TEXT)
        assert said(watched.answered[-1])[:4] == ["s:Be kind.", "u:Three?", "a:Three!", "u:Four?"]
        # a single turn that is too long cannot be answered
        watched.max_messages = 1
        client.write("Six?", id="last")
        for options in ({}, {"conversation": "none", "input": [{"type": "item_reference", "id": "last"}] * 2}):
            client.send("response.create", event_id="six", response=options)
            error = client.receive()["error"]
            assert error["event_id"] == "six" and error["code"] == "context_length_exceeded"


def test_what_is_said_beside_a_conversation_takes_no_turn_from_it(server, watched):
    with RealtimeClient(server) as client:
        for text in ("One?", "Two?", "Three?"):
            client.write(text)
            client.write(text[:-1] + "!", "assistant")
        client.write("Four?")
        watched.max_messages = 4
        client.send("response.create", response={**TEXT, "conversation": "none"})
        client.answer()
        assert said(watched.answered[-1]) == ["u:Three?", "a:Three!", "u:Four?"]
        watched.max_messages = 0
        for conversation in ("none", "auto"):
            client.send("response.create", response={**TEXT, "conversation": conversation})
            assert client.receive()["error"]["code"] == "context_length_exceeded"
        watched.max_messages = 1000
        client.send("response.create", response=TEXT)
        client.answer()
        assert len(watched.answered[-1]) == 7


@pytest.mark.slow
def test_a_conversation_goes_on(server, watched):
    """Beyond what the shipped model was trained with, too."""
    with RealtimeClient(server, PUSH_TO_TALK) as client:
        answers = []
        for _ in range(8):
            client.say(question())
            client.send("input_audio_buffer.commit")
            client.send("response.create")
            answers.append(client.answer())
    # what a small model makes of a long conversation is not the session's concern, but it answers
    assert all(answer["status"] == "completed" and text_of(answer) for answer in answers)
    tokens = [answer["usage"]["input_tokens"] for answer in answers]
    assert max(tokens) <= watched.max_prompt_tokens
    # turns were left out more than once, and not at each turn
    assert 1 < sum(later < earlier for earlier, later in zip(tokens, tokens[1:], strict=False)) < 4


def test_long_conversations_that_must_not_lose_turns(server, watched):
    watched.max_messages = 2
    with RealtimeClient(server, {"truncation": "disabled"}) as client:
        client.ask("One?", **TEXT)
        client.write("Two?")
        client.send("response.create", event_id="two")
        error = client.receive()["error"]
        assert error["event_id"] == "two" and error["code"] == "context_length_exceeded"
        assert "3 messages" in error["message"]


def test_a_commit_in_the_middle_of_speech(server, watched):
    with RealtimeClient(server) as client:
        client.say(silence(0.5) + question()[:48000])
        item_id = client.until("input_audio_buffer.speech_started")["item_id"]
        client.send("input_audio_buffer.commit")
        assert client.until("input_audio_buffer.committed")["item_id"] == item_id
        client.say(question()[48000:] + silence(1))
        again = client.until("input_audio_buffer.speech_started")["item_id"]
        assert again != item_id
        client.answer()
        assert said(watched.answered[-1]) == ["u:*", "u:*"]
