# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks that tell recordings from decoded speech, so that the decoder learns to make the difference small.

They are far narrower than those of the papers, because they have to learn on a CPU.
"""

import math

import torch
from torch import nn

from .recordings import TARGET_RMS


# Windows in samples: short ones show when something sounds, long ones at which pitch.
FOURIER_LENGTHS = (256, 1024)
# Widths of a spectrogram's layers, each of which halves the frequencies
SPECTROGRAM_CHANNELS = (16, 32, 32)
# Of HiFi-GAN's periods 2, 3, 5, 7 and 11 (arXiv 2010.05646, section 2.3), in samples
PERIODS = (3, 5, 7)
# Widths of the layers on samples one period apart, each of which takes every third one
PERIOD_CHANNELS = (16, 32, 64, 128)
# As in HiFi-GAN
SLOPE = 0.1


class SpectrogramDiscriminator(nn.Module):
    """Convolutions over time and frequency of log magnitudes, as in UnivNet (arXiv 2106.07889, section 2.3)."""

    def __init__(self, fourier_length: int):
        super().__init__()
        self.fourier_length = fourier_length
        sizes = (1, *SPECTROGRAM_CHANNELS)
        self.layers = nn.ModuleList(
            [nn.Conv2d(size, after, (3, 5), stride=(1, 2), padding=(1, 2)) for size, after in zip(sizes, sizes[1:])]
        )
        self.score = nn.Conv2d(sizes[-1], 1, 3, padding=1)

    def forward(self, waveform: torch.Tensor) -> list[torch.Tensor]:
        """Of `(batch, samples)`, the outputs of all layers, `(batch, channels, frames, bins)`, scores last."""
        window = torch.hann_window(self.fourier_length, device=waveform.device)
        hop = self.fourier_length // 4
        spectrum = torch.stft(waveform.float(), self.fourier_length, hop, window=window, return_complex=True)
        # As in `spectral_loss`: noise has the same level at all resolutions, and the gradient of the root is finite.
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt() / math.sqrt(self.fourier_length)
        hidden_states = (magnitude + 1e-3).log().transpose(1, 2)[:, None]
        return _run(self.layers, self.score, hidden_states)


class PeriodDiscriminator(nn.Module):
    """Convolutions over samples that are one period apart (HiFi-GAN, section 2.3)."""

    def __init__(self, period: int):
        super().__init__()
        self.period = period
        sizes = (1, *PERIOD_CHANNELS)
        self.layers = nn.ModuleList(
            [nn.Conv2d(size, after, (5, 1), stride=(3, 1), padding=(2, 0)) for size, after in zip(sizes, sizes[1:])]
        )
        self.score = nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0))

    def forward(self, waveform: torch.Tensor) -> list[torch.Tensor]:
        """Of `(batch, samples)`, the outputs of all layers, `(batch, channels, steps, period)`, scores last."""
        padded = nn.functional.pad(waveform / TARGET_RMS, (0, -waveform.shape[1] % self.period))
        return _run(self.layers, self.score, padded.unflatten(1, (-1, self.period))[:, None])


def _run(layers: nn.ModuleList, score: nn.Module, hidden_states: torch.Tensor) -> list[torch.Tensor]:
    outputs = []
    for layer in layers:
        hidden_states = nn.functional.leaky_relu(layer(hidden_states), SLOPE)
        outputs.append(hidden_states)
    return [*outputs, score(hidden_states)]


class Discriminators(nn.Module):
    """All of them, at several resolutions and periods."""

    def __init__(self):
        super().__init__()
        self.networks = nn.ModuleList(
            [
                *(SpectrogramDiscriminator(length) for length in FOURIER_LENGTHS),
                *(PeriodDiscriminator(period) for period in PERIODS),
            ]
        )

    def forward(self, waveform: torch.Tensor) -> list[list[torch.Tensor]]:
        """Of `(batch, samples)`, for each network the outputs of its layers, the scores last."""
        return [network(waveform) for network in self.networks]
