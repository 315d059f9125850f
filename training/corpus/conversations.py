# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""All clips of the corpus, and what is made of them: the conversations of every task."""

from collections.abc import Iterable, Iterator

from processing.conversation_vita_audio import ASR_PROMPT, AUDIO_MARK, SPOKEN_CHAT_SYSTEM_PROMPT, TTS_PROMPT

# These modules register their sources when they are imported.
from . import follow_ups, fragments, general, passages, sentences, words  # noqa: F401
from .clips import ASR, SOURCES, TTS, Clip, Recording
from .dialogues import WRITTEN, Dialogue, all_dialogues
from .noise import REPEAT_ANSWER, noise_clips
from .questions import Fact, all_questions, stable_hash
from .spoken_questions import answer_clip, question_clips


SPOKEN_QA, WRITTEN_QA, DIALOGUE, NOISE = "sqa", "tqa", "dialogue", "noise"
Message = tuple[str, str]


def all_recordings() -> Iterator[Recording]:
    """Every recording of every source; one that two sources have comes once."""
    seen = set()
    # by name, because the order of the table is that in which modules were imported
    for _, source in sorted(SOURCES.items()):
        for recording in source():
            if recording.clip.path not in seen:
                seen.add(recording.clip.path)
                yield recording


def all_clips() -> list[Clip]:
    """Every clip of the corpus."""
    return [recording.clip for recording in all_recordings()]


def _conversation(
    task: str,
    key: str,
    split: str,
    messages: Iterable[Message],
    clips: Iterable[Clip],
    reference: str,
    answer: str = "",
    accepted_answers: Iterable[str] = (),
    **more,
) -> dict:
    """A row of `conversations.jsonl`; `more` are the fields that only some tasks have."""
    return {
        "id": f"{task}-{key}",
        "task": task,
        "split": split,
        "messages": [{"role": role, "content": content} for role, content in messages],
        "audios": [clip.path for clip in clips],
        "reference": reference,
        "answer": answer,
        "accepted_answers": list(accepted_answers),
        **more,
    }


def _scored(fact: Fact) -> dict:
    """What an answer is measured by."""
    return {
        "reference": fact.answer,
        "answer": fact.gold,
        "accepted_answers": list(dict.fromkeys((fact.gold, *fact.accepted))),
    }


def _asked_aloud(answer: str, question: str = AUDIO_MARK) -> list[Message]:
    """A question, spoken unless its text is given, and the answer, which is written and spoken."""
    return [("user", question), ("assistant", f"{answer}{AUDIO_MARK}")]


def transcriptions() -> Iterator[dict]:
    """ASR and TTS of the recordings."""
    for recording in all_recordings():
        clip = recording.clip
        messages = {
            ASR: [("user", ASR_PROMPT + AUDIO_MARK), ("assistant", clip.text)],
            # the text in front of its speech, as in spoken answers
            TTS: [("user", TTS_PROMPT + clip.text), ("assistant", f"{clip.text}{AUDIO_MARK}")],
        }
        for task in recording.tasks:
            yield _conversation(task, clip.id, clip.split, messages[task], [clip], clip.text)


def single_questions() -> Iterator[dict]:
    """Each question spoken by its voices, and written."""
    system = ("system", SPOKEN_CHAT_SYSTEM_PROMPT)
    for question in all_questions():
        fact, answer = question.fact, answer_clip(question.fact.answer)
        for clip in question_clips(question):
            messages = [system, *_asked_aloud(fact.answer)]
            yield _conversation(SPOKEN_QA, clip.id, clip.split, messages, [clip, answer], **_scored(fact))
        key = f"{stable_hash(question.text):016x}"
        messages = [("user", question.text), ("assistant", fact.answer)]
        yield _conversation(WRITTEN_QA, key, question.split, messages, [], **_scored(fact))


def dialogue_row(dialogue: Dialogue) -> dict:
    """The conversation of a dialogue, with `turns`: what each of the assistant's turns is measured by."""
    messages, clips = [], []
    for turn in dialogue.turns:
        if dialogue.mode == WRITTEN:
            messages += [("user", turn.text), ("assistant", turn.fact.answer)]
            continue
        messages += _asked_aloud(turn.fact.answer, AUDIO_MARK if turn.clip else turn.text)
        clips += [*([turn.clip] if turn.clip else []), answer_clip(turn.fact.answer)]
    if dialogue.mode != WRITTEN:
        messages = [("system", SPOKEN_CHAT_SYSTEM_PROMPT), *messages]
    turns = [_scored(turn.fact) for turn in dialogue.turns]
    parts = [part for turn in dialogue.turns for part in (turn.text, turn.clip.id if turn.clip else "")]
    key = f"{stable_hash(*parts):016x}"
    return _conversation(DIALOGUE, key, dialogue.split, messages, clips, **turns[-1], turns=turns)


def noises() -> Iterator[dict]:
    """Noise instead of a question, at which the assistant asks back."""
    answer = answer_clip(REPEAT_ANSWER)
    gold = REPEAT_ANSWER.lower().replace(",", "").rstrip("?")
    for clip in noise_clips():
        messages = [("system", SPOKEN_CHAT_SYSTEM_PROMPT), *_asked_aloud(REPEAT_ANSWER)]
        yield _conversation(NOISE, clip.id, clip.split, messages, [clip, answer], REPEAT_ANSWER, gold, [gold])


def all_conversations() -> Iterator[dict]:
    """Every conversation of the corpus, in the form of the rows of `conversations.jsonl`."""
    yield from transcriptions()
    yield from single_questions()
    yield from map(dialogue_row, all_dialogues())
    yield from noises()
