# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings in other voices and places."""

import random

import numpy as np
import soundfile as sf
from places import MINI

from training.augmentation import heard_elsewhere


def test_a_seed_says_how_a_recording_is_heard_and_nothing_else_changes():
    waveform, sampling_rate = sf.read(MINI / "sample_question.wav", dtype="float32")
    random.seed(1)
    np.random.seed(1)
    wanted = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    heard = [heard_elsewhere(waveform, sampling_rate, seed) for seed in (5, 6, 5)]
    assert (random.random(), np.random.rand()) == wanted
    assert np.array_equal(heard[0], heard[2]) and not np.array_equal(heard[0], heard[1])
    for other in heard:
        assert other.dtype == np.float32 and np.abs(other).max() <= 1.0 and other.std() > 0.003
        # people talk at most a quarter slower or faster
        assert 0.7 < len(other) / len(waveform) < 1.3


def test_quiet_noise_stays_audible():
    """A recording that a filter left silent would stop a training."""
    quiet = 2e-4 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    assert all(np.abs(heard_elsewhere(quiet, 16_000, seed)).max() > 1e-4 for seed in range(30))
    assert not heard_elsewhere(np.zeros(8000, np.float32), 16_000, 1).any()
