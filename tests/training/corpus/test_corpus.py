# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The corpus: what it says, what it holds out, and that its files are what they claim to be."""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile as sf
from places import ROOT

from training.corpus import questions, render
from training.corpus.clips import Clip, draw_voices
from training.corpus.general import GENERAL_SPLIT, WORDNET_FOLDER
from training.corpus.passages import PASSAGES_SPLIT
from training.corpus.questions import NUMBERS, all_facts, all_questions
from training.corpus.sentences import all_sentences
from training.corpus.spoken_questions import question_clips
from training.corpus.voices import (
    ALL_VOICES,
    HELD_OUT_VOICE,
    JOE,
    KOKORO_SETTINGS,
    PROGRAMS,
    TRAINING_VOICES,
    Voice,
    check_programs,
    kokoro_style,
    phonemize,
)
from training.corpus.words import SHORT_SPLIT, WORDS_SPLIT
from training.evaluation.evaluate_held_out import load_sets
from training.evaluation.scoring import answer_is_right


# Targets of text-to-speech that have a split of their own
BY_JOE = {(JOE.name, GENERAL_SPLIT), (JOE.name, PASSAGES_SPLIT)}
needs_wordnet = pytest.mark.skipif(
    not WORDNET_FOLDER.is_dir() and "CI" not in os.environ,
    reason="Debian's wordnet-base is not installed, so the corpus is not whole",
)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def installed(voice: Voice) -> bool:
    return voice.engine not in PROGRAMS or shutil.which(PROGRAMS[voice.engine][0]) is not None


def test_arithmetic_answers_are_true():
    value = {word: number for number, word in enumerate(NUMBERS)}
    facts = [fact for fact in all_facts() if fact.family in ("sums", "differences")]
    assert len(facts) == 462
    for fact in facts:
        a, b, result = (value[word] for word in re.findall(r"[a-z]+", fact.answer.lower()) if word in value)
        assert result == (a + b if fact.family == "sums" else a - b), fact.answer
        assert value[fact.gold] == result


def test_every_fact_has_its_wordings_and_its_gold_in_the_answer():
    families = Counter(fact.family for fact in all_facts())
    assert families["months"] == 24 and families["days"] == 14 and families["capitals"] == 40
    assert len({(fact.family, fact.wordings) for fact in all_facts()}) == len(all_facts())
    for fact in all_facts():
        assert len(set(fact.wordings)) >= 4, fact
        assert answer_is_right(fact.answer, fact.gold, fact.answer), fact
        assert not re.search(r"\d", fact.answer + "".join(fact.wordings)), fact


def test_a_tenth_of_questions_and_sentences_is_held_out():
    asked, sentences = all_questions(), all_sentences()
    held_out_questions = {question.text for question in asked if question.split == "test"}
    held_out_sentences = {sentence.text for sentence in sentences if sentence.split == "test"}
    assert len(held_out_questions) == round(0.1 * len(asked))
    assert len(held_out_sentences) == round(0.1 * len(sentences)) == 450
    training_wordings = Counter(question.fact for question in asked if question.split == "train")
    assert min(training_wordings[fact] for fact in all_facts()) >= 3


def test_held_out_sentences_have_only_words_that_training_has():
    training_words = set().union(*(words_of(s.text) for s in all_sentences() if s.split == "train"))
    for sentence in all_sentences():
        assert words_of(sentence.text) <= training_words, sentence.text


@needs_wordnet
@pytest.mark.slow
def test_the_held_out_voice_speaks_only_in_its_own_split():
    assert HELD_OUT_VOICE not in TRAINING_VOICES
    for clip in render.all_clips():
        if clip.voice == HELD_OUT_VOICE.name:
            assert clip.split in ("test_voice", WORDS_SPLIT, SHORT_SPLIT, GENERAL_SPLIT)
        else:
            assert clip.split in ("train", "test") or (clip.voice, clip.split) in BY_JOE
    paths = {clip.path: clip.split for clip in render.all_clips()}
    for row in render.all_conversations():
        if row["audios"]:
            assert paths[row["audios"][0]] == row["split"]
            assert sum(message["content"].count("<|audio|>") for message in row["messages"]) == len(row["audios"])


def test_natural_voices_ask_most_questions():
    drawn = Counter(voice.engine for question in all_questions() for voice in draw_voices(question.text, 3))
    assert 0.1 < drawn["espeak-ng"] / drawn.total() < 0.25
    assert min(drawn[engine] for engine in ("piper", "hibari", "kokoro", "flite", "festival")) > 0.05 * drawn.total()


def test_rare_words_are_asked_by_more_voices():
    """A capital and an opposite are heard in their own questions only, a number in hundreds."""
    clips = {family: set() for family in ("sums", "capitals", "opposites")}
    for question in all_questions():
        if question.fact.family in clips and question.split == "train":
            voices = [clip.voice for clip in question_clips(question)]
            assert len(set(voices)) == len(voices) and HELD_OUT_VOICE.name not in voices
            clips[question.fact.family].add(len(voices))
    assert clips == {"sums": {3}, "capitals": {7}, "opposites": {7}}


@needs_wordnet
@pytest.mark.slow
def test_texts_and_ids_do_not_depend_on_the_process():
    """Another hash seed must not change what is held out, nor any clip's id."""
    program = "from training.corpus.render import all_clips; print(hash('a'), *(c.id + c.split for c in all_clips()))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    runs = [process.communicate(timeout=300)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert runs[0][0] != runs[1][0]
    assert runs[0][1:] == runs[1][1:] == [clip.id + clip.split for clip in render.all_clips()]
    assert len(set(runs[0])) == len(runs[0])


def test_the_sentences_of_the_shipped_model_stay_what_they_are():
    lines = "\n".join(f"{sentence.split} {sentence.text}" for sentence in all_sentences(()))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert digest == "4816e4cab4d0da1fd438211336ada7c257a502a27413d5ca79489d0ff95d7aad"


@pytest.mark.slow
def test_a_new_template_leaves_the_other_sentences_as_they_are():
    boats, ropes = "{name} has {count} {animals} in a boat.", "On {day} the rope of {name} is new."
    both = all_sentences((boats, ropes))
    old, of_boats = all_sentences(()), all_sentences((boats,))
    assert both[: len(of_boats)] == of_boats and of_boats[: len(old)] == old
    # whichever stands first
    assert {*all_sentences((ropes, boats))} == {*both} and len({sentence.text for sentence in both}) == len(both)
    new = [sentence for sentence in both[len(old) :] if "boat" in sentence.text]
    assert len(new) == 118 and sum(sentence.split == "test" for sentence in new) == 12
    # a template that has few sentences gives all of them
    assert len([sentence for sentence in both if "rope" in sentence.text]) == 12 * 7


def seasons():
    """A family as somebody would add it to `training/corpus/questions.py`: one function."""
    names = "spring summer autumn winter".split()
    for index, name in enumerate(names):
        for order, other in (("after", names[(index + 1) % 4]), ("before", names[index - 1])):
            wordings = [
                f"Which season comes {order} {name}?",
                f"What season comes {order} {name}?",
                f"What is the season {order} {name}?",
                f"Tell me the season {order} {name}.",
            ]
            yield questions.make_fact("seasons", f"{other} comes {order} {name}.", other, wordings, num_voices=2)


def planets():
    wordings = [f"{start} planet is the hottest?" for start in ("Which", "What", "Do you know which", "And which")]
    yield questions.make_fact("planets", "Venus is the hottest planet.", "Venus", wordings, ("Planet Venus",))


@needs_wordnet
@pytest.mark.slow
def test_a_new_family_of_questions_is_one_function(tmp_path, monkeypatch):
    """Clips, conversations, splits and evaluation follow, and what the shipped model was trained on stays as it is."""

    def rows_of_single_turns() -> list[dict]:
        # Dialogues are drawn from all families, so a new one changes them.
        return [row for row in render.all_conversations() if row["task"] != "dialogue"]

    old_clips, old_rows, old_questions = render.all_clips(), rows_of_single_turns(), all_questions()
    monkeypatch.setattr(questions, "FAMILIES", dict(questions.FAMILIES))
    functions = [planets, seasons]
    for function in functions:
        assert questions.register_family(function) is function
    new_questions = all_questions()[len(old_questions) :]
    assert all_questions()[: len(old_questions)] == old_questions
    assert [question.fact.family for question in new_questions] == [
        fact.family for function in functions for fact in function() for _ in fact.wordings
    ]
    of_seasons = [question for question in new_questions if question.fact.family == "seasons"]
    assert len(of_seasons) == 32 and sum(question.split == "test" for question in of_seasons) == 3
    held_out = {question.text for question in of_seasons if question.split == "test"}
    clips = render.all_clips()
    assert set(old_clips) < set(clips)
    assert {clip.split for clip in clips if clip.text in held_out} == {"test", "test_voice"}
    trained = [clip for clip in clips if clip.text == "Which season comes after spring?" and clip.voice != "joe"]
    assert len(trained) == 2
    rows = {row["id"]: row for row in rows_of_single_turns()}
    assert [rows.pop(row["id"]) for row in old_rows] == old_rows
    rows = list(rows.values())
    assert {row["task"] for row in rows} == {"asr", "tts", "sqa", "tqa"}
    (question,) = [row for row in rows if row["task"] == "tqa" and row["messages"][0]["content"] == min(held_out)]
    assert question["split"] == "test" and question["accepted_answers"] == [question["answer"]]
    # as `vita-audio evaluate` reads them, which counts recordings and does not open them
    (tmp_path / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        for path in row["audios"]:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
    sets = load_sets(tmp_path)
    assert {row["messages"][0]["content"] for row in sets["tqa"]} >= held_out
    assert len(sets["sqa"]) == 2 * sum(question.split == "test" for question in new_questions)
    assert len(sets["sqa_unseen_voice"]) == len(sets["sqa"]) / 2


@pytest.mark.parametrize("slot", ["vehicle", "Animal", "two_words", "vehicle2"])
def test_a_list_of_words_that_is_missing_is_named(slot):
    with pytest.raises(
        ValueError, match=rf"'{slot.rstrip('2')}': add it to VOCABULARY in training/corpus/sentences.py"
    ):
        all_sentences((f"The {{{slot}}} is new.",))


@pytest.mark.slow
def test_phonemes_carry_no_stress_and_no_punctuation():
    assert "".join(phonemize("What's seven, Luke?")) == "wʌts sɛvən luːk"


# a mixture of Kokoro's speakers is among them
SPOKEN = ["joe", "joe-varied", "flite-slt", "espeak-en-gb-x-rp-david", "heart", "ked", "kokoro-kumo-not-nezumi"]


@pytest.mark.slow
@pytest.mark.parametrize("voice", [ALL_VOICES[name] for name in SPOKEN], ids=SPOKEN)
def test_each_engine_speaks(voice):
    if not installed(voice):
        with pytest.raises(RuntimeError, match=voice.engine):
            check_programs([voice])
        return
    check_programs([voice])
    clip = Clip("What is seven plus five?", voice.name, "train")
    samples = render.render_samples(clip)
    assert samples.dtype == np.float32 and 0.8 < len(samples) / render.SAMPLING_RATE < 3.5
    peak = np.abs(samples).max()
    assert 10 ** (-20.1 / 20) <= peak <= 1
    if voice == JOE:
        assert peak == pytest.approx(10 ** (-3 / 20), rel=1e-3)
    if voice.name != "joe-varied":
        np.testing.assert_array_equal(samples, render.render_samples(clip))


@pytest.mark.slow
def test_every_engine_is_tried_and_every_kokoro_voice_is_another_one():
    assert {ALL_VOICES[name].engine for name in SPOKEN} == {voice.engine for voice in ALL_VOICES.values()}
    styles = [kokoro_style(setting, 20) for setting in KOKORO_SETTINGS.values()]
    for number, style in enumerate(styles):
        assert style.shape == (1, 256)
        assert all(np.abs(style - other).mean() > 0.01 for other in styles[:number])


def test_every_espeak_voice_of_the_table_is_known_to_espeak():
    """espeak-ng falls back to its default voice when it does not know a variant, so two settings would sound alike."""
    if not installed(ALL_VOICES["espeak-en-us-m1"]):
        pytest.skip("espeak-ng is not installed")
    sounds = set()
    for voice in TRAINING_VOICES:
        if voice.engine == "espeak-ng":
            command = ["espeak-ng", "-v", voice.setting, "--stdout", "What is the capital of France?"]
            sounds.add(subprocess.run(command, capture_output=True, check=True).stdout)
    assert len(sounds) == sum(voice.engine == "espeak-ng" for voice in TRAINING_VOICES)


def test_silence_is_trimmed_to_what_the_corpus_promises():
    tone = np.sin(np.arange(8000) * 0.3).astype(np.float32)
    for before, after in ((4000, 9000), (0, 0), (100, 200)):
        samples = np.concatenate([np.zeros(before, np.float32), tone, np.zeros(after, np.float32)])
        trimmed = render.trim_silence(samples, 16_000)
        sounding = np.flatnonzero(np.abs(trimmed) > 0.01)
        assert sounding[0] == pytest.approx(800, abs=165)
        assert len(trimmed) - sounding[-1] == pytest.approx(1600, abs=165)
        assert np.abs(trimmed).max() == np.abs(tone).max()


@needs_wordnet
@pytest.mark.slow
def test_render_writes_a_corpus_and_continues_where_it_stopped(tmp_path):
    if not all(map(installed, ALL_VOICES.values())):
        with pytest.raises(RuntimeError, match="Debian package"):
            render.render_corpus(tmp_path / "corpus", limit=40, workers=1)
        assert not (tmp_path / "corpus").exists()
        return
    command = [sys.executable, "-m", "training.corpus.render", "--output_dir", str(tmp_path), "--limit", "12"]
    subprocess.run([*command, "--workers", "1"], cwd=ROOT, check=True, capture_output=True)
    clips = [json.loads(line) for line in (tmp_path / "clips.jsonl").read_text().splitlines()]
    assert len(clips) == 12
    for row in clips:
        info = sf.info(tmp_path / row["path"])
        assert (info.samplerate, info.channels, info.subtype, info.format) == (16_000, 1, "PCM_16", "FLAC")
        assert info.frames / 16_000 == pytest.approx(row["duration"], abs=1e-3)
        assert row["phonemes"] == (phonemize(row["text"]) if row["text"] else [])
    conversations = [json.loads(line) for line in (tmp_path / "conversations.jsonl").read_text().splitlines()]
    assert all((tmp_path / path).exists() for row in conversations for path in row["audios"])
    assert {row["task"] for row in conversations} >= {"asr", "tqa"}

    kept, lost = (tmp_path / row["path"] for row in random.Random(0).sample(clips, 2))
    kept_since, lost_bytes = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    (tmp_path / "clips.jsonl").unlink()
    subprocess.run([*command, "--workers", "2"], cwd=ROOT, check=True, capture_output=True)
    assert kept.stat().st_mtime_ns == kept_since
    assert sf.info(lost).frames > 0 and (lost.read_bytes() == lost_bytes or lost.parent.name == "joe-varied")
    assert not list(tmp_path.rglob(".*"))
    assert [json.loads(line) for line in (tmp_path / "clips.jsonl").read_text().splitlines()] == clips


@needs_wordnet
@pytest.mark.slow
def test_a_limit_leaves_conversations_of_all_kinds():
    paths = render.paths_of_some(60)
    assert len(paths) == 60 and paths < {clip.path for clip in render.all_clips()}
    complete = [row for row in render.all_conversations() if row["audios"] and paths.issuperset(row["audios"])]
    kinds = {(row["task"], row["split"]) for row in render.all_conversations() if row["audios"]}
    assert {(row["task"], row["split"]) for row in complete} == kinds


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"limit": 3, "workers": 0}])
def test_bad_numbers_are_named(tmp_path, arguments):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        render.render_corpus(tmp_path / "corpus", **arguments)
    assert not (tmp_path / "corpus").exists()


def test_missing_programs_are_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="`espeak-ng` .*`text2wave` .*`flite` "):
        check_programs(TRAINING_VOICES)
