# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import io
import sys

import numpy as np
import pytest
import soundfile

from processing.audio_vita_audio import load_audio
from serving.audio_formats import (
    CONTENT_TYPES,
    Resampler,
    SpeechEncoder,
    encode_speech,
    encode_whole,
    from_alaw,
    from_pcm16,
    from_ulaw,
    make_encoder,
    to_alaw,
    to_pcm16,
    to_ulaw,
)


TONE = (0.5 * np.sin(np.arange(48000) * 2 * np.pi * 440 / 24000)).astype(np.float32)
ALL_CODES = bytes(range(256))
# MP3 and AAC fill their first and last frame, which have 576 and 1024 samples
MAX_PADDING = 3 * 1024


def decode(content, audio_format):
    return from_pcm16(content) if audio_format == "pcm16" else load_audio(content, 24000)


@pytest.mark.parametrize("audio_format", CONTENT_TYPES)
def test_pieces_are_a_whole_file(audio_format):
    encoder = make_encoder(audio_format)
    # also lengths that are no codec's frame
    content = b"".join(encoder.encode(piece) for piece in np.split(TONE, [1, 1000, 1000, 20000])) + encoder.finish()
    samples = decode(content, audio_format)
    assert 0 <= len(samples) - len(TONE) < MAX_PADDING
    # the loudest frequency is the tone's
    assert abs(np.abs(np.fft.rfft(samples)).argmax() * 24000 / len(samples) - 440) < 2


@pytest.mark.parametrize("audio_format", ["wav", "flac", "pcm16"])
def test_nothing_is_lost_without_compression(audio_format):
    for content in (
        encode_whole(TONE, audio_format),
        (encoder := make_encoder(audio_format)).encode(TONE) + encoder.finish(),
    ):
        samples = decode(content, audio_format)
        assert samples.shape == TONE.shape and np.abs(samples - TONE).max() < 1e-4


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "wav", "pcm16"])
def test_bytes_come_while_samples_come(audio_format):
    encoder = make_encoder(audio_format)
    # a quarter of a second is more than what any of these codecs keeps back
    early = sum(len(encoder.encode(piece)) for piece in np.split(TONE[:12000], 10))
    assert early > 0.4 * len(encode_whole(TONE[:12000], audio_format))


@pytest.mark.parametrize("audio_format", CONTENT_TYPES)
def test_an_answer_without_speech_is_a_file(audio_format):
    content = encode_speech([], audio_format, 16000)
    encoder = SpeechEncoder(audio_format, 16000)
    for file in (content, encoder.finish()):
        if audio_format in ("wav", "pcm16"):
            assert len(file) == (44 if audio_format == "wav" else 0)
        else:
            assert len(file) > 0


def test_whole_files_tell_their_length():
    for audio_format in ("wav", "flac"):
        assert soundfile.info(io.BytesIO(encode_whole(TONE, audio_format))).frames == len(TONE)


@pytest.mark.parametrize("rate", [16000, 22050, 24000, 8000])
def test_pieces_are_resampled_as_a_whole(rate):
    resampler = Resampler(rate, 24000)
    pieces = [resampler(piece) for piece in np.split(TONE, 7 * np.arange(1, 500))]
    samples = np.concatenate([*pieces, resampler(np.zeros(0, np.float32), last=True)])
    whole = Resampler(rate, 24000)(TONE, last=True)
    assert len(samples) == len(whole) == pytest.approx(len(TONE) * 24000 / rate, abs=1)
    assert np.abs(samples - whole).max() < 1e-4


@pytest.mark.parametrize("subtype, encode, decode", [("ULAW", to_ulaw, from_ulaw), ("ALAW", to_alaw, from_alaw)])
def test_g711_is_that_of_libsndfile(subtype, encode, decode):
    raw = {"samplerate": 8000, "channels": 1, "format": "RAW", "subtype": subtype}
    expected, _ = soundfile.read(io.BytesIO(ALL_CODES), dtype="float32", **raw)
    assert np.array_equal(decode(ALL_CODES), expected)
    # every code stands for a sample that is encoded as it; u-law has two zeros
    again = np.frombuffer(encode(decode(ALL_CODES)), np.uint8)
    assert [code for code in range(256) if again[code] != code] == ([127] if subtype == "ULAW" else [])
    # and every sample gets a code that is about half a step away at most; steps grow with the samples
    samples = np.linspace(-1, 1, 100_001).astype(np.float32)
    error = np.abs(decode(encode(samples)) - samples)
    assert (error <= 0.04 * np.maximum(np.abs(samples), 1 / 64)).all()


def test_pcm16():
    assert (
        to_pcm16(np.array([-2, -1, 0, 0.5, 1, 2], np.float32))
        == np.array([-32767, -32767, 0, 16384, 32767, 32767], "<i2").tobytes()
    )
    with pytest.raises(ValueError, match="3 bytes"):
        from_pcm16(b"abc")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="format mp3 needs PyAV .*pip install av"):
        make_encoder("mp3")
    make_encoder("wav")
