# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""All clips of the corpus, and what is made of them: the conversations of every task."""

from collections.abc import Iterator

from processing.conversation_vita_audio import ASR_PROMPT, AUDIO_MARK, SPOKEN_CHAT_SYSTEM_PROMPT, TTS_PROMPT

# These modules register their sources when they are imported.
from . import follow_ups, general, noise, passages, sentences, spoken_questions, words  # noqa: F401
from .clips import ASR, SOURCES, Clip, Recording
from .questions import all_questions, stable_hash
from .spoken_questions import answer_clip, question_clips


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


def all_conversations() -> Iterator[dict]:
    """Every conversation of the corpus, in the form of the rows of `conversations.jsonl`."""

    def conversation(
        task: str,
        key: str,
        split: str,
        messages: list[tuple[str, str]],
        audios: list[str],
        reference: str,
        answer: str = "",
        accepted: tuple[str, ...] = (),
    ) -> dict:
        return {
            "id": f"{task}-{key}",
            "task": task,
            "split": split,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "audios": audios,
            "reference": reference,
            "answer": answer,
            "accepted_answers": list(accepted),
        }

    for recording in all_recordings():
        clip = recording.clip
        turns = {
            ASR: [("user", ASR_PROMPT + AUDIO_MARK), ("assistant", clip.text)],
            # The text in front of its speech, as in spoken answers
            "tts": [("user", TTS_PROMPT + clip.text), ("assistant", f"{clip.text}{AUDIO_MARK}")],
        }
        for task in recording.tasks:
            yield conversation(task, clip.id, clip.split, turns[task], [clip.path], clip.text)
    for question in all_questions():
        fact = question.fact
        answer = answer_clip(fact.answer)
        scored = {"reference": fact.answer, "answer": fact.gold, "accepted": (fact.gold, *fact.accepted)}
        for clip in question_clips(question):
            messages = [
                ("system", SPOKEN_CHAT_SYSTEM_PROMPT),
                ("user", AUDIO_MARK),
                ("assistant", f"{fact.answer}{AUDIO_MARK}"),
            ]
            yield conversation("sqa", clip.id, clip.split, messages, [clip.path, answer.path], **scored)
        key = f"{stable_hash(question.text):016x}"
        messages = [("user", question.text), ("assistant", fact.answer)]
        yield conversation("tqa", key, question.split, messages, [], **scored)
