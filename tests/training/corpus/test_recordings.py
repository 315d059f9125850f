# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Words, letters, fragments, general English and passages: what they are, what is held out, and how many there are."""

import re
import string
from collections import Counter

import pytest

from processing.conversation_vita_audio import AUDIO_MARK
from training.corpus import general, words
from training.corpus.clips import hold_out
from training.corpus.fragments import NUM_FRAGMENTS, NUM_ROWS, WORDS_PER_ROW, fragments, rows_of_words
from training.corpus.general import general_texts, is_wanted, split_gloss
from training.corpus.passages import held_out_passages, training_passages
from training.corpus.questions import NUMBERS
from training.corpus.sentences import all_sentences
from training.corpus.voices import HELD_OUT_VOICE, JOE, TRAINING_VOICES


MAX_CLIPS = 95_000


def plain(text):
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def of_split(recordings, split):
    return [recording.clip for recording in recordings if recording.clip.split == split]


@pytest.mark.slow
def test_the_corpus_is_not_too_large(recordings):
    assert 90_000 < len(recordings) <= MAX_CLIPS
    assert len({recording.clip.id for recording in recordings}) == len(recordings)


@pytest.mark.slow
def test_nothing_held_out_is_said_in_training(recordings, rows):
    """Neither in a clip, nor in a turn of any conversation. Words are known; only their voice is not."""
    held_out = {
        plain(recording.clip.text)
        for recording in recordings
        if recording.clip.split not in ("train", words.WORDS_SPLIT) and recording.clip.text
    }
    assert len(held_out) > 1000
    trained = {plain(clip.text) for clip in of_split(recordings, "train") if clip.text}
    for row in rows:
        if row["split"] == "train":
            for message in row["messages"]:
                trained.add(plain(message["content"].replace(AUDIO_MARK, "")))
    assert not held_out & trained


@pytest.mark.slow
def test_sentences_of_held_out_passages_are_held_out(recordings):
    trained = {clip.text for clip in of_split(recordings, "train")}
    of_passages = set()
    for passage in held_out_passages():
        sentences = re.findall(r"[^.?]+[.?]", passage)
        assert len(sentences) == 5
        of_passages.update(sentence.strip() for sentence in sentences)
    # none of them twice
    assert len(of_passages) == 5 * 150
    for passage in trained:
        assert not any(sentence.strip() in of_passages for sentence in re.findall(r"[^.?]+[.?]", passage)), passage


@pytest.mark.slow
def test_the_splits_have_what_their_names_say(recordings, rows):
    tested = Counter((row["task"], row["split"]) for row in rows)
    assert tested["asr", "test_general"] == tested["tts", "test_general"] == 300
    assert tested["tts", "test_passages"] == tested["noise", "test"] == 150
    assert tested["asr", "test_words"] == len(words.all_words()) + 26
    assert tested["asr", "test_short"] > 50
    assert ("asr", "test_passages") not in tested and ("tts", "test_words") not in tested
    voices = {}
    for row in rows:
        if row["task"] in ("asr", "tts"):
            voices.setdefault((row["task"], row["split"]), set()).add(row["audios"][0].split("/")[1])
    for split in ("test_words", "test_short", "test_general"):
        assert voices["asr", split] == {HELD_OUT_VOICE.name}
    assert voices["tts", "test_general"] == voices["tts", "test_passages"] == {JOE.name}
    assert voices["asr", "train"] == {JOE.name, *(voice.name for voice in TRAINING_VOICES)}


@pytest.mark.slow
def test_every_word_and_letter_is_heard_from_many_voices(recordings):
    said = {}
    for clip in of_split(recordings, "train"):
        said.setdefault(clip.text, set()).add(clip.voice)
    assert {f"{letter}." for letter in string.ascii_uppercase} <= {text for text in said if len(said[text]) >= 10}
    for text in words.all_words():
        assert len(said[text]) >= 7 and JOE.name in said[text], text
    for name in ("Seven.", "Monday.", "August.", "Purple.", "Elephant.", "New Zealand.", "Copenhagen.", "Dangerous."):
        assert name in said


def test_short_texts_are_what_they_are_called():
    assert all(re.fullmatch(r"[A-Z](, [A-Z])+\.", text) for text in words.spellings())
    for text in words.digit_strings():
        digits = text.lower().rstrip(".").split(", ")
        assert 2 <= len(digits) <= 6 and set(digits) <= set(NUMBERS[:10])
    training = " | ".join(sentence.text for sentence in all_sentences() if sentence.split == "train").lower()
    for text in words.cuttings():
        assert 2 <= len(text.split()) <= 4 and text[:-1].lower() in training
    held_out = words.all_short_texts()
    assert sum(held_out.values()) == pytest.approx(0.1 * len(held_out), abs=5)
    assert {"Monday the third.", "Half past eleven.", "In the garden."} & set(held_out)


@pytest.mark.slow
def test_fragments_and_rows_are_of_training_texts_and_said_nowhere_else():
    training, held_out = general_texts()
    joined, known = " | ".join(training).lower(), {plain(text) for text in (*held_out, *words.all_short_texts())}
    cut = fragments()
    assert len(set(cut)) == len(cut) == NUM_FRAGMENTS
    for text in cut:
        assert 1 <= len(text.split()) <= 5 and text[0].isupper() and text[-1] == "." and text[-2].isalpha()
        assert text[:-1].lower() in joined and plain(text) not in known
    # "Soldiers" begins a text and is no word of it without its first letter
    texts_words = set(re.findall(r"\b[a-z]+\b", joined))
    rows = rows_of_words()
    assert len(rows) == NUM_ROWS
    for text in rows:
        row = text[:-1].lower().split(", ")
        assert len(row) == WORDS_PER_ROW and texts_words.issuperset(row)


def test_what_is_held_out_does_not_depend_on_the_order():
    texts = [f"Text {number}." for number in range(50)]
    assert hold_out(texts, 0.1, "salt") == hold_out(reversed(texts), 0.1, "salt")
    assert sum(hold_out(texts, 0.1, "salt").values()) == 5
    assert hold_out(texts, 0.1, "salt") != hold_out(texts, 0.1, "pepper")


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        ("he was in the garden all day, wasn't he", True),
        ("the President's speech", True),
        ("two words", False),
        ("a " * 14 + "cat", False),
        ("born in 1990 or so", False),
        ("the U.S. army marched", False),
        ("the NATO forces left", False),
        ("dogs, cats, etc", False),
        ("he said: come here", False),
        ("a cat (or dog) came", False),
        ("the Mr Smith affair", False),
        ("they killed the rabbit", False),
        ("the skilled worker came", True),
        ("a classical essay on grapes", True),
        ("he committed suicide there", False),
        ("a naïve young man", False),
    ],
)
def test_only_plain_and_decent_english_is_taken(text, is_kept):
    assert is_wanted(text) == is_kept


def test_a_gloss_has_examples_and_definitions():
    gloss = 'put into words; make known; "He said it aloud"; "they stated; then left."  '
    examples, definitions = split_gloss(gloss)
    assert examples == ["He said it aloud", "they stated; then left"]
    assert [text for text in definitions if text] == ["put into words", "make known"]


def test_wordnet_is_read_and_its_absence_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(general, "WORDNET_FOLDER", tmp_path)
    general.wordnet_texts.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=r"data\.noun \(Debian package wordnet-base\)"):
            general.wordnet_texts()
        known = next(sentence.text for sentence in all_sentences() if sentence.split == "test")
        for name in general.WORDNET_FILES:
            (tmp_path / name).write_text(
                "  1 This software and database is being provided to you\n"
                "00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is perceived; "
                '"the cat\'s milk was cold"; "the cats milk, was cold"; "The cat slept"\n'
                f'00001741 03 n 01 other 0 000 | large fish of Peru; "{known.rstrip(".")}"\n'
            )
        assert general.wordnet_texts() == (
            ("The cat's milk was cold.", "The cats milk, was cold.", "The cat slept."),
            ("That which is perceived.",),
        )
    finally:
        general.wordnet_texts.cache_clear()


@pytest.mark.slow
def test_general_texts_are_plain_sentences(recordings):
    training, held_out = general_texts()
    assert len(held_out) == general.NUM_HELD_OUT and len(training) == general.NUM_TRAINING
    assert len({*training, *held_out}) == len(training) + len(held_out)
    for text in (*training, *held_out):
        assert re.fullmatch(r"[A-Z][A-Za-z', ]+\.", text) and 3 <= len(text.split()) <= 14, text
    by_joe = {clip.text for clip in of_split(recordings, "train") if clip.voice == JOE.name}
    assert len(by_joe & set(training)) == general.NUM_BY_JOE


@pytest.mark.slow
def test_training_passages_have_two_to_five_sentences(recordings):
    sentences = {clip.text for clip in of_split(recordings, "train")}
    by_joe, by_others = training_passages()
    lengths = Counter()
    for passages in (by_joe, by_others):
        for passage in passages:
            parts = [part.strip() for part in re.findall(r"[^.?]+[.?]", passage)]
            assert set(parts) <= sentences
            lengths[passages is by_joe, len(parts)] += 1
    assert set(lengths) == {(True, 2), (True, 3), (True, 4), (True, 5), (False, 2), (False, 3)}
