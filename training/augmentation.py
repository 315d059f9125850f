# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What training hears of recordings: other voices and tempos, rooms, telephones and noise."""

import random

import numpy as np
from audiomentations import (
    AddColorNoise,
    BandPassFilter,
    ClippingDistortion,
    Compose,
    Gain,
    LowPassFilter,
    OneOf,
    PitchShift,
    RoomSimulator,
    SevenBandParametricEQ,
    TanhDistortion,
    TimeStretch,
)

from processing.audio_vita_audio import MIN_AMPLITUDE


def other_voices() -> Compose:
    """Changes that speech remains undisturbed by: its tempo and its pitch, which make it the voice of another one."""
    return Compose(
        [
            TimeStretch(0.8, 1.25, leave_length_unchanged=False, p=0.4),
            # the formants move with the pitch
            PitchShift(-5.0, 5.0, p=0.6),
        ]
    )


def other_places() -> Compose:
    """Disturbances by rooms, microphones, lines, noise and level, which leave all sounds where they are."""
    return Compose(
        [
            # the slowest of them, by far
            RoomSimulator(
                calculation_mode="absorption",
                min_absorption_value=0.1,
                max_absorption_value=0.6,
                max_order=4,
                use_ray_tracing=False,
                leave_length_unchanged=True,
                p=0.2,
            ),
            SevenBandParametricEQ(-8.0, 8.0, p=0.4),
            OneOf(
                [
                    # a telephone's 300 to 3400 Hz, about
                    BandPassFilter(1400, 2200, 1.4, 1.8, p=1.0),
                    LowPassFilter(2500, 7000, p=1.0),
                ],
                p=0.25,
            ),
            OneOf([TanhDistortion(0.01, 0.3, p=1.0), ClippingDistortion(0, 5, p=1.0)], p=0.1),
            AddColorNoise(8.0, 40.0, p=0.6),
            # Whisper's features tell quiet speech from loud speech
            Gain(-20.0, 10.0, p=0.8),
        ]
    )


# The processor refuses what is quieter than `MIN_AMPLITUDE` as silent
MIN_PEAK = 10 * MIN_AMPLITUDE


def heard_elsewhere(waveform: np.ndarray, sampling_rate: int, seed: int) -> np.ndarray:
    """
    `waveform` as another voice says it in another place, float32 `(num_samples,)` within [-1, 1]; the same one for the
    same `seed`, and other random numbers go on as if nothing had been drawn.
    """
    # audiomentations draws from both
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        heard = other_places()(other_voices()(waveform, sampling_rate), sampling_rate)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    # Of noise a filter may leave next to nothing, and then the gain less
    peak = np.abs(heard).max()
    if 0 < peak < MIN_PEAK:
        heard = heard * (MIN_PEAK / peak)
    return np.clip(heard, -1.0, 1.0).astype(np.float32)


def keep_alignment(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """`waveform` cut or filled up with zeros at its end to `num_samples`; filters may change a length by some."""
    return np.pad(waveform, (0, max(0, num_samples - len(waveform))))[:num_samples].astype(np.float32)
