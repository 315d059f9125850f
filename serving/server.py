# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What all endpoints of a server share: the assistant, the limits of how much goes on at once, and the measures."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from hub_cards.command_line import is_raised_by_us

from .api_errors import ApiError, busy, unavailable
from .assistant import Answer, Assistant, Piece
from .engine import EngineOverloaded, EngineUnavailable, PromptTooLong
from .metrics import Metrics
from .realtime_outbox import Outbox
from .settings import ServerSettings


logger = logging.getLogger(__name__)

# How often a server that is about to end looks whether its last answer has ended, in seconds
DRAIN_INTERVAL = 0.05


class Server:
    """
    Attributes:
        assistant ([`Assistant`]): the model.
        settings ([`ServerSettings`]): what it was started with.
        metrics ([`Metrics`]): what it counts.
        started (`float`): the Unix time of its start.
        is_draining (`bool`): whether it is about to end: running answers go on, new ones are refused.
        num_running (`int`): answers that are made, of all endpoints.
    """

    def __init__(self, assistant: Assistant, settings: ServerSettings):
        self.assistant = assistant
        self.settings = settings
        self.metrics = Metrics()
        self.started = time.time()
        self.is_draining = False
        self.num_running = 0
        self._num_requests = 0
        # Of the realtime sessions
        self._outboxes: set[Outbox] = set()
        self._turns = asyncio.Semaphore(settings.max_answers)

    @property
    def model_names(self) -> list[str]:
        """By which clients may call the model: its name, and of a Hub id the part without the owner."""
        name = self.assistant.model_name
        return list(dict.fromkeys((name, name.rpartition("/")[2])))

    def check_model(self, name: str) -> None:
        """
        Raises:
            ApiError: the server has no model of this name.
        """
        if name not in self.model_names:
            raise ApiError(
                f"The model {name!r:.200} does not exist; this server has {' or '.join(map(repr, self.model_names))}.",
                status=404,
                param="model",
                code="model_not_found",
            )

    @contextmanager
    def session(self, outbox: Outbox) -> Iterator[None]:
        """
        Counts a realtime session.

        Args:
            outbox ([`Outbox`]): with what it has to send.

        Raises:
            ApiError: there are as many as there may be, or the server is about to end.
        """
        self._check_not_draining()
        if len(self._outboxes) >= self.settings.max_sessions:
            raise busy(f"All {self.settings.max_sessions} sessions of this server are taken.")
        self._outboxes.add(outbox)
        self.metrics.sessions.set(len(self._outboxes))
        try:
            yield
        finally:
            self._outboxes.discard(outbox)
            self.metrics.sessions.set(len(self._outboxes))

    @contextmanager
    def request(self) -> Iterator[None]:
        """
        Counts a request that is to be answered over HTTP, from before its body is read.

        Raises:
            ApiError: there are as many as there may be, or the server is about to end.
        """
        self._check_not_draining()
        if self._num_requests >= self.settings.max_answers + self.settings.max_queue:
            raise busy(
                f"This server makes {self.settings.max_answers} answers at once, and "
                f"{self.settings.max_queue} more requests are waiting."
            )
        self._num_requests += 1
        self.metrics.queue.inc()
        try:
            yield
        finally:
            self._num_requests -= 1
            self.metrics.queue.dec()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a request's turn, in the order in which they came."""
        async with self._turns:
            self.metrics.queue.dec()
            try:
                yield
            finally:
                self.metrics.queue.inc()

    @asynccontextmanager
    async def running(self, answer: Answer, endpoint: str, since: float) -> AsyncIterator["RunningAnswer"]:
        """
        The pieces of an answer, to be iterated inside. What is not iterated to its end is cancelled.

        Args:
            answer ([`Answer`]): which nobody else iterates.
            endpoint (`str`): its name in the metrics.
            since (`float`): the time of `time.perf_counter` from which the first audio is waited for.
        """
        pieces = RunningAnswer(answer, self.assistant.output_sampling_rate)
        self.num_running += 1
        self.metrics.running.set(self.num_running)
        try:
            yield pieces
        finally:
            self.num_running -= 1
            self.metrics.running.set(self.num_running)
            self.metrics.answers.labels(endpoint, pieces.outcome).inc()
            if pieces.first_audio is not None:
                self.metrics.first_audio.labels(endpoint).observe(pieces.first_audio - since)
            if pieces.outcome == "finished" and pieces.spoken_seconds:
                factor = pieces.making_seconds / pieces.spoken_seconds
                self.metrics.real_time_factor.labels(endpoint).observe(factor)
            if pieces.outcome != "finished":
                await answer.cancel()

    async def drain(self) -> None:
        """
        Refuses what is new, and returns when all answers have ended and were sent, or the settings' time for it has.
        """
        self.is_draining = True
        end = time.monotonic() + self.settings.drain_seconds
        while self._is_busy() and time.monotonic() < end:
            await asyncio.sleep(DRAIN_INTERVAL)

    def _is_busy(self) -> bool:
        # The end of an answer is still to be sent when it is made
        return bool(self.num_running or self._num_requests) or not all(box.is_empty for box in self._outboxes)

    def _check_not_draining(self) -> None:
        if self.is_draining:
            raise ApiError("This server is about to end.", status=503, type="server_error", code="shutting_down")


class RunningAnswer:
    """
    Iterates an answer and measures it.

    Attributes:
        outcome (`str`): finished, cancelled (or not yet at its end), refused or failed.
        first_audio (`float`, *optional*): the time of `time.perf_counter` when the first audio came.
        making_seconds (`float`): how long the pieces were waited for, without the time that a client took to read.
        spoken_seconds (`float`): the length of the audio so far.
    """

    def __init__(self, answer: Answer, sampling_rate: int):
        self.answer = answer
        self.sampling_rate = sampling_rate
        self.outcome, self.first_audio = "cancelled", None
        self.making_seconds = self.spoken_seconds = 0.0
        self.has_begun = False

    def __aiter__(self) -> "RunningAnswer":
        return self

    async def __anext__(self) -> Piece:
        """
        Raises:
            ApiError: the answer was refused before its first piece, or too many requests were waiting later.
        """
        start = time.perf_counter()
        try:
            piece = await anext(self.answer)
        except StopAsyncIteration:
            self.outcome = "finished"
            raise
        except Exception as error:
            # what an engine only sees when it begins is refused like what the assistant sees at once; and the queue
            # may be full when a text that was written is to be spoken
            self.outcome = "failed" if self.has_begun else "refused"
            if not self.has_begun or isinstance(error, (EngineOverloaded, EngineUnavailable)):
                raise_refusal(error)
            self.outcome = "failed"
            raise
        finally:
            now = time.perf_counter()
            self.making_seconds += now - start
        self.has_begun = True
        if piece.audio is not None:
            self.first_audio = self.first_audio or now
            self.spoken_seconds += len(piece.audio) / self.sampling_rate
        return piece


def raise_refusal(error: Exception) -> None:
    """
    Raises:
        ApiError: an assistant's `error` says that a request cannot be answered. Others may be bugs.
    """
    if isinstance(error, EngineOverloaded):
        raise busy("Too many requests are waiting.") from error
    if isinstance(error, EngineUnavailable):
        logger.error("A request was not answered: %s", error)
        raise unavailable(str(error)) from error
    if isinstance(error, ValueError) and is_raised_by_us(error):
        code = "context_length_exceeded" if isinstance(error, PromptTooLong) else "invalid_value"
        raise ApiError(f"{error!s:.500}", code=code) from error


__all__ = ["RunningAnswer", "Server", "raise_refusal"]
