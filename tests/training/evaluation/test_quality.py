# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The judges of sound, on speech that is good, bad, of one voice and of another."""

import random
from importlib.util import find_spec

import numpy as np
import pytest
import soxr

from training import packages
from training.corpus.voices import ALL_VOICES, JOE, speak
from training.evaluation import quality
from training.evaluation.quality import Dnsmos, SpeechQuality, VoiceEncoder


# It is installed by hand, without what it asks for
needs_resemblyzer = pytest.mark.skipif(
    find_spec("resemblyzer") is None, reason="no weights of voices: pip install --no-deps resemblyzer"
)


@pytest.fixture(scope="module")
def joe():
    texts = ("The capital of France is Paris.", "Seven plus five is twelve.", "A dog is running in the garden.")
    return [speak(text, JOE, random.Random(0)) for text in texts]


@pytest.fixture(scope="module")
def heart():
    return speak("The capital of France is Paris.", ALL_VOICES["heart"], random.Random(0))


@pytest.mark.slow
def test_clean_speech_is_better_than_the_same_with_noise(joe):
    dnsmos, (samples, sampling_rate) = Dnsmos(), joe[0]
    noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    clean, noisy, only_noise = (
        dnsmos(waveform, sampling_rate) for waveform in (samples, samples + 0.1 * noise, 0.1 * noise)
    )
    assert 5 > clean > noisy + 0.5 > only_noise + 0.5 >= 1.5
    # what overshoots 1 is judged, too
    assert 1 <= dnsmos(2 * samples / np.abs(samples).max(), sampling_rate) <= 5


@needs_resemblyzer
def test_a_voice_is_most_like_itself(joe, heart):
    judge = SpeechQuality(joe[:2])
    own, other = (judge(*speech)["speaker_similarity"] for speech in (joe[2], heart))
    # said in other words by the same one, and in the same words by another
    assert own > 0.75 > other + 0.1
    assert judge.of_references["speaker_similarity"] > own
    assert judge.of_references["dnsmos"] == pytest.approx(np.mean([Dnsmos()(*speech) for speech in joe[:2]]))


@needs_resemblyzer
def test_an_embedding_does_not_depend_on_level_and_rate(joe):
    encoder, (samples, sampling_rate) = VoiceEncoder(), joe[0]
    embedding = encoder.embed(samples, sampling_rate)
    assert embedding.shape == (256,) and np.linalg.norm(embedding) == pytest.approx(1)
    quiet = encoder.embed(0.01 * samples, sampling_rate)
    assert embedding @ quiet > 0.9
    assert embedding @ encoder.embed(soxr.resample(samples, sampling_rate, 22050), 22050) > 0.98


def test_without_references_there_is_no_similarity(joe):
    judge = SpeechQuality()
    assert judge.of_references == {} and set(judge(*joe[0])) == {"dnsmos"}


@pytest.mark.slow
def test_without_its_weights_there_is_no_likeness(joe, monkeypatch):
    for module in (quality, packages):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == "resemblyzer" else find_spec(name))
    judge = SpeechQuality(joe[:1])
    assert set(judge.of_references) == {"dnsmos"} == set(judge(*joe[1]))
    with pytest.raises(ImportError, match="pip install --no-deps resemblyzer"):
        VoiceEncoder()


@pytest.mark.parametrize("module", ["speechmos", "librosa"])
def test_a_missing_module_is_named(module, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == module else find_spec(name))
    with pytest.raises(ImportError, match=rf"needs the module `{module}`: `pip install vita-audio\[eval\]`"):
        SpeechQuality()
