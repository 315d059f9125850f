# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What a recogniser makes of decoded speech, for the training of the decoder. Spectra that are near each other on average
may still be those of other consonants: /k/ and /t/ differ in a few hundredths of a second.
"""

import torch
from torch import nn
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from processing.modeling_glm4_voice_tokenizer import MEL_RANGE

from .tokenizer_model import MIN_DEVIATION
from .whisper import encode_unpadded


class Listener(nn.Module):
    """How differently Whisper's encoder, which stays as it is, hears two recordings of the same speech."""

    def __init__(self, encoder: WhisperEncoder):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        features = WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins)
        self.n_fft, self.hop_length = features.n_fft, features.hop_length
        self.register_buffer("filters", torch.from_numpy(features.mel_filters).float())
        self.register_buffer("window", torch.hann_window(features.n_fft))

    def forward(self, audio: torch.FloatTensor, target: torch.FloatTensor) -> torch.FloatTensor:
        """
        Mean distance of the encoder's states on decoded and on recorded speech, `(batch_size, num_samples)` at 16 kHz
        each, in deviations over time of the states on recorded speech.
        """
        with torch.no_grad():
            log_mel = self.log_mel(target)
            loudest = log_mel.amax((1, 2), keepdim=True)
            expected = self.listen(log_mel, loudest)
            deviation = expected.std(1, keepdim=True).clamp(min=MIN_DEVIATION)
        # The level counts as that of the recording
        heard = self.listen(self.log_mel(audio), loudest)
        return ((heard - expected) / deviation).abs().mean()

    def log_mel(self, audio: torch.FloatTensor) -> torch.FloatTensor:
        """Powers of ten `(batch_size, num_mel_bins, num_samples // hop_length)`."""
        spectrum = torch.stft(audio.float(), self.n_fft, self.hop_length, window=self.window, return_complex=True)
        # As Whisper's feature extractor, which leaves the last frame out
        power = spectrum[..., :-1].real.square() + spectrum[..., :-1].imag.square()
        return (self.filters.T @ power).clamp(min=1e-10).log10()

    def listen(self, log_mel: torch.FloatTensor, loudest: torch.FloatTensor) -> torch.FloatTensor:
        """States `(batch_size, num_frames // 2, d_model)`, in float32."""
        features = (log_mel.maximum(loudest - MEL_RANGE) + 4.0) / 4.0
        return encode_unpadded(self.encoder, features, torch.ones_like(features[:, 0])).float()
