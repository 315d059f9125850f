# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
from processing.conversation_vita_audio import is_spoken
from serving.history import answer_message, typed_as_text


TEXT, SPEECH = {"type": "text", "text": "Four."}, {"type": "audio", "codes": [3, 1]}
WRITTEN = {"role": "user", "content": [{"type": "text", "text": "Two plus two?"}]}
SPOKEN = {"role": "user", "content": [{"type": "audio", "audio": "question.wav"}]}


def test_a_turn_has_what_the_answer_has():
    assert answer_message("Four.", [3, 1]) == {"role": "assistant", "content": [TEXT, SPEECH]}
    assert answer_message("Four.", [])["content"] == [TEXT]
    assert answer_message(" ", [3, 1])["content"] == [SPEECH]
    assert answer_message("", []) is None


def test_where_nobody_else_speaks_answers_are_text():
    answer, speech_alone = answer_message("Four.", [3, 1]), answer_message("", [3, 1])
    assert is_spoken([WRITTEN, answer, SPOKEN]) and not is_spoken([WRITTEN, answer, WRITTEN])
    written = [WRITTEN, {"role": "assistant", "content": [TEXT]}, WRITTEN]
    assert typed_as_text([WRITTEN, answer, WRITTEN]) == written
    assert typed_as_text([WRITTEN, speech_alone, WRITTEN]) == [WRITTEN, WRITTEN]
    # the messages themselves stay
    assert answer["content"] == [TEXT, SPEECH]
