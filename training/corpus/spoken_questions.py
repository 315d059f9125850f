# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Who asks the questions of `questions`, and the answers, which joe says."""

from collections.abc import Iterator

from .clips import ASR, TTS, Clip, Recording, register_source, voice_clips
from .questions import Question, all_facts, all_questions, stable_hash
from .voices import HELD_OUT_VOICE, JOE


TEST_VOICES_PER_QUESTION = 2


def question_clips(question: Question) -> list[Clip]:
    """The clips in which `question` is asked by other voices than the fixed joe's."""
    if question.split == "train":
        return voice_clips(question.text, "train", question.fact.num_voices)
    clips = voice_clips(question.text, "test", TEST_VOICES_PER_QUESTION)
    return [*clips, Clip(question.text, HELD_OUT_VOICE.name, "test_voice")]


def answer_clip(answer: str) -> Clip:
    """The one recording of an answer."""
    return Clip(answer, JOE.name, "train")


@register_source
def answers() -> Iterator[Recording]:
    for answer in dict.fromkeys(fact.answer for fact in all_facts()):
        yield Recording(answer_clip(answer), (ASR, TTS))


@register_source
def questions() -> Iterator[Recording]:
    for question in all_questions():
        # Recognition is tested on sentences. Questions are further data to train it on.
        is_training = question.split == "train"
        # Joe's clips of questions are for training, so he never says a held-out wording. A third of them is enough.
        if is_training and stable_hash("joe asks", question.text) % 3 == 0:
            yield Recording(Clip(question.text, JOE.name, "train"), (ASR, TTS))
        for clip in question_clips(question):
            yield Recording(clip, (ASR,) if is_training else ())
