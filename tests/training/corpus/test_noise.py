# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings without speech, and the silence around recordings with it."""

import io
import json
import random

import numpy as np
import pytest
import soundfile as sf

from processing.audio_vita_audio import load_audio
from processing.conversation_vita_audio import AUDIO_MARK
from training.corpus import render
from training.corpus.clips import Clip
from training.corpus.noise import NOISES, REPEAT_ANSWER, noise_clips, noise_samples
from training.evaluation.evaluate_codec import held_out_clips
from training.evaluation.scoring import answer_is_right


def test_noise_is_of_all_kinds_and_levels():
    clips = noise_clips()
    assert [clip.split for clip in clips] == ["train"] * 600 + ["test"] * 150
    assert len({clip.id for clip in clips}) == 750 and not any(clip.text for clip in clips)
    samples = [noise_samples(clip.id, 16_000) for clip in clips[:200]]
    lengths = np.array([len(recording) for recording in samples]) / 16_000
    assert lengths.min() >= 0.3 and lengths.max() <= 4 and np.ptp(lengths) > 3
    levels = 20 * np.log10([np.sqrt(np.mean(recording**2)) + 1e-6 for recording in samples])
    assert np.percentile(levels, 10) < -60 and np.percentile(levels, 90) > -25
    assert all(recording.dtype == np.float32 and np.abs(recording).max() <= 1 for recording in samples)
    np.testing.assert_array_equal(samples[5], noise_samples(clips[5].id, 16_000))
    assert len({recording.tobytes() for recording in samples}) == 200


def test_a_processor_takes_all_noises():
    """The quietest ones, too, as 16 bits have them."""
    for clip in noise_clips():
        content = io.BytesIO()
        sf.write(content, noise_samples(clip.id, 16_000), 16_000, format="flac")
        assert len(load_audio(content.getvalue(), 16_000)) >= 0.3 * 16_000


def test_noises_are_not_alike():
    """Most of the power of white noise is high, that of brown noise, wind and the mains is low; beeps are one tone."""
    median, spread = {}, {}
    for name, make in NOISES.items():
        power = np.abs(np.fft.rfft(make(16_000, 16_000, np.random.default_rng(0)))) ** 2
        if name != "silence":
            shares = np.cumsum(power) / power.sum()
            median[name], spread[name] = np.searchsorted(shares, 0.5), power.max() / power.sum()
    assert median["white"] > 2 * median["pink"] > 4 * median["brown"]
    assert median["wind"] < 500 and median["hum"] < 500
    assert spread["beeps"] > 0.1 > spread["white"]


@pytest.mark.slow
def test_noise_is_answered_by_asking_back(rows):
    noises = [row for row in rows if row["task"] == "noise"]
    assert len(noises) == 750
    for row in noises:
        system, user, assistant = row["messages"]
        assert (system["role"], user["content"]) == ("system", AUDIO_MARK)
        assert assistant["content"] == f"{REPEAT_ANSWER}{AUDIO_MARK}"
        assert row["audios"][0].startswith("audio/noise/") and row["audios"][1].startswith("audio/joe/")
        assert answer_is_right("Sorry, could you repeat that?", row["accepted_answers"], row["reference"])
        assert not answer_is_right("The time is four o'clock.", row["accepted_answers"], row["reference"])


def test_noise_is_rendered_without_a_synthesizer(tmp_path):
    (clip, *_) = noise_clips()
    row = render.render_clip(clip, tmp_path)
    assert (
        row["phonemes"] == []
        and row["text"] == ""
        and set(row) == {*("id", "path", "text", "voice", "split", "phonemes", "duration")}
    )
    samples, sampling_rate = sf.read(tmp_path / row["path"])
    assert sampling_rate == 16_000 and round(len(samples) / 16_000, 4) == row["duration"]
    json.dumps(row)


def test_a_codec_is_scored_on_sentences_and_not_on_noise(tmp_path):
    clips = [
        {"voice": voice, "split": split, "text": text, "path": f"{voice}-{split}", "duration": 1, "phonemes": []}
        for voice in ("joe", "heart")
        for split, text in (("test", "Right."), ("test", ""), ("test_passages", "Long."), ("train", "Trained."))
    ]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(clip) + "\n" for clip in clips))
    assert [clip["path"] for clip in held_out_clips(tmp_path, "joe", 2)] == ["joe-test", "heart-test"]
    assert {clip["text"] for clip in held_out_clips(tmp_path, "joe", 2)} == {"Right."}


def test_silence_is_added_to_a_third_of_the_training_clips():
    speech = np.full(1600, 0.5)
    padded, ends = [], set()
    for seed in range(1000):
        longer = render.add_silence(speech, random.Random(seed))
        if len(longer) > len(speech):
            padded.append(len(longer) - len(speech))
            (start, *_), *_ = np.nonzero(longer == 0.5)
            before, after = start, len(longer) - start - 1600
            assert all(length == 0 or 1600 <= length <= 12_800 for length in (before, after))
            ends.add((before > 0, after > 0))
            around = np.concatenate([longer[:start], longer[start + 1600 :]])
            # near-silence: its own noise, more than 50 dB below full scale
            assert 0 < np.sqrt(np.mean(around**2)) < 10 ** (-50 / 20)
    assert 300 < len(padded) < 400 and ends == {(True, False), (False, True), (True, True)}


def test_silence_is_added_in_training_only(monkeypatch):
    tone = (0.5 * np.sin(np.arange(16_000) * 0.3)).astype(np.float32)
    monkeypatch.setattr(render, "speak", lambda text, voice, rng: (tone, 16_000))
    lengths = {"train": [], "test": [], "joe": []}
    for number in range(60):
        for split in ("train", "test"):
            clip = Clip(f"Text {number}.", "flite-slt", split)
            lengths[split].append(len(render.render_samples(clip)) / 16_000)
        lengths["joe"].append(len(render.render_samples(Clip(f"Text {number}.", "joe", "train"))) / 16_000)
    assert max(lengths["train"]) > 1.4 > 1.25 > max(lengths["test"])
    assert np.allclose(lengths["joe"], 1.15)
