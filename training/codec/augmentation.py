# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Recordings as other voices, rhythms, microphones and rooms would have them, for the training of the compact codec.
"""

import numpy as np
import soxr
import torch
from torch import nn

from .recordings import TARGET_RMS


# Coefficients of the cepstrum (samples at 16 kHz) that make the spectral envelope: these 2 ms have the formants in
# them, and not the pitch of a voice, whose period is longer up to 500 Hz.
ENVELOPE_CEPSTRA = 32
# Speech is stretched in pieces, one every 16 ms (samples at 16 kHz).
STRETCH_HOP = 256
# A piece is moved by up to 8 ms (samples at 16 kHz) to where it fits best: about half the longest
# period of a pitch (60 Hz).
STRETCH_SEARCH = 128
# The tempo changes every 0.2 s (samples at 16 kHz), about once a syllable.
RHYTHM_SAMPLES = 3200
# Standard deviation of the logarithm of the tempo
RHYTHM_DEVIATION = 0.3
# The response of a microphone is drawn at so many evenly spaced frequencies, and linear in between.
NUM_GAINS = 9
# Standard deviation of these gains
GAIN_DEVIATION_DB = 5.0
# Share of the recordings that are heard in a room
ROOM_SHARE = 0.25
# The longest time in which the echo of a room decays by 60 dB
ROOM_SECONDS = 0.25


def overlap_add(waveform: np.ndarray, positions: np.ndarray, num_samples: int) -> np.ndarray:
    """
    WSOLA (Verhelst and Roelands, 1993): `num_samples` samples from pieces of `waveform`, one every `STRETCH_HOP`
    samples. Each is taken near its one of the `positions`, in samples, from where it best continues the piece before.
    """
    hop, search = STRETCH_HOP, STRETCH_SEARCH
    padded = np.pad(waveform, (search, 3 * hop + search))
    # Without its last sample the window is periodic, and windows that overlap by half add up to one.
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    output = np.zeros((len(positions) + 1) * hop, np.float32)
    # What follows the piece in the recording itself: the next piece is to fit it.
    continuation = padded[search : search + hop]
    for piece, position in enumerate(positions):
        # index 0 of `padded` is `search` samples before its first one
        earliest = min(round(position), len(padded) - 2 * hop - 2 * search)
        nearby = padded[earliest : earliest + hop + 2 * search]
        start = earliest + int(np.correlate(nearby, continuation).argmax())
        output[piece * hop : (piece + 2) * hop] += window * padded[start : start + 2 * hop]
        continuation = padded[start + hop : start + 2 * hop]
    return output[:num_samples]


def change_rhythm(waveform: np.ndarray, num_samples: int, generator: torch.Generator) -> np.ndarray:
    """`waveform` faster here and slower there, `(num_samples,)`: the rhythm of somebody else, or of a synthesizer."""
    num_pieces = -(-num_samples // STRETCH_HOP) + 1
    num_knots = 2 + num_pieces * STRETCH_HOP // RHYTHM_SAMPLES
    knots = RHYTHM_DEVIATION * torch.randn(num_knots, generator=generator).numpy()
    rates = np.exp(np.interp(np.linspace(0, num_knots - 1, num_pieces), np.arange(num_knots), knots))
    # The rates are relative, so the positions are scaled: the last piece is to be the end of the recording.
    positions = np.cumsum(rates) - rates[0]
    return overlap_add(waveform, positions * (len(waveform) / positions[-1]), num_samples)


def change_voice(waveform: np.ndarray, factor: float, sampling_rate: int) -> np.ndarray:
    """
    `waveform` `(num_samples,)` with pitch and formants at `factor` times theirs, what is said when it was, to about 10
    ms: played at another rate and then brought back to its length.
    """
    resampled = soxr.resample(waveform, factor * sampling_rate, sampling_rate)
    times = np.arange(-(-len(waveform) // STRETCH_HOP) + 1) * STRETCH_HOP
    return overlap_add(resampled, times * (len(resampled) / len(waveform)), len(waveform))


def _spectral_envelope(waveform: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Spectrum and its log envelope, without pitch, both `(257, num_frames)`, of `waveform` `(num_samples,)`."""
    # Windows of 32 ms, one every 8 ms (samples at 16 kHz)
    spectrum = torch.stft(torch.from_numpy(waveform), 512, 128, window=torch.hann_window(512), return_complex=True)
    # The small number keeps the logarithm of silence finite.
    cepstrum = torch.fft.irfft((spectrum.abs() + 1e-4).log(), dim=0)
    # A real cepstrum is symmetric, so its end is kept as well as its beginning.
    cepstrum[ENVELOPE_CEPSTRA : 1 - ENVELOPE_CEPSTRA] = 0
    return spectrum, torch.fft.rfft(cepstrum, dim=0).real


def _with_gains(spectrum: torch.Tensor, log_gains: torch.Tensor, num_samples: int) -> np.ndarray:
    window = torch.hann_window(512)
    return torch.istft(spectrum * log_gains.exp(), 512, 128, window=window, length=num_samples).numpy()


def warp_formants(waveform: np.ndarray, factor: float) -> np.ndarray:
    """`waveform` `(num_samples,)` with its formants, not its pitch, at `factor` times theirs: another vocal tract."""
    spectrum, envelope = _spectral_envelope(waveform)
    # Less than 256, so that there is a bin above.
    positions = (torch.arange(257) / factor).clamp(max=255.999)
    below = positions.long()
    fraction = (positions - below)[:, None]
    warped = (1 - fraction) * envelope[below] + fraction * envelope[below + 1]
    return _with_gains(spectrum, warped - envelope, len(waveform))


def morph(waveform: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """
    `waveform` `(num_samples,)` in a voice between its own and that of `other`, which says the same at the same time,
    or beyond its own where the `share` of the other one is negative.
    """
    spectrum, envelope = _spectral_envelope(waveform)
    _, other_envelope = _spectral_envelope(other)
    return _with_gains(spectrum, share * (other_envelope - envelope), len(waveform))


def random_filters(num_filters: int, num_samples: int, sampling_rate: int) -> torch.Tensor:
    """
    Frequency responses `(num_filters, num_samples // 2 + 1)` of random microphones and, `ROOM_SHARE` of them, rooms:
    noise that decays by 60 dB in at most `ROOM_SECONDS`, 3 to 20 dB below the direct sound.
    """
    gains = GAIN_DEVIATION_DB * torch.randn(num_filters, 1, NUM_GAINS)
    gains = nn.functional.interpolate(gains, num_samples // 2 + 1, mode="linear", align_corners=True)[:, 0]
    time = torch.arange(int(ROOM_SECONDS * sampling_rate)) / sampling_rate
    # 60 dB are a factor of 10 ** 3 in amplitude.
    decays = 10 ** (-3 * time / torch.empty(num_filters, 1).uniform_(0.2 * ROOM_SECONDS, ROOM_SECONDS))
    echoes = decays * torch.randn(num_filters, len(time))
    # A level of 0 is a microphone without a room.
    levels = 10 ** (-torch.empty(num_filters, 1).uniform_(3, 20) / 20) * (torch.rand(num_filters, 1) < ROOM_SHARE)
    rooms = levels * echoes / echoes.norm(dim=-1, keepdim=True)
    # The direct sound
    rooms[:, 0] += 1
    return 10 ** (gains / 20) * torch.fft.rfft(rooms, num_samples)


def disturb(waveforms: torch.Tensor, mask: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """
    `waveforms` `(batch, samples)` as heard through random filters, with another spectral tilt and, half of them, noise
    at 10 to 40 dB below the speech; `mask` is 1 on audio.
    """
    num_clips, num_samples = waveforms.shape
    # circular, so with room for the echoes
    size = num_samples + int(ROOM_SECONDS * sampling_rate)
    filters = random_filters(num_clips, size, sampling_rate)
    filtered = torch.fft.irfft(torch.fft.rfft(waveforms, size) * filters, size)[:, :num_samples] * mask
    levels = 10 ** (-torch.empty(num_clips, 1).uniform_(10, 40) / 20) * (torch.rand(num_clips, 1) < 0.5)
    tilts = torch.empty(num_clips, 1).uniform_(-0.5, 0.7)
    # A positive tilt lifts the high frequencies, a negative one the low frequencies.
    tilted = filtered - tilts * nn.functional.pad(filtered, (1, -1))
    return tilted + TARGET_RMS * levels * torch.randn_like(waveforms)
