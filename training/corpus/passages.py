# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Passages: several sentences in one recording, so that a model does not end after the first.

Training passages are of training sentences, of the templates and of general English; held-out ones are of exactly five
held-out sentences each and are targets of text-to-speech, in the split `test_passages`.
"""

import random
from collections.abc import Iterator
from functools import cache

from hub_cards.results import PASSAGES_SPLIT

from .clips import ASR, TTS, Clip, Recording, register_source, voice_clips
from .general import general_texts
from .sentences import all_sentences
from .voices import JOE


NUM_BY_JOE, NUM_LONG_BY_JOE, NUM_BY_OTHERS, NUM_HELD_OUT = 1350, 800, 500, 150
SENTENCES_BY_JOE, SENTENCES_OF_LONG, SENTENCES_BY_OTHERS, SENTENCES_HELD_OUT = (2, 5), (4, 5), (2, 3), 5
# The rest are of the templates, whose sentences are the easier ones.
SHARE_OF_GENERAL = 0.3


def _join(sentences: list[str], number: int, lengths: tuple[int, int], salt: str) -> list[str]:
    rng = random.Random(f"vita-audio passages {salt}")
    return [" ".join(rng.sample(sentences, rng.randint(*lengths))) for _ in range(number)]


@cache
def training_passages() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The passages of joe and those of other voices."""
    simple = [sentence.text for sentence in all_sentences() if sentence.split == "train"]
    general = general_texts()[0]
    # so many that a draw from both has the share of general English
    general = general[: round(len(simple) * SHARE_OF_GENERAL / (1 - SHARE_OF_GENERAL))]
    sentences = [*simple, *general]
    by_joe = _join(sentences, NUM_BY_JOE, SENTENCES_BY_JOE, "joe")
    return (
        (*by_joe, *_join(sentences, NUM_LONG_BY_JOE, SENTENCES_OF_LONG, "long joe")),
        tuple(_join(sentences, NUM_BY_OTHERS, SENTENCES_BY_OTHERS, "others")),
    )


@cache
def held_out_passages() -> tuple[str, ...]:
    """Five held-out sentences each; no sentence is in two passages."""
    sentences = [sentence.text for sentence in all_sentences() if sentence.split == "test"]
    sentences += general_texts()[1]
    random.Random("vita-audio passages held out").shuffle(sentences)
    starts = range(0, NUM_HELD_OUT * SENTENCES_HELD_OUT, SENTENCES_HELD_OUT)
    return tuple(" ".join(sentences[start : start + SENTENCES_HELD_OUT]) for start in starts)


@register_source
def passages() -> Iterator[Recording]:
    by_joe, by_others = training_passages()
    for text in by_joe:
        yield Recording(Clip(text, JOE.name, "train"), (ASR, TTS))
    for text in by_others:
        for clip in voice_clips(text, "train", 1):
            yield Recording(clip, (ASR,))
    for text in held_out_passages():
        yield Recording(Clip(text, JOE.name, PASSAGES_SPLIT), (TTS,))
