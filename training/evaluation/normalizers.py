# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Two normalizers of English text. Texts go through one of them before they are compared, so that "4" and "four" are the
same.

Published sets are scored with `WHISPER_ENGLISH`, Whisper's own normalizer, as others score them. Held-out
conversations and conversations of one's own are scored with `CORPUS`, which repairs what a small recogniser writes for
words of the corpus.
"""

import json
import re
from collections.abc import Callable
from functools import cache

from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from training.packages import package_folder


CORPUS, WHISPER_ENGLISH = NORMALIZERS = ("corpus", "whisper_english")
# Whisper's table of British and American spellings is in this package. transformers has the normalizer without its
# table, which comes with checkpoints of Whisper only.
SPELLINGS_PACKAGE = "whisper_normalizer"

SMALL_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = {
    **{"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"},
    "twelve": "twelfth",
}
_SIGNS = {"+": "plus", "-": "minus", "−": "minus", "–": "minus", "=": "is"}
# One spelling for words of the corpus that are spoken alike but written in several ways. This is for the corpus only:
# in other texts "passed" is not "past", so scores with this table cannot be compared with those that others publish.
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
    "mr": "mister",
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


@cache
def find_normalizer(name: str) -> Callable[[str], str]:
    """
    Args:
        name: one of `NORMALIZERS`.

    Raises:
        ImportError: Whisper's table of spellings is not installed.
        ValueError: There is no normalizer of that name.
    """
    if name not in NORMALIZERS:
        raise ValueError(f"There is no normalizer {name!r}; there are {', '.join(NORMALIZERS)}.")
    if name == CORPUS:
        return normalize_corpus_text
    folder = package_folder(SPELLINGS_PACKAGE, "scoring published sets", "pip install vita-audio[eval]")
    table = folder / "normalizers" / "english.json"
    normalize = EnglishTextNormalizer(json.loads(table.read_text(encoding="utf-8")))
    # it leaves a space where it has removed a sign at an end
    return lambda text: normalize(text).strip()


def number_to_words(number: int) -> str:
    """English words of 0 <= number < 1,000,000; larger numbers are read digit by digit.

    >>> number_to_words(342)
    'three hundred forty two'
    """
    if number < 20:
        return SMALL_NUMBERS[number]
    if number < 100:
        tens = TENS[number // 10 - 2]
        return tens if number % 10 == 0 else f"{tens} {SMALL_NUMBERS[number % 10]}"
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if size <= number < size * 1000:
            words = f"{number_to_words(number // size)} {name}"
            return words if number % size == 0 else f"{words} {number_to_words(number % size)}"
    return " ".join(SMALL_NUMBERS[int(digit)] for digit in str(number))


def ordinal_to_words(number: int) -> str:
    """English words of 0 <= number < 1,000,000, as a place in a row.

    >>> ordinal_to_words(21), ordinal_to_words(40)
    ('twenty first', 'fortieth')
    """
    *words, last = number_to_words(number).split()
    ordinal = _ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return " ".join([*words, ordinal])


def _clock_to_words(match: re.Match) -> str:
    hour, minute = int(match[1]), int(match[2])
    # It is no time of day; the steps after this one read its numbers.
    if hour > 23 or minute > 59:
        return match[0]
    if minute == 0:
        return f"{number_to_words(hour)} oclock"
    # "3:05" is read as "three o five".
    return f"{number_to_words(hour)} {'o ' if minute < 10 else ''}{number_to_words(minute)}"


def normalize_corpus_text(text: str) -> str:
    """
    The normalizer `CORPUS`: lower case, digits, clock times and signs as words, one spelling, no punctuation. What is
    written 3.14 is a time of day, because recognisers write times so.

    >>> normalize_corpus_text("What's 7+5? It is 3:30, or 4 o'clock.")
    'what is seven plus five it is three thirty or four oclock'
    """
    text = text.lower().replace("’", "'")
    # Clock times come first, because later steps take their colon for punctuation.
    text = re.sub(r"\b(\d{1,2})[:.](\d{2})\b(\s*o'?\s?clock)?", _clock_to_words, text)
    # "1,000" is one number.
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    # "2.5" is read digit by digit behind its point
    text = re.sub(r"(?<=\d)\.(\d+)", lambda match: f" point {' '.join(match[1])}", text)
    text = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", lambda match: ordinal_to_words(int(match[1])), text)
    # "-" is spoken where a number follows; elsewhere it joins words. "+" and "=" are always spoken.
    text = re.sub(r"(?:^|(?<=[\w\s]))([+=]|[-−–](?=\s*\d))", lambda match: f" {_SIGNS[match[1]]} ", text)
    text = re.sub(r"\d+", lambda match: f" {number_to_words(int(match[0]))} ", text)
    text = " ".join(re.sub(r"[^\w']|_", " ", text).split())
    # The table comes before apostrophes go, because some of its words have one.
    for spelling, word in _SPELLINGS.items():
        text = re.sub(rf"(?<![\w']){spelling}(?![\w'])", word, text)
    return " ".join(text.replace("'", "").split())
