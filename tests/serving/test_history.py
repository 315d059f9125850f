# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import pytest

from processing.conversation_vita_audio import is_spoken
from serving.assistant import Answer
from serving.history import answer_message, typed_as_text
from serving.realtime_conversation import AnswerItem, Part


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


@pytest.mark.parametrize("status", ["cancelled", "failed"])
def test_of_an_answer_that_was_stopped_later_turns_read_what_was_sent(status):
    answer = Answer.__new__(Answer)
    answer.text, answer.audio_codes = "The sum of seven and six", list(range(30))

    def message(kind, text, sent_seconds=0.0):
        item = AnswerItem("item_1", "assistant", [Part(kind, text)], status, answer=answer, sent_seconds=sent_seconds)
        return item.to_message()

    assert message("output_text", "The sum")["content"] == [{"type": "text", "text": "The sum"}]
    speech = {"type": "audio", "codes": list(range(10))}
    assert message("output_audio", "The sum", 0.8)["content"] == [{"type": "text", "text": "The sum"}, speech]
    # nothing was sent, or speech whose text was not
    assert message("output_text", None) is None and message("output_audio", "", 0.8) is None
