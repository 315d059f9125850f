# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores: a normalizer of English text, word and character error rates, right answers and the real-time factor."""

import math
import re
from collections.abc import Sequence

import jiwer


_SMALL_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SIGNS = {"+": "plus", "-": "minus", "−": "minus", "–": "minus", "=": "is"}
# One spelling for what is written in several ways but spoken in one.
_SPELLINGS = {
    "grey": "gray",
    "colour": "color",
    "colours": "colors",
    "neighbour": "neighbor",
    "columbia": "colombia",
    "passed": "past",
    "ok": "okay",
    "alright": "all right",
    "goodnight": "good night",
    "goodbye": "good bye",
    "what's": "what is",
    "it's": "it is",
    "that's": "that is",
    "there's": "there is",
    "where's": "where is",
    "i'm": "i am",
    "i'll": "i will",
    "don't": "do not",
    "o'clock": "oclock",
    "o clock": "oclock",
}


def number_to_words(number: int) -> str:
    """English words of 0 <= number < 1,000,000; larger numbers are read digit by digit.

    >>> number_to_words(342)
    'three hundred forty two'
    """
    if number < 20:
        return _SMALL_NUMBERS[number]
    if number < 100:
        tens = _TENS[number // 10 - 2]
        return tens if number % 10 == 0 else f"{tens} {_SMALL_NUMBERS[number % 10]}"
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if size <= number < size * 1000:
            words = f"{number_to_words(number // size)} {name}"
            return words if number % size == 0 else f"{words} {number_to_words(number % size)}"
    return " ".join(_SMALL_NUMBERS[int(digit)] for digit in str(number))


def _clock_to_words(match: re.Match) -> str:
    hour, minute = int(match[1]), int(match[2])
    if hour > 23 or minute > 59:
        return match[0]
    if minute == 0:
        return f"{number_to_words(hour)} oclock"
    return f"{number_to_words(hour)} {'o ' if minute < 10 else ''}{number_to_words(minute)}"


def normalize_text(text: str) -> str:
    """Lower case, digits, clock times and signs as words, one spelling, no punctuation.

    >>> normalize_text("What's 7+5? It is 3:30, or 4 o'clock.")
    'what is seven plus five it is three thirty or four oclock'
    """
    text = text.lower().replace("’", "'")
    text = re.sub(r"\b(\d{1,2})[:.](\d{2})\b(\s*o'?\s?clock)?", _clock_to_words, text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    # A sign is spoken where a number follows it or, for "=", wherever it is.
    text = re.sub(r"(?<=[\w\s])([+=]|[-−–](?=\s*\d))", lambda match: f" {_SIGNS[match[1]]} ", text)
    text = re.sub(r"\d+", lambda match: f" {number_to_words(int(match[0]))} ", text)
    text = " ".join(re.sub(r"[^\w']|_", " ", text).split())
    for spelling, word in _SPELLINGS.items():
        text = re.sub(rf"(?<![\w']){spelling}(?![\w'])", word, text)
    return " ".join(text.replace("'", "").split())


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word errors of `hypotheses` per word of `references` after `normalize_text` (0.05 is 5 %; may exceed 1).

    Raises ValueError if the two differ in length, or if a reference has no words.
    """
    return jiwer.wer(*_normalize_pairs(references, hypotheses))


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Character errors per character of `references`, the spaces between words among them; else as `word_error_rate`."""
    return jiwer.cer(*_normalize_pairs(references, hypotheses))


def _normalize_pairs(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[list[str], list[str]]:
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses.")
    if not len(references):
        raise ValueError("There is nothing to score: no references.")
    normalized = [normalize_text(reference) for reference in references]
    if not all(normalized):
        raise ValueError(f"Reference {normalized.index('')} has no words: {references[normalized.index('')]!r}.")
    return normalized, [normalize_text(hypothesis) for hypothesis in hypotheses]


def answer_is_right(text: str, gold: str | Sequence[str], reference: str | None = None) -> bool:
    """Whether `text` gives the answer `gold` (a short phrase, or a list of accepted ones), compared word by word.

    With the `reference` sentence an answer that stands at its beginning or end must stand there in `text` too, so that
    "Hot is the opposite of cold" does not pass for the answer "cold".
    """
    words = f" {normalize_text(text)} "
    accepted = [normalize_text(phrase) for phrase in ([gold] if isinstance(gold, str) else gold)]
    if not accepted or not all(accepted):
        raise ValueError(f"gold must be a phrase or a list of phrases with words, got {gold!r}.")
    matches = str.__contains__
    if reference is not None:
        full = f" {normalize_text(reference)} "
        if any(full.endswith(f" {phrase} ") for phrase in accepted):
            matches = str.endswith
        elif any(full.startswith(f" {phrase} ") for phrase in accepted):
            matches = str.startswith
    return any(matches(words, f" {phrase} ") for phrase in accepted)


def answer_accuracy(
    texts: Sequence[str], golds: Sequence[str | Sequence[str]], references: Sequence[str] | None = None
) -> float:
    """
    Share of `texts` that give their answer, see `answer_is_right`.

    Raises ValueError if the numbers of texts, answers and references differ, or there are none.
    """
    references = [None] * len(golds) if references is None else references
    if not len(texts) == len(golds) == len(references):
        raise ValueError(f"{len(texts)} texts, but {len(golds)} answers and {len(references)} references.")
    if not len(texts):
        raise ValueError("There is nothing to score: no answers.")
    return sum(map(answer_is_right, texts, golds, references)) / len(texts)


def real_time_factor(processing_seconds: Sequence[float], audio_seconds: Sequence[float]) -> float:
    """
    Seconds of work per second of audio, over all requests together; below 1 is faster than real time.

    Raises ValueError if the two differ in length, a time is negative or not finite, or there is no audio.
    """
    if len(processing_seconds) != len(audio_seconds):
        raise ValueError(f"{len(processing_seconds)} times of work, but {len(audio_seconds)} durations of audio.")
    if not all(0 <= seconds < math.inf for seconds in (*processing_seconds, *audio_seconds)):
        raise ValueError("Times and durations must be finite and not negative.")
    if not sum(audio_seconds):
        raise ValueError("There is no audio: all durations are 0.")
    return sum(processing_seconds) / sum(audio_seconds)
