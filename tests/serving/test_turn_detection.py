# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from places import MINI

from serving import turn_detection
from serving.turn_detection import SpeechProbability, TurnDetector


@pytest.fixture(scope="module")
def audio() -> np.ndarray:
    """A spoken question between silences, at 16 kHz."""
    samples, rate = soundfile.read(MINI / "sample_question.wav", dtype="float32")
    return np.pad(soxr.resample(samples, rate, 16000), (8000, 16000))


def test_the_network_is_that_of_silero(audio, monkeypatch):
    """silero-vad's own network on the same audio. Its weights are put into ours, because it carries two versions."""
    folder = Path(importlib.util.find_spec("silero_vad").origin).parent
    reference = torch.jit.load(folder / "data" / "silero_vad.jit")
    names = {
        "stft.forward_basis_buffer": "stft_conv.weight",
        **{f"encoder.{i}.reparam_conv.{kind}": f"conv{i + 1}.{kind}" for i in range(4) for kind in ("weight", "bias")},
        **{f"decoder.rnn.{w}_{s}": f"lstm_cell.{w}_{s}" for w in ("weight", "bias") for s in ("ih", "hh")},
        **{f"decoder.decoder.2.{kind}": f"final_conv.{kind}" for kind in ("weight", "bias")},
    }
    weights = {names[name]: value.numpy() for name, value in reference._model.state_dict().items()}
    monkeypatch.setattr(turn_detection, "load_file", lambda path: weights)
    monkeypatch.setattr(turn_detection, "load_weights", turn_detection.load_weights.__wrapped__)
    ours = SpeechProbability()
    for window in audio[: len(audio) // 512 * 512].reshape(-1, 512):
        with torch.no_grad():
            expected = reference(torch.from_numpy(window), 16000).item()
        assert abs(ours(window) - expected) < 1e-4


@pytest.mark.parametrize("sampling_rate", [16000, 24000, 22050])
@pytest.mark.parametrize("block", [100, 4800, 10**9])
def test_speech_is_found(audio, sampling_rate, block):
    audio = soxr.resample(audio, 16000, sampling_rate)
    detector, changes = TurnDetector(sampling_rate), []
    for start in range(0, len(audio), block):
        changes += detector.feed(audio[start : start + block], 0.5, 500)
    assert [change for change, _ in changes] == ["started", "stopped"]
    (_, start), (_, stop) = changes
    (loud,) = np.nonzero(np.abs(audio) > 0.02)
    assert abs(start - loud[0] / sampling_rate) < 0.1 and abs(stop - (loud[-1] / sampling_rate + 0.5)) < 0.15
    assert not detector.is_speech


def test_settings_of_a_session(audio):
    assert TurnDetector(16000).feed(audio, 1.0, 500) == []
    (_, short), (_, long) = (TurnDetector(16000).feed(audio, 0.5, ms)[1] for ms in (100, 700))
    assert abs(long - short - 0.6) < 0.04


def test_what_is_no_speech():
    noise = np.random.default_rng(0).normal(0, 0.05, 16000 * 5).astype(np.float32)
    hum = 0.3 * np.sin(np.arange(16000 * 5) * 2 * np.pi * 50 / 16000).astype(np.float32)
    for samples in (np.zeros(16000 * 5, np.float32), noise, hum):
        assert TurnDetector(16000).feed(samples, 0.5, 500) == []
