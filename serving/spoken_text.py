# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts that are to be spoken: whether there is anything to say, and in which pieces. Imported before any model is."""

import re


# Between two sentences
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def can_be_said(text: str) -> bool:
    """Whether a text has a letter or a digit in it. What would be spoken of marks alone is made up."""
    return any(character.isalnum() for character in text)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text that can be said."""
    return [sentence.strip() for sentence in SENTENCE_END.split(text) if can_be_said(sentence)]


__all__ = ["can_be_said", "sentences_of"]
