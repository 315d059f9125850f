# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The input audio buffer of a session: what the user says, from the first sample of a turn to its end."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from .assistant import Hearing
from .audio_formats import to_int16
from .realtime_events import TurnDetection
from .turn_detection import TurnDetector


# What a turn may be long to be heard again, because what was said before it has changed: a client says within this
# time how much of an interrupted answer it had played.
MAX_HEARD_AGAIN_SECONDS = 2.0


# Silence in a turn that is worth a guess. Pauses within speech are mostly shorter, and a turn ends after 0.5 s of it.
PAUSE_SECONDS = 0.25


class InputAudio:
    """
    Audio of the user, of which the model hears each turn as it comes.

    Args:
        hear (`Callable`): begins to hear a turn.
        sampling_rate (`int`): of the audio, in Hz.
        max_seconds (`float`): the longest turn.

    Attributes:
        position (`int`): samples that have come in this session.
        turn_start (`int`), turn_end (`int`): where the turn is among them; its end is that of what was heard of it.
        quiet_since (`int`, *optional*): from where on audio is kept though nobody speaks.
    """

    def __init__(self, hear: Callable[[], Hearing], sampling_rate: int, max_seconds: float):
        self.position = self.turn_start = self.turn_end = 0
        self.quiet_since: int | None = None
        self._hear, self._sampling_rate = hear, sampling_rate
        self._max_samples = int(max_seconds * sampling_rate)
        self._hearing: Hearing | None = None
        # of the turn
        self._heard: list[np.ndarray] = []
        # What belongs to no turn (yet), up to `position`
        self._recent = np.zeros(0, np.float32)
        self._detector: TurnDetector | None = None
        self._detector_start = 0
        self._is_pause = False

    @property
    def is_turn(self) -> bool:
        """Whether a turn has begun."""
        return self._hearing is not None

    @property
    def seconds(self) -> float:
        """The length of the turn."""
        return (self.turn_end - self.turn_start) / self._sampling_rate if self.is_turn else 0.0

    def milliseconds(self, position: int) -> int:
        return round(1000 * position / self._sampling_rate)

    def take(self, samples: np.ndarray, detection: TurnDetection | None) -> Iterator[Literal["started", "stopped"]]:
        """
        Takes the next samples, float32 `(num_samples,)`. With `detection` it tells when a turn starts, before it is
        heard, and when it has stopped; a turn that has stopped must be finished or dropped before the iterator goes
        on. Without, all belongs to one turn.
        """
        self.position += len(samples)
        self._recent = np.concatenate([self._recent, samples])
        if detection is None:
            if not self.is_turn:
                self._set_start(self.position - len(samples))
                self._hearing = self._hear()
            self._hear_until(self.position)
            return
        if self._detector is None:
            self._detector = TurnDetector(self._sampling_rate)
            self._detector_start = self.position - len(samples)
        padding = detection.prefix_padding_ms * self._sampling_rate // 1000
        for change, seconds in self._detector.feed(samples, detection.threshold, detection.silence_duration_ms):
            place = self._detector_start + round(seconds * self._sampling_rate)
            if change == "started":
                self._set_start(place - padding)
                yield "started"
                self._hearing = self._hear()
            elif self.is_turn:
                self._hear_until(place)
                yield "stopped"
        if self.is_turn:
            self._hear_until(self.position)
            self._watch_pause()
            if self.turn_end - self.turn_start == self._max_samples:
                # if the user still speaks, that is the next turn
                self._detector.end_speech()
                yield "stopped"
        quiet = 0 if self.quiet_since is None else self.position - self.quiet_since
        self._recent = self._recent[max(0, len(self._recent) - max(padding, quiet)) :]

    def _watch_pause(self) -> None:
        """Lets the model read what was said when the user pauses, before it is known whether the turn has ended."""
        is_pause = self._detector.pause >= PAUSE_SECONDS
        if is_pause and not self._is_pause:
            self._hearing.pause()
        self._is_pause = is_pause

    def take_quiet(self) -> None:
        """Makes a turn of the audio since `quiet_since`, in which nobody spoke."""
        self._set_start(self.quiet_since)
        self._hearing = self._hear()
        self._hear_until(self.position)

    def hear_again(self) -> None:
        """Hears the turn from its start, unless it is long, because what was said before it has changed."""
        if self.is_turn and self.seconds <= MAX_HEARD_AGAIN_SECONDS:
            self._hearing.cancel()
            self._hearing = self._hear()
            for samples in self._heard:
                self._hearing.put(samples)

    async def finish(self) -> tuple[Any, np.ndarray]:
        """
        Ends the turn.

        Returns:
            `tuple`: what stands for it in messages, and its samples, int16 `(num_samples,)`.

        Raises:
            ValueError: the model cannot hear it, because it is silent or too short. The turn is gone.
        """
        hearing, heard = self._end_turn()
        try:
            samples = to_int16(np.concatenate(heard))
            return await hearing.finish(), samples
        except BaseException:
            hearing.cancel()
            raise

    def drop_turn(self) -> None:
        """Throws the turn away, if there is one, and listens on."""
        hearing, _ = self._end_turn()
        if hearing is not None:
            hearing.cancel()

    def clear(self) -> None:
        """Throws away what is not a finished turn."""
        if self._hearing is not None:
            self._hearing.cancel()
        self._hearing, self._heard, self._detector, self.quiet_since = None, [], None, None
        self._recent = np.zeros(0, np.float32)

    def _end_turn(self) -> tuple[Hearing | None, list[np.ndarray]]:
        hearing, heard = self._hearing, self._heard
        self._hearing, self._heard, self.quiet_since = None, [], None
        if self._detector is not None:
            self._detector.end_speech()
        return hearing, heard

    def _set_start(self, place: int) -> None:
        """Lets a turn start at a place, if the audio is still there."""
        first = self.position - len(self._recent)
        self.turn_start = self.turn_end = max(place, first)
        self._recent = self._recent[self.turn_start - first :]

    def _hear_until(self, place: int) -> None:
        """Hears what has come up to a place, or as much as fits into a turn."""
        num_samples = max(0, min(place, self.turn_start + self._max_samples) - self.turn_end)
        samples, self._recent = self._recent[:num_samples], self._recent[num_samples:]
        self._hearing.put(samples)
        self._heard.append(samples)
        self.turn_end += len(samples)


__all__ = ["InputAudio"]
