# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
When a user begins and ends to speak: the network of silero-vad and the rule of OpenAI's `server_vad` on it.

The network runs in NumPy, on the weights that the package `silero-vad` carries. A window of 32 ms is too little work
for torch, and importing the package would set torch's number of threads for the whole process.
"""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load_file


# What the network was trained on: windows at this rate, each behind the last samples of the one before.
SAMPLING_RATE = 16_000
WINDOW = 512
CONTEXT = 64
# Of its Fourier transform
FFT_SIZE = 256
FFT_STRIDE = 128
HIDDEN_SIZE = 128

# Silero's own rule: speech has not ended before it is this much less likely than at its start.
HYSTERESIS = 0.15


@cache
def load_weights() -> dict[str, np.ndarray]:
    """
    The weights of silero-vad for 16 kHz, those of convolutions as matrices `(kernel_size * in_channels,
    out_channels)`.

    Raises:
        ImportError: the package `silero-vad` is not installed.
    """
    spec = importlib.util.find_spec("silero_vad")
    if spec is None:
        raise ImportError('Turn detection needs the package "silero-vad": pip install "vita-audio[serve]".')
    weights = load_file(Path(spec.origin).with_name("data") / "silero_vad_16k.safetensors")
    return {
        name: np.ascontiguousarray(w.transpose(2, 1, 0).reshape(-1, len(w)) if w.ndim == 3 else w.T)
        for name, w in weights.items()
    }


class SpeechProbability:
    """How likely there is speech in each window of a stream of audio."""

    def __init__(self):
        self._weights = load_weights()
        self._context = np.zeros(CONTEXT, np.float32)
        self._hidden = np.zeros(HIDDEN_SIZE, np.float32)
        self._cell = np.zeros(HIDDEN_SIZE, np.float32)

    def __call__(self, window: np.ndarray) -> float:
        """
        Args:
            window (`np.ndarray`): the next samples, float32 `(512,)` in [-1, 1] at 16 kHz.

        Returns:
            `float`: the probability of speech in it.
        """
        samples = np.concatenate([self._context, window])
        self._context = window[-CONTEXT:]
        # mirrored at its end, which the last frame of the transform reaches over
        samples = np.concatenate([samples, samples[-2 : -CONTEXT - 2 : -1]])
        frames = sliding_window_view(samples, FFT_SIZE)[::FFT_STRIDE]
        spectrum = frames @ self._weights["stft_conv.weight"]
        half = spectrum.shape[1] // 2
        features = np.sqrt(spectrum[:, :half] ** 2 + spectrum[:, half:] ** 2)
        for layer, stride in (("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)):
            features = self._convolve(features, layer, stride)
        self._recur(features[0])
        score = np.maximum(self._hidden, 0) @ self._weights["final_conv.weight"] + self._weights["final_conv.bias"]
        return float(_sigmoid(score[0]))

    def _convolve(self, features: np.ndarray, layer: str, stride: int) -> np.ndarray:
        """A convolution over three frames `(num_frames, num_channels)` and what follows it."""
        padded = np.zeros((len(features) + 2, features.shape[1]), np.float32)
        padded[1:-1] = features
        columns = np.concatenate([padded[:-2:stride], padded[1:-1:stride], padded[2::stride]], axis=1)
        return np.maximum(columns @ self._weights[f"{layer}.weight"] + self._weights[f"{layer}.bias"], 0)

    def _recur(self, features: np.ndarray) -> None:
        """One step of the LSTM."""
        weights = self._weights
        gates = features @ weights["lstm_cell.weight_ih"] + weights["lstm_cell.bias_ih"]
        gates += self._hidden @ weights["lstm_cell.weight_hh"] + weights["lstm_cell.bias_hh"]
        entry, forget, new, output = gates.reshape(4, HIDDEN_SIZE)
        self._cell = _sigmoid(forget) * self._cell + _sigmoid(entry) * np.tanh(new)
        self._hidden = _sigmoid(output) * np.tanh(self._cell)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (np.tanh(0.5 * x) + 1)


class TurnDetector:
    """
    Finds where speech starts and stops in a stream of audio.

    Args:
        sampling_rate (`int`): of the audio, in Hz.

    Attributes:
        is_speech (`bool`): whether the user speaks.
    """

    def __init__(self, sampling_rate: int):
        self.is_speech = False
        self._probability = SpeechProbability()
        self._resampler = None
        if sampling_rate != SAMPLING_RATE:
            # half the delay of soxr's default, and exact to 16 bits
            self._resampler = soxr.ResampleStream(sampling_rate, SAMPLING_RATE, 1, dtype="float32", quality="MQ")
        self._rest = np.zeros(0, np.float32)
        self._num_windows = 0
        self._last_speech_window = 0

    def feed(
        self, samples: np.ndarray, threshold: float, silence_duration_ms: int
    ) -> list[tuple[Literal["started", "stopped"], float]]:
        """
        Args:
            samples (`np.ndarray`): the next of the stream, float32 `(num_samples,)` in [-1, 1].
            threshold (`float`): how probable speech must be to have started.
            silence_duration_ms (`int`): how much silence ends it.

        Returns:
            `list[tuple]`: what happened in these samples, and when: seconds from the start of the stream. Speech
            stops at the end of its silence.
        """
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        samples = np.concatenate([self._rest, samples])
        changes = []
        for start in range(0, len(samples) - WINDOW + 1, WINDOW):
            probability = self._probability(samples[start : start + WINDOW])
            self._num_windows += 1
            if probability >= (threshold - HYSTERESIS if self.is_speech else threshold):
                self._last_speech_window = self._num_windows
                if not self.is_speech:
                    self.is_speech = True
                    changes.append(("started", (self._num_windows - 1) * WINDOW / SAMPLING_RATE))
            if self.is_speech and self.pause * 1000 >= silence_duration_ms:
                self.is_speech = False
                changes.append(("stopped", self._num_windows * WINDOW / SAMPLING_RATE))
        self._rest = samples[len(samples) // WINDOW * WINDOW :]
        return changes

    @property
    def pause(self) -> float:
        """How many seconds a user who speaks has been silent."""
        return (self._num_windows - self._last_speech_window) * WINDOW / SAMPLING_RATE if self.is_speech else 0.0

    def end_speech(self) -> None:
        """Waits for the next speech, though this one has not stopped."""
        self.is_speech = False


__all__ = ["SpeechProbability", "TurnDetector"]
