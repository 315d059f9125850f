# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`/v1/chat/completions`: a conversation in, its next turn out, in text and speech."""

import asyncio
import base64
import binascii
import time
import uuid
from array import array
from collections import OrderedDict
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request

from processing.audio_vita_audio import load_audio

from .answering import Endpoint, Mode, RequestBody, Sender, Tolerance, sampling_options
from .api_errors import ApiError
from .assistant import Answer, AnswerOptions
from .audio_formats import SpeechEncoder, encode_speech
from .history import as_asked
from .server import RunningAnswer, Server


# Base64 is decoded in blocks of so many characters, 4 ms each; a multiple of 4, so that each stands alone
BASE64_BLOCK = 2**20


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class InputAudio(_Part):
    data: str
    # The file itself says what it is, so this is only looked at for what no file is.
    format: Literal["wav", "mp3", "flac", "ogg", "opus", "webm", "m4a", "mp4", "aac"]


class ContentPart(_Part):
    type: Literal["text", "input_audio", "refusal"]
    text: str | None = None
    input_audio: InputAudio | None = None
    refusal: str | None = None


class EarlierAudio(_Part):
    id: str
    # in an answer that is sent back whole; the speech itself is known by its id
    data: str | None = None
    expires_at: int | None = None
    transcript: str | None = None


def as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(_Part):
    role: Literal["developer", "system", "user", "assistant"]
    content: Annotated[list[ContentPart] | None, BeforeValidator(as_parts)] = None
    audio: EarlierAudio | None = None
    # clients send whole answers back, with all that is in them
    name: str | None = None
    refusal: str | None = None
    annotations: list | None = Field(None, max_length=0)
    tool_calls: list | None = Field(None, max_length=0)
    function_call: None = None


class Voice(_Part):
    id: str


class AudioOptions(_Part):
    format: Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"]
    # the model has one voice, which all names stand for
    voice: str | Voice


class StreamOptions(_Part):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(RequestBody):
    IGNORED: ClassVar = frozenset(
        ("metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention")
        + ("safety_identifier", "service_tier", "store", "user")
    )
    NEUTRAL: ClassVar = {
        "frequency_penalty": (0,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "logit_bias": ({},),
        "logprobs": (False,),
        "moderation": (),
        "prediction": (),
        "presence_penalty": (0,),
        "reasoning_effort": ("none",),
        "response_format": ({"type": "text"},),
        "stop": ([], ""),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (0,),
        "verbosity": ("medium",),
        "web_search_options": (),
    }

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1)] = ["text"]
    audio: AudioOptions | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Literal[1] = 1
    mctp_mode: Mode | None = None
    mctp_verify: Tolerance | None = None

    @property
    def with_audio(self) -> bool:
        return "audio" in self.modalities


class KeptAnswers:
    """
    Spoken answers as later turns read them, which clients refer to by an id.

    Args:
        seconds (`float`): how long each is kept.
        max_answers (`int`): how many are kept; the oldest go first.
    """

    def __init__(self, seconds: float, max_answers: int):
        self.seconds = seconds
        self.max_answers = max_answers
        self._answers: OrderedDict[str, tuple[float, list[dict]]] = OrderedDict()

    def keep(self, audio_id: str, answer: Answer) -> None:
        message, now = answer.message(), time.monotonic()
        parts = [] if message is None else message["content"]
        # Numbers of Python would take ten times the memory
        parts = [part | {"codes": array("I", part["codes"])} if "codes" in part else part for part in parts]
        self._answers[audio_id] = now + self.seconds, parts
        # The first one is the oldest
        while len(self._answers) > self.max_answers or next(iter(self._answers.values()))[0] <= now:
            self._answers.popitem(last=False)

    def get(self, audio_id: str) -> list[dict] | None:
        """The parts of an answer's turn, None if it is not there any more."""
        expires, parts = self._answers.get(audio_id, (0.0, None))
        if time.monotonic() >= expires:
            return None
        return [part | {"codes": part["codes"].tolist()} if "codes" in part else part for part in parts]


class ChatCompletions(Endpoint):
    def __init__(self, server: Server):
        super().__init__(server)
        self.kept = KeptAnswers(server.settings.keep_answers_seconds, server.settings.max_kept_answers)

    async def read(self, request: Request) -> tuple[ChatRequest, list[dict], float]:
        settings = self.server.settings
        asked = await ChatRequest.from_request(request, settings.max_body_bytes)
        since = time.perf_counter()
        self.server.check_model(asked.model)
        if asked.with_audio and asked.audio is None:
            raise ApiError("Missing required parameter: 'audio'.", param="audio", code="missing_required_parameter")
        if asked.audio is not None and not asked.with_audio:
            raise ApiError(
                '\'audio\' needs modalities: ["text", "audio"].', param="audio", code="unsupported_parameter"
            )
        if asked.stream_options is not None and not asked.stream:
            raise ApiError("'stream_options' needs stream: true.", param="stream_options", code="invalid_value")
        if len(asked.messages) > settings.max_turns:
            raise ApiError(
                f"The conversation has {len(asked.messages)} messages; the limit is {settings.max_turns}.",
                param="messages",
                code="invalid_value",
            )
        for name in ("max_tokens", "max_completion_tokens"):
            if (getattr(asked, name) or 0) > settings.max_new_tokens:
                raise ApiError(f"{name!r} is at most {settings.max_new_tokens}.", param=name, code="invalid_value")
        return asked, await asyncio.to_thread(self._conversation, asked.messages), since

    async def respond(self, asked: tuple[ChatRequest, list[dict], float], sender: Sender) -> None:
        request, messages, since = asked
        options = AnswerOptions(
            max_new_tokens=request.max_completion_tokens or request.max_tokens,
            mctp_mode=request.mctp_mode,
            mctp_verify=request.mctp_verify,
            **sampling_options(request.temperature, request.top_p, request.seed),
        )
        answer = self.begin(self.server.assistant.answer, messages, options, with_audio=request.with_audio)
        async with self.server.running(answer, "chat", since) as pieces:
            completion = Completion(self.server, request, answer)
            if request.stream:
                await self._stream(completion, pieces, sender)
            else:
                await self._send_whole(completion, pieces, sender)

    async def _send_whole(self, completion: "Completion", pieces: RunningAnswer, sender: Sender) -> None:
        samples = [piece.audio async for piece in pieces if piece.audio is not None]
        answer, request = completion.answer, completion.request
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
        if request.with_audio:
            rate = self.server.assistant.output_sampling_rate
            data = await asyncio.to_thread(base64_of_speech, samples, request.audio.format, rate)
            audio = {"id": completion.audio_id, "expires_at": completion.expires_at}
            message |= {"content": None, "audio": audio | {"data": data, "transcript": answer.text}}
            self.kept.keep(completion.audio_id, answer)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}
        await sender.whole(completion.head("chat.completion", [choice]) | {"usage": completion.usage})

    async def _stream(self, completion: "Completion", pieces: RunningAnswer, sender: Sender) -> None:
        request, speech = completion.request, None
        if request.with_audio:
            speech = SpeechEncoder(request.audio.format, self.server.assistant.output_sampling_rate)
        async for piece in pieces:
            if not sender.has_begun:
                await sender.event(completion.chunk({"role": "assistant", "content": None if speech else ""}))
            if speech is None:
                if piece.text:
                    await sender.event(completion.chunk({"content": piece.text}))
            elif piece.text:
                await sender.event(completion.chunk({"audio": {"id": completion.audio_id, "transcript": piece.text}}))
            elif piece.audio is not None:
                await self._send_speech(completion, await asyncio.to_thread(speech.put, piece.audio), sender)
        if speech is not None:
            await self._send_speech(completion, await asyncio.to_thread(speech.finish), sender)
            self.kept.keep(completion.audio_id, completion.answer)
            audio = {"id": completion.audio_id, "expires_at": completion.expires_at}
            await sender.event(completion.chunk({"audio": audio}))
        await sender.event(completion.chunk({}, completion.finish_reason))
        if completion.includes_usage:
            await sender.event(completion.head("chat.completion.chunk", []) | {"usage": completion.usage})
        await sender.event("[DONE]")
        await sender.finish()

    async def _send_speech(self, completion: "Completion", content: bytes, sender: Sender) -> None:
        if content:
            audio = {"id": completion.audio_id, "data": base64.b64encode(content).decode()}
            await sender.event(completion.chunk({"audio": audio}))

    def _conversation(self, messages: list[Message]) -> list[dict]:
        """The conversation in the assistant's form; the audio is decoded here."""
        conversation, seconds_left = [], self.server.settings.max_audio_seconds
        for number, message in enumerate(messages):
            parts = []
            for place, part in enumerate(message.content or ()):
                param = f"messages[{number}].content[{place}]"
                value = getattr(part, part.type)
                if value is None:
                    raise ApiError(
                        f"Missing required parameter: '{param}.{part.type}'.",
                        param=f"{param}.{part.type}",
                        code="missing_required_parameter",
                    )
                if part.type != "input_audio":
                    parts.append({"type": "text", "text": value})
                    continue
                if message.role != "user":
                    raise ApiError(
                        f"Audio is in messages of the user only, not of the {message.role}.",
                        param=param,
                        code="invalid_value",
                    )
                samples = self._samples(value, f"{param}.input_audio.data", seconds_left)
                seconds_left -= len(samples) / self.server.assistant.input_sampling_rate
                parts.append({"type": "audio", "audio": samples})
            if message.audio is not None:
                # which has the text that clients may repeat as the content
                parts = self._earlier_answer(message, f"messages[{number}].audio.id")
                # A model may have ended at once
                if not parts:
                    continue
            if not parts:
                raise ApiError(
                    f"Missing required parameter: 'messages[{number}].content'.",
                    param=f"messages[{number}].content",
                    code="missing_required_parameter",
                )
            role = "system" if message.role == "developer" else message.role
            conversation.append({"role": role, "content": parts})
        return as_asked(conversation)

    def _samples(self, audio: InputAudio, param: str, seconds_left: float) -> np.ndarray:
        assistant = self.server.assistant
        try:
            content = decode_base64(audio.data)
        except ValueError as error:
            raise ApiError(f"The audio is no base64: {error!s:.100}.", param=param, code="invalid_base64") from None
        return decode_audio(
            content, assistant.input_sampling_rate, min(assistant.max_audio_seconds, seconds_left), param
        )

    def _earlier_answer(self, message: Message, param: str) -> list[dict]:
        if message.role != "assistant":
            raise ApiError("Only answers of the assistant have an 'audio'.", param=param, code="invalid_value")
        parts, transcript = self.kept.get(message.audio.id), message.audio.transcript
        if parts is None and transcript:
            return [{"type": "text", "text": transcript}]
        if parts is None:
            raise ApiError(
                f"There is no spoken answer {message.audio.id!r:.100}, or it has expired. Send its transcript as "
                "'content'.",
                status=404,
                param=param,
                code="audio_not_found",
            )
        return parts


class Completion:
    """The parts of one response that do not change."""

    def __init__(self, server: Server, request: ChatRequest, answer: Answer):
        self.request, self.answer = request, answer
        self.id, self.audio_id = f"chatcmpl-{uuid.uuid4().hex}", f"audio_{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.expires_at = self.created + int(server.settings.keep_answers_seconds)

    def head(self, kind: str, choices: list[dict]) -> dict:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "choices": choices,
        }

    def chunk(self, delta: dict, finish_reason: str | None = None) -> dict:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        head = self.head("chat.completion.chunk", [choice])
        return head | {"usage": None} if self.includes_usage else head

    @property
    def includes_usage(self) -> bool:
        return self.request.stream_options is not None and bool(self.request.stream_options.include_usage)

    @property
    def finish_reason(self) -> str:
        return "length" if self.answer.is_cut_off else "stop"

    @property
    def usage(self) -> dict:
        prompt, new = self.answer.num_prompt_tokens, self.answer.num_new_tokens
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def decode_base64(text: str) -> bytes:
    """
    Raises:
        ValueError: it has other characters, line ends among them, or padding that is missing or not at the end.
    """
    if "=" in text[:-2]:
        raise ValueError("Padding is only at its end")
    # Each call holds the interpreter, and all streams of others with it
    blocks = range(0, len(text), BASE64_BLOCK)
    return b"".join(binascii.a2b_base64(text[start : start + BASE64_BLOCK], strict_mode=True) for start in blocks)


def base64_of_speech(samples: list[np.ndarray], audio_format: str, sampling_rate: int) -> str:
    return base64.b64encode(encode_speech(samples, audio_format, sampling_rate)).decode()


def decode_audio(content: bytes, sampling_rate: int, max_seconds: float, param: str) -> np.ndarray:
    """
    The samples of a file that a client has sent, float32 `(num_samples,)` at `sampling_rate` Hz.

    Raises:
        ApiError: it cannot be read, or is too long.
    """
    try:
        # bytes are never taken for the name of a file
        return load_audio(content, sampling_rate, max_seconds=max_seconds)
    except ValueError as error:
        raise ApiError(f"{error!s:.300}", param=param, code="invalid_audio") from error


__all__ = ["ChatCompletions", "ChatRequest", "KeptAnswers", "decode_audio"]
