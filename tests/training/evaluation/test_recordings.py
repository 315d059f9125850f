# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings of humans out of Debian's packages: which they are, what is said there, and what is done without them."""

import os

import numpy as np
import pytest
import soundfile

from training import packages
from training.evaluation import evaluate_held_out, recordings
from training.evaluation.recognition import load_recognizer
from training.evaluation.recordings import HUMAN_SETS, is_prompt, load_recordings
from training.evaluation.scoring import exact_accuracy, word_error_rate


MISSING = [path for path in (recordings.SOUNDS_FOLDER, recordings.LIBRIVOX_FOLDER) if not path.is_dir()]
# .ci/run installs them
needs_recordings = pytest.mark.skipif(
    bool(MISSING) and "CI" not in os.environ,
    reason="no recordings of humans (Debian: asterisk-core-sounds-en-g722, asterisk-core-sounds-en, "
    "pocketsphinx-testdata)",
)


@needs_recordings
def test_the_sets_are_what_their_names_say():
    words, prompts, sentences = (load_recordings(name) for name in HUMAN_SETS)
    references = [row["reference"] for row in words]
    assert len(words) == len(set(references)) == 40
    assert references[:2] == ["zero", "one"] and references[20:22] == ["twenty", "Sunday"]
    assert references[-1] == "December"
    assert len(prompts) > 200 and not {row["id"] for row in prompts} & {row["id"] for row in words}
    texts = {row["reference"] for row in prompts}
    assert "Weasels have eaten our phone system" in texts and "Message deleted." in texts
    assert not any(sign in text for text in texts for sign in "[]<>()") and not texts & {"IAX", "alpha", "N B S"}
    assert [len(row["reference"].split()) for row in sentences] == [22, 8, 14, 19, 8]
    for rows in (words, prompts, sentences):
        assert len({row["id"] for row in rows}) == len(rows)
    assert [row["id"] for row in load_recordings("human_words", 3)] != [row["id"] for row in words[:3]]


@needs_recordings
@pytest.mark.slow
def test_words_are_read_right():
    """G.722 was decoded at its own rate and level, to what its text says."""
    rows = load_recordings("human_words", 8)
    audios = [row["audios"][0] for row in rows]
    assert {audio["sampling_rate"] for audio in audios} == {16000}
    for audio in audios:
        assert audio["array"].dtype == np.float32 and 0.1 < np.abs(audio["array"]).max() <= 1
        assert 4000 < len(audio["array"]) < 32000
    recognizer = load_recognizer("whisper-base")
    heard = [recognizer(audio["array"], audio["sampling_rate"]) for audio in audios]
    # It takes "two" for "you". At another rate it reads none
    assert exact_accuracy([row["reference"] for row in rows], heard) >= 7 / 8
    rows = load_recordings("human_sentences")
    heard = [recognizer(*soundfile.read(row["audios"][0], dtype="float32")) for row in rows]
    assert word_error_rate([row["reference"] for row in rows], heard) < 0.1


@pytest.mark.parametrize("text", ["[ascending tones]", "DAHDI", "H.323", "M I S D N", "<beep>", "", "...", "one " * 9])
def test_what_is_not_said_is_no_prompt(text):
    assert not is_prompt(text)


@pytest.mark.parametrize("text", ["...has left the conference.", "press 0 for help", "I'm sorry.", "De-activated."])
def test_what_is_said_is_a_prompt(text):
    assert is_prompt(text)


def test_without_the_packages_the_sets_are_left_out(corpus_dir, tmp_path, monkeypatch):
    for name in ("SOUNDS_FOLDER", "SOUNDS_TEXTS", "LIBRIVOX_FOLDER"):
        monkeypatch.setattr(recordings, name, tmp_path / "none")
    sets = evaluate_held_out.load_sets(corpus_dir)
    assert "asr" in sets and not set(sets) & set(HUMAN_SETS)
    # but who asks for them is told
    with pytest.raises(FileNotFoundError, match="asterisk-core-sounds-en-g722 asterisk-core-sounds-en$"):
        evaluate_held_out.load_sets(corpus_dir, names=["asr", "human_words"])
    with pytest.raises(FileNotFoundError, match="apt-get install pocketsphinx-testdata$"):
        evaluate_held_out.load_sets(None, names=["human_sentences"])


def test_without_pyav_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs the module `av`: `pip install vita-audio\[media\]`"):
        recordings.read_g722(tmp_path / "a.g722")


@needs_recordings
def test_sets_of_humans_are_scored_like_others(processor):
    (rows,) = evaluate_held_out.load_sets(None, limit=2, names=["human_words"]).values()
    items = evaluate_held_out.build_items(rows)
    inputs = evaluate_held_out.build_prompts(processor, items)
    assert inputs["input_ids"].shape[0] == 2
    texts = processor.tokenizer.batch_decode(inputs["input_ids"])
    assert all("Convert the speech to text.\n<|begin_of_audio|><|audio_" in text for text in texts)
    responses = {items[0].id: {"text": rows[0]["reference"]}, items[1].id: {"text": f"{rows[1]['reference']} no"}}
    assert [row["reference"] for row in rows] == ["Wednesday", "Friday"]
    figures, _ = evaluate_held_out.score("asr", items, responses, {}, with_exact=True)
    # three characters more than their fifteen
    assert figures == {"conversations": 2, "wer": 0.5, "cer": pytest.approx(0.2), "accuracy": 0.5}
