# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The items of a conversation of the Realtime protocol, and what a model gets of them."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from processing.conversation_vita_audio import SPOKEN_CHAT_SYSTEM_PROMPT
from processing.conversation_vita_audio import is_spoken as user_speaks

from .api_errors import ApiError
from .assistant import Answer
from .history import typed_as_text
from .realtime_audio import encode_audio
from .realtime_events import AudioFormat, MessageItem


# Audio is kept only to be retrieved. So much of a session's is, the latest: 19 MB at 16 kHz.
MAX_KEPT_AUDIO_SECONDS = 600.0


@dataclass(eq=False)
class Part:
    """
    A part of an item's content.

    Attributes:
        type (`str`): as in the protocol.
        text (`str`, *optional*): of a text, or of speech if it is known.
        audio (`np.ndarray`, *optional*): the samples of speech, int16 `(num_samples,)`, while they are kept.
        sampling_rate (`int`): of them, in Hz.
        encoded (`Any`, *optional*): of a user's speech, what stands for it in messages.
    """

    type: str
    text: str | None = None
    audio: np.ndarray | None = None
    sampling_rate: int = 0
    encoded: Any = None

    def to_dict(self, audio_format: AudioFormat | None = None) -> dict:
        """The part as in the protocol, with its audio where a format for it is given."""
        if not self.type.endswith("audio"):
            return {"type": self.type, "text": self.text}
        audio = {}
        if audio_format is not None and self.audio is not None:
            audio["audio"] = encode_audio(self.audio, self.sampling_rate, audio_format)
        return {"type": self.type, "transcript": self.text, **audio}


@dataclass(eq=False)
class Item:
    """A turn. `is_left_out` says that the conversation has become too long for it."""

    id: str
    role: str
    content: list[Part]
    status: str = "completed"
    is_left_out: bool = False

    def to_dict(self, audio_format: AudioFormat | None = None) -> dict:
        """The item as in the protocol; see [`Part.to_dict`]."""
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [part.to_dict(audio_format) for part in self.content],
        }

    def to_message(self) -> dict | None:
        """The message that the model gets, or None if there is nothing in it."""
        content = [
            {"type": "text", "text": part.text} if part.encoded is None else {"type": "audio", "audio": part.encoded}
            for part in self.content
            if part.encoded is not None or part.text
        ]
        return {"role": self.role, "content": content} if content else None


@dataclass(eq=False)
class AnswerItem(Item):
    """
    A turn of the assistant that this session has made.

    Attributes:
        answer ([`Answer`]): which knows what had been said when.
        sent_seconds (`float`): the length of the audio that was sent.
        first_sent (`float`, *optional*): when its first audio was, by `time.monotonic`.
        heard_seconds (`float`, *optional*): how much of it the user has heard, if not all.
        is_truncated (`bool`): whether the client has said so, and this is not what the clock allows.
    """

    answer: Answer = None
    sent_seconds: float = 0.0
    first_sent: float | None = None
    heard_seconds: float | None = None
    is_truncated: bool = False

    def played_seconds(self) -> float:
        """How much of what was sent a client can have played by now."""
        return 0.0 if self.first_sent is None else min(self.sent_seconds, time.monotonic() - self.first_sent)

    def is_playing(self) -> bool:
        """Whether there is more of it to be played. What was interrupted is not played on."""
        is_all_played = self.status != "in_progress" and self.played_seconds() >= self.sent_seconds
        return self.heard_seconds is None and not is_all_played

    def interrupt(self) -> None:
        """The user has interrupted it. Until the client says how much was played, it is what time allows."""
        if self.content[0].type == "output_audio" and self.is_playing():
            self.heard_seconds = self.played_seconds()

    def truncate(self, audio_end_ms: int) -> None:
        """
        Cuts it to what was played.

        Raises:
            ApiError: it is shorter, or text.
        """
        (part,) = self.content
        if part.type != "output_audio":
            raise ApiError("Only audio can be truncated; this item is text.", param="item_id", code="invalid_value")
        length = self.heard_seconds if self.is_truncated else self.sent_seconds
        # what a client has rounded up shall not be an error
        if audio_end_ms > length * 1000 + 1:
            raise ApiError(
                f"Audio content of {int(length * 1000)}ms is already shorter than {audio_end_ms}ms.",
                param="audio_end_ms",
                code="invalid_value",
            )
        self.heard_seconds, self.is_truncated = min(audio_end_ms / 1000, length), True
        if self.status != "in_progress":
            self.cut()

    def cut(self) -> None:
        """Leaves of its content what was heard, once the client has said how much that is."""
        (part,) = self.content
        part.text = self.answer.text_at(self.heard_seconds)
        if part.audio is not None:
            part.audio = part.audio[: round(self.heard_seconds * part.sampling_rate)]

    def to_message(self) -> dict | None:
        if self.status == "in_progress":
            return None
        if self.status == "completed" or self.heard_seconds is not None:
            return self.answer.message(self.heard_seconds)
        # What the client never got was not said
        return self.answer.beginning("".join(part.text or "" for part in self.content), self.sent_seconds)


class Conversation:
    """
    Items in their order.

    Args:
        max_items (`int`): how many there may be.
    """

    def __init__(self, max_items: int):
        self.max_items = max_items
        self.items: list[Item] = []

    def get(self, item_id: str, param: str = "item_id") -> Item:
        """
        Raises:
            ApiError: there is none of this id.
        """
        return self.items[self._place(item_id, param)]

    def previous_id(self, item: Item) -> str | None:
        """The id of the item before this one, None for the first and for one that was removed."""
        place = self.items.index(item) if item in self.items else 0
        return self.items[place - 1].id if place else None

    def last_id(self) -> str | None:
        return self.items[-1].id if self.items else None

    def check_new(self, item: MessageItem) -> None:
        """
        Raises:
            ApiError: a client's item has an id that is taken.
        """
        if item.id == "root" or any(item.id == other.id for other in self.items):
            raise ApiError(
                f"There is an item {item.id!r:.200} already; ids must be new.", param="item.id", code="invalid_value"
            )

    def add(self, item: Item, previous_item_id: str | None = None) -> list[str]:
        """
        Puts an item after another one, or at the end, or first if that is `"root"`.

        Returns:
            `list[str]`: of the oldest items, those that were removed because there were too many. The system's go
                last.

        Raises:
            ApiError: there is no such previous item.
        """
        if previous_item_id is None:
            self.items.append(item)
        elif previous_item_id == "root":
            self.items.insert(0, item)
        else:
            self.items.insert(self._place(previous_item_id, "previous_item_id") + 1, item)
        removed = []
        while len(self.items) > self.max_items:
            others = [other for other in self.items if other is not item]
            oldest = next((other for other in others if other.role != "system"), others[0])
            self.items.remove(oldest)
            removed.append(oldest.id)
        self._drop_old_audio()
        return removed

    def delete(self, item_id: str) -> None:
        """
        Raises:
            ApiError: there is no such item.
        """
        del self.items[self._place(item_id, "item_id")]

    def messages(self, instructions: str, is_spoken: bool = False) -> list[dict]:
        """What the model gets; see [`with_instructions`]."""
        messages = [item.to_message() for item in self.items if not item.is_left_out]
        return with_instructions(instructions, [message for message in messages if message is not None], is_spoken)

    def leave_out_older_half(self) -> list[Item]:
        """
        Leaves the older half of the turns before the user's last one out of the messages, with their answers. To leave
        out one at a time would change the beginning of the conversation at each turn, and nothing that was read of it
        could be used. The system's turns stay. Returns what was left out: nothing where there was no such turn.
        """
        items = [item for item in self.items if item.role != "system" and not item.is_left_out]
        turns = [place for place, item in enumerate(items) if item.role == "user"]
        if len(turns) < 2:
            return []
        left_out = items[: turns[len(turns) // 2]]
        for item in left_out:
            item.is_left_out = True
        return left_out

    def last_answer(self) -> AnswerItem | None:
        """The latest answer that this session has made."""
        return next((item for item in reversed(self.items) if isinstance(item, AnswerItem)), None)

    def last_heard(self) -> Any:
        """What stands for the last speech of the user; None if there is none."""
        parts = (part for item in reversed(self.items) if item.role == "user" for part in item.content)
        return next((part.encoded for part in parts if part.encoded is not None), None)

    def interrupt(self) -> None:
        """The user has begun to speak while the last answer may be playing."""
        if (item := self.last_answer()) is not None:
            item.interrupt()

    def _place(self, item_id: str, param: str) -> int:
        for place, item in enumerate(self.items):
            if item.id == item_id:
                return place
        raise ApiError(f"There is no item {item_id!r:.200} in the conversation.", param=param, code="item_not_found")

    def _drop_old_audio(self) -> None:
        seconds = 0.0
        for item in reversed(self.items):
            for part in item.content:
                if part.audio is not None:
                    seconds += len(part.audio) / part.sampling_rate
                    if seconds > MAX_KEPT_AUDIO_SECONDS:
                        part.audio = None


def with_instructions(instructions: str, messages: list[dict], is_spoken: bool = False) -> list[dict]:
    """
    The messages behind a system's turn of the instructions. The models were trained with that of spoken chat only
    where the user speaks: in one of these messages or, if `is_spoken`, in the next one.
    """
    if not (is_spoken or user_speaks(messages)):
        messages = typed_as_text(messages)
        if instructions == SPOKEN_CHAT_SYSTEM_PROMPT:
            return messages
    return [{"role": "system", "content": [{"type": "text", "text": instructions}]}, *messages]


__all__ = ["AnswerItem", "Conversation", "Item", "Part", "with_instructions"]
