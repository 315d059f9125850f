# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""How far decoded speech is from its recording, for the training of the compact codec."""

import math
from functools import lru_cache

import torch
from transformers.audio_utils import mel_filter_bank


def spectral_loss(audio: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Distance of log magnitudes and spectral convergence of `(batch, samples)`, mean over three resolutions."""
    losses = []
    # Short windows show when something sounds, long ones at which pitch. Both terms are those of Parallel WaveGAN
    # (arXiv 1910.11480).
    for n_fft in (256, 512, 1024):
        window = torch.hann_window(n_fft, device=audio.device)
        spectra = (torch.stft(x, n_fft, n_fft // 4, window=window, return_complex=True) for x in (audio, target))
        # The small number keeps the gradient of the root finite. The division gives noise the same level at all
        # resolutions, so that the floor of the logarithm below is the same.
        magnitude, target_magnitude = (
            (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt() / math.sqrt(n_fft) for spectrum in spectra
        )
        log_distance = ((magnitude + 1e-3).log() - (target_magnitude + 1e-3).log()).abs().mean()
        convergence = (magnitude - target_magnitude).norm() / target_magnitude.norm()
        losses.append(log_distance + convergence)
    return torch.stack(losses).mean()


@lru_cache
def loss_mel_filters(n_fft: int, num_mel_bins: int, sampling_rate: int) -> torch.Tensor:
    filters = mel_filter_bank(
        n_fft // 2 + 1, num_mel_bins, 0.0, sampling_rate / 2, sampling_rate, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(filters).float()


def mel_loss(audio: torch.Tensor, target: torch.Tensor, sampling_rate: int, n_fft: int = 1024) -> torch.Tensor:
    """
    Mean distance of the log-mel spectra of `(batch, samples)`, natural logarithm, 80 bins, as in HiFi-GAN (arXiv
    2010.05646, equation 5): what is heard counts more than what lies at high frequencies.
    """
    window = torch.hann_window(n_fft, device=audio.device)
    filters = loss_mel_filters(n_fft, 80, sampling_rate).to(audio.device)
    log_mels = []
    for waveform in (audio, target):
        spectrum = torch.stft(waveform, n_fft, n_fft // 4, window=window, return_complex=True)
        # The small number keeps the gradient of the root finite.
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt()
        log_mels.append((magnitude.transpose(1, 2) @ filters).clamp(min=1e-5).log())
    return (log_mels[0] - log_mels[1]).abs().mean()
