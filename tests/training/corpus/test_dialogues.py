# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Dialogues: follow-ups have true answers, turns are scored, and held-out dialogues have held-out wordings only."""

import json
import re
from collections import Counter

import pytest
from tiny_models import tiny_processor

from processing.conversation_vita_audio import AUDIO_MARK, SPOKEN_CHAT_SYSTEM_PROMPT
from training.conversations import load_conversations, read_conversations
from training.corpus.dialogues import MIXED, SPOKEN, WRITTEN, all_dialogues
from training.corpus.follow_ups import follow_up_splits, follow_ups
from training.corpus.questions import CAPITALS, COLORS_OF, DAYS, HOURS, MONTHS, NUMBERS, OPPOSITES, all_facts
from training.corpus.voices import HELD_OUT_VOICE, JOE
from training.evaluation.scoring import answer_is_right


@pytest.fixture(scope="module")
def dialogues():
    return all_dialogues()


def right_answer(last, text):
    """What a follow-up has to be answered, worked out anew from the answer before it."""
    said = last.rstrip(".")
    if numbers := re.search(r"(\w+)[?.]$", text) if last.startswith(("The sum", "The difference")) else None:
        before, number = NUMBERS.index(said.split()[-1]), NUMBERS.index(numbers[1])
        if "minus" in text or "take away" in text:
            return f"The difference of {NUMBERS[before]} and {numbers[1]} is {NUMBERS[before - number]}."
        return f"The sum of {NUMBERS[before]} and {numbers[1]} is {NUMBERS[before + number]}."
    if "is the capital of" in last:
        (country,) = (country for country in CAPITALS if text.endswith(f" {country}?"))
        return f"{CAPITALS[country]} is the capital of {country}."
    if last.startswith("The color of"):
        (thing,) = (thing for thing in COLORS_OF if text.endswith(f" {thing}?"))
        return f"The color of {thing} is {COLORS_OF[thing]}."
    if last.startswith("The opposite"):
        (pair,) = (pair.split() for pair in OPPOSITES.split(", ") if said.split()[-1] in pair.split())
        return f"The opposite is {pair[1 - pair.index(said.split()[-1])]}."
    if last.startswith("The time is"):
        hour = said.split()[3]
        if "half" in text or "thirty" in text:
            return f"The time is half past {hour}."
        step = -1 if re.search("before|ago|earlier", text) else 1
        return f"The time is {HOURS[(HOURS.index(hour) + step) % 12]} o'clock."
    names = next(names for names in (DAYS, MONTHS) if said.split()[0] in names)
    name, direction = said.split()[0], "before" if "before" in text else "after"
    return f"{names[(names.index(name) + (1 if direction == 'after' else -1)) % len(names)]} comes {direction} {name}."


def test_every_answer_to_a_follow_up_is_true():
    answers, number = {fact.answer for fact in all_facts()}, 0
    for fact in all_facts():
        is_followed = fact.family in ("sums", "differences", "months", "days", "capitals", "opposites")
        assert follow_ups(fact) or not is_followed, fact
        for wordings, answer in follow_ups(fact):
            for text in wordings:
                assert answer == right_answer(fact.answer, text), (fact.answer, text)
                number += 1
            # joe has a recording of it
            assert answer in answers
    assert number > 10_000


@pytest.mark.slow
def test_follow_ups_are_true_in_dialogues(dialogues):
    splits, kinds = follow_up_splits(), Counter()
    for dialogue in dialogues:
        for last, turn in zip(dialogue.turns, dialogue.turns[1:]):
            if turn.text in splits:
                assert turn.fact.answer == right_answer(last.fact.answer, turn.text)
                kinds[turn.fact.family] += 1
    assert min(kinds[kind] for kind in ("sums", "months", "days", "capitals", "opposites", "clock", "simple")) > 50


def test_a_tenth_of_the_follow_ups_is_held_out():
    splits = follow_up_splits()
    assert sum(split == "test" for split in splits.values()) == round(0.1 * len(splits))
    for wordings in {wordings for fact in all_facts() for wordings, _ in follow_ups(fact)}:
        assert sum(splits[text] == "test" for text in wordings) <= 1 < len(wordings)


@pytest.mark.slow
def test_held_out_dialogues_are_four_held_out_turns(dialogues, recordings):
    trained = {recording.clip.text for recording in recordings if recording.clip.split == "train"}
    held_out = [dialogue for dialogue in dialogues if dialogue.split == "test"]
    assert len(held_out) > 150
    for dialogue in held_out:
        assert len(dialogue.turns) == 4 and dialogue.mode == SPOKEN
        for turn in dialogue.turns:
            assert turn.text not in trained and turn.clip.split == "test" and turn.clip.text == turn.text
            assert turn.clip.voice not in (HELD_OUT_VOICE.name, JOE.name)
    for dialogue in dialogues:
        if dialogue.split == "train":
            assert 2 <= len(dialogue.turns) <= 6 and all(turn.text in trained for turn in dialogue.turns)


@pytest.mark.slow
def test_rows_of_dialogues(rows, recordings):
    clips = {recording.clip.path: recording.clip for recording in recordings}
    forms = Counter()
    for row in rows:
        if row["task"] != "dialogue":
            assert "turns" not in row
            continue
        messages = row["messages"]
        is_aloud = messages[0]["role"] == "system"
        if is_aloud:
            assert messages[0]["content"] == SPOKEN_CHAT_SYSTEM_PROMPT
        messages = messages[is_aloud:]
        assert [message["role"] for message in messages] == ["user", "assistant"] * len(row["turns"])
        audios = iter(row["audios"])
        for user, assistant, turn in zip(messages[::2], messages[1::2], row["turns"]):
            if user["content"] == AUDIO_MARK:
                assert clips[next(audios)].voice != JOE.name
            text = assistant["content"].removesuffix(AUDIO_MARK)
            assert text == turn["reference"] and answer_is_right(text, turn["accepted_answers"], text)
            assert turn["answer"] in turn["accepted_answers"]
            if is_aloud:
                answer = clips[next(audios)]
                assert (answer.text, answer.voice) == (text, JOE.name) and assistant["content"].endswith(AUDIO_MARK)
        assert next(audios, None) is None
        assert row["turns"][-1] == {key: row[key] for key in ("reference", "answer", "accepted_answers")}
        heard = [user["content"] == AUDIO_MARK for user in messages[::2]]
        forms[WRITTEN if not is_aloud else SPOKEN if all(heard) else MIXED, row["split"]] += 1
        assert any(heard) or not is_aloud
    assert min(forms[mode, "train"] for mode in (SPOKEN, WRITTEN, MIXED)) > 400
    assert {split for mode, split in forms if mode != SPOKEN} == {"train"}


@pytest.mark.slow
def test_what_the_model_cannot_know_it_does_not_guess(rows):
    answers = [row for row in rows if row["answer"] == "i don't know that"]
    asked = {row["messages"][0]["content"] for row in answers if row["task"] == "tqa"}
    assert {"Who won the match yesterday?", "What is the price of gold?"} <= asked and len(asked) > 200
    assert {row["messages"][-1]["content"] for row in answers if row["task"] == "sqa"} == {
        f"I don't know that.{AUDIO_MARK}"
    }
    known = {text for fact in all_facts() if fact.family != "unknown" for text in fact.wordings}
    assert not known & asked


@pytest.mark.slow
def test_dialogues_and_noise_can_be_trained_on(tmp_path, rows):
    """They are read by their tasks, and all of the assistant's turns are learnt, text and speech."""
    written = [
        *[row for row in rows if row["task"] == "dialogue"][::400],
        *[row for row in rows if row["task"] == "noise"][:2],
        *[row for row in rows if row["task"] == "tts"][:2],
    ]
    (tmp_path / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    for row in written:
        for path in row["audios"]:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
    assert Counter(row["task"] for row in read_conversations(tmp_path)) == Counter(row["task"] for row in written)
    processor = tiny_processor()
    vocabulary, end = processor.speech_vocabulary, processor.tokenizer.eos_token_id
    for task in ("dialogue", "noise", "tts"):
        expected = [row for row in written if (row["task"], row["split"]) == (task, "train")]
        conversations = load_conversations(tmp_path, tasks=[task], cache_dir=tmp_path / "cache")
        assert [conversation["messages"] for conversation in conversations] == [row["messages"] for row in expected]
        for conversation in conversations:
            example = processor.build_training_example(
                conversation["messages"], [[3, 1, 2]] * len(conversation["audios"])
            )
            learnt = [token for token in example["labels"] if token != -100]
            answers = [message for message in conversation["messages"] if message["role"] == "assistant"]
            assert learnt.count(end) == len(answers)
            spoken = sum(AUDIO_MARK in answer["content"] for answer in answers)
            assert learnt.count(vocabulary.begin_audio_token_id) == spoken
