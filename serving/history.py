# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Earlier answers as a later turn reads them: what the model wrote, text and speech, as in its training."""

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
