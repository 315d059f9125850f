# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
A session of the Realtime protocol: what each event of a client does, and what turns of speech do by themselves.

Events are handled one after the other. Answers and transcripts are made in tasks beside them.
"""

import asyncio
import logging
import time
from contextlib import suppress

from processing.conversation_vita_audio import is_spoken

from .api_errors import ApiError, server_error
from .assistant import Answer, AnswerOptions, Hearing
from .engine import PromptTooLong
from .realtime_audio import AudioReader, bytes_per_second, decode_base64, seconds_of
from .realtime_config import SessionConfig
from .realtime_conversation import AnswerItem, Conversation, Item, Part, with_instructions
from .realtime_events import (
    ClientEvent,
    InputItem,
    ItemReference,
    MessageItem,
    ResponseOptions,
    VitaAudio,
    error_event,
    new_id,
    read_event,
    read_json,
    server_event,
)
from .realtime_input import InputAudio
from .realtime_outbox import Outbox
from .realtime_response import Response, ResponseSettings
from .realtime_transcription import Transcriber
from .server import Server, raise_refusal


logger = logging.getLogger(__name__)

# Shorter turns are slips of a finger, and the reference refuses them as well.
MIN_TURN_SECONDS = 0.1

# Of a long append, so much is heard before other sessions have their turn.
SLICES_PER_SECOND = 10

# Responses out of the conversation that a session may have at once. The reference sets no limit.
MAX_RESPONSES_BESIDE = 4


class RealtimeSession:
    """
    One client's session.

    Args:
        server ([`Server`]): which it is a session of.
        outbox ([`Outbox`]): where its events go.
    """

    def __init__(self, server: Server, outbox: Outbox):
        self._server, self._assistant, self._outbox = server, server.assistant, outbox
        self._id, self._conversation_id = new_id("sess"), new_id("conv")
        self._config = SessionConfig(model=server.assistant.model_name)
        self._conversation = Conversation(server.settings.max_turns)
        self._max_turn_seconds = min(server.settings.max_audio_seconds, server.assistant.max_audio_seconds)
        self._input = InputAudio(self._hear, server.assistant.input_sampling_rate, self._max_turn_seconds)
        self._reader = AudioReader(self._config.input_format, server.assistant.input_sampling_rate)
        # of the turn that has begun
        self._turn_item_id = ""
        self._response: Response | None = None
        self._responses_beside: set[Response] = set()
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()
        self._transcriber = Transcriber(server, outbox, self._is_quiet)
        self._preparing: asyncio.Task | None = None
        self._is_closing = False

    @property
    def is_answering(self) -> bool:
        return not self._is_quiet.is_set()

    def start(self) -> None:
        self._put("session.created", session=self._config.to_dict(self._id))

    async def handle(self, text: str) -> None:
        """Does what a message asks, or tells the client why not."""
        event_id = None
        try:
            message = read_json(text)
            if isinstance(message.get("event_id"), str):
                event_id = message["event_id"]
            event = read_event(message)
            await HANDLERS[event.type](self, event)
        except ApiError as error:
            self.refuse(error, event_id)
        except Exception:
            logger.exception("An event of a realtime session failed")
            self.refuse(server_error(), event_id)

    def refuse(self, error: ApiError, event_id: str | None = None) -> None:
        """Tells the client that something was not done."""
        self._server.metrics.refused.labels(error.code).inc()
        self._outbox.put(error_event(error, event_id))

    async def close(self) -> None:
        """Stops all that goes on, and frees what is kept."""
        self._is_closing = True
        self._input.clear()
        await self._transcriber.close()
        for response in filter(None, [self._response, *self._responses_beside]):
            await response.cancel("client_cancelled")
        await self._stop_preparing()
        await self._assistant.forget(self._conversation_id)
        # frees the audio before Python finds out that nobody has the session any more
        self._conversation.items.clear()

    # The session

    async def _update_session(self, event: ClientEvent) -> None:
        update = event.session
        if update.model is not None and update.model not in (self._config.model, *self._server.model_names):
            raise ApiError(
                f"The model of a session cannot be changed; this one is {self._config.model!r}.",
                param="session.model",
                code="invalid_value",
            )
        if update.instructions is not None:
            self._check_text(update.instructions, "session.instructions")
        before, self._config = self._config, self._config.updated(update)
        if (before.turn_detection is None) != (self._config.turn_detection is None):
            # what has come is of no turn, or of one that nobody will end
            self._input.clear()
        if before.input_format != self._config.input_format:
            self._renew_reader()
        self._put("session.updated", session=self._config.to_dict(self._id))

    # What the user says

    async def _append_audio(self, event: ClientEvent) -> None:
        audio_format, detection = self._config.input_format, self._config.turn_detection
        content = decode_base64(event.audio, audio_format, "audio")
        seconds = self._input.seconds + seconds_of(content, audio_format)
        if detection is None and seconds > self._max_turn_seconds:
            raise ApiError(
                f"A turn has at most {self._max_turn_seconds:g} s of audio, and this would be one of {seconds:.1f} s. "
                "Commit or clear what has come.",
                param="audio",
                code="input_audio_buffer_full",
            )
        if detection is None and not self._input.is_turn:
            # the turn that begins now reads the conversation itself
            await self._stop_preparing()
        step = bytes_per_second(audio_format) // SLICES_PER_SECOND
        for start in range(0, len(content), step):
            for change in self._input.take(self._reader(content[start : start + step]), detection):
                await (self._start_turn() if change == "started" else self._stop_turn())
            await self._watch_silence()
            await asyncio.sleep(0)

    def _hear(self) -> Hearing:
        """Begins to hear a turn, which the model reads behind the conversation while it comes."""
        if self._response is not None:
            # the conversation is in use, and may not be what it is at the turn's end
            return self._assistant.hear()
        messages = self._conversation.messages(self._config.instructions, is_spoken=True)
        return self._assistant.hear(messages, self._conversation_id)

    async def _start_turn(self) -> None:
        self._turn_item_id = new_id("item")
        start = self._input.milliseconds(self._input.turn_start)
        self._put("input_audio_buffer.speech_started", audio_start_ms=start, item_id=self._turn_item_id)
        if self._config.turn_detection.interrupt_response:
            self._conversation.interrupt()
            if self._response is not None:
                await self._response.cancel("turn_detected")
        await self._stop_preparing()

    async def _stop_turn(self) -> None:
        since = time.perf_counter()
        end = self._input.milliseconds(self._input.turn_end)
        self._put("input_audio_buffer.speech_stopped", audio_end_ms=end, item_id=self._turn_item_id)
        await self._answer_turn(since, self._config.turn_detection.create_response)

    async def _answer_turn(self, since: float, is_answered: bool) -> None:
        """Makes an item of a turn that the client has not ended, so that no event of it is to blame for errors."""
        try:
            await self._commit(self._turn_item_id)
            if is_answered:
                await self._respond(ResponseOptions(), since)
        except ApiError as error:
            # the next turn may follow at once
            self._input.drop_turn()
            self.refuse(error)

    async def _watch_silence(self) -> None:
        """Answers silence that lasts as long as the session says, from the end of the last answer's playback."""
        timeout = self._config.turn_detection and self._config.turn_detection.idle_timeout_ms
        if timeout is None or self._input.is_turn or self._response is not None:
            self._input.quiet_since = None
            return
        if self._input.quiet_since is None:
            last = self._conversation.last_answer()
            if last is not None and not last.is_playing():
                self._input.quiet_since = self._input.position
            return
        start, end = (self._input.milliseconds(p) for p in (self._input.quiet_since, self._input.position))
        if end - start >= timeout:
            since, self._turn_item_id = time.perf_counter(), new_id("item")
            self._put(
                "input_audio_buffer.timeout_triggered",
                audio_start_ms=start,
                audio_end_ms=end,
                item_id=self._turn_item_id,
            )
            self._input.take_quiet()
            await self._answer_turn(since, True)

    async def _commit_audio(self, event: ClientEvent) -> None:
        if self._config.turn_detection is None:
            self._flush_reader()
        if self._input.seconds < MIN_TURN_SECONDS:
            raise ApiError(
                f"Error committing input audio buffer: buffer too small. Expected at least "
                f"{MIN_TURN_SECONDS * 1000:.0f}ms of audio, but buffer only has {self._input.seconds * 1000:.2f}ms of "
                "audio. With turn detection only speech is in it.",
                code="input_audio_buffer_commit_empty",
            )
        # speech that turn detection has announced keeps the item's id
        await self._commit(self._turn_item_id if self._config.turn_detection is not None else new_id("item"))

    def _flush_reader(self) -> None:
        """Hears the end of a turn that the resampler still holds."""
        if self._input.is_turn:
            for _ in self._input.take(self._reader.finish(), None):
                pass
            self._renew_reader()

    def _renew_reader(self) -> None:
        self._reader = AudioReader(self._config.input_format, self._assistant.input_sampling_rate)

    async def _commit(self, item_id: str) -> None:
        """Makes an item of what was heard. Where there is no room for one, what was heard stays."""
        self._check_room()
        try:
            encoded, samples = await self._input.finish()
        except Exception as error:
            raise_refusal(error)
            raise
        rate = self._assistant.input_sampling_rate
        item = Item(item_id, "user", [Part("input_audio", audio=samples, sampling_rate=rate, encoded=encoded)])
        self._put("input_audio_buffer.committed", previous_item_id=self._conversation.last_id(), item_id=item.id)
        self._add_item(item)
        if self._config.transcription is not None:
            self._transcriber.add(item)

    async def _clear_audio(self, event: ClientEvent) -> None:
        self._input.clear()
        self._renew_reader()
        self._put("input_audio_buffer.cleared")

    async def _clear_output(self, event: ClientEvent) -> None:
        raise ApiError(
            "output_audio_buffer.clear is for WebRTC and SIP. Over a WebSocket the client has the audio: it stops "
            "playing, and sends response.cancel and conversation.item.truncate.",
            param="type",
            code="invalid_value",
        )

    # The conversation

    async def _create_item(self, event: ClientEvent) -> None:
        self._conversation.check_new(event.item)
        self._check_room()
        item = await self._read_item(event.item, "item")
        self._add_item(item, event.previous_item_id)

    def _check_room(self) -> None:
        is_full = len(self._conversation.items) >= self._conversation.max_items
        if is_full and self._config.truncation == "disabled":
            raise ApiError(
                f"A conversation has at most {self._conversation.max_items} items. Delete some, or set `truncation` "
                'to "auto".',
                code="too_many_items",
            )

    def _add_item(self, item: Item, previous_item_id: str | None = None) -> None:
        removed = self._conversation.add(item, previous_item_id)
        place = {"previous_item_id": self._conversation.previous_id(item), "item": item.to_dict()}
        self._put("conversation.item.added", **place)
        # that of an answer is done when the answer is
        if item.status != "in_progress":
            self._put("conversation.item.done", **place)
        for item_id in removed:
            self._put("conversation.item.deleted", item_id=item_id)

    async def _read_item(self, given: MessageItem, param: str) -> Item:
        """
        An item of a client's, its audio encoded.

        Raises:
            ApiError: its audio cannot be heard, or its text not be read.
        """
        # together, because two parts may have a half of a mark each
        self._check_text("".join(part.text or "" for part in given.content), f"{param}.content")
        parts = []
        for i, part in enumerate(given.content):
            if part.type == "input_audio":
                parts.append(await self._read_audio(part.audio, part.transcript, f"{param}.content.{i}.audio"))
            else:
                parts.append(Part(part.type, text=part.text))
        return Item(given.id or new_id("item"), given.role, parts)

    def _check_text(self, text: str, param: str) -> None:
        """Refuses what would make all later answers of the conversation fail."""
        try:
            self._assistant.check_text(text)
        except ValueError as error:
            code = "string_above_max_length" if isinstance(error, PromptTooLong) else "invalid_value"
            raise ApiError(f"Invalid '{param}': {error!s:.300}", param=param, code=code) from error

    async def _read_audio(self, audio: str, transcript: str | None, param: str) -> Part:
        audio_format = self._config.input_format
        content = decode_base64(audio, audio_format, param)
        if not MIN_TURN_SECONDS <= seconds_of(content, audio_format) <= self._max_turn_seconds:
            raise ApiError(
                f"Audio has between {MIN_TURN_SECONDS} and {self._max_turn_seconds:g} s, and this has "
                f"{seconds_of(content, audio_format):.2f} s.",
                param=param,
                code="invalid_value",
            )
        # as if it were said
        whole = InputAudio(self._assistant.hear, self._assistant.input_sampling_rate, self._max_turn_seconds)
        reader = AudioReader(audio_format, self._assistant.input_sampling_rate)
        step = bytes_per_second(audio_format) // SLICES_PER_SECOND
        try:
            for start in range(0, len(content), step):
                for _ in whole.take(reader(content[start : start + step]), None):
                    pass
                await asyncio.sleep(0)
            for _ in whole.take(reader.finish(), None):
                pass
            encoded, samples = await whole.finish()
        except Exception as error:
            raise_refusal(error)
            raise
        finally:
            whole.clear()
        rate = self._assistant.input_sampling_rate
        return Part("input_audio", text=transcript, audio=samples, sampling_rate=rate, encoded=encoded)

    async def _retrieve_item(self, event: ClientEvent) -> None:
        item = self._conversation.get(event.item_id)
        is_user = item.role == "user"
        audio_format = self._config.input_format if is_user else self._config.output_format
        self._put("conversation.item.retrieved", item=item.to_dict(audio_format))

    async def _delete_item(self, event: ClientEvent) -> None:
        item = self._conversation.get(event.item_id)
        if item.status == "in_progress":
            raise ApiError(
                "This item is being written; cancel its response first.", param="item_id", code="item_in_progress"
            )
        self._conversation.delete(event.item_id)
        self._put("conversation.item.deleted", item_id=event.item_id)
        await self._prepare()

    async def _truncate_item(self, event: ClientEvent) -> None:
        item = self._conversation.get(event.item_id)
        if not isinstance(item, AnswerItem):
            raise ApiError(
                "Only spoken answers of this session can be truncated.", param="item_id", code="invalid_value"
            )
        if event.content_index != 0:
            raise ApiError(
                f"An answer has one content part, of index 0, got {event.content_index}.",
                param="content_index",
                code="invalid_value",
            )
        item.truncate(event.audio_end_ms)
        self._put("conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=event.audio_end_ms)
        await self._prepare()

    # Responses

    async def _create_response(self, event: ClientEvent) -> None:
        await self._respond(event.response, time.perf_counter())

    async def _respond(self, options: ResponseOptions, since: float) -> None:
        """
        Begins a response.

        Raises:
            ApiError: there cannot be one.
        """
        is_beside = options.conversation == "none"
        self._check_free(is_beside)
        config = self._config
        has_instructions = bool(options.instructions and options.instructions.strip())
        instructions = options.instructions if has_instructions else config.instructions
        modalities = options.output_modalities or config.output_modalities
        max_output_tokens = options.max_output_tokens or config.max_output_tokens
        decoding = options.vita_audio or VitaAudio()
        output = options.audio.output if options.audio is not None else None
        settings = ResponseSettings(
            with_audio=tuple(modalities) == ("audio",),
            audio_format=(output.format if output is not None else None) or config.output_format,
            max_output_tokens=max_output_tokens,
            metadata=options.metadata,
            conversation=None if is_beside else self._conversation,
            conversation_id=None if is_beside else self._conversation_id,
            since=since,
        )
        answer_options = AnswerOptions(
            max_new_tokens=None if max_output_tokens == "inf" else max_output_tokens,
            # a text that is read aloud without a limit may have more than this in all
            max_tokens_at_once=self._server.settings.max_new_tokens,
            mctp_mode=decoding.mctp_mode or config.mctp_mode,
            # false is a tolerance, too
            mctp_verify=config.mctp_verify if decoding.mctp_verify is None else decoding.mctp_verify,
        )
        try:
            if options.input is None:
                if not is_beside:
                    await self._stop_preparing()
                answer = self._answer_conversation(instructions, answer_options, settings)
            else:
                messages = with_instructions(instructions, await self._read_input(options.input))
                answer = self._answer(messages, answer_options, settings.with_audio)
        except PromptTooLong as error:
            raise ApiError(f"{error!s:.500}", code="context_length_exceeded") from error
        response = Response(self._server, self._outbox, answer, settings, self._add_item, self._end_response)
        self._is_quiet.clear()
        if is_beside:
            self._responses_beside.add(response)
        else:
            self._response = response
            # Silence counts from the end of this answer on
            self._input.quiet_since = None

    def _check_free(self, is_beside: bool) -> None:
        if self._server.is_draining:
            raise ApiError("This server is about to end.", type="server_error", code="shutting_down")
        if not is_beside and self._response is not None:
            raise ApiError(
                f"Conversation already has an active response in progress: {self._response.id}. Wait until the "
                "response is finished before creating a new one.",
                code="conversation_already_has_active_response",
            )
        if is_beside and len(self._responses_beside) >= MAX_RESPONSES_BESIDE:
            raise ApiError(
                f"A session has at most {MAX_RESPONSES_BESIDE} responses out of its conversation at once.",
                type="rate_limit_error",
                code="rate_limit_exceeded",
            )

    async def _read_input(self, given: list[InputItem]) -> list[dict]:
        """The messages of items and of references to them."""
        items = []
        for i, entry in enumerate(given):
            if isinstance(entry.item, ItemReference):
                items.append(self._conversation.get(entry.item.id, f"response.input.{i}.id"))
            else:
                items.append(await self._read_item(entry.item, f"response.input.{i}"))
        messages = [item.to_message() for item in items]
        return [message for message in messages if message is not None]

    def _answer_conversation(self, instructions: str, options: AnswerOptions, settings: ResponseSettings) -> Answer:
        """
        Answers the conversation, without its oldest turns if it is too long and the session allows it. They stay in it
        where the answer is not for it, or there is none.
        """
        answer, left_out = None, []
        try:
            while answer is None:
                messages = self._conversation.messages(instructions)
                try:
                    answer = self._answer(messages, options, settings.with_audio, settings.conversation_id)
                except PromptTooLong:
                    older = [] if self._config.truncation == "disabled" else self._conversation.leave_out_older_half()
                    if not older:
                        raise
                    left_out += older
        finally:
            if answer is None or settings.conversation is None:
                for item in left_out:
                    item.is_left_out = False
        return answer

    def _answer(
        self, messages: list[dict], options: AnswerOptions, with_audio: bool, conversation_id: str | None = None
    ) -> Answer:
        if not messages or messages[-1]["role"] != "user":
            raise ApiError(
                "There is nothing to answer: the last item must be the user's, and not empty.", code="invalid_value"
            )
        try:
            return self._assistant.answer(messages, options, conversation_id=conversation_id, with_audio=with_audio)
        except PromptTooLong:
            raise
        except Exception as error:
            raise_refusal(error)
            raise

    async def _cancel_response(self, event: ClientEvent) -> None:
        running = [response for response in (self._response, *self._responses_beside) if response is not None]
        if event.response_id is not None:
            running = [response for response in running if response.id == event.response_id]
        elif self._response is None:
            running = []
        if not running:
            raise ApiError(
                "Cancellation failed: no active response found.",
                param=None if event.response_id is None else "response_id",
                code="response_cancel_not_active",
            )
        item = self._conversation.last_answer()
        if running[0] is self._response and item is not None and item.status == "in_progress":
            item.interrupt()
        await running[0].cancel("client_cancelled")

    def _end_response(self, response: Response) -> None:
        if response is self._response:
            self._response = None
        self._responses_beside.discard(response)
        if self._response is None and not self._responses_beside:
            self._is_quiet.set()
        if response.settings.conversation is not None and not self._is_closing:
            self._begin_preparing()

    # The next turn

    async def _prepare(self) -> None:
        """Reads what is new in the conversation while there is time, so that the next turn costs only what is new."""
        if self._input.is_turn:
            self._input.hear_again()
        elif self._response is None:
            await self._stop_preparing()
            self._begin_preparing()

    def _begin_preparing(self) -> None:
        self._make_room()
        messages = self._conversation.messages(self._config.instructions)
        is_preparing = self._preparing is not None and not self._preparing.done()
        # Whether a conversation that was only typed goes on in speech, which has another prompt, nobody knows
        if is_spoken(messages) and not is_preparing and not self._input.is_turn:
            self._preparing = asyncio.create_task(self._read_ahead(messages))

    def _make_room(self) -> None:
        """
        Leaves turns out where another one like the last would be too much. Left out only when that has come, all that
        was read before it would be of no use.
        """
        heard = self._conversation.last_heard()
        if self._config.truncation == "disabled" or heard is None:
            return
        with suppress(ValueError):  # the next answer tells the client
            while not self._assistant.has_room(self._conversation.messages(self._config.instructions), heard):
                if not self._conversation.leave_out_older_half():
                    return

    async def _read_ahead(self, messages: list[dict]) -> None:
        try:
            await self._assistant.prepare(messages, self._conversation_id)
        except ValueError:
            # too long, for instance; the next answer tells the client or leaves turns out
            pass
        except Exception:
            logger.exception("A conversation could not be read ahead")

    async def _stop_preparing(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.wait([self._preparing])
            self._preparing = None

    def _put(self, kind: str, **fields: object) -> None:
        self._outbox.put(server_event(kind, **fields))


HANDLERS = {
    "session.update": RealtimeSession._update_session,
    "input_audio_buffer.append": RealtimeSession._append_audio,
    "input_audio_buffer.commit": RealtimeSession._commit_audio,
    "input_audio_buffer.clear": RealtimeSession._clear_audio,
    "output_audio_buffer.clear": RealtimeSession._clear_output,
    "conversation.item.create": RealtimeSession._create_item,
    "conversation.item.retrieve": RealtimeSession._retrieve_item,
    "conversation.item.delete": RealtimeSession._delete_item,
    "conversation.item.truncate": RealtimeSession._truncate_item,
    "response.create": RealtimeSession._create_response,
    "response.cancel": RealtimeSession._cancel_response,
}


__all__ = ["RealtimeSession"]
