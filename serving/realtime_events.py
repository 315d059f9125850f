# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The messages of OpenAI's Realtime protocol: those of clients, read and checked, and those of the server.

The classes have the names and fields of `openai.types.realtime`. What this server has no use for is named as well: it
is taken where a client loses nothing by it, and refused with the reason where it would.
"""

import json
import secrets
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from modeling_vita_audio.generation_vita_audio import MCTP_MODES
from modeling_vita_audio.verification_vita_audio import resolve_mctp_verify

from .api_errors import ApiError, check_number_of_values


# A model has one voice, which the names of all others stand for.
VOICE = "default"

# Of names that clients give, as OpenAI limits them
MAX_ID_LENGTH = 512


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def error_event(error: ApiError, client_event_id: str | None) -> dict:
    """The event that tells a client what is wrong, with its event of this id."""
    return server_event("error", error={**error.body()["error"], "event_id": client_event_id})


def server_event(type: str, **fields: Any) -> dict:
    """An event of the server, ready to be sent."""
    return {"type": type, "event_id": new_id("event"), **fields}


class Fields(BaseModel):
    """Fields of an event. Others are refused by name, and one that is null has its default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise PydanticCustomError("invalid_type", "It must be an object.")
        # before the names, which are others in each type
        types = get_args(cls.model_fields["type"].annotation) if "type" in cls.model_fields else ()
        if data.get("type") is not None and types and data["type"] not in types:
            accepted = {"accepted": " or ".join(map(repr, types))}
            raise PydanticCustomError("invalid_type", "Its type must be {accepted}.", accepted)
        if unknown := sorted(str(name) for name in data.keys() - cls.model_fields.keys()):
            names = {"unknown": ", ".join(map(repr, unknown))[:200], "known": ", ".join(cls.model_fields)}
            raise PydanticCustomError("unknown_parameter", "Unknown parameter: {unknown}. Accepted: {known}.", names)
        return cls._without_nulls(data)

    @classmethod
    def _without_nulls(cls, data: dict) -> dict:
        return {name: value for name, value in data.items() if value is not None}


class Update(Fields):
    """Fields of which those that are left out stay as they are, and those that are null go back to their default."""

    @classmethod
    def _without_nulls(cls, data: dict) -> dict:
        return data


def only(*accepted: Any, why: str) -> Any:
    """A field that has no use here, with the values that are accepted besides null."""

    def check(value: Any) -> Any:
        if value is not None and (isinstance(value, bool) or value not in accepted):
            raise ValueError(f"{why} Accepted: {', '.join(json.dumps(a) for a in (*accepted, None))}.")
        return value

    return Annotated[Any, AfterValidator(check)]


def _check_token_limit(value: Any) -> int | str | None:
    if value is None or value == "inf" or (type(value) is int and 1 <= value <= 4096):
        return value
    raise ValueError('It must be an integer between 1 and 4096, or "inf".')


def _check_modalities(value: list[str] | None) -> list[str] | None:
    if value not in (None, ["audio"], ["text"]):
        raise ValueError('It must be ["audio"], whose answers have a transcript, or ["text"].')
    return value


def _check_voice(value: Any) -> Any:
    if value is None or isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("id"), str)):
        return value
    raise ValueError('It must be a name or {"id": ...}; all stand for the one voice of the model.')


def _check_metadata(value: dict[str, str] | None) -> dict[str, str] | None:
    if value and (len(value) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in value.items())):
        raise ValueError("It has at most 16 pairs, of keys up to 64 and values up to 512 characters.")
    return value


def _check_tolerance(value: Any) -> Any:
    if value is not None:
        resolve_mctp_verify(value)
    return value


TokenLimit = Annotated[Any, AfterValidator(_check_token_limit)]
Modalities = Annotated[list[str] | None, AfterValidator(_check_modalities)]
Voice = Annotated[Any, AfterValidator(_check_voice)]
Metadata = Annotated[dict[str, str] | None, AfterValidator(_check_metadata)]
Tolerance = Annotated[Any, AfterValidator(_check_tolerance)]
NoTools = only([], why="The model calls no tools.")
NoToolChoice = only("auto", "none", why="The model calls no tools.")
NoPrompt = only(why="Prompts are not stored here; say it in `instructions`.")


class AudioFormat(Fields):
    """How audio is sent: 16-bit PCM at 24 kHz, or G.711 at 8 kHz by mu-law or A-law; mono."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = None

    @model_validator(mode="after")
    def _check_rate(self) -> "AudioFormat":
        if self.rate not in (None, self.sampling_rate):
            raise ValueError(f"The rate of {self.type} is {self.sampling_rate}, got {self.rate}.")
        return self

    @property
    def sampling_rate(self) -> int:
        return 24000 if self.type == "audio/pcm" else 8000

    def to_dict(self) -> dict:
        # The G.711 formats have no rate in the reference
        return {"type": self.type} | ({"rate": 24000} if self.type == "audio/pcm" else {})


class TurnDetection(Fields):
    """
    When a turn of the user begins and ends. `semantic_vad` is taken for `server_vad` with a silence as long as its
    eagerness asks for.
    """

    type: Literal["server_vad", "semantic_vad"]
    threshold: float = Field(0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(300, ge=0, le=5000)
    silence_duration_ms: int = Field(500, ge=0, le=10_000)
    idle_timeout_ms: int | None = Field(None, ge=5000, le=30_000)
    create_response: bool = True
    interrupt_response: bool = True
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"

    @model_validator(mode="after")
    def _to_server_vad(self) -> "TurnDetection":
        if self.type == "semantic_vad":
            self.silence_duration_ms = {"low": 900, "high": 300}.get(self.eagerness, 500)
            self.type = "server_vad"
        return self

    def to_dict(self) -> dict:
        return self.model_dump(exclude={"eagerness"})


class Transcription(Fields):
    """Of what the user says. The model itself writes it; the others' names and hints are taken for it."""

    model: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    prompt: str | None = None
    keywords: list[str] | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class NoiseReduction(Fields):
    type: Literal["near_field", "far_field"] = "near_field"
    strength: float | None = None


class AudioInput(Update):
    format: AudioFormat | None = None
    # the encoder hears what is sent; clients of a telephone line ask for it without need
    noise_reduction: NoiseReduction | None = None
    transcription: Transcription | None = None
    turn_detection: TurnDetection | None = None


class AudioOutput(Update):
    format: AudioFormat | None = None
    voice: Voice = None
    speed: only(1.0, why="The speed of speech cannot be changed.") = None


class AudioUpdate(Update):
    input: AudioInput | None = None
    output: AudioOutput | None = None


class VitaAudio(Update):
    """What this server has beyond the protocol: how answers are decoded, as of `generate`."""

    mctp_mode: Literal[*MCTP_MODES] | None = None
    mctp_verify: Tolerance = None


class SessionUpdate(Update):
    type: Literal["realtime"]
    id: str | None = None
    object: str | None = None
    model: str | None = None
    output_modalities: Modalities = None
    instructions: str | None = None
    max_output_tokens: TokenLimit = None
    truncation: only("auto", "disabled", why="The oldest turns are left out, or none.") = None
    audio: AudioUpdate | None = None
    tools: NoTools = None
    tool_choice: NoToolChoice = None
    prompt: NoPrompt = None
    include: only([], why="There are no log probabilities of transcripts.") = None
    # neither changes an answer
    tracing: Any = None
    reasoning: Any = None
    parallel_tool_calls: bool | None = None
    vita_audio: VitaAudio | None = None


class Content(Fields):
    """A part of an item; which fields it has is the type's."""

    type: Literal["input_text", "input_audio", "output_text"]
    text: str | None = None
    audio: str | None = None
    transcript: str | None = None

    @model_validator(mode="after")
    def _check_fields(self) -> "Content":
        needed = "audio" if self.type == "input_audio" else "text"
        if getattr(self, needed) is None:
            raise ValueError(f'A part "{self.type}" needs "{needed}".')
        if self.type != "input_audio" and (self.audio is not None or self.transcript is not None):
            raise ValueError(f'A part "{self.type}" has no "audio" and no "transcript".')
        return self


# Of each role, the types of its parts
CONTENT_TYPES = {"system": ("input_text",), "user": ("input_text", "input_audio"), "assistant": ("output_text",)}


class MessageItem(Fields):
    """A turn of a conversation. Spoken answers cannot be given, as in the reference."""

    type: Literal["message"] = "message"
    id: str | None = Field(None, min_length=1, max_length=MAX_ID_LENGTH)
    object: Literal["realtime.item"] | None = None
    role: Literal["system", "user", "assistant"]
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    content: list[Content] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _check_content(self) -> "MessageItem":
        accepted = CONTENT_TYPES[self.role]
        for part in self.content:
            if part.type not in accepted:
                raise ValueError(f"Content of the {self.role} is of {' or '.join(accepted)}, got {part.type}.")
        return self


class ItemReference(Fields):
    type: Literal["item_reference"]
    id: str


class InputItem(Fields):
    """An item of `response.input`: a message or a reference to an item of the conversation."""

    item: MessageItem | ItemReference

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, data: Any) -> Any:
        is_reference = isinstance(data, dict) and data.get("type") == "item_reference"
        return {"item": (ItemReference if is_reference else MessageItem).model_validate(data)}


class ResponseAudioOutput(Fields):
    format: AudioFormat | None = None
    voice: Voice = None


class ResponseAudio(Fields):
    output: ResponseAudioOutput | None = None


class ResponseOptions(Fields):
    conversation: Literal["auto", "none"] = "auto"
    input: list[InputItem] | None = Field(None, max_length=1024)
    instructions: str | None = None
    output_modalities: Modalities = None
    max_output_tokens: TokenLimit = None
    metadata: Metadata = None
    audio: ResponseAudio | None = None
    tools: NoTools = None
    tool_choice: NoToolChoice = None
    prompt: NoPrompt = None
    reasoning: Any = None
    parallel_tool_calls: bool | None = None
    vita_audio: VitaAudio | None = None


class ClientEvent(Fields):
    event_id: str | None = Field(None, max_length=MAX_ID_LENGTH)


class SessionUpdateEvent(ClientEvent):
    type: Literal["session.update"]
    session: SessionUpdate


class InputAudioBufferAppendEvent(ClientEvent):
    type: Literal["input_audio_buffer.append"]
    audio: str


class InputAudioBufferCommitEvent(ClientEvent):
    type: Literal["input_audio_buffer.commit"]


class InputAudioBufferClearEvent(ClientEvent):
    type: Literal["input_audio_buffer.clear"]


class OutputAudioBufferClearEvent(ClientEvent):
    type: Literal["output_audio_buffer.clear"]


class ConversationItemCreateEvent(ClientEvent):
    type: Literal["conversation.item.create"]
    previous_item_id: str | None = None
    item: MessageItem


class ConversationItemRetrieveEvent(ClientEvent):
    type: Literal["conversation.item.retrieve"]
    item_id: str


class ConversationItemDeleteEvent(ClientEvent):
    type: Literal["conversation.item.delete"]
    item_id: str


class ConversationItemTruncateEvent(ClientEvent):
    type: Literal["conversation.item.truncate"]
    item_id: str
    content_index: int
    audio_end_ms: int = Field(ge=0)


class ResponseCreateEvent(ClientEvent):
    type: Literal["response.create"]
    response: ResponseOptions = Field(default_factory=ResponseOptions)


class ResponseCancelEvent(ClientEvent):
    type: Literal["response.cancel"]
    response_id: str | None = None


CLIENT_EVENTS = {
    TypeAdapter(event).json_schema()["properties"]["type"]["const"]: event for event in ClientEvent.__subclasses__()
}


def read_json(text: str) -> dict:
    """
    The object in a client's message.

    Raises:
        ApiError: there is none, or it has too many values.
    """
    check_number_of_values(text)
    try:
        message = json.loads(text)
        if "\\u" in text:
            # half a character, which no tokenizer takes
            json.dumps(message, ensure_ascii=False).encode()
    # not JSON, or too deep, or with a number of too many digits
    except (ValueError, RecursionError) as error:
        raise ApiError(f"The message is not JSON: {error!s:.200}", code="invalid_json") from error
    if not isinstance(message, dict):
        raise ApiError("A message must be a JSON object with a `type`.", code="invalid_json")
    return message


def read_event(message: dict) -> ClientEvent:
    """
    The event in a client's message.

    Raises:
        ApiError: it is none of the protocol, or a field is not as it must be.
    """
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in CLIENT_EVENTS:
        problem = "missing_required_parameter" if kind is None else "invalid_value"
        accepted = ", ".join(CLIENT_EVENTS)
        raise ApiError(f"Unknown event type {kind!r:.200}. Accepted: {accepted}.", code=problem, param="type")
    try:
        return CLIENT_EVENTS[kind].model_validate(message)
    except ValidationError as error:
        raise _to_api_error(error) from None


def _to_api_error(error: ValidationError) -> ApiError:
    """The first thing that was wrong, in words."""
    first = error.errors(include_url=False)[0]
    # a name may be the client's, of any length
    place = ".".join(f"{name!s:.100}" for name in first["loc"]) or None
    if first["type"] == "missing":
        return ApiError(f"Missing required parameter: '{place}'.", param=place, code="missing_required_parameter")
    if first["type"] == "unknown_parameter":
        message = f"{first['msg']} (in '{place}')" if place else first["msg"]
        return ApiError(message, param=place, code="unknown_parameter")
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(f"Invalid '{place}': {message}", param=place, code="invalid_value")


__all__ = [
    "CLIENT_EVENTS",
    "VOICE",
    "AudioFormat",
    "ClientEvent",
    "InputItem",
    "ItemReference",
    "MessageItem",
    "ResponseOptions",
    "SessionUpdate",
    "Transcription",
    "TurnDetection",
    "VitaAudio",
    "error_event",
    "new_id",
    "read_event",
    "read_json",
    "server_event",
]
