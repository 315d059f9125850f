# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Recordings in which nobody says anything: silence, hiss, hum, clicks, beeps and wind. The model asks back instead of
answering a question that it has only imagined.

A new kind of noise is one function with `@register_noise`.
"""

import random
from collections.abc import Callable, Iterator

import numpy as np

from .clips import ASR, TTS, Clip, Recording, register_source
from .voices import JOE


NOISE_VOICE = "noise"
NUM_TRAINING, NUM_HELD_OUT = 600, 150
REPEAT_ANSWER = "Sorry, could you repeat that?"

MIN_SECONDS, MAX_SECONDS = 0.3, 4.0
# Root mean square, below full scale: from what is hardly there to as loud as speech.
MIN_LEVEL_DB, MAX_LEVEL_DB = -65.0, -12.0
# What a microphone hears in a quiet room. Exact silence is no part: processors refuse it, as nothing was recorded.
MIN_SILENCE_DB, MAX_SILENCE_DB = -75.0, -60.0
# Raise it whenever the noises change, so that they alone are made anew.
NOISE_VERSION = 2

NOISES: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {}


def register_noise(function: Callable[[int, int, np.random.Generator], np.ndarray]):
    """
    Makes a function one of the noises. It gets a number of samples, the sampling rate in Hz and a generator, and
    returns the samples at any level.
    """
    NOISES[function.__name__] = function
    return function


def colored_noise(length: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Noise `(length,)` of level 1, whose power falls as 1 / f ** exponent: 0 is white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    # Amplitude is the root of power. The mean, at 0 Hz, has no such power and is taken as at the next frequency.
    spectrum /= np.maximum(np.arange(len(spectrum)), 1) ** (exponent / 2)
    noise = np.fft.irfft(spectrum, length)
    return noise / np.sqrt(np.mean(noise**2))


@register_noise
def silence(length: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(length)


@register_noise
def white(length: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    return colored_noise(length, 0, rng)


@register_noise
def pink(length: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    return colored_noise(length, 1, rng)


@register_noise
def brown(length: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    return colored_noise(length, 2, rng)


@register_noise
def hum(length: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """The mains, at 50 or 60 Hz, with some of its overtones."""
    phase = 2 * np.pi * rng.choice([50, 60]) * np.arange(length) / sampling_rate
    overtones = [rng.random() / n * np.sin(n * phase + rng.uniform(0, 2 * np.pi)) for n in range(1, 9)]
    return sum(overtones) + 0.01 * rng.standard_normal(length)


@register_noise
def clicks(length: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """One to ten clicks a second, each of a few milliseconds."""
    impulses = np.zeros(length)
    places = rng.integers(0, length, size=1 + int(rng.uniform(1, 10) * length / sampling_rate))
    impulses[places] = rng.uniform(0.3, 1, size=len(places)) * rng.choice([-1, 1], size=len(places))
    decay = np.exp(-np.arange(sampling_rate // 50) / (sampling_rate * rng.uniform(0.0005, 0.004)))
    return np.convolve(impulses, decay * rng.standard_normal(len(decay)))[:length] + 1e-3 * rng.standard_normal(length)


@register_noise
def beeps(length: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A tone of 200 to 2000 Hz, without a break or on and off several times a second."""
    time = np.arange(length) / sampling_rate
    tone = np.sin(2 * np.pi * rng.uniform(200, 2000) * time)
    if rng.random() < 0.3:
        return tone
    is_on = np.sin(2 * np.pi * rng.uniform(0.7, 5) * time) > rng.uniform(-0.5, 0.5) - 0.1
    # a short recording may lie between two beeps
    return tone * is_on + 1e-3 * rng.standard_normal(length)


@register_noise
def wind(length: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Low noise that swells and falls."""
    swell = colored_noise(length, 3, rng)
    return colored_noise(length, 1.6, rng) * (0.1 + np.abs(swell))


def noise_samples(clip_id: str, sampling_rate: int) -> np.ndarray:
    """The noise whose seed is `clip_id`, float32 `(num_samples,)`: its kind, length and level are drawn."""
    draw = random.Random(clip_id)
    kind = NOISES[draw.choice(sorted(NOISES))]
    length = round(draw.uniform(MIN_SECONDS, MAX_SECONDS) * sampling_rate)
    rng = np.random.default_rng(draw.getrandbits(64))
    samples = kind(length, sampling_rate, rng)
    levels = (MIN_SILENCE_DB, MAX_SILENCE_DB) if kind is silence else (MIN_LEVEL_DB, MAX_LEVEL_DB)
    samples = samples * (10 ** (draw.uniform(*levels) / 20) / np.sqrt(np.mean(samples**2)))
    return np.clip(samples, -1, 1).astype(np.float32)


def noise_clips() -> list[Clip]:
    """The clips of noise, the held-out ones (of the split "test") last."""
    return [
        Clip("", NOISE_VOICE, "train" if number < NUM_TRAINING else "test", 10_000 * NOISE_VERSION + number)
        for number in range(NUM_TRAINING + NUM_HELD_OUT)
    ]


@register_source
def noise() -> Iterator[Recording]:
    yield Recording(Clip(REPEAT_ANSWER, JOE.name, "train"), (ASR, TTS))
    yield from map(Recording, noise_clips())
