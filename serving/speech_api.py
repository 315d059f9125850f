# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`/v1/audio/speech` and `/v1/audio/transcriptions`: a text to speech, and speech to its text."""

import asyncio
import base64
import time
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from .answering import Endpoint, Mode, RequestBody, Sender, Tolerance, read_whole_body, sampling_options
from .api_errors import ApiError
from .assistant import Answer, AnswerOptions
from .audio_formats import CONTENT_TYPES, SpeechEncoder
from .chat import Voice, decode_audio
from .server import RunningAnswer
from .spoken_text import can_be_said


# OpenAI's parameters of a transcription are about a dozen; lists come as a field for each value
MAX_FIELDS = 64


class SpeechRequest(RequestBody):
    NEUTRAL: ClassVar = {"instructions": ("",), "speed": (1.0,)}

    model: str
    input: Annotated[str, Field(min_length=1)]
    # the model has one voice, which all names stand for
    voice: str | Voice | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    stream_format: Literal["audio", "sse"] = "audio"
    mctp_mode: Mode | None = None
    mctp_verify: Tolerance | None = None


class Speech(Endpoint):
    async def read(self, request: Request) -> tuple[SpeechRequest, float]:
        settings = self.server.settings
        asked = await SpeechRequest.from_request(request, settings.max_body_bytes)
        since = time.perf_counter()
        self.server.check_model(asked.model)
        if len(asked.input) > settings.max_characters:
            raise ApiError(
                f"The text has {len(asked.input)} characters; the limit is {settings.max_characters}.",
                param="input",
                code="string_above_max_length",
            )
        if not can_be_said(asked.input):
            raise ApiError("The text has nothing in it to be spoken.", param="input", code="invalid_value")
        return asked, since

    async def respond(self, asked: tuple[SpeechRequest, float], sender: Sender) -> None:
        request, since = asked
        audio_format = "pcm16" if request.response_format == "pcm" else request.response_format
        try:
            speech = SpeechEncoder(audio_format, self.server.assistant.output_sampling_rate)
        except ImportError as error:
            raise ApiError(str(error), param="response_format", code="unsupported_format") from error
        answer = self.begin(
            self.server.assistant.speak,
            request.input,
            AnswerOptions(mctp_mode=request.mctp_mode, mctp_verify=request.mctp_verify),
        )

        async def send(content: bytes) -> None:
            if request.stream_format == "audio":
                await sender.bytes(content, CONTENT_TYPES[audio_format])
            elif content:
                await sender.event({"type": "speech.audio.delta", "audio": base64.b64encode(content).decode()})

        async with self.server.running(answer, "speech", since) as pieces:
            async for piece in pieces:
                if piece.audio is not None:
                    await send(await asyncio.to_thread(speech.put, piece.audio))
            if answer.is_cut_off:
                # half a text must not pass for the whole one
                raise ApiError("The text is too long for the model.", param="input", code="string_above_max_length")
            if not pieces.spoken_seconds:
                raise ApiError("The model spoke nothing.", status=500, type="server_error", code="no_speech")
            await send(await asyncio.to_thread(speech.finish))
        if request.stream_format == "sse":
            await sender.event({"type": "speech.audio.done", "usage": usage_of(answer)})
        await sender.finish()


class TranscriptionRequest(RequestBody):
    # the fields of a form are strings
    model_config = ConfigDict(strict=False, arbitrary_types_allowed=True)

    NEUTRAL: ClassVar = {
        "chunking_strategy": ("auto",),
        "include": ([],),
        "keywords": ([],),
        "known_speaker_names": ([],),
        "known_speaker_references": ([],),
        "languages": ([],),
        "prompt": ("",),
        "timestamp_granularities": (["segment"],),
    }

    model: str
    file: UploadFile
    response_format: Literal["json", "text", "verbose_json"] = "json"
    stream: bool = False
    # a hint that the model does not need; reported as it was given
    language: Annotated[str, Field(max_length=32)] = "und"
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    mctp_mode: Mode | None = None


class FormInMemory(MultiPartParser):
    # far above the limit of bodies, so that nothing is written to a disk, which may be full
    spool_max_size = 2**40


class Transcriptions(Endpoint):
    async def read(self, request: Request) -> tuple[TranscriptionRequest, np.ndarray, float]:
        settings, assistant = self.server.settings, self.server.assistant
        asked = TranscriptionRequest.from_parameters(await read_form(request, settings.max_body_bytes))
        since = time.perf_counter()
        self.server.check_model(asked.model)
        content = await asked.file.read()
        seconds = min(assistant.max_audio_seconds, settings.max_audio_seconds)
        samples = await asyncio.to_thread(decode_audio, content, assistant.input_sampling_rate, seconds, "file")
        return asked, samples, since

    async def respond(self, asked: tuple[TranscriptionRequest, np.ndarray, float], sender: Sender) -> None:
        request, samples, since = asked
        options = AnswerOptions(
            mctp_mode=request.mctp_mode, **sampling_options(request.temperature, top_p=None, seed=None)
        )
        answer = self.begin(self.server.assistant.transcribe, samples, options)
        async with self.server.running(answer, "transcriptions", since) as pieces:
            if request.stream:
                return await self._stream(answer, pieces, sender)
            async for _ in pieces:
                pass
        text = answer.text.strip()
        if request.response_format == "text":
            return await sender.whole(f"{text}\n".encode(), "text/plain; charset=utf-8")
        if request.response_format == "json":
            return await sender.whole({"text": text, "usage": {"type": "tokens"} | usage_of(answer)})
        seconds = len(samples) / self.server.assistant.input_sampling_rate
        usage = {"type": "duration", "seconds": seconds}
        report = {"task": "transcribe", "language": request.language, "duration": seconds, "text": text}
        await sender.whole(report | {"usage": usage})

    async def _stream(self, answer: Answer, pieces: RunningAnswer, sender: Sender) -> None:
        async for piece in pieces:
            if piece.text:
                await sender.event({"type": "transcript.text.delta", "delta": piece.text})
        usage = {"type": "tokens"} | usage_of(answer)
        await sender.event({"type": "transcript.text.done", "text": answer.text.strip(), "usage": usage})
        await sender.finish()


async def read_form(request: Request, max_bytes: int) -> dict[str, Any]:
    """
    The fields of a form with one file. Fields whose names end with `[]` are lists.

    Raises:
        ApiError: the body is no form, is too large, or has a field twice.
    """
    # whole before it is parsed, so that the error of a body that is too large does not depend on its parts
    body = await read_whole_body(request, "a form", "multipart/form-data", max_bytes)

    async def blocks():
        yield body

    try:
        form = await FormInMemory(request.headers, blocks(), max_files=1, max_fields=MAX_FIELDS).parse()
    except MultiPartException as error:
        raise ApiError(f"The form is malformed: {error.message:.200}", code="invalid_form") from error
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name.endswith("[]"):
            fields.setdefault(name[:-2], []).append(value)
        elif name in fields:
            raise ApiError(f"{name!r:.100} is given twice.", param=name[:100], code="invalid_form")
        else:
            fields[name] = value
    return fields


def usage_of(answer: Answer) -> dict[str, int]:
    prompt, new = answer.num_prompt_tokens, answer.num_new_tokens
    return {"input_tokens": prompt, "output_tokens": new, "total_tokens": prompt + new}


__all__ = ["Speech", "SpeechRequest", "TranscriptionRequest", "Transcriptions"]
