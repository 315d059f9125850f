# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
How speech sounds, apart from its words: how good people would find it (DNSMOS P.835, arXiv 2110.01763) and how like a
voice it is (the GE2E encoder of Resemblyzer, arXiv 1710.10467).
"""

from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec

import numpy as np
import soxr
import torch
from torch import nn

from training.packages import package_folder

from .recognition import SCORING


# What a `SpeechQuality` says of speech
QUALITIES = ("dnsmos", "speaker_similarity")
# of both judges, in Hz
SAMPLING_RATE = 16000


class Dnsmos:
    """
    The overall quality that DNSMOS guesses: from 1 (bad) to 5 (excellent). It was trained on calls, on noise and on
    what removes noise, so it says more of noise and clicks than of a wrong melody.

    Raises:
        ImportError: speechmos, whose package has the weights, or what it needs is not installed.
    """

    def __init__(self):
        for module in ("speechmos", "librosa", "onnxruntime", "requests"):
            package_folder(module, *SCORING)
        from speechmos import dnsmos

        self.judge = partial(dnsmos.run, sr=SAMPLING_RATE)

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> float:
        """Of a mono float waveform `(num_samples,)`, not empty, at `sampling_rate` Hz."""
        # What is louder than 1 is refused, and a resampler may overshoot
        return float(self.judge(np.clip(to_rate(waveform, sampling_rate), -1, 1))["ovrl_mos"])


class VoiceEncoder(nn.Module):
    """
    Embeddings of voices with the weights of the package `resemblyzer`. Its code is left alone, because it imports
    webrtcvad, which needs a setuptools below 81. It would cut long silences with that; here they stay. What it asks
    for is better not installed, either: among it is a `typing` that stands in the way of Python's own.

    Raises:
        ImportError: `resemblyzer`, or librosa, which makes its mels, is not installed.
    """

    # Windows of 1.6 s, each half a window after the one before
    num_mels, window_frames, hop_frames = 40, 160, 80
    # Quieter speech is made louder
    min_dbfs = -30

    def __init__(self):
        super().__init__()
        package_folder("librosa", *SCORING)
        self.lstm = nn.LSTM(self.num_mels, 256, num_layers=3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        folder = package_folder("resemblyzer", "likeness of voices", "pip install --no-deps resemblyzer")
        state = torch.load(folder / "pretrained.pt", map_location="cpu", weights_only=True)["model_state"]
        # The other two are of its loss
        self.load_state_dict({name: state[name] for name in self.state_dict()})

    @torch.no_grad()
    def embed(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """The embedding `(256,)`, of length 1, of a mono float waveform `(num_samples,)` at `sampling_rate` Hz."""
        import librosa

        waveform = to_rate(waveform, sampling_rate)
        dbfs = 10 * np.log10(max(np.mean(waveform**2), 1e-10))
        waveform = waveform * 10 ** (max(self.min_dbfs - dbfs, 0) / 20)
        # 25 ms every 10 ms, not their logarithms
        mels = librosa.feature.melspectrogram(
            y=waveform, sr=SAMPLING_RATE, n_fft=400, hop_length=160, n_mels=self.num_mels
        ).T
        mels = np.pad(mels, ((0, max(self.window_frames - len(mels), 0)), (0, 0))).astype(np.float32)
        starts = range(0, len(mels) - self.window_frames + 1, self.hop_frames)
        windows = torch.from_numpy(np.stack([mels[start : start + self.window_frames] for start in starts]))
        _, (hidden, _) = self.lstm(windows)
        embeddings = nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)
        return nn.functional.normalize(embeddings.mean(dim=0), dim=0).numpy()


class SpeechQuality:
    """
    Judges the sound of speech. Called with a waveform and its sampling rate it gives the figures `QUALITIES`.

    Args:
        references (`Iterable`): Recordings of the voice that is to be spoken in, as mono float waveforms with their
            sampling rates in Hz. Without any there is no `speaker_similarity`, nor without the package `resemblyzer`.

    Attributes:
        of_references (`dict`): The means of the figures of the references themselves.

    Raises:
        ImportError: What the judges need is not installed.
    """

    def __init__(self, references: Iterable[tuple[np.ndarray, int]] = ()):
        self.dnsmos, self.voice, self.of_references = Dnsmos(), None, {}
        references = list(references)
        if references:
            self.of_references["dnsmos"] = float(np.mean([self.dnsmos(*reference) for reference in references]))
        if references and find_spec("resemblyzer") is not None:
            self.encoder = VoiceEncoder()
            embeddings = np.stack([self.encoder.embed(*reference) for reference in references])
            self.voice = embeddings.mean(axis=0)
            self.voice /= np.linalg.norm(self.voice)
            self.of_references["speaker_similarity"] = float(np.mean(embeddings @ self.voice))

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> dict[str, float]:
        """Figures of a mono float waveform `(num_samples,)`, not empty, at `sampling_rate` Hz."""
        figures = {"dnsmos": self.dnsmos(waveform, sampling_rate)}
        if self.voice is not None:
            figures["speaker_similarity"] = float(self.encoder.embed(waveform, sampling_rate) @ self.voice)
        return figures


def to_rate(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """The waveform at the judges' rate, float32."""
    if sampling_rate != SAMPLING_RATE:
        waveform = soxr.resample(waveform, sampling_rate, SAMPLING_RATE)
    return waveform.astype(np.float32)
