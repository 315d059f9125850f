# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""One response of the Realtime protocol: an answer while it is made, and the events that tell of it."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .api_errors import ApiError, server_error
from .assistant import Answer, Piece
from .audio_formats import to_int16
from .realtime_audio import AudioWriter, to_base64
from .realtime_conversation import AnswerItem, Conversation, Part
from .realtime_events import VOICE, AudioFormat, new_id, server_event
from .realtime_outbox import Outbox
from .server import Server


logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ResponseSettings:
    """
    What a response is to be, of the session's settings and of `response.create`.

    Args:
        with_audio (`bool`): whether it is spoken.
        audio_format ([`AudioFormat`]): of its audio.
        max_output_tokens (`int` or `str`): as of the protocol.
        metadata (`dict[str, str]`, *optional*): the client's.
        conversation ([`Conversation`], *optional*), conversation_id (`str`, *optional*): to which its item is added.
        since (`float`): when the user's turn was over, by `time.perf_counter`.
    """

    with_audio: bool
    audio_format: AudioFormat
    max_output_tokens: int | str
    metadata: dict[str, str] | None
    conversation: Conversation | None
    conversation_id: str | None
    since: float


class Response:
    """
    Sends an answer, in a task that begins at once.

    Args:
        server ([`Server`]): which counts and measures.
        outbox ([`Outbox`]): where the events go.
        answer ([`Answer`]): to be sent.
        settings ([`ResponseSettings`]): what it is to be.
        add_item (`Callable`): adds its item to the conversation, and tells the client.
        on_end (`Callable`): called with the response when it has ended.

    Attributes:
        id (`str`): its name in the protocol.
        task (`asyncio.Task`): which sends it.
    """

    def __init__(
        self,
        server: Server,
        outbox: Outbox,
        answer: Answer,
        settings: ResponseSettings,
        add_item: Callable[[AnswerItem], None],
        on_end: Callable[["Response"], None],
    ):
        self.id = new_id("resp")
        self.settings = settings
        self._server, self._outbox, self._answer = server, outbox, answer
        self._add_item, self._on_end = add_item, on_end
        self._item: AnswerItem | None = None
        self._text = ""
        self._audio: list[np.ndarray] = []
        self._writer = AudioWriter(settings.audio_format, server.assistant.output_sampling_rate)
        self._status, self._details = "in_progress", None
        self._first_audio_ms: float | None = None
        self._outbox.put(server_event("response.created", response=self._to_dict()))
        self.task = asyncio.create_task(self._run())

    async def cancel(self, reason: str) -> None:
        """Stops it; `reason` is one of the protocol's."""
        self.task.cancel()
        await asyncio.wait([self.task])
        if self._status == "in_progress":
            # its task may have been cancelled before it had begun
            await self._answer.cancel()
            self._outbox.discard(self.id)
            self._finish("cancelled", {"type": "cancelled", "reason": reason})

    async def _run(self) -> None:
        try:
            async with self._server.running(self._answer, "realtime", self.settings.since) as pieces:
                async for piece in pieces:
                    await self._send(piece)
            if self._item is not None:
                self._send_audio(self._writer.finish())
        except Exception as error:
            if not isinstance(error, ApiError):
                logger.exception("A response failed")
                error = server_error()
            problem = {"type": error.type, "code": error.code, "message": str(error)}
            self._finish("failed", {"type": "failed", "error": problem})
        else:
            if self._answer.is_cut_off:
                self._finish("incomplete", {"type": "incomplete", "reason": "max_output_tokens"})
            else:
                self._finish("completed", {"type": "completed"})

    async def _send(self, piece: Piece) -> None:
        if self._item is None:
            self._begin_item()
        await self._outbox.room()
        if piece.text is not None:
            self._text += piece.text
            self._item.content[0].text = self._text
            self._send_part(
                "output_audio_transcript.delta" if self._is_spoken else "output_text.delta", delta=piece.text
            )
        elif self._is_spoken:
            sent = asyncio.get_running_loop().create_future() if self._first_audio_ms is None else None
            self._audio.append(to_int16(piece.audio))
            self._item.sent_seconds += len(piece.audio) / self._server.assistant.output_sampling_rate
            is_sent = self._send_audio(self._writer(piece.audio), sent)
            if is_sent and sent is not None:
                await sent
                self._first_audio_ms = 1000 * (time.perf_counter() - self.settings.since)
                self._item.first_sent = time.monotonic()

    @property
    def _is_spoken(self) -> bool:
        return self.settings.with_audio

    def _begin_item(self) -> None:
        part = Part("output_audio" if self._is_spoken else "output_text", text="")
        self._item = AnswerItem(new_id("item"), "assistant", [part], "in_progress", answer=self._answer)
        # nothing is in it before its part has been added
        item = {**self._item.to_dict(), "content": []}
        self._outbox.put(server_event("response.output_item.added", response_id=self.id, output_index=0, item=item))
        if self.settings.conversation is not None:
            self._add_item(self._item)
        self._send_part("content_part.added", part=self._part())

    def _send_audio(self, content: bytes, sent: asyncio.Future | None = None) -> bool:
        """Sends audio, if there is any; returns whether there was."""
        if content:
            self._send_part("output_audio.delta", sent, delta=to_base64(content))
        return bool(content)

    def _send_part(self, kind: str, sent: asyncio.Future | None = None, **fields: object) -> None:
        """Sends an event of the response's one part."""
        place = {"response_id": self.id, "item_id": self._item.id, "output_index": 0, "content_index": 0}
        stream_id = self.id if kind == "output_audio.delta" else None
        self._outbox.put(server_event(f"response.{kind}", **place, **fields), stream_id, sent)

    def _part(self) -> dict:
        """The part as in events of it, where its type has another name than in items."""
        if self._is_spoken:
            return {"type": "audio", "transcript": self._text}
        return {"type": "text", "text": self._text}

    def _finish(self, status: str, details: dict) -> None:
        self._status, self._details = status, details
        if self._item is not None:
            self._finish_item()
        self._outbox.put(server_event("response.done", response=self._to_dict()))
        self._on_end(self)

    def _finish_item(self) -> None:
        item, (part,) = self._item, self._item.content
        item.status = "completed" if self._status == "completed" else "incomplete"
        if self._is_spoken:
            if self._audio:
                part.audio, part.sampling_rate = (
                    np.concatenate(self._audio),
                    self._server.assistant.output_sampling_rate,
                )
            self._send_part("output_audio.done")
            self._send_part("output_audio_transcript.done", transcript=self._text)
        else:
            self._send_part("output_text.done", text=self._text)
        self._send_part("content_part.done", part=self._part())
        if item.is_truncated:
            item.cut()
        if self.settings.conversation is not None:
            previous_id = self.settings.conversation.previous_id(item)
            self._outbox.put(server_event("conversation.item.done", previous_item_id=previous_id, item=item.to_dict()))
        self._outbox.put(
            server_event("response.output_item.done", response_id=self.id, output_index=0, item=item.to_dict())
        )

    def _to_dict(self) -> dict:
        answer, settings = self._answer, self.settings
        usage = None
        if self._status != "in_progress":
            usage = {
                "input_tokens": answer.num_prompt_tokens,
                "output_tokens": answer.num_new_tokens,
                "total_tokens": answer.num_prompt_tokens + answer.num_new_tokens,
            }
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": self._status,
            "status_details": self._details,
            "output": [] if self._item is None else [self._item.to_dict()],
            "conversation_id": settings.conversation_id,
            "output_modalities": ["audio" if self._is_spoken else "text"],
            "max_output_tokens": settings.max_output_tokens,
            "audio": {"output": {"format": settings.audio_format.to_dict(), "voice": VOICE}},
            "usage": usage,
            "metadata": settings.metadata,
            "vita_audio": {"time_to_first_audio_ms": self._first_audio_ms},
        }


__all__ = ["Response", "ResponseSettings"]
