# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The pitch of recordings, which the decoder of the compact codec learns to predict."""

import librosa
import numpy as np

from processing.configuration_vita_audio_codec import VitaAudioCodecConfig


# Where the pitch is looked for, in Hz; all voices of the corpus are within.
F0_RANGE = (60.0, 400.0)


def pitch_track(waveform: np.ndarray, config: VitaAudioCodecConfig, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Log pitch `(num_frames,)` at the times the vocoder needs it, and where it is voiced: loud and steady."""
    hop = config.synthesis_hop_length
    # the source that frame j makes is heard three hops after the hop it belongs to
    shifted = np.pad(waveform[3 * hop + hop // 2 :], (0, 4 * hop))
    shifted = np.pad(shifted, (0, max(0, num_frames * hop - len(shifted))))
    # A frame of 64 ms has more than three periods of the lowest pitch.
    f0 = librosa.yin(
        shifted, fmin=F0_RANGE[0], fmax=F0_RANGE[1], sr=config.sampling_rate, frame_length=1024, hop_length=hop
    )[:num_frames]
    log_f0 = np.log(f0).astype(np.float32)
    energy = librosa.feature.rms(y=shifted, frame_length=1024, hop_length=hop)[0][:num_frames]
    # Steady: the pitch moves by less than 5 % a hop. Loud: at most 20 dB below the loudest frame.
    steady = np.abs(np.gradient(log_f0)) < 0.05
    return log_f0, steady & (energy > 0.1 * energy.max())
