# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
import soundfile as sf
import torch
from places import ROOT
from transformers import WhisperFeatureExtractor

from training.codec.listener import Listener
from training.codec.whisper import whisper_encoder


@pytest.fixture(scope="module")
def listener():
    return Listener(whisper_encoder())


@pytest.fixture(scope="module")
def speech():
    waveform, sampling_rate = sf.read(ROOT / "pretrained" / "vita-audio-mini" / "sample_question.wav", dtype="float32")
    assert sampling_rate == 16000
    return torch.from_numpy(waveform[: len(waveform) // 320 * 320])[None]


def test_it_hears_the_features_of_whisper(listener, speech):
    extractor = WhisperFeatureExtractor()
    expected = extractor(speech[0].numpy(), sampling_rate=16000, padding="longest", return_tensors="pt")
    features = expected["input_features"]
    log_mel = listener.log_mel(speech)
    loudest = log_mel.amax((1, 2), keepdim=True)
    torch.testing.assert_close((log_mel.maximum(loudest - 8.0) + 4.0) / 4.0, features, atol=1e-5, rtol=0)
    # conv2 halves the frames
    states = listener.listen(log_mel, loudest)
    assert states.shape == (1, features.shape[2] // 2, 384)


def test_other_sounds_are_farther_than_the_same_sounds(listener, speech):
    length = speech.shape[1]
    quieter, late, noise = 0.7 * speech, speech.roll(1600, 1), speech.std() * torch.randn(1, length)
    same, hushed, other, none = (listener(audio, speech).item() for audio in (speech, quieter, late, noise))
    assert same == 0 and hushed < 0.2 < other and hushed < 0.3 * none


def test_the_speech_learns_and_whisper_stays(listener, speech):
    noise = 0.1 * speech.std() * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    target = speech[:, 4000:20000].repeat(2, 1)
    audio = (target + noise).requires_grad_()
    losses = []
    for _ in range(6):
        loss = listener(audio, target)
        (gradient,) = torch.autograd.grad(loss, audio)
        losses.append(loss.item())
        audio = (audio - 0.02 * gradient / gradient.norm(dim=1, keepdim=True)).detach().requires_grad_()
    assert losses[-1] < losses[0] and gradient[0].abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in listener.parameters())
