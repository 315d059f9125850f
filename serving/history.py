# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Earlier answers as a later turn reads them: what the model wrote, text and speech, as in its training.

`processing` is imported where it is needed: commands name wrong options before they load it.
"""

from typing import Any


# How much of what a model was trained with a conversation may fill: the answer needs room, too, and few examples of
# the training are longer. The shipped model answered spoken questions behind others as well as alone up to 380 tokens
# of 512, and seldom from 480 on.
SHARE_OF_CONVERSATION = 0.75


def answer_message(text: str, audio_codes: list[int]) -> dict | None:
    """The turn of an answer, or None if nothing is in it."""
    content = [{"type": "text", "text": text}] if text.strip() else []
    if audio_codes:
        content.append({"type": "audio", "codes": audio_codes})
    return {"role": "assistant", "content": content} if content else None


def typed_as_text(messages: list[dict]) -> list[dict]:
    """
    A conversation in which the user does not speak, without its speech: answers to written questions alone are
    text, which is read aloud afterwards. An answer that was speech alone is left out.
    """
    written = [{**m, "content": [part for part in m["content"] if part["type"] == "text"]} for m in messages]
    return [message for message in written if message["content"]]


def as_asked(messages: list[dict]) -> list[dict]:
    """A conversation as the models learn it, apart from the system's turn; see [`typed_as_text`]."""
    from processing.conversation_vita_audio import is_spoken

    return messages if is_spoken(messages) else typed_as_text(messages)


def has_room(processor: Any, messages: list[dict]) -> bool:
    """
    Whether a conversation and an answer to it fit into what the model was trained with.

    Args:
        processor ([`VitaAudioProcessor`]): the model's.
        messages (`list[dict]`): the conversation, without the system's turn that is added where there is none.

    Raises:
        ValueError: see [`VitaAudioProcessor.build_prompt`].
    """
    from processing.conversation_vita_audio import read_conversation, with_system_prompt

    num_tokens = processor.build_prompt(with_system_prompt(read_conversation(messages)))["input_ids"].shape[1]
    return num_tokens <= SHARE_OF_CONVERSATION * processor.tokenizer.model_max_length
