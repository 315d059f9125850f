# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Utterances shorter than a sentence: single words, letters, digits in a row, and fragments.

Words and single letters are all said in training; they are tested in the held-out voice, in the split `test_words`. A
tenth of all else is held out, and tested in that voice in the split `test_short`.
"""

import random
import string
from collections.abc import Iterator, Sequence
from functools import cache

from hub_cards.results import SHORT_SPLIT, WORDS_SPLIT

from .clips import Recording, hold_out, register_source, training_recordings, unseen_voice_recording
from .questions import (
    BABIES,
    CAPITALS,
    COLORS_OF,
    DAYS,
    HELD_OUT_SHARE,
    HOURS,
    LEGS,
    MAKERS,
    MONTHS,
    NUMBERS,
    OPPOSITES,
    SOUNDS,
    capitalized,
)
from .sentences import VOCABULARY, all_sentences
from .voices import TRAINING_VOICES


# How many training voices say each, beside joe. A word alone has nothing around it that helps; letters, and the words
# that people say alone most, are said by all voices.
VOICES_PER_WORD, VOICES_PER_SHORT_TEXT = 14, 3
NUM_SPELLINGS, NUM_DIGIT_STRINGS, NUM_CUTTINGS = 150, 250, 300

ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
# What a speaker says all the time and the templates do not have
COMMON_WORDS = (
    "yes no please thanks sorry okay maybe again stop start help wait right wrong who what where when "
    "why how here there now then much many more less plus minus equal hour minute second week month year"
).split()
OFTEN_ALONE = {capitalized(word) + "." for word in (*NUMBERS, *DAYS, *MONTHS)}
TENS = "thirty forty fifty sixty seventy eighty ninety hundred thousand million".split()
# A fragment that ends with one of these sounds cut off in the middle.
UNFINISHED = set("a an the and of to in on at is are was were has than or my some not one".split())


@cache
def all_words() -> tuple[str, ...]:
    """Every word and name of the domain, as it is said alone: "Seven."."""
    listed = [word for words in VOCABULARY.values() if "," not in words for word in words.split()]
    phrases = [phrase for words in VOCABULARY.values() if "," in words for phrase in words.split(",")]
    words = [
        *NUMBERS,
        *TENS,
        *ORDINALS,
        *DAYS,
        *MONTHS,
        *CAPITALS,
        *CAPITALS.values(),
        *OPPOSITES.replace(",", "").split(),
        *COLORS_OF.values(),
        *SOUNDS,
        *SOUNDS.values(),
        *BABIES,
        *BABIES.values(),
        *LEGS,
        *MAKERS,
        *(product for _, product in MAKERS.values()),
        *listed,
        # of a phrase such as "play football" its last word, the others of which are small ones
        *(phrase.split()[-1] for phrase in phrases),
        *COMMON_WORDS,
    ]
    # "I" is among the letters
    return tuple(dict.fromkeys(capitalized(word) + "." for word in words if len(word) > 1))


@cache
def all_letters() -> tuple[str, ...]:
    """The letters by their names: "B."."""
    return tuple(f"{letter}." for letter in string.ascii_uppercase)


def spellings() -> list[str]:
    """Short words letter by letter, "C, A, T.", and as many rows of two to four letters drawn at random."""
    words = [word.rstrip(".").upper() for word in all_words() if word[:-1].isalpha() and 3 <= len(word) - 1 <= 4]
    rng = random.Random("vita-audio spellings")
    spelled = rng.sample(sorted(set(words)), NUM_SPELLINGS // 2)
    rows = ["".join(rng.sample(string.ascii_uppercase, rng.randint(2, 4))) for _ in range(NUM_SPELLINGS // 2)]
    return [", ".join(letters) + "." for letters in (*spelled, *rows)]


def digit_strings() -> list[str]:
    """Two to six digits: "Four, seven, one."."""
    rng = random.Random("vita-audio digits")
    strings: dict[str, None] = {}
    while len(strings) < NUM_DIGIT_STRINGS:
        digits = rng.choices(NUMBERS[:10], k=rng.randint(2, 6))
        strings[capitalized(", ".join(digits)) + "."] = None
    return list(strings)


def dates_and_times() -> list[str]:
    """Days with an ordinal number, and times: "Monday the third.", "Half past eleven."."""
    rng = random.Random("vita-audio dates")
    dates = [f"{rng.choice(DAYS)} the {ordinal}." for ordinal in ORDINALS for _ in range(2)]
    dates += [f"{month} the {rng.choice(ORDINALS)}." for month in MONTHS for _ in range(2)]
    times = [text for hour in HOURS for text in (f"{hour} o'clock.", f"half past {hour}.", f"at {hour} o'clock.")]
    return [capitalized(text) for text in (*dates, *times)]


def phrases() -> list[str]:
    """The vocabulary's own phrases, "in the garden", and two or three words, "a red ball"."""
    rng = random.Random("vita-audio phrases")
    listed = [phrase for words in VOCABULARY.values() if "," in words for phrase in words.split(",") if " " in phrase]
    colors, counts = VOCABULARY["color"].split(), VOCABULARY["count"].split()
    things = [f"the {rng.choice(colors)} {thing}" for thing in VOCABULARY["thing"].split()]
    things += [f"{rng.choice(counts)} {animals}" for animals in VOCABULARY["animals"].split()]
    return [capitalized(phrase) + "." for phrase in (*listed, *things)]


def cut_out(rng: random.Random, texts: Sequence[str], lengths: tuple[int, int]) -> list[str]:
    """Words in a row out of one of `texts`, of a number between `lengths`; none where these would be all of it."""
    words = rng.choice(texts).rstrip(".?").split()
    length = rng.randint(*lengths)
    start = rng.randint(0, max(len(words) - length, 0))
    cut = words[start : start + length]
    return cut if len(cut) < len(words) else []


def cuttings() -> list[str]:
    """Two to four words in a row out of training sentences."""
    rng = random.Random("vita-audio cuttings")
    sentences = [sentence.text for sentence in all_sentences() if sentence.split == "train"]
    texts: dict[str, None] = {}
    while len(texts) < NUM_CUTTINGS:
        cut = cut_out(rng, sentences, (2, 4))
        # neither a whole sentence, nor a pause in the middle of a fragment
        if cut and cut[-1].lower() not in UNFINISHED and "," not in " ".join(cut):
            texts[capitalized(" ".join(cut)) + "."] = None
    return list(texts)


SHORT_TEXTS = (spellings, digit_strings, dates_and_times, phrases, cuttings)


@register_source
def words() -> Iterator[Recording]:
    for text in all_words():
        yield from training_recordings(text, len(TRAINING_VOICES) if text in OFTEN_ALONE else VOICES_PER_WORD)
        yield unseen_voice_recording(text, WORDS_SPLIT)


@register_source
def letters() -> Iterator[Recording]:
    for text in all_letters():
        yield from training_recordings(text, len(TRAINING_VOICES))
        yield unseen_voice_recording(text, WORDS_SPLIT)


@cache
def all_short_texts() -> dict[str, bool]:
    """Every text of `SHORT_TEXTS`, a tenth of each kind held out, and whether it is."""
    held_out: dict[str, bool] = {}
    for kind in SHORT_TEXTS:
        held_out = hold_out(kind(), HELD_OUT_SHARE, "short") | held_out
    return held_out


@register_source
def short_texts() -> Iterator[Recording]:
    for text, is_held_out in all_short_texts().items():
        if is_held_out:
            yield unseen_voice_recording(text, SHORT_SPLIT)
        else:
            yield from training_recordings(text, VOICES_PER_SHORT_TEXT)
