# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What a row of a corpus has to be like, for training and for publishing; and reads the rows that are to be published.
"""

import re
from pathlib import Path

from .json_lines import read_json_lines


CONVERSATIONS, CLIPS = "conversations", "clips"
FIELDS = {
    CONVERSATIONS: {"messages": list},
    CLIPS: {**dict.fromkeys(("path", "text", "voice", "split"), str), "duration": (int, float)},
}
ROLES = ("system", "user", "assistant")
# Stands for an audio in a message, as `processing` has it
AUDIO_MARK = "<|audio|>"
# On the Hub, every row has a split. Rows that name none are sent as training data.
DEFAULT_SPLIT = "train"
# As `datasets` has it
SPLIT_NAME = re.compile(r"\w+(\.\w+)*")


def read_rows(path: Path) -> list[dict]:
    """
    The rows of `conversations.jsonl` or `clips.jsonl`, each with a split; none if there is no such file.

    Raises:
        ValueError: a row cannot be published, or training could not read it then. The message names its line.
    """
    rows, lines = [], {}
    for number, row in read_json_lines(path, FIELDS[path.stem]) if path.is_file() else ():
        row_id, split = row.get("id"), row.get("split") or DEFAULT_SPLIT
        problem = problem_of_conversation(row) if path.stem == CONVERSATIONS else problem_of_clip(row)
        if problem is None and not isinstance(row_id, str | int | None):
            problem = "`id` must be a text or a number"
        elif problem is None and row_id is not None and lines.setdefault(str(row_id), number) != number:
            problem = f"it has the id {row_id!r:.100}, as line {lines[str(row_id)]} has"
        elif problem is None and not SPLIT_NAME.fullmatch(split):
            problem = (
                f"`split` must be a word such as train or test_words, without dashes and blanks, got {split!r:.100}"
            )
        if problem is not None:
            raise ValueError(f"{path}, line {number} cannot be published: {problem}.")
        rows.append(row | {"id": None if row_id is None else str(row_id), "split": split})
    return rows


def problem_of_row(row: dict) -> str | None:
    """What makes that a row is no conversation that could be trained on or scored."""
    messages, audios = row.get("messages"), row.get("audios") or []
    if not isinstance(messages, list) or not messages:
        return "it has no list of `messages`"
    if not all(isinstance(message, dict) and are_texts(message, "role", "content") for message in messages):
        return "each message needs a `role` and a `content`, which are texts"
    if unknown := [message["role"] for message in messages if message["role"] not in ROLES]:
        return f"unknown role {unknown[0]!r:.100}; roles are {', '.join(ROLES[:-1])} and {ROLES[-1]}"
    if not isinstance(audios, list):
        return "`audios` must be a list"
    if (num_marks := count_marks(messages)) != len(audios):
        return f"the messages have {num_marks} marks {AUDIO_MARK}, but there are {len(audios)} audios"
    if not all(isinstance(row.get(name) or "", str) for name in ("task", "split", "reference")):
        return "`task`, `split` and `reference` must be texts"
    if not is_list_of_texts(row.get("accepted_answers") or []):
        return "`accepted_answers` must be a list of texts"
    if not isinstance(turns := row.get("turns") or [], list) or not all(map(is_scored_turn, turns)):
        return "`turns` must be a list of objects with a `reference` and a list of `accepted_answers`"
    if not isinstance(row.get("id"), str | int | None):
        return "`id` must be a text or a number"
    return None


def problem_of_conversation(row: dict) -> str | None:
    """What training would not take in a row, or the columns of the dataset cannot hold."""
    if not row["messages"]:
        return "it has no `messages`"
    if not is_list_of_texts(row.get("audios") or []):
        return "`audios` must be a list of paths"
    if not all(isinstance(row.get(name) or "", str) for name in ("task", "split", "reference", "answer")):
        return "`task`, `split`, `reference` and `answer` must be texts"
    problem = problem_of_row(row)
    if problem is None and not all(isinstance(turn.get("answer") or "", str) for turn in row.get("turns") or []):
        problem = "the `answer` of a turn must be a text"
    return problem


def problem_of_clip(row: dict) -> str | None:
    """What the columns of the dataset cannot hold of a row."""
    return None if is_list_of_texts(row.get("phonemes") or []) else "`phonemes` must be a list of texts"


def is_scored_turn(turn: object) -> bool:
    """Whether an entry of a row's `turns` says what a turn of the assistant is scored by."""
    return isinstance(turn, dict) and are_texts(turn, "reference") and is_list_of_texts(turn.get("accepted_answers"))


def count_marks(messages: list[dict]) -> int:
    return sum(message["content"].count(AUDIO_MARK) for message in messages)


def are_texts(content: dict, *names: str) -> bool:
    return all(isinstance(content.get(name), str) for name in names)


def is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
