# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Scores: word and character error rates, exact and right answers and the real-time factor.

Texts go through a normalizer of `training.evaluation.normalizers` before they are compared: "corpus" by default,
"whisper_english" for published sets.
"""

import math
from collections.abc import Sequence

import jiwer

from .normalizers import CORPUS, SMALL_NUMBERS, TENS, find_normalizer


# A number that goes on before or behind is another one: "five" is not in "twenty five", "two" not in "two hundred"
SIZES = ("hundred", "thousand")
NUMBER_WORDS = {*SMALL_NUMBERS, *TENS, *SIZES}


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str], normalizer: str = CORPUS) -> float:
    """
    Substituted, deleted and inserted words of `hypotheses` per word of `references`: 0.05 is 5 %, and it may exceed 1.

    Raises ValueError if the two differ in length, or if a reference has no words.
    """
    # jiwer counts the errors of all texts together, so a long one counts more than a short one.
    return jiwer.wer(*_normalize_pairs(references, hypotheses, normalizer))


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str], normalizer: str = CORPUS) -> float:
    """Like `word_error_rate`, of characters; the space between two words is one."""
    return jiwer.cer(*_normalize_pairs(references, hypotheses, normalizer))


def exact_accuracy(references: Sequence[str], hypotheses: Sequence[str], normalizer: str = CORPUS) -> float:
    """Share of `hypotheses` that are word for word their reference; raises ValueError as `word_error_rate`."""
    pairs = list(zip(*_normalize_pairs(references, hypotheses, normalizer)))
    return sum(reference == hypothesis for reference, hypothesis in pairs) / len(pairs)


def _normalize_pairs(
    references: Sequence[str], hypotheses: Sequence[str], normalizer: str
) -> tuple[list[str], list[str]]:
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses.")
    if not len(references):
        raise ValueError("There is nothing to score: no references.")
    normalize = find_normalizer(normalizer)
    normalized = [normalize(reference) for reference in references]
    # Rates are errors per word of a reference, and without words there is none.
    if not all(normalized):
        raise ValueError(f"Reference {normalized.index('')} has no words: {references[normalized.index('')]!r}.")
    return normalized, [normalize(hypothesis) for hypothesis in hypotheses]


def answer_is_right(
    text: str, gold: str | Sequence[str], reference: str | None = None, normalizer: str = CORPUS
) -> bool:
    """Whether `text` gives the answer `gold` (a short phrase, or a list of accepted ones), compared word by word.

    With the `reference` sentence an answer that stands at its beginning or end must stand there in `text` too, so that
    "Hot is the opposite of cold" does not pass for the answer "cold". A reference that is nothing but the answer asks
    for no place.
    """
    normalize = find_normalizer(normalizer)
    words = normalize(text).split()
    accepted = [normalize(phrase).split() for phrase in ([gold] if isinstance(gold, str) else gold)]
    if not accepted or not all(accepted):
        raise ValueError(f"gold must be a phrase or a list of phrases with words, got {gold!r}.")
    full = [] if reference is None else normalize(reference).split()
    at_end, at_start = False, False
    if full not in accepted:
        at_end = any(full[-len(phrase) :] == phrase for phrase in accepted)
        at_start = not at_end and any(full[: len(phrase)] == phrase for phrase in accepted)
    for phrase in accepted:
        last = len(words) - len(phrase)
        for start in range(last + 1):
            is_in_place = (start == last or not at_end) and (start == 0 or not at_start)
            if is_in_place and _stands_at(words, phrase, start):
                return True
    return False


def _stands_at(words: list[str], phrase: list[str], start: int) -> bool:
    """Whether `phrase` is found from `start` on, and not as a part of a longer number or behind its minus."""
    end = start + len(phrase)
    if words[start:end] != phrase:
        return False
    before, after = ["", "", *words[:start]][-2:], [*words[end:], ""][0]
    if phrase[0] in NUMBER_WORDS and before[1] == "minus":
        # "ten minus five" has a five, "it is minus five" has none
        return before[0] in NUMBER_WORDS
    return not (_is_one_number(before[1], phrase[0]) or _is_one_number(phrase[-1], after))


def _is_one_number(first: str, second: str) -> bool:
    """Whether two neighbouring words are of one number, such as "twenty five", "two hundred" or "hundred one"."""
    if second in SIZES:
        return first in NUMBER_WORDS
    return second in NUMBER_WORDS and (first in SIZES or (first in TENS and second in SMALL_NUMBERS[1:10]))


def answer_accuracy(
    texts: Sequence[str],
    golds: Sequence[str | Sequence[str]],
    references: Sequence[str] | None = None,
    normalizer: str = CORPUS,
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
    is_right = [answer_is_right(*answer, normalizer) for answer in zip(texts, golds, references)]
    return sum(is_right) / len(is_right)


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
