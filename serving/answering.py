# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What all HTTP endpoints that the model answers share: reading a request, and sending an answer as it comes."""

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from modeling_vita_audio.verification_vita_audio import resolve_mctp_verify

from .api_errors import ApiError, check_number_of_values, server_error
from .assistant import Answer
from .server import Server, raise_refusal


logger = logging.getLogger(__name__)

# A body that is too large is read on and thrown away up to so many times the limit: clients that are still sending do
# not see the error.
DISCARDED_TIMES = 4

# Of a list that is a mode: how many numbers it may have, so that checking them keeps nobody waiting, and how large
# they may be, which is longer than any answer.
MAX_SCHEDULE, MAX_TURN = 64, 2**16

# Below this temperature sampling is greedy search. Scores are divided by it, and would be infinite by a smaller one
LOWEST_TEMPERATURE = 1e-6


class Endpoint(ABC):
    """
    An ASGI application for one route. A client that disconnects ends the work for it.

    Args:
        server ([`Server`]): which it is an endpoint of.
    """

    def __init__(self, server: Server):
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = Sender(send, self.server.settings.send_seconds)
        with self.server.request(), suppress(ClientDisconnect):
            try:
                async with asyncio.timeout(self.server.settings.receive_seconds):
                    asked = await self.read(Request(scope, receive))
            except TimeoutError:
                raise ApiError("The body took too long to come.", status=408, code="request_timeout") from None
            await unless_disconnected(receive, self._respond(asked, sender))

    async def _respond(self, asked: Any, sender: "Sender") -> None:
        async with self.server.turn():
            try:
                await self.respond(asked, sender)
            except ClientDisconnect:
                raise
            except Exception as error:
                # before the first byte the application makes a response of it
                if not sender.has_begun:
                    raise
                if not isinstance(error, ApiError):
                    logger.exception("An answer failed while it was sent")
                    error = server_error()
                await sender.fail(error)

    def begin(self, make: Callable[..., Answer], *args, **kwargs) -> Answer:
        """
        The answer that a method of the assistant makes.

        Raises:
            ApiError: the assistant refuses.
        """
        try:
            return make(*args, **kwargs)
        except Exception as error:
            raise_refusal(error)
            raise

    @abstractmethod
    async def read(self, request: Request) -> Any:
        """
        Reads and checks a request.

        Raises:
            ApiError: it is malformed.
        """

    @abstractmethod
    async def respond(self, asked: Any, sender: "Sender") -> None:
        """Answers what `read` has returned."""


async def unless_disconnected(receive: Receive, work: Coroutine) -> None:
    """Does the work, or cancels it when the client disconnects."""

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(disconnected())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Sender:
    """
    Sends a response, whole or piece by piece.

    Args:
        send (`Send`): of ASGI.
        seconds (`float`): how long a client may take to read before it counts as gone.
    """

    def __init__(self, send: Send, seconds: float):
        self._send = send
        self.seconds = seconds
        self.has_begun = self.is_of_events = False

    async def whole(self, content: bytes | dict, media_type: str = "application/json") -> None:
        """Sends all at once; a dictionary as JSON."""
        if isinstance(content, dict):
            # minutes of speech may be in it, which is megabytes
            content = await asyncio.to_thread(lambda: json.dumps(content).encode())
        await self._begin(media_type, len(content))
        await self._put(content, more=False)

    async def bytes(self, content: bytes, media_type: str) -> None:
        """Sends the next bytes of a file."""
        await self._begin(media_type)
        if content:
            await self._put(content)

    async def event(self, data: dict | str) -> None:
        """Sends a server-sent event; a dictionary as JSON."""
        self.is_of_events = True
        await self._begin("text/event-stream")
        data = json.dumps(data) if isinstance(data, dict) else data
        await self._put(f"data: {data}\n\n".encode())

    async def finish(self) -> None:
        """Ends what was sent piece by piece."""
        await self._put(b"", more=False)

    async def fail(self, error: ApiError) -> None:
        """Ends a response that cannot be completed."""
        # Without events nothing can be said any more: a response without an end is an error for the client.
        if self.is_of_events:
            await self.event(error.body())
            await self.finish()

    async def _begin(self, media_type: str, num_bytes: int | None = None) -> None:
        if self.has_begun:
            return
        self.has_begun = True
        headers = {"content-type": media_type, "cache-control": "no-store"}
        if num_bytes is not None:
            headers["content-length"] = str(num_bytes)
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": pairs})

    async def _put(self, content: bytes, more: bool = True) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                await self._send({"type": "http.response.body", "body": content, "more_body": more})
        except TimeoutError:
            raise ClientDisconnect() from None


async def read_body(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """
    The blocks of a request's body.

    Raises:
        ApiError: it has more than `max_bytes`.
    """
    num_bytes, claimed = 0, request.headers.get("content-length", "")
    is_too_large = claimed.isdigit() and int(claimed) > max_bytes
    async for block in request.stream():
        num_bytes += len(block)
        is_too_large = is_too_large or num_bytes > max_bytes
        if num_bytes > DISCARDED_TIMES * max_bytes:
            break
        if not is_too_large:
            yield block
    if is_too_large:
        raise ApiError(
            f"The body is larger than the limit of {max_bytes} bytes.", status=413, code="request_too_large"
        )


async def read_whole_body(request: Request, form: str, content_type: str, max_bytes: int) -> bytes:
    """
    The whole body of a request, which is to be of one content type; `form` names it for people.

    Raises:
        ApiError: it is of another type, or as of [`read_body`].
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != content_type:
        raise ApiError(
            f"The body must be {form} with Content-Type: {content_type}, got {kind!r:.100}.",
            status=415,
            code="unsupported_content_type",
        )
    return b"".join([block async for block in read_body(request, max_bytes)])


def check_mode(mode: Any) -> str | list[int]:
    is_list = isinstance(mode, list) and all(type(number) is int for number in mode)
    is_list = is_list and len(mode) <= MAX_SCHEDULE and all(abs(number) < MAX_TURN for number in mode)
    if not (isinstance(mode, str) or is_list):
        raise ValueError(
            f"it is a mode's name such as boost, or a list of at most {MAX_SCHEDULE} integers below {MAX_TURN}"
        )
    return mode


Mode = Annotated[Any, AfterValidator(check_mode)]


def check_tolerance(value: Any) -> bool | float | list[float]:
    resolve_mctp_verify(value)
    return value


Tolerance = Annotated[Any, AfterValidator(check_tolerance)]


class RequestBody(BaseModel):
    """
    A request's parameters. A parameter that is null counts as not given.

    Attributes:
        IGNORED (`frozenset[str]`): parameters of OpenAI's interface that change no answer, whatever their value.
        NEUTRAL (`dict[str, tuple]`): parameters that have no effect here, with the values that ask for none.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    IGNORED: ClassVar[frozenset[str]] = frozenset()
    NEUTRAL: ClassVar[dict[str, tuple]] = {}

    @classmethod
    async def from_request(cls, request: Request, max_bytes: int) -> Self:
        """
        Raises:
            ApiError: the body is too large, no JSON, or has other parameters.
        """
        # browsers send other kinds to servers of others without asking them
        body = await read_whole_body(request, "JSON", "application/json", max_bytes)
        # megabytes of base64 may be in it
        return await asyncio.to_thread(cls.from_bytes, body)

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        check_number_of_values(body)
        try:
            parameters = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise ApiError(f"The body is no JSON: {error!s:.200}.", code="invalid_json") from None
        if not isinstance(parameters, dict):
            raise ApiError("The body must be a JSON object.", code="invalid_json")
        return cls.from_parameters(parameters)

    @classmethod
    def from_parameters(cls, parameters: dict[str, Any]) -> Self:
        """
        Raises:
            ApiError: a parameter is unknown, missing, of another form, or has no effect here.
        """
        given = {}
        for name, value in parameters.items():
            if value is None or name in cls.IGNORED:
                continue
            if name not in cls.NEUTRAL:
                given[name] = value
            elif value not in cls.NEUTRAL[name]:
                raise ApiError(
                    f"{name!r} is not supported: this model has no use for it. Leave it out.",
                    param=name,
                    code="unsupported_parameter",
                )
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
        param = _path(first["loc"]) or None
        if first["type"] == "missing":
            raise ApiError(f"Missing required parameter: {param!r}.", param=param, code="missing_required_parameter")
        if first["type"] == "extra_forbidden":
            raise ApiError(f"Unknown parameter: {param!r:.200}.", param=param, code="unknown_parameter")
        raise ApiError(f"Invalid {param!r}: {first['msg']:.300}.", param=param, code="invalid_value")


def _path(location: tuple[str | int, ...]) -> str:
    """`messages[0].content` of `("messages", 0, "content")`"""
    path = ""
    for name in location:
        path += f"[{name}]" if isinstance(name, int) else f".{name:.100}"
    return path.removeprefix(".")


def sampling_options(temperature: float | None, top_p: float | None, seed: int | None) -> dict[str, Any]:
    """The fields of [`AnswerOptions`] for a client's parameters. Without any the model's own settings hold."""
    options: dict[str, Any] = {}
    # OpenAI's clients ask for greedy search by a temperature of 0, which `generate` does not take
    is_greedy = temperature is not None and temperature < LOWEST_TEMPERATURE
    if is_greedy:
        options["do_sample"] = False
    elif temperature is not None:
        options |= {"do_sample": True, "temperature": temperature}
    if top_p is not None and top_p < 1 and not is_greedy:
        options |= {"do_sample": True, "top_p": top_p}
    if seed is not None:
        # clients send 64 bits with a sign, NumPy takes 32 without
        options["seed"] = seed % 2**32
    return options


__all__ = ["Endpoint", "Mode", "RequestBody", "Sender", "read_whole_body", "sampling_options"]
