# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
General English: the example sentences and the short definitions of WordNet (Princeton University's licence, which
allows any use with its notice), out of Debian's package `wordnet-base`.

Held-out texts are said by the held-out voice and, as targets of text-to-speech, by joe, in the split `test_general`.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hub_cards.results import GENERAL_SPLIT

from .clips import TTS, Clip, Recording, register_source, training_recordings, unseen_voice_recording
from .questions import all_questions, capitalized, stable_hash
from .sentences import all_sentences
from .voices import JOE, QUICK_VOICES, TRAINING_VOICES
from .words import all_short_texts


WORDNET_FOLDER, WORDNET_PACKAGE = Path("/usr/share/wordnet"), "wordnet-base"
WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")

# How many texts are drawn; joe says the first `NUM_BY_JOE` of the training texts as well.
NUM_TRAINING, NUM_BY_JOE, NUM_HELD_OUT = 24_000, 10_000, 300
# Of so many texts the held-out ones are drawn, so that they stay the same where `NUM_TRAINING` grows.
NUM_WITH_HELD_OUT = 5700
# The first training texts are said by any voice, the rest by the quick ones.
NUM_BY_ANY_VOICE = 5000
# Definitions are written in another way than anybody speaks, so they are one text in five.
SHARE_OF_DEFINITIONS = 0.2
MIN_WORDS, MAX_WORDS = 3, 14

_PLAIN = re.compile(r"[A-Za-z]+(?:'[a-z]+)?(?:,? [A-Za-z]+(?:'[a-z]+)?)*")
# Short forms that a synthesizer would have to guess, beside capitals in a row and words without a vowel
_SHORT_FORMS = set("etc esp usu eg ie vs cf".split())
# Texts with a word that begins with one of these are left out: nobody should hear them from a model that repeats its
# training.
UNWANTED_STEMS = tuple(
    "sex rape rapi raping kill nazi whore slut fuck shit genital drug suicid murder nigg negr kike spic chink gook "
    "jap wetback redskin squaw gyps homo lesbian queer fag dyke prostitut penis vagina vulva testic scrot breast "
    "nipple masturbat orgasm erotic erecti porn pimp bastard bitch damn piss urin feces fecal excre defecat crap turd "
    "fart anus anal rectum buttock naked nude incest pedophil molest tortur slaughter terroris hitler holocaust jew "
    "muslim islam hindu christian catholic slave lynch racis racial coloured semen sperm coit copulat intercourse "
    "cunt cock heroin cocaine marijuana opium abort hang strangl stab corpse hooker harlot strumpet hell retard moron "
    "idiot imbecile cripple lust virgin poison execut overdos assault assail mistress drunk gay weapon bomb "
    "labia".split()
)


def check_wordnet() -> None:
    """Raises RuntimeError, which names the Debian package, where WordNet's files are not on this machine."""
    if missing := [name for name in WORDNET_FILES if not (WORDNET_FOLDER / name).is_file()]:
        raise RuntimeError(
            f"The general English of the corpus needs {WORDNET_FOLDER / missing[0]} (Debian package "
            f"{WORDNET_PACKAGE}): not found on this machine."
        )


def is_wanted(text: str) -> bool:
    """Whether `text` is of plain words that any synthesizer can read, and has none that offends."""
    words = re.findall(r"[a-z']+", text.lower())
    if not _PLAIN.fullmatch(text) or not MIN_WORDS <= len(words) <= MAX_WORDS or re.search("[A-Z]{2}", text):
        return False
    return all(
        re.search("[aeiouy]", word) and word not in _SHORT_FORMS and not word.startswith(UNWANTED_STEMS)
        for word in words
    )


def plain_words(text: str) -> tuple[str, ...]:
    """What two texts have in common that differ in capitals and punctuation alone."""
    return tuple(re.findall("[a-z]+", text.lower()))


def split_gloss(gloss: str) -> tuple[list[str], list[str]]:
    """The quoted examples and the definitions of a gloss, the text behind the bar of a line of WordNet's files."""
    examples = re.findall(r'"([^"]*)"', gloss)
    definitions = re.sub(r'"[^"]*"?', "", gloss).split(";")
    return [text.strip(" .;") for text in examples], [text.strip() for text in definitions]


@cache
def wordnet_texts() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """
    The wanted examples and definitions, each as a sentence: capital first, full stop last. Nothing comes twice, nor
    does what the corpus says elsewhere.

    Raises:
        RuntimeError: WordNet's files are not there.
    """
    check_wordnet()
    # a wordless comparison, so that one text does not come with a comma and without
    elsewhere = (*(question.text for question in all_questions()), *(sentence.text for sentence in all_sentences()))
    taken = {plain_words(text) for text in (*elsewhere, *all_short_texts())}
    kept: tuple[list[str], list[str]] = ([], [])
    for name in WORDNET_FILES:
        for line in (WORDNET_FOLDER / name).read_text(encoding="utf-8").splitlines():
            # The licence at the head of each file is indented.
            if not line.startswith(" "):
                for texts, found in zip(kept, split_gloss(line.partition("| ")[2])):
                    for text in found:
                        words = plain_words(text)
                        if words not in taken and is_wanted(text):
                            taken.add(words)
                            texts.append(capitalized(text) + ".")
    # A definition with a name in it is mostly one of a plant, an animal or a place, whose Latin nobody can read out.
    return tuple(kept[0]), tuple(text for text in kept[1] if text[1:].islower() or not re.search("[A-Z]", text[1:]))


@cache
def general_texts() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The training texts and the held-out texts, drawn by their hashes."""
    ranked = [sorted(texts, key=lambda text: stable_hash("general", text)) for texts in wordnet_texts()]

    def draw(number: int) -> list[str]:
        num_definitions = round(SHARE_OF_DEFINITIONS * number)
        texts = [
            text for kind, share in zip(ranked, (number - num_definitions, num_definitions)) for text in kind[:share]
        ]
        # another hash, so that the first ones have as many definitions as all
        return sorted(texts, key=lambda text: stable_hash("general held out", text))

    held_out = dict.fromkeys(draw(NUM_WITH_HELD_OUT)[:NUM_HELD_OUT])
    training = tuple(text for text in draw(NUM_TRAINING + NUM_HELD_OUT) if text not in held_out)
    return training, tuple(held_out)


@register_source
def general() -> Iterator[Recording]:
    training, held_out = general_texts()
    for number, text in enumerate(training):
        voices = TRAINING_VOICES if number < NUM_BY_ANY_VOICE else QUICK_VOICES
        yield from training_recordings(text, 1, number < NUM_BY_JOE, voices)
    for text in held_out:
        yield unseen_voice_recording(text, GENERAL_SPLIT)
        yield Recording(Clip(text, JOE.name, GENERAL_SPLIT), (TTS,))
