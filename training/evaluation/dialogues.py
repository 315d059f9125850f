# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Dialogues: each turn of the assistant is an item of its own, which the model answers after its own earlier turns. Those
of the row are only what it is measured by.
"""

from collections.abc import Iterable
from dataclasses import replace

from processing.conversation_vita_audio import SpeechCodes, split_at_marks
from training.conversations import DIALOGUE

from .benchmarks import Item, build_item
from .normalizers import normalize_corpus_text


def build_items(rows: Iterable[dict]) -> list[Item]:
    """
    The items of conversations: one for each, and of a dialogue one for each turn of the assistant. First turns come
    first, because later ones need the responses to them.

    Args:
        rows: Of [`~training.conversations.read_conversations`].

    Raises:
        ValueError: As [`~training.evaluation.benchmarks.build_item`] and [`build_turns`].
    """
    items = [item for row in rows for item in (build_turns(row) if row["task"] == DIALOGUE else [build_item(row)])]
    return sorted(items, key=lambda item: len(item.earlier))


def build_turns(row: dict) -> list[Item]:
    """
    The turns of the assistant in a dialogue, each an item whose prompt is what was said before. Of the row's audios
    only those of the others are taken.

    Raises:
        ValueError: `turns` are not as many as the assistant's, or one of them has no words to measure by.
    """
    messages, answers = split_at_marks(row["messages"], row["audios"]), []
    places = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if len(places) != len(row["turns"]) or not places or not places[0]:
        raise ValueError(
            f"The dialogue {row['id']} has {len(places)} turns of the assistant, but {len(row['turns'])} `turns` to "
            "measure them by, or begins with one."
        )
    for place, turn in zip(places, row["turns"]):
        if not normalize_corpus_text(turn["reference"]):
            raise ValueError(f"The dialogue {row['id']} has a turn without words to be measured by.")
        earlier = tuple(item.id for item in answers)
        prompt = [
            {**message, "content": []} if message["role"] == "assistant" else message for message in messages[:place]
        ]
        accepted = tuple(turn["accepted_answers"]) or (turn["reference"],)
        is_spoken = any(part["type"] == "audio" for part in messages[place]["content"])
        name = f"{row['id']}/{len(earlier) + 1}"
        answers.append(Item(name, prompt, turn["reference"], accepted, earlier, is_spoken))
    return answers


def with_responses(item: Item, responses: dict[str, dict]) -> Item:
    """
    The item with the model's own earlier turns in its prompt, text and speech, as they stand there in training.

    Args:
        responses: Rows of [`~training.evaluation.harness.respond`] by their ids, with all of the item's `earlier`.
    """
    own, messages = iter(item.earlier), []
    for message in item.messages:
        if message["role"] == "assistant" and item.earlier:
            response = responses[next(own)]
            content = [{"type": "text", "text": response["text"]}] if response["text"] else []
            if response["audio_codes"]:
                content.append({"type": "audio", "audio": SpeechCodes(response["audio_codes"])})
            message = {**message, "content": content}
        messages.append(message)
    return replace(item, messages=messages)
