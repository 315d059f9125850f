# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Fragments of general English, and rows of its words: "Great success.", "Lantern, abandon, cheese."

To a tokenizer of text, a word that begins an utterance is another token than the same word inside, and most sentences
begin with one of twenty words. So any word has to begin some.
"""

import random
from collections.abc import Iterator
from functools import cache

from .clips import Recording, register_source, training_recordings
from .general import general_texts, plain_words
from .questions import all_questions, capitalized
from .sentences import all_sentences
from .voices import QUICK_VOICES, TRAINING_VOICES
from .words import UNFINISHED, all_letters, all_short_texts, all_words, cut_out


NUM_FRAGMENTS, NUM_ROWS = 8000, 4000
MAX_WORDS, WORDS_PER_ROW = 5, 3
# Joe says the first half as well, and the first half is said by any voice, the rest by the quick ones.
SHARE_OF_FIRST = 0.5
# What sounds cut off at the end of a fragment
BEFORE_OTHERS = UNFINISHED | set("his her its their our your with for from by as that which be been into".split())


@cache
def training_words() -> tuple[str, ...]:
    """The words of the training texts, each once, but for those that are seldom said alone."""
    words = {word.strip(",.") for text in general_texts()[0] for word in text.split()}
    return tuple(sorted(word for word in words - BEFORE_OTHERS if len(word) > 2 and word.isalpha() and word.islower()))


def fragments() -> list[str]:
    """One to five words in a row out of training texts, none of which the corpus has elsewhere."""
    rng = random.Random("vita-audio fragments")
    said = (*all_words(), *all_letters(), *all_short_texts(), *general_texts()[1])
    said += (*(sentence.text for sentence in all_sentences()), *(question.text for question in all_questions()))
    elsewhere = {plain_words(text) for text in said}
    texts: dict[str, None] = {}
    while len(texts) < NUM_FRAGMENTS:
        cut = cut_out(rng, general_texts()[0], (1, MAX_WORDS))
        if cut and cut[-1].lower() not in BEFORE_OTHERS:
            text = capitalized(" ".join(cut).rstrip(",")) + "."
            if plain_words(text) not in elsewhere:
                texts[text] = None
    return list(texts)


def rows_of_words() -> list[str]:
    """Three words that have nothing to do with each other."""
    rng = random.Random("vita-audio rows of words")
    rows = (rng.sample(training_words(), WORDS_PER_ROW) for _ in range(NUM_ROWS))
    return [capitalized(", ".join(row)) + "." for row in rows]


@register_source
def general_fragments() -> Iterator[Recording]:
    for texts in (fragments(), rows_of_words()):
        num_first = round(SHARE_OF_FIRST * len(texts))
        for number, text in enumerate(texts):
            is_first = number < num_first
            yield from training_recordings(text, 1, is_first, TRAINING_VOICES if is_first else QUICK_VOICES)
