# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Recordings that are to be made, what each of them trains or tests, and the table of where they come from.

A new kind of recording is one function with `@register_source`, in the module of its own concern: its clips, and the
conversations that write it down ("asr") or speak it ("tts"), follow.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from .questions import stable_hash
from .voices import HELD_OUT_VOICE, JOE, TRAINING_VOICES, Voice


# A part of every clip's id. Raise it whenever the signal processing in `render` or the settings of a voice change, or
# texts move from one split to another, so that all clips are made anew.
RENDERING_VERSION = 2

ASR, TTS = "asr", "tts"


@dataclass(frozen=True)
class Clip:
    """
    One recording to be made: `text` said by the voice named `voice`, for `split`.

    Args:
        number: tells recordings without a text from each other.
    """

    text: str
    voice: str
    split: str
    number: int = 0

    @property
    def id(self) -> str:
        return f"{stable_hash(str(RENDERING_VERSION), self.voice, self.text or str(self.number)):016x}"

    @property
    def path(self) -> str:
        return f"audio/{self.voice}/{self.id}.flac"


@dataclass(frozen=True)
class Recording:
    """A clip, and those of the tasks "asr" and "tts" that it alone makes a conversation of."""

    clip: Clip
    tasks: tuple[str, ...] = ()


SOURCES: dict[str, Callable[[], Iterable[Recording]]] = {}


def register_source(function: Callable[[], Iterable[Recording]]) -> Callable[[], Iterable[Recording]]:
    """Makes the recordings that a function yields a part of the corpus, under the function's name."""
    SOURCES[function.__name__] = function
    return function


@cache
def draw_voices(text: str, count: int, voices: tuple[Voice, ...] = TRAINING_VOICES) -> tuple[Voice, ...]:
    """`count` different ones of `voices` for `text`, drawn by weight; always the same ones for the same text."""
    rng = random.Random(stable_hash("voices", text))
    # Weighted sampling without replacement (Efraimidis and Spirakis, 2006): the largest of u ** (1 / weight).
    ranked = sorted(voices, key=lambda voice: rng.random() ** (1 / voice.weight), reverse=True)
    return tuple(ranked[:count])


def voice_clips(text: str, split: str, count: int, voices: tuple[Voice, ...] = TRAINING_VOICES) -> list[Clip]:
    """The clips of `text` by `count` of the training voices."""
    return [Clip(text, voice.name, split) for voice in draw_voices(text, count, voices)]


def training_recordings(
    text: str, num_voices: int, by_joe: bool = True, voices: tuple[Voice, ...] = TRAINING_VOICES
) -> Iterator[Recording]:
    """`text` said by training voices, to be written down, and by the fixed joe, whose speech is learnt as well."""
    if by_joe:
        yield Recording(Clip(text, JOE.name, "train"), (ASR, TTS))
    for clip in voice_clips(text, "train", num_voices, voices):
        yield Recording(clip, (ASR,))


def unseen_voice_recording(text: str, split: str) -> Recording:
    """`text` said by the held-out voice, to be written down."""
    return Recording(Clip(text, HELD_OUT_VOICE.name, split), (ASR,))


def hold_out(texts: Iterable[str], share: float, salt: str) -> dict[str, bool]:
    """Whether each of `texts` is held out; a `share` of them is, the same one everywhere."""
    texts = list(dict.fromkeys(texts))
    # The order of hashes is a shuffle that is the same everywhere.
    held_out = set(sorted(texts, key=lambda text: stable_hash(salt, text))[: round(share * len(texts))])
    return {text: text in held_out for text in texts}
